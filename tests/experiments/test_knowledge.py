from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from experiments.final_stage import by_configuration
from experiments.knowledge import Knowledge, Outcome
from experiments.pruning import Asha, Median
from experiments.spec import SweepSpec
from experiments.store import TrialResult
from experiments.trial import TrialPlan, TrialState

METRIC = "ap50_11pt/mean"
COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
SPEC = """\
{EXPERIMENT}
  train: {epochs: 3}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3]}
seeds: 2
"""


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    """Three configurations of two replicates each, side by side."""
    return load(SPEC).plans


def new() -> Knowledge:
    return Knowledge(metric=METRIC, direction="maximize")


def result(plan: TrialPlan, state: TrialState, value: float | None = None) -> TrialResult:
    return TrialResult(plan.signature, state, "" if state is COMPLETE else "why", 1, {METRIC: value}, 1, 1.0)


def row(epoch: int, value: Any, time: float = 0.0) -> dict[str, Any]:
    return {"epoch": epoch, "duration_s": 1.0, "time": time, "metrics": {METRIC: value, "another/mean": 0.9}}


class TestOutcome:
    def outcome(self, plans: Sequence[TrialPlan], *states: TrialState, values: Sequence[float | None] = ()) -> Outcome:
        known = new()
        for plan, state, value in itertools.zip_longest(plans, states, values):
            if state is not RUNNING:
                known.finish(plan.signature, result(plan, state, value))
        return known.outcome(plans)

    @pytest.mark.parametrize(
        ("states", "expected"),
        [
            ((COMPLETE, COMPLETE, COMPLETE), COMPLETE),
            ((RUNNING, RUNNING, RUNNING), RUNNING),
            ((COMPLETE, COMPLETE, RUNNING), RUNNING),
            ((PRUNED, RUNNING, COMPLETE), PRUNED),
            ((FAIL, RUNNING, COMPLETE), FAIL),
            ((FAIL, PRUNED, RUNNING), PRUNED),
        ],
    )
    def test_state_in_any_order_of_the_replicates(
        self, plans: tuple[TrialPlan, ...], states: tuple[TrialState, ...], expected: TrialState
    ) -> None:
        for order in itertools.permutations(states):
            assert self.outcome(plans[:3], *order, values=(0.5, 0.5, 0.5)).state is expected

    def test_value_is_the_mean_of_complete_ones(self, plans: tuple[TrialPlan, ...]) -> None:
        assert self.outcome(plans[:2], COMPLETE, COMPLETE, values=(0.25, 0.75)) == Outcome(COMPLETE, value=0.5)
        assert self.outcome(plans[:1], COMPLETE, values=(0.25,)) == Outcome(COMPLETE, value=0.25)

    @pytest.mark.parametrize("values", [(None, 0.5), (0.5, None), (None, None)])
    def test_an_undefined_value_is_a_failure_of_the_whole(
        self, plans: tuple[TrialPlan, ...], values: tuple[float | None, ...]
    ) -> None:
        """The mean of what is left would be one over other seeds than everyone else's."""
        assert self.outcome(plans[:2], COMPLETE, COMPLETE, values=values) == Outcome(FAIL)

    def test_only_complete_ones_have_a_value_and_only_pruned_ones_a_curve(self, plans: tuple[TrialPlan, ...]) -> None:
        for state in (COMPLETE, PRUNED, FAIL):
            known = new()
            for plan, values in zip(plans[:2], [(0.25, 0.5), (0.75,)], strict=True):
                for epoch, value in enumerate(values, start=1):
                    known.report(plan.signature, row(epoch, value))
                known.finish(plan.signature, result(plan, state, 0.5))
            outcome = known.outcome(plans[:2])
            assert outcome.value == (0.5 if state is COMPLETE else None)
            assert outcome.curve == ({1: 0.5, 2: 0.5} if state is PRUNED else {})

    def test_a_pruned_one_that_has_reported_nothing(self, plans: tuple[TrialPlan, ...]) -> None:
        assert self.outcome(plans[:2], PRUNED, PRUNED) == Outcome(PRUNED, curve={})

    def test_one_that_is_to_run_again_is_running(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.finish(plans[0].signature, result(plans[0], FAIL))
        known.forget(plans[0].signature)
        known.forget(plans[0].signature)
        assert known.outcome(plans[:1]) == Outcome(RUNNING)
        assert known.results == {}


def test_results_are_counted_and_what_nobody_asks_for_is_forgotten(plans: tuple[TrialPlan, ...]) -> None:
    known = new()
    assert [known.count(state) for state in (COMPLETE, PRUNED, FAIL)] == [0, 0, 0]
    metrics = {METRIC: 0.5, "another/mean": 0.9}
    whole = replace(result(plans[0], COMPLETE), metrics=metrics, config={"task": "wsddn"})
    known.finish(plans[0].signature, whole)
    assert known.results == {plans[0].signature: replace(whole, metrics={METRIC: 0.5}, config={})}
    assert known.objective(plans[0].signature) == 0.5
    for index in (1, 2):
        known.finish(plans[index].signature, result(plans[index], FAIL))
    known.finish(plans[1].signature, result(plans[1], PRUNED))  # another word on the same trial
    assert [known.count(state) for state in (COMPLETE, PRUNED, FAIL)] == [1, 1, 1]
    known.forget(plans[2].signature)
    assert [known.count(state) for state in (COMPLETE, PRUNED, FAIL)] == [1, 1, 0]


class TestReports:
    def test_last_epoch(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        assert known.last_epoch(plans[0].signature) is None
        for epoch in (2, 3, 1):
            known.report(plans[0].signature, row(epoch, 0.5))
        assert known.last_epoch(plans[0].signature) == 3
        assert known.last_epoch(plans[1].signature) is None

    @pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "0.5", [0.5]])
    def test_one_without_a_number_says_nothing(self, plans: tuple[TrialPlan, ...], value: Any) -> None:
        known = new()
        known.report(plans[0].signature, row(1, 0.5))
        known.report(plans[0].signature, row(2, value))
        assert known.last_epoch(plans[0].signature) == 1

    @pytest.mark.parametrize("metrics", [{}, {"metrics": {}}, {"metrics": {"another/mean": 0.5}}])
    def test_one_without_the_objective_says_nothing(
        self, plans: tuple[TrialPlan, ...], metrics: Mapping[str, Any]
    ) -> None:
        known = new()
        known.report(plans[0].signature, {"epoch": 1, "duration_s": 1.0, **metrics})
        assert known.last_epoch(plans[0].signature) is None

    def test_an_epoch_that_is_trained_again_replaces_the_first(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.report(plans[0].signature, row(1, 0.25))
        known.report(plans[0].signature, row(1, 0.75))
        known.finish(plans[0].signature, result(plans[0], PRUNED))
        assert known.outcome(plans[:1]).curve == {1: 0.75}

    def test_a_whole_number_is_a_number(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.report(plans[0].signature, row(1, 1))
        assert known.last_epoch(plans[0].signature) == 1

    @pytest.mark.parametrize(
        ("state", "value", "expected"),
        [(COMPLETE, 0.5, 0.5), (COMPLETE, None, None), (PRUNED, 0.5, None), (FAIL, 0.5, None)],
    )
    def test_objective(
        self, plans: tuple[TrialPlan, ...], state: TrialState, value: float | None, expected: float | None
    ) -> None:
        known = new()
        assert known.objective(plans[0].signature) is None
        known.finish(plans[0].signature, result(plans[0], state, value))
        assert known.objective(plans[0].signature) == expected


class TestStopReason:
    """By the times in the reports, whenever and in whatever order they come."""

    ASHA = Asha(min_epochs=1, reduction_factor=2)
    MEDIAN = Median(startup_trials=1)

    def reason(
        self, known: Knowledge, plans: tuple[TrialPlan, ...], index: int, epoch: int, pruner: Asha | Median = ASHA
    ) -> str | None:
        return known.stop_reason(pruner, plans[index], epoch, by_configuration(plans))

    @pytest.mark.parametrize(("time", "stops"), [(9.0, True), (10.0, True), (10.001, False), (11.0, False)])
    def test_what_others_reported_later_does_not_count(
        self, plans: tuple[TrialPlan, ...], time: float, stops: bool
    ) -> None:
        known = new()
        known.report(plans[0].signature, row(1, 0.5, time=10.0))
        known.report(plans[2].signature, row(1, 0.9, time=time))
        assert (self.reason(known, plans, 0, 1) is not None) == stops

    def test_what_its_own_replicates_reported_later_does_not_either(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.report(plans[2].signature, row(1, 0.6, time=5.0))
        known.report(plans[0].signature, row(1, 0.5, time=10.0))
        known.report(plans[1].signature, row(1, 0.9, time=11.0))
        assert self.reason(known, plans, 0, 1) == "asha: 0.5 at epoch 1 is not among the best 1 of 2"
        assert self.reason(known, plans, 1, 1) is None  # 0.7, the mean

    def test_nor_do_its_own_later_epochs(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.report(plans[2].signature, row(1, 0.6, time=5.0))
        known.report(plans[0].signature, row(1, 0.5, time=10.0))
        known.report(plans[0].signature, row(2, 0.9, time=12.0))
        assert self.reason(known, plans, 0, 1) is not None

    def test_a_configuration_does_not_compete_with_itself(self, plans: tuple[TrialPlan, ...]) -> None:
        known = new()
        known.report(plans[1].signature, row(1, 0.9, time=1.0))
        known.report(plans[0].signature, row(1, 0.1, time=2.0))
        assert self.reason(known, plans, 0, 1) is None

    @pytest.mark.parametrize(("last", "counts"), [(9.0, True), (10.0, True), (10.5, False)])
    def test_a_configuration_is_complete_when_all_replicates_have_reported_their_last_epoch(
        self, plans: tuple[TrialPlan, ...], last: float, counts: bool
    ) -> None:
        """Whether its results were noted by then is not known later, and does not matter."""
        known = new()
        for replicate, end in ((2, 8.0), (3, last)):
            known.report(plans[replicate].signature, row(1, 0.9, time=1.0))
            known.report(plans[replicate].signature, row(3, 0.9, time=end))
        known.report(plans[0].signature, row(1, 0.5, time=10.0))
        assert (self.reason(known, plans, 0, 1, self.MEDIAN) is not None) == counts

    def test_minimize(self, plans: tuple[TrialPlan, ...]) -> None:
        known = Knowledge(metric=METRIC, direction="minimize")
        known.report(plans[2].signature, row(1, 0.9, time=1.0))
        known.report(plans[0].signature, row(1, 0.5, time=2.0))
        known.report(plans[4].signature, row(1, 0.7, time=3.0))
        assert self.reason(known, plans, 0, 1) is None
        assert self.reason(known, plans, 4, 1) == "asha: 0.7 at epoch 1 is not among the best 1 of 3"

    @pytest.mark.parametrize("pruner", [ASHA, MEDIAN], ids=["asha", "median"])
    @pytest.mark.parametrize("seed", range(5))
    def test_a_restart_that_reads_all_of_it_in_another_order_decides_alike(
        self, plans: tuple[TrialPlan, ...], pruner: Asha | Median, seed: int
    ) -> None:
        """The first asks after each report, as a run does; the second knows the end before it asks."""
        rng = random.Random(seed)
        reports = [(index, epoch) for index in range(len(plans)) for epoch in (1, 2, 3)]
        rng.shuffle(reports)
        rows = {pair: row(pair[1], rng.randint(0, 4) / 4, time=float(now)) for now, pair in enumerate(reports)}
        known = new()
        decisions = {}
        for index, epoch in reports:
            known.report(plans[index].signature, rows[index, epoch])
            decisions[index, epoch] = self.reason(known, plans, index, epoch, pruner)
        again = new()
        for index, epoch in sorted(reports, key=lambda _: rng.random()):
            again.report(plans[index].signature, rows[index, epoch])
        assert decisions == {pair: self.reason(again, plans, *pair, pruner) for pair in reports}
        assert len(set(decisions.values())) > 1
