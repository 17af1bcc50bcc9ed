"""The runner, killed -9 before each write that reaches the disk: files that get their name, and the study's commits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from simulated_sweep import SimulatedSweep

from experiments.store import read_result
from experiments.trial import TrialState

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
]

SPEC = """\
name: sweep
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2}
search:
  - grid: {train.lr: [0.1]}
  - sample: {train.lr: {log_uniform: [0.001, 0.1]}}
    sampler: tpe
    trials: 2
"""


def _objective(config: Any, epoch: int) -> float:
    return float(epoch * config["train"]["lr"])


def _kill_before(write: int) -> None:
    """Ends this process before its write of that number, from 0."""
    left = [write]

    def count(*_: object) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count()
            return original(*args, **options)

        return call

    for name in ("replace", "fsync", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", count)


def _run(folder: Path, write: int | None) -> int:
    """The command in a process of its own. Its exit code."""

    def command() -> None:
        if write is not None:
            _kill_before(write)
        assert SimulatedSweep(folder, _objective).run(SPEC, slots=2).finished

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _left(folder: Path) -> dict[int, tuple[str, TrialState, object]]:
    sweep = SimulatedSweep(folder, _objective)
    found = {}
    for trial in sweep.store.trials():
        result = read_result(trial)
        assert result is not None
        found[trial.number] = (trial.signature, result.state, dict(result.metrics))
    with sweep._study(sweep.spec(SPEC)) as study:
        assert {number: known.signature for number, known in study.trials().items()} == {
            number: signature for number, (signature, _, _) in found.items()
        }
        assert {known.state for known in study.trials().values()} == {TrialState.COMPLETE}
    return found


def test_killed_before_each_write(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert _run(tmp_path / "whole", None) == 0
    whole = _left(tmp_path / "whole")
    assert len(whole) == 3
    for write in range(1000):
        folder = tmp_path / str(write)
        folder.mkdir()
        code = _run(folder, write)
        finished = {
            path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("results/*/trials/*/result.json")
        }
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert _run(folder, None) == 0
        assert _left(folder) == whole, f"killed before write {write}"
        for path, before in finished.items():
            assert (path.read_bytes(), path.stat().st_mtime_ns) == before, "a finished trial ran again"
    assert write > 40
