"""Trials that another sweep in the same results folder has completed: what is found, and what is taken over."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_folders import CODE, RunnerKilledError, Sweep, finished, killed, result, row

from experiments.ledger import Ledger
from experiments.metrics_file import read_metrics
from experiments.reuse import Library
from experiments.spec import SweepSpec
from experiments.store import read_result, write_result
from experiments.study import Study
from experiments.trial import Draw, TrialPlan, TrialState

WEIGHTS = f"weights-000002-{'0' * 64}.pt"
SPEC = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\n"


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load(SPEC).plans


@pytest.fixture
def plan(plans: tuple[TrialPlan, ...]) -> TrialPlan:
    return plans[0]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of all sweeps."""
    return tmp_path / "results"


@pytest.fixture
def sweep(results: Path) -> Sweep:
    """The one that looks for trials."""
    return Sweep(results, "sweep")


@pytest.fixture
def other(results: Path) -> Sweep:
    return Sweep(results, "other")


def put(sweep: Sweep, plan: TrialPlan, state: TrialState = TrialState.COMPLETE, *, number: int = 0) -> Path:
    """A trial's folder with a result; there is no study."""
    trial = sweep.folder_of(plan, number)
    write_result(trial.paths, result(plan, state))
    return trial.paths.folder


class TestFind:
    def find(self, results: Path, sweep: Sweep, plan: TrialPlan) -> Path | None:
        found = sweep.library().find(plan)
        return found.paths.folder if found is not None else None

    def test_in_no_folder_and_in_an_empty_one(self, results: Path, sweep: Sweep, plan: TrialPlan) -> None:
        assert self.find(results, sweep, plan) is None
        results.mkdir()
        assert self.find(results, sweep, plan) is None

    def test_the_complete_one_with_this_very_signature(
        self, results: Path, sweep: Sweep, other: Sweep, plans: tuple[TrialPlan, ...]
    ) -> None:
        folders = [put(other, plan, number=number) for number, plan in enumerate(plans)]
        assert [self.find(results, sweep, plan) for plan in plans] == folders

    @pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
    def test_none_that_is_not_complete(
        self, results: Path, sweep: Sweep, other: Sweep, plan: TrialPlan, state: TrialState
    ) -> None:
        put(other, plan, state)
        assert self.find(results, sweep, plan) is None

    def test_none_that_still_runs(self, results: Path, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        other.folder_of(plan)
        assert self.find(results, sweep, plan) is None

    def test_the_first_by_name_of_those_that_are_complete(self, results: Path, sweep: Sweep, plan: TrialPlan) -> None:
        """Sweep a has pruned it."""
        put(Sweep(results, "a"), plan, TrialState.PRUNED)
        put(Sweep(results, "c"), plan)
        expected = put(Sweep(results, "b"), plan, number=8)
        assert self.find(results, sweep, plan) == expected

    def test_not_in_the_sweep_itself_by_whatever_path(
        self, results: Path, sweep: Sweep, plan: TrialPlan, tmp_path: Path
    ) -> None:
        put(sweep, plan)
        assert self.find(results, sweep, plan) is None
        (tmp_path / "link").symlink_to(results)
        assert Sweep(tmp_path / "link", "sweep").library().find(plan) is None

    def test_none_whose_name_alone_has_the_digits(
        self, results: Path, sweep: Sweep, other: Sweep, plan: TrialPlan
    ) -> None:
        """Two signatures may begin alike."""
        twin = TrialPlan(plan.config, plan.swept, plan.signature[:8] + 56 * "0", plan.configuration)
        put(other, twin)
        assert self.find(results, sweep, plan) is None
        expected = put(other, plan, number=1)
        assert self.find(results, sweep, plan) == expected

    @pytest.mark.parametrize("name", ["config.json", "result.json"])
    @pytest.mark.parametrize("content", ["", "{", "[]", '{"signature": 3}', "\x00"])
    def test_a_damaged_one_is_named_and_the_next_one_found(
        self,
        results: Path,
        sweep: Sweep,
        other: Sweep,
        plan: TrialPlan,
        caplog: pytest.LogCaptureFixture,
        name: str,
        content: str,
    ) -> None:
        damaged = put(other, plan)
        (damaged / name).write_text(content)
        with caplog.at_level(logging.WARNING):
            assert self.find(results, sweep, plan) is None
        assert str(damaged) in caplog.text
        expected = put(Sweep(results, "z"), plan)
        assert self.find(results, sweep, plan) == expected

    def test_passes_over_what_is_no_sweep_and_no_trial(self, results: Path, sweep: Sweep, plan: TrialPlan) -> None:
        for path in ("file", "a/trials/notes", f"a/trials/.0000-{plan.signature[:8]}.tmp/config.json", "b/config.json"):
            (results / path).parent.mkdir(parents=True, exist_ok=True)
            (results / path).write_text("{}")
        assert self.find(results, sweep, plan) is None


class TestFiles:
    @pytest.fixture
    def found(self, other: Sweep, plan: TrialPlan) -> Path:
        folder = finished(other, plan, TrialState.COMPLETE, number=3).paths.folder
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / WEIGHTS).write_bytes(b"weights")
        return folder

    def adopted(self, sweep: Sweep, results: Path, plan: TrialPlan) -> Path:
        sweep.ledger(library=sweep.library()).reconcile(plan)
        return sweep.store.trials()[0].paths.folder

    def test_are_shared_but_for_those_that_differ(
        self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path
    ) -> None:
        folder = self.adopted(sweep, results, plan)
        same = {
            str(file.relative_to(found)): os.path.samefile(file, folder / file.relative_to(found))
            for file in (
                found / "metrics.jsonl",
                found / "checkpoint" / WEIGHTS,
                found / "config.json",
                found / "result.json",
            )
        }
        assert same == {
            "metrics.jsonl": True,
            f"checkpoint/{WEIGHTS}": True,
            "config.json": False,
            "result.json": False,
        }

    def test_are_copied_where_they_cannot_be(
        self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
        folder = self.adopted(sweep, results, plan)
        assert (folder / "checkpoint" / WEIGHTS).read_bytes() == b"weights"
        assert not os.path.samefile(folder / "checkpoint" / WEIGHTS, found / "checkpoint" / WEIGHTS)

    def test_outlive_the_other_sweep(self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path) -> None:
        folder = self.adopted(sweep, results, plan)
        (found / "checkpoint" / WEIGHTS).unlink()
        assert (folder / "checkpoint" / WEIGHTS).read_bytes() == b"weights"

    def test_are_shared_but_for_the_log_which_grows(
        self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path
    ) -> None:
        (found / "log.txt").write_text("an attempt")
        folder = self.adopted(sweep, results, plan)
        assert (folder / "log.txt").read_text() == "an attempt"
        assert not os.path.samefile(folder / "log.txt", found / "log.txt")

    def test_that_nobody_looks_for_are_left_there(
        self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path
    ) -> None:
        (found / ".detections.npz.pending").touch()
        (found / "checkpoint" / ".checkpoint.pending").touch()
        folder = self.adopted(sweep, results, plan)
        assert [path.name for path in folder.rglob("*") if path.name.startswith(".")] == []

    def test_that_the_other_sweep_shrinks_meanwhile(
        self, sweep: Sweep, results: Path, plan: TrialPlan, found: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint that was listed has gone; the weights that replace it are there."""
        checkpoint = found / "checkpoint" / f"checkpoint-000002-{'1' * 64}.pt"
        (found / "checkpoint" / WEIGHTS).unlink()
        checkpoint.write_bytes(b"all")
        link = os.link

        def shrinking(source: str, target: str) -> None:
            if os.path.samefile(os.path.dirname(source), checkpoint.parent) and checkpoint.exists():
                (found / "checkpoint" / WEIGHTS).write_bytes(b"weights")
                checkpoint.unlink()
            link(source, target)

        monkeypatch.setattr(os, "link", shrinking)
        folder = self.adopted(sweep, results, plan)
        assert [path.name for path in (folder / "checkpoint").iterdir()] == [WEIGHTS]


class TestAdopt:
    def adopting(self, sweep: Sweep, other: Sweep) -> Ledger:
        return sweep.ledger(library=sweep.library())

    def test_all_of_a_complete_trial(self, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        found = finished(other, plan, TrialState.COMPLETE, number=3)
        (found.paths.checkpoint).mkdir()
        (found.paths.checkpoint / WEIGHTS).write_bytes(b"weights")
        sweep.folder_of(plan_of_another_sweep(plan), 5)
        ledger = self.adopting(sweep, other)
        ledger.reconcile(plan)
        trial = ledger.trial(plan)
        assert trial is not None
        assert trial.number == 0
        taken = read_result(trial)
        assert taken is not None
        assert taken == ledger.known.results[plan.signature]
        assert taken.reused_from == f"other/0003-{plan.signature[:8]}"
        assert (trial.paths.checkpoint / WEIGHTS).read_bytes() == b"weights"
        assert read_metrics(trial.paths) == read_metrics(found.paths) == [row(1)]
        assert ledger.known.last_epoch(plan.signature) == 1
        known = sweep.study().trials()[0]
        assert (known.state, known.attempts) == (TrialState.COMPLETE, 2)
        assert sweep.values() == [0.5]
        assert ledger.adopted == 1
        assert ledger.best is not None
        assert ledger.best.number == 0

    def test_leaves_the_other_sweep_as_it_was(self, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        found = finished(other, plan, TrialState.COMPLETE, number=3)
        before = contents(other.store.folder / "trials")
        self.adopting(sweep, other).reconcile(plan)
        assert contents(other.store.folder / "trials") == before
        assert read_result(found) == result(plan, attempts=2)

    def test_with_the_stage_and_the_draw_that_it_has_here(self, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        finished(other, plan, TrialState.COMPLETE)
        drawn = TrialPlan(plan.config, plan.swept, plan.signature, plan.configuration, draw=Draw("block", 4))
        self.adopting(sweep, other).reconcile(drawn)
        stored = sweep.store.trials()[0]
        assert (stored.draw, stored.stage) == (Draw("block", 4), "search")

    def test_names_where_it_came_from_first(self, sweep: Sweep, other: Sweep, plan: TrialPlan, results: Path) -> None:
        finished(other, plan, TrialState.COMPLETE, number=3)
        self.adopting(sweep, other).reconcile(plan)
        third = Sweep(results, "third")
        third.ledger(library=Library(results, but=other.store, code_of=lambda _: CODE)).reconcile(plan)
        taken = read_result(third.store.trials()[0])
        assert taken is not None
        assert taken.reused_from == f"other/0003-{plan.signature[:8]}"

    def test_not_without_a_library(self, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        finished(other, plan, TrialState.COMPLETE)
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert ledger.trial(plan) is None

    def test_not_where_the_trial_was_begun_here(self, sweep: Sweep, other: Sweep, plan: TrialPlan) -> None:
        finished(other, plan, TrialState.COMPLETE)
        sweep.folder_of(plan)
        ledger = self.adopting(sweep, other)
        ledger.reconcile(plan)
        assert ledger.known.results == {}

    @pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
    def test_not_what_is_not_complete(self, sweep: Sweep, other: Sweep, plan: TrialPlan, state: TrialState) -> None:
        finished(other, plan, state)
        ledger = self.adopting(sweep, other)
        ledger.reconcile(plan)
        assert ledger.trial(plan) is None
        assert ledger.adopted == 0

    @pytest.mark.parametrize("instant", ["os.rename", "experiments.store.write_result"])
    def test_a_kill_in_the_midst_leaves_no_trial_and_the_next_run_takes_it_over(
        self, sweep: Sweep, other: Sweep, plan: TrialPlan, monkeypatch: pytest.MonkeyPatch, instant: str
    ) -> None:
        finished(other, plan, TrialState.COMPLETE)
        with monkeypatch.context() as killing:
            killing.setattr(instant, killed_for(f".0000-{plan.signature[:8]}.tmp", instant))
            with pytest.raises(RunnerKilledError, match="killed"):
                self.adopting(sweep, other).reconcile(plan)
        left_over = sweep.store.folder / "trials" / f".0000-{plan.signature[:8]}.tmp"
        assert left_over.is_dir()
        (left_over / "torn").write_text("half of it")
        assert sweep.store.trials() == []
        assert sweep.study().trials() == {}
        ledger = self.adopting(sweep, other)
        ledger.reconcile(plan)
        assert ledger.known.results[plan.signature].state is TrialState.COMPLETE
        assert sorted(os.listdir(sweep.store.folder / "trials")) == [f"0000-{plan.signature[:8]}"]
        assert not (sweep.store.trials()[0].paths.folder / "torn").exists()
        assert sweep.values() == [0.5]

    def test_a_kill_before_the_study_is_told(
        self, sweep: Sweep, other: Sweep, plan: TrialPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finished(other, plan, TrialState.COMPLETE)
        with monkeypatch.context() as killing:
            killing.setattr(Study, "start", killed)
            with pytest.raises(RunnerKilledError, match="killed"):
                self.adopting(sweep, other).reconcile(plan)
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert sweep.values() == [0.5]
        assert ledger.known.results[plan.signature].reused_from.startswith("other/")


def plan_of_another_sweep(plan: TrialPlan) -> TrialPlan:
    """Something that takes a number."""
    return TrialPlan(plan.config, plan.swept, "ab" * 32, "cd" * 32)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def killed_for(name: str, instant: str) -> Callable[..., Any]:
    """In place of a function: kills the runner when it is called for a folder of this name."""
    original: Callable[..., Any] = os.rename if instant == "os.rename" else write_result

    def call(first: Any, *others: Any) -> Any:
        if name in (Path(getattr(first, "folder", first)).name,):
            raise RunnerKilledError("killed")
        return original(first, *others)

    return call
