"""What people get wrong in a spec: one message with file and line, the value, and what is allowed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import SpecError
from experiments.spec import load_spec

REPOSITORY = Path(__file__).resolve().parents[2]
Fault = Callable[[str], str]

HEAD = "{EXPERIMENT}\n"  # four lines
SAMPLE = HEAD + "search:\n  - sample: {%s}\n    trials: 3\n"
GRID = HEAD + "search:\n  - grid: {%s}\n"
LOCALIZER = "experiment:\n  task: localizer\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\n"

CASES: list[tuple[str, int, list[str]]] = [
    # misspelt keys, at every depth
    (HEAD + "sede: 3\n", 5, ["got unknown key 'sede'", "did you mean seeds?"]),
    (HEAD + "  modle: {}\n", 5, ["got unknown key 'modle'", "did you mean model?"]),
    (HEAD + "  train: {epoch: 3}\n", 5, ["got unknown key 'epoch' in train", "did you mean epochs?"]),
    (HEAD + "search:\n  - gird: {train.lr: [1]}\n", 6, ["got unknown key 'gird'", "did you mean grid?"]),
    (GRID % "train.lrr: [0.1]", 6, ["got unknown key 'train.lrr'", "did you mean train.lr?"]),
    (GRID % "train.lr: {linspce: [0.1, 1, 3]}", 6, ["'linspce'", "did you mean linspace?"]),
    (SAMPLE % "train.lr: {flaot: [0.1, 1]}", 6, ["'flaot'", "did you mean float?"]),
    (SAMPLE % "train.lr: {float: [0.1, 1], wen: {}}", 6, ["'wen'", "did you mean when?"]),
    (
        GRID % "train.lr: {values: [0.1], when: {model.poling: max}}",
        6,
        ["got unknown key 'model.poling'", "did you mean model.pooling?"],
    ),
    (GRID % "train.lr: [0.1]" + "    exclude: [{train.l: 0.1}]\n", 7, ["'train.l'", "did you mean train.lr?"]),
    (GRID % "train.lr: [0.1]" + "    only: [{train.l: 0.1}]\n", 7, ["'train.l'", "did you mean train.lr?"]),
    (HEAD + "pruner: {ahsa: {}}\n", 5, ["'ahsa'", "did you mean asha?"]),
    (HEAD + "pruner: {asha: {min_epoch: 1}}\n", 5, ["'min_epoch'", "did you mean min_epochs?"]),
    (HEAD + "final: {train: trainval, evl: test}\n", 5, ["'evl'", "did you mean eval?"]),
    (HEAD + "objective: {metrc: cls_ap/mean}\n", 5, ["'metrc'", "did you mean metric?"]),
    (HEAD + "resources: {cpu_slot: 2}\n", 5, ["'cpu_slot'", "did you mean cpu_slots?"]),
    (HEAD + "retry: {max_attempt: 2}\n", 5, ["'max_attempt'", "did you mean max_attempts?"]),
    # wrong types, at every depth
    ("- a\n", 1, ["mapping of keys to values"]),
    (HEAD + "seeds: many\n", 5, ["got 'many' for seeds"]),
    (HEAD + "seeds: []\n", 5, ["got [] for seeds"]),
    (HEAD + "seeds: [0, 0]\n", 5, ["got seed 0 twice"]),
    (HEAD + "seeds: [-1]\n", 5, ["got -1"]),
    (HEAD + "  train: fast\n", 5, ["got 'fast' for train", "mapping"]),
    (HEAD + "  train: {epochs: 1.5}\n", 5, ["got 1.5 for train.epochs", "whole number"]),
    (HEAD + '  train: {lr: "0.1"}\n', 5, ["got '0.1' for train.lr", "number"]),
    (HEAD + "search: {grid: {}}\n", 5, ["for search", "list"]),
    (GRID % "train.lr: 0.1", 6, ["got 0.1 for search[0].grid.train.lr"]),
    (GRID % "train.lr: []", 6, ["got [] for search[0].grid.train.lr"]),
    (HEAD + "search:\n  - grid: {}\n", 6, ["got {} for search[0].grid"]),
    (HEAD + "search:\n  - sample: {}\n    trials: 2\n", 6, ["got {} for search[0].sample"]),
    (GRID % "train.lr: {linspace: [0.1, 1]}", 6, ["linspace"]),
    (GRID % "train.lr: {logspace: [0, 1, 3]}", 6, ["logspace"]),
    (GRID % "train.epochs: {range: [1, 5, 0]}", 6, ["range"]),
    (GRID % "train.lr: {linspace: [0.1, 1, 3], values: [1]}", 6, ["exactly one of"]),
    (GRID % "train.lr: [0.1]" + "    exclude: {train.lr: 0.1}\n", 7, ["for search[0].exclude", "list"]),
    (GRID % "train.lr: [0.1]" + "    trials: 3\n", 6, ["trials only with sample"]),
    (HEAD + "search:\n  - sample: {train.lr: {float: [0.1, 1]}}\n", 6, ["trials"]),
    (SAMPLE % "train.lr: {float: [1, 0.1]}", 6, ["float"]),
    (SAMPLE % "train.lr: {float: [0.1, 1], choice: [0.1]}", 6, ["exactly one of"]),
    (SAMPLE % "train.lr: {}", 6, ["exactly one of"]),
    (SAMPLE % "train.lr: {log_uniform: [0, 1]}", 6, ["log_uniform"]),
    (SAMPLE % "train.lr: {log_uniform: [0.1, 1], step: 0.1}", 6, ["step"]),
    (SAMPLE % "train.epochs: {int: [1.5, 3]}", 6, ["got [1.5, 3] for", "whole numbers"]),
    (SAMPLE % "train.epochs: {int: [1, 2]}", 7, ["got 3 for search[0].trials", "at most 2"]),
    (SAMPLE % "train.epochs: {choice: [1, 1, 2, 3]}", 6, ["a value twice"]),
    (SAMPLE % "train.epochs: {int: [1, 9]}" + "    sampler: tpee\n", 8, ["got 'tpee'", "did you mean tpe?"]),
    (HEAD + "pruner: {asha: {min_epochs: 0}}\n", 5, ["got 0 for pruner.asha.min_epochs"]),
    (HEAD + "pruner: {asha: {reduction_factor: 1}}\n", 5, ["got 1 for pruner.asha.reduction_factor"]),
    (HEAD + "pruner: {asha: {}, median: {}}\n", 5, ["exactly one of"]),
    (HEAD + "retry: {max_attempts: 0}\n", 5, ["got 0 for retry.max_attempts"]),
    # YAML itself
    (HEAD + "seeds: 1\nseeds: 2\n", 6, ["got key 'seeds' twice (first in line 5)"]),
    (HEAD + "  train: {lr: 1, lr: 2}\n", 5, ["got key 'lr' twice"]),
    ("experiment:\n\ttask: wsddn\n", 2, ["tab"]),
    (HEAD + "seeds: [1, 2\n", 6, ["expected"]),
    (HEAD + "question: !!python/object:os.system x\n", 5, ["tag"]),
    # numbers that are none
    (HEAD + "  train: {lr: .nan}\n", 5, ["got .nan", "finite number"]),
    (HEAD + "  train: {lr: .inf}\n", 5, ["got .inf", "finite number"]),
    (GRID % "train.lr: [0.1, -.inf]", 6, ["got -.inf", "finite number"]),
    (SAMPLE % "train.lr: {float: [0.1, .inf]}", 6, ["got .inf", "finite number"]),
    (GRID % "train.lr: {linspace: [0.1, .nan, 3]}", 6, ["got .nan", "finite number"]),
    # names
    ("name: a/b\n" + HEAD, 1, ["got 'a/b' for name", "letters, digits"]),
    ("name: ..\n" + HEAD, 1, ["got '..' for name", "letters, digits"]),
    ("name: ''\n" + HEAD, 1, ["got '' for name"]),
    # what contradicts itself
    (HEAD + "objective: {metric: cls_app/mean}\n", 5, ["got 'cls_app/mean'", "did you mean cls_ap/mean?"]),
    (HEAD + "search:\n  - zip: {train.lr: [0.1, 0.2], train.epochs: [1]}\n", 6, ["unequal lengths"]),
    (GRID % "train.lr: {values: [0.1], when: {task: localizer}}", 6, ["never holds"]),
    (
        GRID % "train.lr: {values: [1], when: {train.epochs: 1}}, train.epochs: {values: [1], when: {train.lr: 1}}",
        6,
        ["when in a circle", "train.lr -> train.epochs -> train.lr"],
    ),
    (GRID % "train.lr: [0.1]" + "    exclude: [{train.lr: 0.2}]\n", 7, ["holds nowhere"]),
    (GRID % "train.lr: [0.1]" + "    exclude: [{train.lr: 0.1}]\n", 6, ["got no cell"]),
    (GRID % "train.lr: [0.1]" + "    only: [{train.lr: 0.2}]\n", 7, ["holds nowhere"]),
    (SAMPLE % "train.lr: {float: [0.1, 1]}" + "    exclude: [{train.lr: 2}]\n", 8, ["holds nowhere"]),
    (GRID % "seed: [1, 2]", 6, ["got seed as a swept key"]),
    (GRID % "data.workers: [1, 2]", 6, ["got data.workers as a swept key"]),
    (HEAD + "final: {train: train, eval: val}\n", 5, ["got 'val' for final.eval"]),
    (HEAD + "final: {train: test, eval: test}\n", 5, ["got 'test' for both"]),
    (HEAD + "final: {train: trainval, eval: test, seeds: [0]}\n", 5, ["got seed 0 for final.seeds"]),
    (HEAD + "  train: {epochs: 1}\npruner: {asha: {}}\n", 6, ["can never stop a trial"]),
    (
        LOCALIZER + "search:\n  - grid: {model.pooling: [max, topk], model.topk: [1, 2]}\n",
        6,
        [
            "got model.topk as a swept key",
            "model.pooling: max",
            "never reads",
            "model.pooling: topk}",
        ],
    ),
    # files and variables
    ("extends: sweep.yaml\n", 1, ["extends in a circle"]),
    ("extends: none.yaml\n" + HEAD, 1, ["got 'none.yaml' for extends", "there is none at"]),
    (HEAD + "question: ${NO_SUCH_VARIABLE_HERE}\n", 5, ["NO_SUCH_VARIABLE_HERE"]),
]


@pytest.mark.parametrize(("text", "line", "parts"), CASES, ids=[f"{i:02d}" for i in range(len(CASES))])
def test_is_refused(fault: Fault, text: str, line: int, parts: list[str]) -> None:
    message = fault(text)
    assert message.startswith(f"sweep.yaml:{line}: "), message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("train.epochs", "KEY=VALUE"),
        ("train.epoch=3", "did you mean"),
        ("train.epochs=three", "got 'three' for train.epochs"),
        ("train.lr=.nan", "finite number"),
        ("seeds=[1", "expected"),
        ("search[3].trials=2", "expected"),
    ],
)
def test_a_setting_is_refused_too(spec_file: Callable[[str], Path], setting: str, part: str) -> None:
    with pytest.raises(SpecError, match="--set") as error:
        load_spec(spec_file(HEAD), [setting])
    assert part in str(error.value)


def billion_laughs() -> str:
    lines = ['a0: &a0 ["lol", "lol", "lol"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join(lines) + "\n"


def hundred_megabytes(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(100 * 1024 * 1024)


COMMANDS = {
    "misspelt key": HEAD + "sede: 3\n",
    "wrong type": HEAD + "  train: {epochs: three}\n",
    "tab": "experiment:\n\ttask: wsddn\n",
    "twice": HEAD + "seeds: 1\nseeds: 2\n",
    "laughs": billion_laughs(),
    "circle": "extends: sweep.yaml\n",
    "empty grid": HEAD + "search:\n  - grid: {}\n",
    "unequal zip": HEAD + "search:\n  - zip: {train.lr: [0.1, 0.2], train.epochs: [1]}\n",
    "nan": HEAD + "  train: {lr: .nan}\n",
    "name": "name: ../elsewhere\n" + HEAD,
    "metric": HEAD + "objective: {metric: cls_app/mean}\n",
    "unread": LOCALIZER + "search:\n  - grid: {model.topk: [1, 2]}\n",
    "large": "",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_says_so_and_starts_nothing(spec_file: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    file = spec_file(COMMANDS[name])
    if name == "large":
        hundred_megabytes(file)
    command = [sys.executable, REPOSITORY / "runner.py", file, "--results", tmp_path / "results"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {file}")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "results").exists()
