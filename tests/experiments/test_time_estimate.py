"""How long trials will take, from how long others took that cost the same."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import time_estimate
from experiments.report.entries import Entry
from experiments.resolve import Resolver
from experiments.slots import planned_slots
from experiments.space import Cell
from experiments.store import SweepStore, TrialResult, write_result
from experiments.time_estimate import Estimate, estimate, footprints, history
from experiments.trial import TrialPlan, TrialState
from experiments.yaml_source import YamlSource

SHARED: dict[str, Any] = {"task": "wsddn", "data": {"root": "digits"}, "train": {"epochs": 10}}
SOURCE = YamlSource(file=Path("x.yaml"), text="", value={}, places={})


def plan(**values: Any) -> TrialPlan:
    """A key's dots are written as two underscores."""
    cell = Cell(values={key.replace("__", "."): value for key, value in values.items()})
    return Resolver(SHARED, SOURCE).plans(cell, [0])[0]


def result(
    of: TrialPlan, duration_s: float, *, epochs: int = 1, state: TrialState = TrialState.COMPLETE
) -> TrialResult:
    return TrialResult(
        signature=of.signature,
        state=state,
        stop_reason="",
        attempts=1,
        metrics={},
        epochs=epochs,
        duration_s=duration_s,
        config=of.config.model_dump(mode="json"),
    )


SMALL, LARGE = plan(model__backbone="alexnet"), plan(model__backbone="vgg16")


class TestEstimate:
    def test_nothing_to_run(self) -> None:
        assert estimate([], footprints([]), slots=2) == Estimate(total_s=0.0, slots=[], known=0, finished=0)

    def test_without_history_all_cost_the_same(self) -> None:
        found = estimate([SMALL, LARGE, plan(train__epochs=99)], footprints([]), slots=2)
        assert (found.slots, found.known, found.finished) == ([0, 1, 0], 0, 0)

    def test_an_epoch_costs_what_one_of_a_like_trial_did(self) -> None:
        """20 s for 4 epochs are 50 s for 10, and 5 s for one."""
        found = estimate([SMALL, plan(train__epochs=1)], footprints([result(SMALL, 20.0, epochs=4)]), slots=1)
        assert found == Estimate(total_s=55.0, slots=[0, 0], known=2, finished=1)

    @pytest.mark.parametrize(("seconds", "median"), [([3.0], 3.0), ([9.0, 1.0], 5.0), ([1.0, 2.0, 90.0], 2.0)])
    def test_it_is_the_median(self, seconds: list[float], median: float) -> None:
        found = estimate([SMALL], footprints([result(SMALL, one) for one in seconds]), slots=1)
        assert (found.total_s, found.finished) == (10 * median, len(seconds))

    def test_what_is_unlike_any_costs_the_mean_of_the_others(self) -> None:
        plans = [SMALL, LARGE, plan(model__backbone="resnet18"), plan(train__epochs=30)]
        found = estimate(plans, footprints([result(SMALL, 1.0), result(LARGE, 4.0)]), slots=1)
        assert found == Estimate(total_s=10 + 40 + (10 + 40 + 30) / 3 + 30, slots=[0] * 4, known=3, finished=2)

    def test_a_history_of_other_trials_alone_tells_nothing(self) -> None:
        found = estimate([SMALL, SMALL], footprints([result(LARGE, 4.0)]), slots=2)
        assert (found.slots, found.known, found.finished) == ([0, 1], 0, 1)

    def test_trials_that_are_not_chosen_yet_cost_the_mean(self) -> None:
        found = estimate([SMALL, LARGE], footprints([result(SMALL, 1.0), result(LARGE, 3.0)]), slots=1, unchosen=3)
        assert found == Estimate(total_s=10 + 30 + 3 * 20, slots=[0, 0], known=2, finished=2)

    def test_none_is_chosen_yet(self) -> None:
        assert estimate([], footprints([result(SMALL, 1.0)]), slots=2, unchosen=3).slots == []

    @pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
    def test_only_complete_trials_count(self, state: TrialState) -> None:
        found = estimate([SMALL], footprints([result(SMALL, 1.0), result(SMALL, 50.0, state=state)]), slots=1)
        assert (found.total_s, found.finished) == (10.0, 1)

    def test_results_that_say_too_little(self) -> None:
        without_config = TrialResult("", TrialState.COMPLETE, "", 1, {}, epochs=1, duration_s=5.0)
        of_another_version = TrialResult(
            "", TrialState.COMPLETE, "", 1, {}, 1, 5.0, config={"task": "wsddn", "data": 3}
        )
        found = estimate(
            [SMALL], footprints([without_config, result(SMALL, 5.0, epochs=0), of_another_version]), slots=1
        )
        assert (found.known, found.finished) == (0, 1)

    def test_the_history_is_gone_through_once(self) -> None:
        assert estimate([SMALL], footprints(iter([result(SMALL, 1.0), result(SMALL, 3.0)])), slots=1).total_s == 20.0

    def test_against_a_slow_loop(self) -> None:
        random_ = random.Random(0)
        kinds = [plan(model__backbone=name, train__batch_size=size) for name in ("alexnet", "vgg16") for size in (1, 2)]
        for _ in range(100):
            plans = random_.choices(kinds, k=random_.randrange(1, 8))
            past = [(random_.choice(kinds), float(random_.randrange(1, 9))) for _ in range(random_.randrange(1, 8))]
            costs = [[10 * seconds for kind, seconds in past if kind == one] for one in plans]
            known = [statistics.median(cost) for cost in costs if cost]
            mean = sum(known) / len(known) if known else 1.0
            placed, total_s = planned_slots([statistics.median(cost) if cost else mean for cost in costs], slots=3)
            found = estimate(plans, footprints([result(kind, seconds) for kind, seconds in past]), slots=3)
            assert (found.slots, found.known, found.finished) == (placed, len(known), len(past))
            assert found.total_s == pytest.approx(total_s, rel=1e-12)


