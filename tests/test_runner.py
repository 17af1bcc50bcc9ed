"""The command line, from the outside: exit statuses, messages, and what a fresh interpreter has to import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runner
from experiments.lock import sweep_lock
from experiments.spec import load_spec
from experiments.store import SweepStore, TrialResult, write_result
from experiments.trial import TrialState
from wsol.boxes import Detections
from wsol.data.digits import CLASSES, generate
from wsol.data.voc import read_evaluation_split
from wsol.detections import SplitDetections, save_detections

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "torchvision", "timm", "optuna", "sqlalchemy", "wandb", "cv2", "sklearn", "scipy", "tqdm"]

SPEC = """\
question: Which?
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 1}
search:
  - grid: {train.lr: [0.1, 0.2]}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a spec into a folder of its own, which becomes the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return "mine.yaml"

    return write


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "runner.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


class TestFreshInterpreter:
    @staticmethod
    def imported_by(*arguments: str, cwd: Path) -> tuple[str, list[str]]:
        """What a command prints, and which of the heavy packages it imported."""
        program = (
            "import json, sys, runner\n"
            "try:\n    status = runner.main(sys.argv[1:])\nexcept SystemExit as end:\n    status = end.code\n"
            f"print('\\n' + json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        output, _, last = done.stdout.rstrip("\n").rpartition("\n")
        status, heavy = json.loads(last)
        assert status == 0
        assert done.stderr == ""
        return output, heavy

    def test_help(self, tmp_path: Path) -> None:
        output, heavy = self.imported_by("--help", cwd=tmp_path)
        assert "python runner.py SPEC.yaml [options]" in output
        assert "exit status: 0 every trial is complete" in output
        for option in ("--dry-run", "--retry-failed", "--gpus", "--cpu-slots", "--results"):
            assert option in output
        assert heavy == []

    def test_dry_run(self, spec: Callable[[str], str], tmp_path: Path) -> None:
        output, heavy = self.imported_by(spec(SPEC), "--dry-run", cwd=tmp_path)
        assert "sweep mine: 2 trials (2 WAITING) in results/mine" in output
        assert "dry run: nothing was started" in output
        assert heavy == []
        assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]

    def test_help_of_evaluate(self, tmp_path: Path) -> None:
        output, heavy = self.imported_by("evaluate", "--help", cwd=tmp_path)
        for option in ("--metric NAME", "--results DIR", "--csv FILE"):
            assert option in output
        assert heavy == []

    def test_evaluate(self, tmp_path: Path) -> None:
        """By boxes alone; heat maps would bring OpenCV."""
        generate(tmp_path / "data", seed=0, train=2, val=30, test=1, image_px=48)  # so many that every class is there
        text = SPEC.replace("digits", "data").replace("[0.1, 0.2]", "[0.1]")
        (tmp_path / "mine.yaml").write_text(text)
        _store_complete_trial(tmp_path)
        output, heavy = self.imported_by("evaluate", "mine.yaml", "--metric", "ap30_area", cwd=tmp_path)
        assert "mine: ap30_area per class (on split val)" in output
        assert "1 of 1 trials measured, 1 are complete" in output
        assert heavy == []

    def test_help_of_data(self, tmp_path: Path) -> None:
        output, heavy = self.imported_by("data", "--help", cwd=tmp_path)
        assert "--root DIR" in output
        assert heavy == []


def _store_complete_trial(folder: Path) -> None:
    """The only trial of mine.yaml, which found nothing."""
    (plan,) = load_spec(folder / "mine.yaml").plans
    split = read_evaluation_split(folder / "data", split="val", classes=CLASSES)
    trial = SweepStore(folder / "results" / "mine").create_trial(0, plan.signature, {})
    nothing = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0), labels=np.zeros(0, np.int64))
    save_detections(
        trial.paths.detections,
        SplitDetections(
            image_ids=tuple(record.id for record in split.images),
            classes=split.classes,
            detections=(nothing,) * len(split.images),
            class_scores=np.zeros((len(split.images), len(CLASSES)), np.float32),
            points=np.zeros((len(split.images), len(CLASSES), 2), np.float32),
            top_boxes=np.zeros((len(split.images), len(CLASSES), 4), np.float32),
        ),
    )
    write_result(
        trial.paths,
        TrialResult(
            signature=plan.signature,
            state=TrialState.COMPLETE,
            stop_reason="",
            attempts=1,
            metrics={},
            epochs=1,
            duration_s=1.0,
        ),
    )


