"""Files and texts from elsewhere run no code, draw nothing on the terminal, and take no secret with them."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from experiments.errors import printable
from experiments.live_view import LiveView
from experiments.placement import cpu_slots
from experiments.view import PlainView
from wsol.config import check_class_names

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = [
    REPOSITORY / "runner.py",
    *sorted((REPOSITORY / "experiments").rglob("*.py")),
    *sorted((REPOSITORY / "wsol").rglob("*.py")),
]
DYNAMIC = (ast.JoinedStr, ast.BinOp)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def is_bad_load(name: str, call: ast.Call) -> bool:
    return name == "torch.load" and keywords(call).get("weights_only") != "True"


def is_bad_yaml(name: str, call: ast.Call) -> bool:
    if not name.startswith("yaml."):
        return False
    unsafe = {
        "yaml.load",
        "yaml.load_all",
        "yaml.unsafe_load",
        "yaml.full_load",
        "yaml.FullLoader",
        "yaml.UnsafeLoader",
    }
    return name in unsafe or (name == "yaml.compose" and "Loader" not in keywords(call))


def is_pickle(name: str, call: ast.Call) -> bool:
    first = name.partition(".")[0]
    loads = name.rpartition(".")[2] in ("load", "loads", "Unpickler", "read_pickle")
    pickled = first in ("pickle", "joblib", "shelve", "marshal", "dill", "cloudpickle") and loads
    return pickled or (name == "np.load" and keywords(call).get("allow_pickle") != "False")


def is_eval(name: str, call: ast.Call) -> bool:
    return name in ("eval", "exec", "os.system", "os.popen") or keywords(call).get("shell") == "True"


def is_markup(name: str, call: ast.Call) -> bool:
    """Rich reads `[red]` in plain strings, in tables as well: what is not written here must be a `Text`."""
    if keywords(call).get("markup") == "True" or name.endswith("from_markup"):
        return True
    if not name.endswith(("console.print", ".add_row", ".add_column")):
        return False
    numbers_only = {"f'trial {_number(entry)}'"}
    return any(isinstance(arg, DYNAMIC) and ast.unparse(arg) not in numbers_only for arg in call.args)


RULES = [is_bad_load, is_bad_yaml, is_pickle, is_eval, is_markup]


@pytest.mark.parametrize("rule", RULES)
def test_no_source_does(rule: Callable[[str, ast.Call], bool]) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{call.lineno}: {name}"
        for path in SOURCES
        for name, call in calls(ast.parse(path.read_text("utf-8")))
        if rule(name, call)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (is_bad_load, "torch.load(file)"),
        (is_bad_load, "torch.load(file, weights_only=False)"),
        (is_bad_yaml, "yaml.load(text, Loader=yaml.Loader)"),
        (is_bad_yaml, "yaml.compose(text)"),
        (is_pickle, "pickle.load(file)"),
        (is_pickle, "np.load(file)"),
        (is_pickle, "np.load(file, allow_pickle=True)"),
        (is_eval, "eval(text)"),
        (is_eval, "subprocess.run(text, shell=True)"),
        (is_markup, "console.print(f'{name}')"),
        (is_markup, "table.add_row('a', 'b' + name)"),
        (is_markup, "Console(markup=True)"),
    ],
)
def test_the_rules_find_it(rule: Callable[[str, ast.Call], bool], text: str) -> None:
    assert any(rule(name, call) for name, call in calls(ast.parse(text)))


HOSTILE = "\x1b]0;title\x07\x1b[2J[red]x[/red]\r\u202eabc\x9b1m"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_text_from_elsewhere_moves_nothing_on_the_terminal(terminal: bool) -> None:
    stream = io.StringIO()
    if terminal:
        console = Console(file=stream, force_terminal=False, width=200)
        LiveView(console=console, objective="x/mean", slots=cpu_slots(1, cores=1)).message(HOSTILE)
    else:
        PlainView(objective="x/mean", stream=stream).message(HOSTILE)
    written = stream.getvalue()
    assert "[red]x[/red]" in written
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(written)


def test_plain_text_stays() -> None:
    assert printable("é 漢字 \t a\nb") == "é 漢字 \t a\nb"


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "\u202ea"])
def test_class_names_are_printable(name: str) -> None:
    with pytest.raises(ValueError, match="expected class names of printable characters"):
        check_class_names(("cat", name))


def test_secrets_reach_no_file_and_no_terminal(tmp_path: Path) -> None:
    """What the environment holds for other programs, and this one for its trackers."""
    secrets = {
        "WANDB_API_KEY": "s3cr3t-wandb-key",
        "DATABASE_URL": "postgresql://me:s3cr3t-password@host/db",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t-aws",
    }
    spec = tmp_path / "tiny.yaml"
    spec.write_text(
        json.dumps(
            {
                "experiment": {
                    "task": "wsddn",
                    "data": {"root": str(tmp_path / "data")},
                    "proposals": {"source": "grid", "count": 5, "min_size_px": 8},
                    "model": {"backbone": "tiny", "weights": "none", "roi_size": 2, "fc_dim": 8},
                    "train": {"epochs": 1, "lr": 1e30, "scales_px": [48]},
                },
                "seeds": 1,
            }
        )
    )
    from wsol.data.digits import generate

    generate(tmp_path / "data", seed=0, train=2, val=2, test=1, image_px=48)
    done = subprocess.run(
        [sys.executable, "runner.py", spec, "--results", tmp_path / "results", "--cpu-slots", "1"],
        cwd=REPOSITORY,
        env={**os.environ, **secrets},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # it diverges: tracebacks are among the files
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert "s3cr3t" not in done.stdout + done.stderr
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []
