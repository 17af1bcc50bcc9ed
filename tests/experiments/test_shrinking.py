"""Checkpoints of complete trials become weights: in the attempt, and in the process that does what was left."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_folders import Sweep, finished, result
from trained_folders import kinds, trained

from experiments import shrinking, worker
from experiments.report.entries import entries
from experiments.shrinking import _follow, has_weights_alone, shrink, shrink_left_over
from experiments.shrinking_process import Shrunk
from experiments.spec import SweepSpec
from experiments.spec_document import KeepCheckpoints
from experiments.store import TrialPaths, write_result
from experiments.trial import TrialState
from wsol.checkpoint import keep_weights
from wsol.checkpoint_files import checkpoint_files

SPEC = "name: sweep\n{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4]}\n"


class TestAttempt:
    """The end of a complete trial's own process."""

    @pytest.mark.parametrize(("keep", "left"), [("weights", "w"), ("all", "cc"), ("none", "")])
    def test_what_stays(self, tmp_path: Path, keep: KeepCheckpoints, left: str) -> None:
        paths = TrialPaths(tmp_path)
        trained(paths.checkpoint)
        worker._shrink_checkpoints(paths, keep)
        assert kinds(paths.checkpoint) == left

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write failed")])
    def test_a_fault_is_a_warning_in_the_log(
        self, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(folder: Path) -> int:
            raise error

        monkeypatch.setattr("wsol.checkpoint.keep_weights", fail)
        worker._shrink_checkpoints(TrialPaths(tmp_path), "weights")
        name = type(error).__name__
        assert capsys.readouterr().out.startswith(f"warning: the checkpoints could not be shrunk: {name}: ")


def test_what_cannot_shrink(tmp_path: Path) -> None:
    assert has_weights_alone(tmp_path)
    trained(tmp_path, 1)
    assert not has_weights_alone(tmp_path)
    keep_weights(tmp_path)
    assert has_weights_alone(tmp_path)
    (tmp_path / checkpoint_files(tmp_path)[0].path.name.replace("-000001-", "-000002-")).touch()
    assert not has_weights_alone(tmp_path)


class TestProcess:
    def test_each_folder_is_done_or_named(self, tmp_path: Path) -> None:
        for name in ("good", "damaged", "done"):
            trained(tmp_path / name)
        keep_weights(tmp_path / "done")
        newest = checkpoint_files(tmp_path / "damaged")[-1].path
        newest.write_bytes(b"")
        warnings: list[str] = []
        folders = [tmp_path / name for name in ("damaged", "good", "done")]
        sizes = shrink(folders, warn=warnings.append, dry_run=True)
        assert [kinds(folder) for folder in folders] == ["cc", "cc", "w"]
        assert len(warnings) == 2
        assert shrink(folders, warn=warnings.append) == sizes
        assert [kinds(folder) for folder in folders] == ["cc", "w", "w"]
        assert sizes == {folder: checkpoint_files(folder)[0].path.stat().st_size for folder in folders[1:]}
        assert str(newest) in warnings[2]
        assert f"the checkpoints in {tmp_path / 'damaged'} could not be shrunk: CheckpointError: got no" in warnings[3]

    def test_none_is_started_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shrinking, "warm_context", lambda: pytest.fail("a process"))
        assert shrink([], warn=pytest.fail) == {}

    @pytest.mark.parametrize("exit_code", [1, -9])
    def test_one_that_dies_is_a_warning(self, exit_code: int) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        theirs.send(Shrunk(Path("a"), 3))
        theirs.close()
        process: Any = SimpleNamespace(join=lambda: None, exitcode=exit_code)
        warnings: list[str] = []
        with ours:
            assert _follow(process, ours, warnings.append) == {Path("a"): 3}
        assert warnings == [
            f"the process that shrinks checkpoints ended with status {exit_code}; the next one does the rest"
        ]


class TestLeftOver:
    """What a kill between the result and the shrinking left, at the end of the next run."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The folders that the process would be given."""
        folders: list[Path] = []

        def start(given: Sequence[Path], *, warn: object) -> None:
            folders.extend(given)

        monkeypatch.setattr(shrinking, "shrink", start)
        return folders

    @pytest.fixture
    def spec(self, load: Callable[[str], SweepSpec]) -> SweepSpec:
        return load(SPEC)

    @pytest.fixture
    def sweep(self, tmp_path: Path, spec: SweepSpec) -> Sweep:
        """Trial 0 is complete, 1 is and was shrunk, 2 failed, 3 is from another sweep."""
        sweep = Sweep(tmp_path, "sweep")
        states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
        for number, state in enumerate(states):
            trial = finished(sweep, spec.plans[number], state, number=number)
            trained(trial.paths.checkpoint)
            if number == 1:
                keep_weights(trial.paths.checkpoint)
            if number == 3:
                write_result(trial.paths, replace(result(spec.plans[number]), reused_from="other/0000"))
        return sweep

    def folders(self, sweep: Sweep) -> list[Path]:
        return [trial.paths.checkpoint for trial in sweep.store.trials()]

    def test_weights(self, sweep: Sweep, spec: SweepSpec, started: list[Path]) -> None:
        shrink_left_over(entries(spec, sweep.store), "weights", warn=pytest.fail)
        assert started == self.folders(sweep)[:1]

    def test_none(self, sweep: Sweep, spec: SweepSpec, started: list[Path]) -> None:
        shrink_left_over(entries(spec, sweep.store), "none", warn=pytest.fail)
        assert [kinds(folder) for folder in self.folders(sweep)] == ["", "", "cc", "cc"]
        assert started == []

    def test_all(self, sweep: Sweep, spec: SweepSpec, started: list[Path]) -> None:
        shrink_left_over(entries(spec, sweep.store), "all", warn=pytest.fail)
        assert [kinds(folder) for folder in self.folders(sweep)] == ["cc", "w", "cc", "cc"]
        assert started == []

    def test_a_fault_of_the_disk_is_a_warning(
        self, sweep: Sweep, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(folder: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(shrinking, "remove_all", refuse)
        warnings: list[str] = []
        with caplog.at_level(logging.WARNING):
            shrink_left_over(entries(spec, sweep.store), "none", warn=warnings.append)
        first = self.folders(sweep)[0]
        assert warnings[0] == f"the checkpoints in {first} stay: [Errno 13] Permission denied"
        assert len(warnings) == 2