class TestLikeness:
    @pytest.mark.parametrize(
        "values",
        [
            {"train__lr": 0.5},
            {"train__epochs": 3},
            {"model__dropout": 0.25},
            {"evaluate__pictures": 0},
        ],
    )
    def test_trials_that_cost_the_same(self, values: dict[str, Any]) -> None:
        assert (
            estimate([SMALL], footprints([result(plan(model__backbone="alexnet", **values), 1.0)]), slots=1).known == 1
        )

    @pytest.mark.parametrize(
        "values",
        [
            {"proposals__count": 300},
            {"train__optimizer": "adam"},
            {"proposals__count": None},
            {"train__scales_px": [480]},
            {"evaluate__flip": True},
            {"data__root": "elsewhere"},
            {"model__refinement": 3},
            {"task": "localizer"},
        ],
    )
    def test_trials_that_do_not(self, values: dict[str, Any]) -> None:
        assert (
            estimate([SMALL], footprints([result(plan(model__backbone="alexnet", **values), 1.0)]), slots=1).known == 0
        )


Stored = Callable[[str, TrialPlan, float], TrialResult]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Sweep, trial, seconds -> the result, as it is on disk too."""
    numbers = itertools.count()

    def stored(sweep: str, of: TrialPlan, duration_s: float) -> TrialResult:
        store = SweepStore(tmp_path / sweep)
        trial = store.create_trial(next(numbers), of.signature, of.config.model_dump(mode="json"))
        write_result(trial.paths, found := result(of, duration_s))
        return found

    return stored


def entry(of: TrialPlan, found: TrialResult | None) -> Entry:
    return Entry(plan=of, trial=None, result=found)


class TestHistory:
    def test_no_results_at_all(self, tmp_path: Path) -> None:
        assert list(history([], tmp_path / "results")) == []
        assert list(history([entry(SMALL, None)], tmp_path)) == []

    def test_own_results_come_once(self, stored: Stored, tmp_path: Path) -> None:
        own = [entry(one, stored("own", one, 1.0)) for one in (SMALL, LARGE)]
        assert list(history(own, tmp_path)) == [one.result for one in own]

    def test_then_those_of_all_sweeps_by_name(self, stored: Stored, tmp_path: Path) -> None:
        lrs = [plan(train__lr=lr) for lr in (0.1, 0.2, 0.3, 0.4)]
        last, own, first, left_the_spec = (
            stored(sweep, one, seconds)
            for sweep, one, seconds in zip(("z", "own", "a", "own"), lrs, (1.0, 2.0, 3.0, 4.0), strict=True)
        )
        assert list(history([entry(lrs[1], own)], tmp_path)) == [own, first, left_the_spec, last]

    def test_one_sweep_may_come_before_the_others(self, stored: Stored, tmp_path: Path) -> None:
        lrs = [plan(train__lr=lr) for lr in (0.1, 0.2, 0.3)]
        found = [stored(sweep, one, 1.0) for sweep, one in zip("abc", lrs, strict=True)]
        assert list(history([], tmp_path, first=tmp_path / "b")) == [found[1], found[0], found[2]]

    def test_a_trial_that_several_sweeps_have_counts_once(self, stored: Stored, tmp_path: Path) -> None:
        """A result that one sweep took over from another is one result, and its own come first."""
        first = stored("a", SMALL, 1.0)
        stored("b", SMALL, 1.0)
        other = stored("b", LARGE, 2.0)
        assert list(history([], tmp_path)) == [first, other]
        own = stored("own", SMALL, 5.0)
        assert list(history([entry(SMALL, own)], tmp_path)) == [own, other]

    def test_trials_without_a_result_and_folders_of_others(self, stored: Stored, tmp_path: Path) -> None:
        found = stored("a", SMALL, 1.0)
        SweepStore(tmp_path / "a").create_trial(7, LARGE.signature, LARGE.config.model_dump(mode="json"))
        (tmp_path / "a" / "trials" / "notes").mkdir()
        (tmp_path / "empty").mkdir()
        (tmp_path / "README.md").write_text("x")
        assert list(history([], tmp_path)) == [found]

    @pytest.mark.parametrize(("limit", "read"), [(1, [1, 4]), (2, [1, 2, 4, 5]), (3, [1, 2, 3, 4, 5, 6])])
    def test_a_large_sweep_is_not_read_whole(
        self, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, read: list[float]
    ) -> None:
        monkeypatch.setattr(time_estimate, "MAX_RESULTS_A_SWEEP", limit)
        for sweep, durations in (("a", (1, 2, 3)), ("b", (4, 5, 6))):
            for duration_s in durations:
                stored(sweep, plan(train__lr=duration_s), duration_s)
        assert [one.duration_s for one in history([], tmp_path)] == read
