"""The real commands on a sweep that was trained: what they give back of the disk, and that nothing misses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trained_folders import kinds

from wsol.data.digits import generate

pytestmark = pytest.mark.timeout(200)
REPOSITORY = Path(__file__).resolve().parents[2]

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: data}
  proposals: {source: grid, count: 30, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 3, fc_dim: 16}
  train: {epochs: 2, optimizer: adam, scales_px: [48, 64], batch_size: 2}
  evaluate: {batch_size: 6}
search:
  - grid: {train.lr: [1.0e-3, 3.0e-3]}
"""
KEEP_ALL = ("--set", "resources.keep_checkpoints=all")


class Sweep:
    """A folder with data, a spec and results, in which the commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results" / "digits"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "runner.py"), *arguments],
            cwd=self.folder,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )

    def trial(self, number: int) -> Path:
        (folder,) = self.results.glob(f"trials/{number:04d}-*")
        return folder

    def checkpoints(self) -> list[str]:
        return [kinds(self.trial(number) / "checkpoint") for number in (0, 1)]

    def records(self) -> dict[str, bytes]:
        """What no command may change."""
        names = ("leaderboard.csv", "per_class_ap.csv", "result.json", "metrics.jsonl", "config.json", "detections.npz")
        return {str(path): path.read_bytes() for name in names for path in sorted(self.results.rglob(name))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep in which every trial has kept two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    generate(folder / "data", seed=0, train=12, val=6, test=1, image_px=64)
    (folder / "digits.yaml").write_text(SPEC)
    done = Sweep(folder).run("digits.yaml", "--cpu-slots", "2", *KEEP_ALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Sweep:
    shutil.copytree(trained, tmp_path / "copy")
    return Sweep(tmp_path / "copy")


def test_gc_then_predict_then_the_command_again(sweep: Sweep) -> None:
    assert sweep.checkpoints() == ["cc", "cc"]
    before = sweep.records()
    image = str(next((sweep.folder / "data" / "JPEGImages").glob("test_*.jpg")))
    first = sweep.run("predict", "digits.yaml", image)
    done = sweep.run("gc", "digits.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert sweep.checkpoints() == ["w", "w"]
    second = sweep.run("predict", "digits.yaml", image)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout) == json.loads(first.stdout)
    again = sweep.run("digits.yaml")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[1] == "sweep digits: 2 trials, 2 finished before, 0 to run"
    assert " starts on " not in again.stdout
    weight = r"results in results/digits \(\d+(\.\d)? [kM]B, of which checkpoints \d+(\.\d)? [kM]B\)"
    assert re.fullmatch(weight, again.stdout.splitlines()[-1])
    assert sweep.records() == before


def test_without_weights_predict_says_so(sweep: Sweep) -> None:
    image = str(next((sweep.folder / "data" / "JPEGImages").glob("test_*.jpg")))
    sweep.run("gc", "digits.yaml", "--weights", "none")
    assert sweep.checkpoints() == ["", ""]
    done = sweep.run("predict", "digits.yaml", image)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"got no checkpoint in .*; expected a trial that .* keeps its weights .*: none does$", line)


def test_the_next_run_shrinks_what_a_kill_left_and_a_lost_result_is_measured_again(sweep: Sweep) -> None:
    before = sweep.records()
    metrics = json.loads((sweep.trial(0) / "result.json").read_text())["metrics"]
    done = sweep.run("digits.yaml")
    assert done.returncode == 0, done.stderr
    assert sweep.checkpoints() == ["w", "w"]
    assert sweep.records() == before
    (sweep.trial(0) / "result.json").write_text("{")
    again = sweep.run("digits.yaml", "--cpu-slots", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "result.json: cannot be read" in again.stdout
    assert "Traceback" not in (sweep.trial(0) / "log.txt").read_text()
    assert json.loads((sweep.trial(0) / "result.json").read_text())["metrics"] == metrics
    rows = [json.loads(line)["epoch"] for line in (sweep.trial(0) / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2]
    assert sweep.checkpoints() == ["w", "w"]


def test_a_full_disk_after_the_result_changes_nothing_but_the_log(sweep: Sweep) -> None:
    """The folder of checkpoints cannot be written any more when the attempt is to shrink it."""
    (sweep.trial(1) / "result.json").unlink()
    os.mkdir(sweep.trial(1) / "checkpoint" / ".checkpoint.pending")  # opening it for writing fails
    done = sweep.run("digits.yaml", "--cpu-slots", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " failed " not in done.stdout
    assert "warning: the checkpoints could not be shrunk: IsADirectoryError" in (sweep.trial(1) / "log.txt").read_text()
    assert f"warning: the checkpoints in {Path('results/digits/trials') / sweep.trial(1).name}" in done.stdout
    assert sweep.checkpoints() == ["w", "c"]
