"""Folder, study and memory brought to one state, whatever a crash has left of the three."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_folders import METRIC, RunnerKilledError, Sweep, finished, killed, result, row

from experiments.footprint import Usage
from experiments.metrics_file import append_metrics, read_metrics
from experiments.spec import SweepSpec
from experiments.spec_document import Objective
from experiments.store import TrialResult, read_config, read_result, write_result
from experiments.study import Study
from experiments.trial import TrialPlan, TrialState
from wsol.checkpoint_files import checkpoint_files, file_name

SPEC = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2, 0.3]}\n"


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load(SPEC).plans


@pytest.fixture
def plan(plans: tuple[TrialPlan, ...]) -> TrialPlan:
    return plans[0]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path, "sweep")


class TestReconcile:
    def test_a_plan_of_which_there_is_nothing(self, sweep: Sweep, plan: TrialPlan) -> None:
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert ledger.trial(plan) is None
        assert ledger.known.results == {}
        assert sweep.study().trials() == {}

    def test_a_folder_that_the_study_does_not_know_is_running_there(self, sweep: Sweep, plan: TrialPlan) -> None:
        trial = sweep.folder_of(plan, 7)
        append_metrics(trial.paths, row(1, 0.25))
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        known = sweep.study().trials()
        assert {number: (one.state, one.attempts) for number, one in known.items()} == {7: (TrialState.RUNNING, 0)}
        assert ledger.known.last_epoch(plan.signature) == 1
        assert ledger.known.results == {}

    def test_a_folder_with_a_result_that_the_study_does_not_know_is_told(self, sweep: Sweep, plan: TrialPlan) -> None:
        write_result(sweep.folder_of(plan).paths, result(plan))
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert sweep.study().trials()[0].state is TrialState.COMPLETE
        assert ledger.known.results == {plan.signature: result(plan)}
        assert sweep.values() == [0.5]

    @pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    def test_one_that_runs_in_the_study_and_has_a_result_is_told(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState
    ) -> None:
        """The runner died between result.json and the study."""
        study = sweep.study()
        write_result(sweep.folder_of(plan).paths, result(plan, state))
        study.start(0, plan, attempts=1)
        study.close()
        sweep.ledger().reconcile(plan)
        known = sweep.study().trials()[0]
        assert (known.state, known.attempts) == (state, 1)
        assert known.stop_reason == result(plan, state).stop_reason

    def test_one_that_is_finished_in_the_study_and_has_no_result_runs_again(
        self, sweep: Sweep, plan: TrialPlan
    ) -> None:
        """Someone deleted result.json, or it is damaged: the trial goes on, and its attempts are counted on."""
        trial = finished(sweep, plan, TrialState.COMPLETE)
        trial.paths.result.unlink()
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert ledger.known.results == {}
        assert ledger.attempts(trial) == 2
        assert (sweep.study().trials()[0].state, sweep.study().trials()[0].attempts) == (TrialState.RUNNING, 2)

    @pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
    def test_one_that_ended_otherwise_than_a_study_says_that_was_put_aside_meanwhile(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState
    ) -> None:
        """It failed, then the sweep was kept in a database, where it was taken up again."""
        trial = finished(sweep, plan, TrialState.FAIL)
        write_result(trial.paths, result(plan, state, attempts=5))
        for _ in range(2):
            sweep.ledger().reconcile(plan)
            known = sweep.study().trials()[0]
            assert (known.state, known.stop_reason) == (state, result(plan, state).stop_reason)
        assert sweep.values() == ([None, 0.5] if state is TrialState.COMPLETE else [None, None])

    def test_one_of_the_same_number_in_such_a_study_is_another(
        self, sweep: Sweep, plans: tuple[TrialPlan, ...]
    ) -> None:
        study = sweep.study()
        study.start(0, plans[1], attempts=4)
        study.record_decision(0, "asha")
        study.close()
        trial = sweep.folder_of(plans[0])
        write_result(trial.paths, result(plans[0]))
        ledger = sweep.ledger()
        assert (ledger.attempts(trial), ledger.decided_before(plans[0])) == (0, "")
        ledger.reconcile(plans[0])
        known = sweep.study().trials()[0]
        assert (known.signature, known.state) == (plans[0].signature, TrialState.COMPLETE)

    def test_a_damaged_result_is_named_and_counts_as_none(
        self, sweep: Sweep, plan: TrialPlan, caplog: pytest.LogCaptureFixture
    ) -> None:
        trial = finished(sweep, plan, TrialState.COMPLETE)
        trial.paths.result.write_text('{"state": "COMP')
        ledger = sweep.ledger()
        with caplog.at_level(logging.WARNING):
            ledger.reconcile(plan)
        assert str(trial.paths.result) in caplog.text
        assert ledger.known.results == {}

    def test_twice_says_nothing_twice(self, sweep: Sweep, plan: TrialPlan) -> None:
        write_result(sweep.folder_of(plan).paths, result(plan))
        sweep.ledger().reconcile(plan)
        sweep.ledger().reconcile(plan)
        assert sweep.values() == [0.5]

    def test_an_undefined_objective_is_a_failure_in_the_study_alone(self, sweep: Sweep, plan: TrialPlan) -> None:
        write_result(sweep.folder_of(plan).paths, result(plan, value=None))
        ledger = sweep.ledger()
        ledger.reconcile(plan)
        assert ledger.known.results[plan.signature].state is TrialState.COMPLETE
        known = sweep.study().trials()[0]
        assert (known.state, known.stop_reason) == (TrialState.FAIL, f"{METRIC} is undefined on this split")

    def test_a_new_trial_has_the_smallest_number_that_neither_study_nor_folders_have(
        self, sweep: Sweep, plans: tuple[TrialPlan, ...]
    ) -> None:
        study = sweep.study()
        study.start(9, plans[0])
        study.close()
        sweep.folder_of(plans[1], 4)
        ledger = sweep.ledger()
        assert ledger.take_up(plans[1]).number == 4
        assert ledger.take_up(plans[2]).number == 0


class TestAgain:
    @pytest.mark.parametrize(
        ("state", "option"), [(TrialState.FAIL, "retry_failed"), (TrialState.PRUNED, "continue_pruned")]
    )
    def test_one_that_is_asked_for_is_reopened(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState, option: str
    ) -> None:
        trial = finished(sweep, plan, state)
        ledger = sweep.ledger(**{option: True})
        ledger.reconcile(plan)
        assert ledger.known.results == {}
        assert not trial.paths.result.exists()
        assert ledger.take_up(plan).paths == trial.paths
        assert sweep.study().trials()[0].state is TrialState.RUNNING
        assert [read["epoch"] for read in read_metrics(trial.paths)] == [1]

    @pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE])
    def test_one_that_is_not_is_left_alone(self, sweep: Sweep, plan: TrialPlan, state: TrialState) -> None:
        finished(sweep, plan, state)
        options = {
            TrialState.FAIL: {"continue_pruned": True},
            TrialState.PRUNED: {"retry_failed": True},
            TrialState.COMPLETE: {"retry_failed": True, "continue_pruned": True},
        }[state]
        ledger = sweep.ledger(**options)
        ledger.reconcile(plan)
        assert ledger.known.results[plan.signature].state is state
        assert sweep.study().trials()[0].state is state

    def test_one_that_continues_is_not_pruned_again_also_in_later_runs(self, sweep: Sweep, plan: TrialPlan) -> None:
        trial = finished(sweep, plan, TrialState.PRUNED)
        config = read_config(trial)
        ledger = sweep.ledger(continue_pruned=True)
        assert ledger.may_be_pruned(plan)
        ledger.reconcile(plan)
        assert not ledger.may_be_pruned(plan)
        later = sweep.ledger()
        later.reconcile(plan)
        assert not later.may_be_pruned(plan)
        assert later.known.results == {}
        assert read_config(sweep.store.trials()[0]) == config

    def test_a_retry_of_a_failure_may_be_pruned(self, sweep: Sweep, plan: TrialPlan) -> None:
        finished(sweep, plan, TrialState.FAIL)
        ledger = sweep.ledger(retry_failed=True)
        ledger.reconcile(plan)
        assert ledger.may_be_pruned(plan)

    def test_a_decision_is_there_in_the_next_run(self, sweep: Sweep, plans: tuple[TrialPlan, ...]) -> None:
        ledger = sweep.ledger()
        ledger.take_up(plans[0])
        ledger.take_up(plans[1])
        ledger.record_decision(plans[0], "asha: it lost")
        later = sweep.ledger()
        assert [later.decided_before(plan) for plan in plans] == ["asha: it lost", "", ""]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_reports_of_finished_ones_are_read_where_somebody_compares_them(
    sweep: Sweep, plans: tuple[TrialPlan, ...], state: TrialState
) -> None:
    finished(sweep, plans[0], state)
    append_metrics(sweep.folder_of(plans[1], 1).paths, row(1))
    for compares, of_finished in ((True, 1), (False, None)):
        ledger = sweep.ledger(compares_epochs=compares)
        for plan in plans[:2]:
            ledger.reconcile(plan)
        assert ledger.known.last_epoch(plans[0].signature) == of_finished
        assert ledger.known.last_epoch(plans[1].signature) == 1
        assert ledger.known.results[plans[0].signature].state is state


class TestFinish:
    @pytest.mark.parametrize(("state", "metrics"), [(TrialState.PRUNED, {METRIC: 0.75}), (TrialState.FAIL, {})])
    def test_writes_the_last_word_from_the_rows(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState, metrics: dict[str, float]
    ) -> None:
        ledger = sweep.ledger()
        trial = ledger.take_up(plan)
        append_metrics(trial.paths, row(1, 0.25))
        usage = {"device_bytes": 1, "host_bytes": 2, "step_s": 0.5}
        append_metrics(trial.paths, {**row(2, 0.75), "usage": usage})
        written = ledger.finish(plan, state, "why", attempts=3)
        assert written == TrialResult(plan.signature, state, "why", 3, metrics, 2, 3.0, usage=Usage(**usage))
        assert read_result(trial) == ledger.known.results[plan.signature] == written
        assert (sweep.study().trials()[0].state, sweep.study().trials()[0].stop_reason) == (state, "why")

    def test_without_a_row(self, sweep: Sweep, plan: TrialPlan) -> None:
        ledger = sweep.ledger()
        ledger.take_up(plan)
        written = ledger.finish(plan, TrialState.PRUNED, "why", attempts=0)
        assert (written.metrics, written.epochs, written.duration_s) == ({}, 0, 0.0)

    def test_the_result_is_on_disk_before_the_study_is_told(
        self, sweep: Sweep, plan: TrialPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = sweep.ledger()
        trial = ledger.take_up(plan)
        monkeypatch.setattr(Study, "finish", killed)
        with pytest.raises(RunnerKilledError, match="killed"):
            ledger.finish(plan, TrialState.FAIL, "why", attempts=1)
        assert json.loads(trial.paths.result.read_text())["state"] == "FAIL"


class TestBest:
    def best_of(
        self, sweep: Sweep, plans: tuple[TrialPlan, ...], *values: float | None, **options: Objective
    ) -> int | None:
        """The number of the best of trials with these values, in this order."""
        ledger = sweep.ledger(**options)
        assert ledger.best is None
        for plan, value in zip(plans, values, strict=True):
            write_result(ledger.take_up(plan).paths, result(plan, value=value))
            ledger.note(plan, result(plan, value=value))
        return ledger.best.number if ledger.best is not None else None

    @pytest.mark.parametrize(
        ("values", "best"),
        [((0.1, 0.3, 0.2), 1), ((0.3, 0.3, 0.2), 0), ((None, 0.1, None), 1), ((None, None, None), None)],
    )
    def test_of_equal_ones_the_first_and_none_without_a_value(
        self, sweep: Sweep, plans: tuple[TrialPlan, ...], values: tuple[float | None, ...], best: int | None
    ) -> None:
        assert self.best_of(sweep, plans, *values) == best

    def test_the_other_way_round(self, sweep: Sweep, plans: tuple[TrialPlan, ...]) -> None:
        objective = Objective(metric=METRIC, direction="minimize")
        assert self.best_of(sweep, plans, 0.2, 0.1, 0.1, objective=objective) == 1

    def test_is_found_again_in_the_next_run(self, sweep: Sweep, plans: tuple[TrialPlan, ...]) -> None:
        self.best_of(sweep, plans, 0.1, 0.3, 0.2)
        ledger = sweep.ledger()
        for plan in plans:
            ledger.reconcile(plan)
        assert ledger.best is not None
        assert (ledger.best.number, ledger.best.value, ledger.best.plan) == (1, 0.3, plans[1])

    @pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
    def test_is_complete(self, sweep: Sweep, plan: TrialPlan, state: TrialState) -> None:
        ledger = sweep.ledger()
        ledger.take_up(plan)
        ledger.note(plan, result(plan, state, 0.9))
        assert ledger.best is None

    def test_is_of_the_search(self, sweep: Sweep, plan: TrialPlan) -> None:
        ledger = sweep.ledger()
        final = TrialPlan(plan.config, plan.swept, plan.signature, plan.configuration, stage="final")
        ledger.take_up(final)
        ledger.note(final, result(plan, value=0.9))
        assert ledger.best is None
        assert not ledger.may_be_pruned(final)


def checkpoints(folder: Path, *numbers: int) -> None:
    """Whole ones, of any bytes."""
    folder.mkdir()
    for number in numbers:
        data = str(number).encode()
        (folder / file_name(number, hashlib.sha256(data).hexdigest())).write_bytes(data)


def numbers(folder: Path) -> list[int]:
    return [file.number for file in checkpoint_files(folder)]


class TestCheckpoints:
    """What a trial leaves that ended before its last epoch."""

    @pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
    @pytest.mark.parametrize(("keep", "left"), [("weights", [2]), ("none", [2]), ("all", [1, 2])])
    def test_the_newest_is_kept(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState, keep: str, left: list[int]
    ) -> None:
        ledger = sweep.ledger(keep_checkpoints=keep)
        trial = ledger.take_up(plan)
        checkpoints(trial.paths.checkpoint, 1, 2)
        ledger.finish(plan, state, "a reason", attempts=1)
        assert numbers(trial.paths.checkpoint) == left

    @pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
    def test_what_a_crash_left_goes_with_the_next_run(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = sweep.ledger()
        trial = ledger.take_up(plan)
        checkpoints(trial.paths.checkpoint, 1, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", killed)
            with pytest.raises(RunnerKilledError, match="killed"):
                ledger.finish(plan, state, "a reason", attempts=1)
        assert numbers(trial.paths.checkpoint) == [1, 2]
        sweep.ledger().reconcile(plan)
        assert numbers(trial.paths.checkpoint) == [2]

    @pytest.mark.parametrize("state", [TrialState.COMPLETE, None])
    def test_those_of_a_complete_or_unfinished_trial_stay(
        self, sweep: Sweep, plan: TrialPlan, state: TrialState | None
    ) -> None:
        trial = sweep.folder_of(plan) if state is None else finished(sweep, plan, state)
        checkpoints(trial.paths.checkpoint, 1, 2)
        sweep.ledger().reconcile(plan)
        assert numbers(trial.paths.checkpoint) == [1, 2]

    def test_a_fault_of_the_disk_is_a_warning(
        self, sweep: Sweep, plan: TrialPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        ledger = sweep.ledger()
        trial = ledger.take_up(plan)
        checkpoints(trial.paths.checkpoint, 1, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "remove", refuse)
            patch.setattr("pathlib.Path.unlink", refuse)
            patch.setattr("experiments.ledger.write_result", lambda *_: None)
            ledger.finish(plan, TrialState.FAIL, "a reason", attempts=1)
        assert f"{trial.paths.checkpoint}: older checkpoints stay ([Errno 13] Permission denied)" in caplog.text