class TestFaultsOfTheSpec:
    """Exit status 2, one message with file and line, nothing started, no traceback."""

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("epochs: 1", "epochz: 1", r"mine\.yaml:6: got unknown key 'epochz' in train; .*did you mean epochs\?"),
            ("epochs: 1", "epochs: one", r"mine\.yaml:6: got 'one' for train\.epochs; expected a whole number"),
            ("tiny", "tinny", r"mine\.yaml:5: got 'tinny' for model\.backbone; .*did you mean tiny\?"),
            ("digits", "VOC2007", r"mine\.yaml:4: data\.root: got no folder at VOC2007; .*did you mean 'VOC2012'\?"),
            ("none", "missing.pth", r"mine\.yaml:5: model\.weights: no such file: missing\.pth"),
            (
                "train.lr:",
                "train.rl:",
                r"mine\.yaml:8: got unknown key 'train\.rl' in search\[0\]\.grid; .*train\.lr\?",
            ),
            (
                "question: Which?",
                "name: ../elsewhere",
                r"mine\.yaml:1: got '\.\./elsewhere' for name; expected letters.*",
            ),
            (SPEC, "", r"mine\.yaml: the file is empty; expected a sweep spec"),
        ],
    )
    @pytest.mark.parametrize("options", [[], ["--dry-run"]])
    def test_one_message(
        self,
        spec: Callable[[str], str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        old: str,
        new: str,
        message: str,
        options: list[str],
    ) -> None:
        (tmp_path / "VOC2012").mkdir()
        assert runner.main([spec(SPEC.replace(old, new)), *options]) == 2
        shown = capsys.readouterr()
        assert re.fullmatch(f"error: {message}\n", shown.err)
        assert shown.out == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == ["VOC2012", "mine.yaml"]

    def test_from_the_outside(self, spec: Callable[[str], str], tmp_path: Path) -> None:
        done = run(spec(SPEC.replace("epochs", "epoch")), cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"error: mine\.yaml:6: got unknown key 'epoch' in train; .*\n", done.stderr)

    def test_no_such_file(self, spec: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
        spec(SPEC)
        assert runner.main(["mien.yaml"]) == 2
        assert capsys.readouterr().err == "error: mien.yaml: no such file; did you mean mine.yaml?\n"
        assert runner.main(["."]) == 2
        assert capsys.readouterr().err == "error: .: not a file\n"


class TestFaultsOfTheCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: SPEC.yaml"),
            (["mine.yaml", "--dry"], "unrecognized arguments: --dry"),
            (["mine.yaml", "another.yaml"], "unrecognized arguments: another.yaml"),
            (["mine.yaml", "--cpu-slots", "0"], "got '0'; expected a whole number of at least 1"),
            (["mine.yaml", "--cpu-slots", "two"], "got 'two'; expected a whole number of at least 1"),
            (["mine.yaml", "--gpus", "0", "--cpu-slots", "1"], "not allowed with argument --gpus"),
            (["evaluate"], "the following arguments are required: SPEC.yaml"),
            (["evaluate", "mine.yaml", "--metric"], "argument --metric: expected one argument"),
            (["evaluate", "mine.yaml", "--dry-run"], "unrecognized arguments: --dry-run"),
            (["data", "voc2007"], "the following arguments are required: --root"),
            (["data", "voc2013", "--root", "x"], "invalid choice: 'voc2013'"),
        ],
    )
    def test_usage(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            runner.main(arguments)
        assert message in capsys.readouterr().err

    def test_a_gpu_that_is_not_there(self, spec: Callable[[str], str], tmp_path: Path) -> None:
        done = run(spec(SPEC), "--gpus", "0", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == (
            "error: got '0' in --gpus 0; expected positions of visible GPUs: none, CUDA_VISIBLE_DEVICES='' hides all"
            " GPUs\n"
        )
        assert not (tmp_path / "results").exists()

    def test_a_metric_that_there_is_not(self, spec: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
        assert runner.main(["evaluate", spec(SPEC), "--metric", "corloc50", "--metric", "corloc"]) == 2
        shown = capsys.readouterr()
        assert re.fullmatch(r"error: got 'corloc' for --metric; expected .*; did you mean corloc50\?\n", shown.err)
        assert shown.out == ""

    def test_nothing_to_evaluate(self, spec: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
        assert runner.main(["evaluate", spec(SPEC), "--results", "elsewhere"]) == 1
        assert capsys.readouterr().out == "no trial of mine is complete in elsewhere/mine\n"

    def test_a_results_folder_that_is_a_file(self, spec: Callable[[str], str], tmp_path: Path) -> None:
        done = run(spec(SPEC), "--results", "mine.yaml", "--cpu-slots", "1", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: mine.yaml/mine: cannot be used for results: Not a directory\n"

    def test_a_sweep_that_is_being_run(self, spec: Callable[[str], str], tmp_path: Path) -> None:
        with sweep_lock(tmp_path / "results" / "mine" / "runner.lock"):
            done = run(spec(SPEC), cwd=tmp_path)
        assert done.returncode == 2
        assert f"this sweep is being run by process {os.getpid()} on " in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away(spec: Callable[[str], str], tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "runner.py"), spec(SPEC + "seeds: 25\n"), "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    with child:
        assert child.stderr.read() == ""
    assert child.returncode == 1


def test_ctrl_c_before_anything_runs(
    spec: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.sweep.load_spec", interrupted)
    assert runner.main([spec(SPEC)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
