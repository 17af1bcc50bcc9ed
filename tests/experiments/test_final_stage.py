from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from experiments.failures import FailureKind
from experiments.final_stage import best_configuration, by_configuration, held_back_by
from experiments.knowledge import Knowledge
from experiments.spec import SweepSpec
from experiments.store import TrialResult
from experiments.trial import TrialPlan, TrialState

METRIC = "ap50_11pt/mean"
SPEC = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2, 0.3]}\nseeds: 2\n"
Values = Mapping[tuple[float, int], float | str | TrialState | None]
"""(learning rate, seed) -> value of a complete trial, reason of a failed one, PRUNED; missing: it still runs."""


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load(SPEC).plans


def knowing(plans: tuple[TrialPlan, ...], values: Values) -> Knowledge:
    known = Knowledge(metric=METRIC, direction="maximize")
    for plan in plans:
        key = (plan.config.train.lr, plan.config.seed)
        if key in values:
            known.finish(plan.signature, result(plan, values[key]))
    return known


def result(plan: TrialPlan, value: float | str | TrialState | None) -> TrialResult:
    if isinstance(value, TrialState):
        return TrialResult(plan.signature, value, "asha", 1, {METRIC: 9.0}, 1, 1.0)
    if isinstance(value, str):
        return TrialResult(plan.signature, TrialState.FAIL, value, 1, {}, 0, 0.0)
    return TrialResult(plan.signature, TrialState.COMPLETE, "", 1, {METRIC: value}, 1, 1.0)


ALL: dict[tuple[float, int], float | str | TrialState | None] = {
    (0.1, 0): 0.9,
    (0.1, 1): 0.1,
    (0.2, 0): 0.6,
    (0.2, 1): 0.5,
    (0.3, 0): 0.4,
    (0.3, 1): 0.4,
}


class TestBestConfiguration:
    def best(self, plans: tuple[TrialPlan, ...], changes: Values, direction: str = "maximize") -> float | None:
        known = knowing(plans, {**ALL, **changes})
        found = best_configuration(by_configuration(plans), known, direction=direction)  # type: ignore[arg-type]
        return found.config.train.lr if found is not None else None

    def test_by_the_mean_and_not_by_the_best_trial(self, plans: tuple[TrialPlan, ...]) -> None:
        assert self.best(plans, {}) == 0.2
        assert self.best(plans, {}, direction="minimize") == 0.3

    def test_of_equal_ones_the_first(self, plans: tuple[TrialPlan, ...]) -> None:
        """Means of 0.5 all three, the last bit included."""
        changes = {(0.1, 1): 0.1, (0.2, 0): 0.75, (0.2, 1): 0.25, (0.3, 0): 0.5, (0.3, 1): 0.5}
        assert self.best(plans, changes) == 0.1
        assert self.best(plans, changes, direction="minimize") == 0.1
        assert self.best(plans[::-1], changes) == 0.3

    @pytest.mark.parametrize("change", [None, "error", TrialState.PRUNED])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_complete_with_a_value_for_every_seed(
        self, plans: tuple[TrialPlan, ...], change: str | TrialState | None, seed: int
    ) -> None:
        """0.1 has 0.5 in the mean, 0.2 would have more."""
        assert self.best(plans, {(0.2, seed): change}) == 0.1

    def test_none_that_still_runs(self, plans: tuple[TrialPlan, ...]) -> None:
        known = knowing(plans, {key: value for key, value in ALL.items() if key != (0.2, 1)})
        found = best_configuration(by_configuration(plans), known, direction="maximize")
        assert found is not None
        assert found.config.train.lr == 0.1

    def test_none_of_none(self, plans: tuple[TrialPlan, ...]) -> None:
        nothing = Knowledge(metric=METRIC, direction="maximize")
        assert best_configuration({}, nothing, direction="maximize") is None
        assert best_configuration(by_configuration(plans), nothing, direction="maximize") is None

    def test_negative_values(self, plans: tuple[TrialPlan, ...]) -> None:
        changes = {key: -value for key, value in ALL.items() if isinstance(value, float)}
        assert self.best(plans, changes) == 0.3
        assert self.best(plans, changes, direction="minimize") == 0.2


class TestHeldBackBy:
    def reason(self, plans: tuple[TrialPlan, ...], changes: Values) -> str:
        return held_back_by(plans, knowing(plans, {**ALL, **changes}))

    def test_nothing(self, plans: tuple[TrialPlan, ...]) -> None:
        assert self.reason(plans, {}) == ""
        assert held_back_by([], knowing(plans, {})) == ""

    @pytest.mark.parametrize("change", [None, TrialState.PRUNED])
    def test_not_by_an_undefined_value_or_a_pruned_trial(
        self, plans: tuple[TrialPlan, ...], change: TrialState | None
    ) -> None:
        assert self.reason(plans, {(0.1, 0): change}) == ""

    @pytest.mark.parametrize("kind", list(FailureKind))
    def test_by_a_failure_that_may_be_mended(self, plans: tuple[TrialPlan, ...], kind: FailureKind) -> None:
        settled = kind in (FailureKind.NON_FINITE_LOSS, FailureKind.OUT_OF_MEMORY)
        assert (self.reason(plans, {(0.3, 1): str(kind)}) == "") == settled

    def test_says_how_many(self, plans: tuple[TrialPlan, ...]) -> None:
        mended = (
            "of the search failed and might still be the best; the final stage begins when they have run"
            " (--retry-failed) or are no longer in the spec"
        )
        assert self.reason(plans, {(0.1, 0): "killed"}) == f"1 trial {mended}"
        changes = {(0.1, 0): "killed", (0.2, 0): "data", (0.3, 0): "non_finite_loss"}
        assert self.reason(plans, changes) == f"2 trials {mended}"

    def test_not_by_one_that_the_spec_has_no_more(self, plans: tuple[TrialPlan, ...]) -> None:
        known = knowing(plans, {**ALL, (0.3, 1): "error"})
        assert held_back_by([plan for plan in plans if plan.config.train.lr < 0.3], known) == ""


class TestByConfiguration:
    def test_replicates_of_each_in_the_order_in_which_they_come(self, plans: tuple[TrialPlan, ...]) -> None:
        found = by_configuration(plans)
        assert [[(plan.config.train.lr, plan.config.seed) for plan in of_one] for of_one in found.values()] == [
            [(0.1, 0), (0.1, 1)],
            [(0.2, 0), (0.2, 1)],
            [(0.3, 0), (0.3, 1)],
        ]
        assert by_configuration([]) == {}
