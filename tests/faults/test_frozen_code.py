"""The real command on a copy of the source, which is edited between two runs: results of two sources never mix."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(sys.platform != "linux", reason="interrupts a process group"),
]
REPOSITORY = Path(__file__).resolve().parents[2]

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: data, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 3, fc_dim: 16}
  train: {epochs: 2, optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 6, pictures: 0}
search:
  - grid: {train.lr: [1.0e-3, 1.0e-2]}
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the source with a spec and data, in which the command runs."""

    folder: Path

    def start(self, *options: str, results: str) -> subprocess.Popen[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WSOL_"))}
        return subprocess.Popen(
            [sys.executable, "runner.py", "spec.yaml", "--results", results, "--cpu-slots", "1", *options],
            cwd=self.folder,
            env={**variables, "WSOL_CACHE": str(self.folder / "cache"), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def run(self, *options: str, results: str = "results") -> tuple[int, str, str]:
        """Exit status, output, errors."""
        process = self.start(*options, results=results)
        output, errors = process.communicate()
        return process.returncode, output, errors

    def interrupted(self) -> None:
        """Begins the sweep and ends it in the midst of its first trial."""
        process = self.start(results="results")
        assert process.stdout is not None
        assert any(line.startswith("trial 0 epoch 1/") for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
        assert (process.returncode, errors) == (130, "")

    def edit(self, old: str, new: str, file: str = "wsol/training.py") -> None:
        text = (self.folder / file).read_text()
        assert text.count(old) == 1
        (self.folder / file).write_text(text.replace(old, new))

    def metrics(self, results: str = "results") -> dict[str, object]:
        """Of every trial, by the name of its folder."""
        files = self.folder.glob(f"{results}/digits/trials/*/result.json")
        return {file.parent.name: json.loads(file.read_text())["metrics"] for file in files}

    def codes(self) -> set[str]:
        """The sources that the trials say they ran."""
        files = self.folder.glob("results/digits/trials/*/result.json")
        return {json.loads(file.read_text())["code"].partition("-")[0] for file in files}

    def shown(self) -> set[str]:
        """The first digits of the signatures in the leaderboard."""
        with (self.folder / "results/digits/leaderboard.csv").open() as file:
            return {row["signature"][:8] for row in csv.DictReader(file)}

    def everything(self) -> dict[str, tuple[bytes, int]]:
        """What is in the results folder, less the lock, which a run takes before it looks around."""
        files = [file for file in (self.folder / "results").rglob("*") if file.is_file() and file.name != "runner.lock"]
        return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    for name in ("experiments", "wsol"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("runner.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    generate(tmp_path / "data", seed=0, train=8, val=6, test=1, image_px=48)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return Checkout(tmp_path)


def test_a_changed_source_is_asked_about_kept_and_taken(checkout: Checkout) -> None:
    status, output, errors = checkout.run(results="undisturbed")
    assert (status, errors) == (0, ""), output
    undisturbed = checkout.metrics("undisturbed")
    assert len(undisturbed) == 2
    checkout.interrupted()
    (source,) = (path.name for path in (checkout.folder / "results/digits/code").iterdir() if path.is_dir())

    checkout.edit("(total * share).backward()", "(0.0 * total * share).backward()")
    before = checkout.everything()
    status, output, errors = checkout.run()
    assert (status, output) == (2, "")
    assert "has changed since" in errors
    assert "wsol/training.py changed; nothing was started. Add --code keep" in errors
    assert len(errors.splitlines()) == 1
    assert checkout.everything() == before

    status, output, errors = checkout.run("--code", "keep")
    assert (status, errors) == (0, ""), output
    assert checkout.metrics() == undisturbed, "the edit would have changed every one of them"
    assert checkout.codes() == {source}
    status, output, errors = checkout.run()
    assert (status, errors) == (0, ""), "nothing is left to run, so there is nothing to ask"

    checkout.edit("1.0e-2]", "1.0e-2, 1.0e-1]", "spec.yaml")
    assert checkout.run()[0] == 2
    checkout.edit("1.0e-2, 1.0e-1]", "1.0e-2]", "spec.yaml")

    status, output, errors = checkout.run("--code", "new")
    assert (status, errors) == (0, ""), output
    assert "sweep digits: 2 trials, 0 finished before, 2 to run" in output
    now = checkout.metrics()
    anew = {name: metrics for name, metrics in now.items() if name not in undisturbed}
    assert {name: now[name] for name in undisturbed} == undisturbed, "the old ones stay on disk"
    assert len(anew) == 2
    assert not [metrics for metrics in anew.values() if metrics in undisturbed.values()]
    assert checkout.shown() == {name.partition("-")[2] for name in anew}
    assert len(checkout.codes()) == 2

    status, output, errors = checkout.run()
    assert (status, errors) == (0, "")
    assert "sweep digits: 2 trials, 2 finished before, 0 to run" in output
