from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import optuna
import pytest

from experiments.pruning import Asha, Curve, Direction, Median, Pruner, Reported, can_act, mean_curve, stop_reason

DIRECTIONS: list[Direction] = ["maximize", "minimize"]


def running(*curves: Curve) -> list[Reported]:
    return [Reported(curve=curve, complete=False) for curve in curves]


def complete(*curves: Curve) -> list[Reported]:
    return [Reported(curve=curve, complete=True) for curve in curves]


def stopped(
    pruner: Pruner, own: Curve, others: Sequence[Reported], *, epoch: int, direction: Direction = "maximize"
) -> bool:
    """What `stop_reason` decides, for the objective as given and turned upside down."""
    decided = stop_reason(pruner, epoch=epoch, own=own, others=others, direction=direction) is not None
    upside_down = stop_reason(
        pruner,
        epoch=epoch,
        own=negative(own),
        others=[Reported(curve=negative(other.curve), complete=other.complete) for other in others],
        direction="minimize" if direction == "maximize" else "maximize",
    )
    assert (upside_down is not None) == decided
    return decided


def negative(curve: Curve) -> Curve:
    """Read only, so that a pruner that changes what it is given fails."""
    return MappingProxyType({epoch: -value for epoch, value in curve.items()})


class TestMeanCurve:
    def test_nothing_reported(self) -> None:
        assert mean_curve([]) == {}
        assert mean_curve([{}, {}]) == {}

    def test_one_replicate_is_its_own_mean(self) -> None:
        assert mean_curve([{1: 0.1, 2: 0.3}]) == {1: 0.1, 2: 0.3}

    def test_over_the_replicates_that_have_reported(self) -> None:
        assert mean_curve([{1: 1.0, 2: 3.0}, {1: 2.0}, {}]) == {1: 1.5, 2: 3.0}

    def test_epochs_ascend(self) -> None:
        assert list(mean_curve([{9: 0.0, 10: 0.0}, {2: 0.0, 1: 0.0}])) == [1, 2, 9, 10]

    def test_order_of_replicates_does_not_matter_to_the_last_bit(self) -> None:
        assert mean_curve([{1: 1e16}, {1: 1.0}, {1: -1e16}]) == {1: 1 / 3}
        assert mean_curve([{1: 1e16}, {1: -1e16}, {1: 1.0}]) == {1: 1 / 3}

    def test_equal_replicates_have_their_value_as_mean(self) -> None:
        generator = random.Random(0)
        for count in range(1, 12):
            for value in (generator.random() for _ in range(50)):
                assert mean_curve([{1: value}] * count) == {1: value}


class TestAsha:
    @pytest.mark.parametrize("others", [[], running({}), running({1: 0.9}, {})])
    def test_the_first_at_a_rung_goes_on(self, others: list[Reported]) -> None:
        assert not stopped(Asha(min_epochs=2, reduction_factor=3), {2: 0.1}, others, epoch=2)

    @pytest.mark.parametrize(
        ("factor", "better", "worse", "stops"),
        [
            (2, 1, 0, True),  # best 1 of 2
            (2, 1, 1, True),  # 1 of 3
            (2, 1, 2, False),  # 2 of 4
            (2, 2, 2, True),  # 2 of 5
            (2, 2, 3, False),  # 3 of 6
            (3, 0, 1, False),  # 1 of 2
            (3, 1, 0, True),
            (3, 1, 3, True),  # 1 of 5
            (3, 1, 4, False),  # 2 of 6
            (3, 2, 5, True),  # 2 of 8
            (3, 2, 6, False),  # 3 of 9
            (4, 1, 5, True),  # 1 of 7
            (4, 1, 6, False),  # 2 of 8
            (4, 0, 0, False),
        ],
    )
    def test_how_many_go_on(self, factor: int, better: int, worse: int, stops: bool) -> None:
        others = running(*[{1: 0.6}] * better, *[{1: 0.4}] * worse)
        assert stopped(Asha(min_epochs=1, reduction_factor=factor), {1: 0.5}, others, epoch=1) is stops

    def test_whoever_equals_the_last_of_the_best_goes_on(self) -> None:
        pruner = Asha(min_epochs=1, reduction_factor=3)
        assert not stopped(pruner, {1: 0.5}, running(*[{1: 0.5}] * 4), epoch=1)
        assert not stopped(pruner, {1: 0.5}, running({1: 0.6}, *[{1: 0.5}] * 5), epoch=1)
        assert stopped(pruner, {1: 0.5}, running({1: 0.6}, *[{1: 0.5}] * 3), epoch=1)
        assert stopped(pruner, {1: math.nextafter(0.5, 0)}, running({1: 0.5}), epoch=1)

    def test_decides_at_rungs_alone(self) -> None:
        own = dict.fromkeys(range(1, 40), 0.1)
        others = running(dict.fromkeys(range(1, 40), 0.9))
        pruner = Asha(min_epochs=2, reduction_factor=3)
        assert [epoch for epoch in own if stopped(pruner, own, others, epoch=epoch)] == [2, 6, 18]

    def test_between_rungs_the_first_evaluated_epoch_stands_for_the_rung(self) -> None:
        """Rungs 1, 3, 9, 27; evaluated every 4 epochs and after the last, the 30th."""
        own = dict.fromkeys([4, 8, 12, 16, 20, 24, 28, 30], 0.1)
        others = running(dict.fromkeys(range(1, 31), 0.9))
        pruner = Asha(min_epochs=1, reduction_factor=3)
        assert [epoch for epoch in own if stopped(pruner, own, others, epoch=epoch)] == [4, 12, 28]

    def test_others_are_seen_at_their_first_evaluated_epoch_from_the_rung_on(self) -> None:
        pruner = Asha(min_epochs=3, reduction_factor=2)
        assert not stopped(pruner, {3: 0.5}, running({2: 0.9, 5: 0.1, 6: 0.9}), epoch=3)
        assert stopped(pruner, {3: 0.5}, running({6: 0.1, 5: 0.9, 2: 0.1}), epoch=3)

    def test_others_below_the_rung_do_not_compete(self) -> None:
        """Else it would be 2 of 4."""
        others = running({1: 0.0, 4: 0.9}, {1: 0.0, 3: 0.0}, {1: 0.0})
        assert stopped(Asha(min_epochs=2, reduction_factor=2), {4: 0.5}, others[:1], epoch=4)
        assert stopped(Asha(min_epochs=4, reduction_factor=2), {4: 0.5}, others, epoch=4)

    def test_complete_or_not_is_the_same(self) -> None:
        for others in (running({1: 0.9}, {1: 0.3}), complete({1: 0.9}, {1: 0.3})):
            assert stopped(Asha(min_epochs=1, reduction_factor=3), {1: 0.5}, others, epoch=1)

    def test_the_highest_of_the_rungs_passed_at_once_decides(self) -> None:
        """Rungs 1, 2 and 4. At rung 4 it is the best; at 1 and 2 it is not."""
        others = running({1: 0.9, 2: 0.9, 4: 0.1})
        assert not stopped(Asha(min_epochs=1, reduction_factor=2), {4: 0.5}, others, epoch=4)
        assert stopped(Asha(min_epochs=1, reduction_factor=2), {4: 0.5}, running({1: 0.1, 2: 0.1, 4: 0.9}), epoch=4)

    def test_replicates_that_are_ahead_do_not_count(self) -> None:
        pruner = Asha(min_epochs=2, reduction_factor=2)
        others = running({2: 0.5, 4: 0.5})
        assert stopped(pruner, {2: 0.1, 4: 0.9}, others, epoch=2)
        assert not stopped(pruner, {2: 0.9, 4: 0.1}, others, epoch=2)

    @pytest.mark.parametrize(
        ("factor", "power"),
        [(10, 3), (10, 6), (3, 5), (5, 3), (7, 9), (6, 14), (10, 15)],
    )
    def test_rungs_are_counted_in_integers(self, factor: int, power: int) -> None:
        rung = factor**power
        own, others = {rung - 1: 0.9, rung: 0.1}, running({rung: 0.5})
        assert stopped(Asha(min_epochs=1, reduction_factor=factor), own, others, epoch=rung)
        own = {rung // factor: 0.9, rung - 1: 0.1}
        assert not stopped(Asha(min_epochs=1, reduction_factor=factor), own, running({1: 0.5}), epoch=rung - 1)

    def test_some_of_those_rungs_are_wrong_by_float_logarithm(self) -> None:
        assert [math.floor(math.log(factor**power, factor)) for factor, power in [(10, 3), (3, 5), (10, 15)]] == [
            2,
            4,
            14,
        ]
        assert math.floor(math.log(10**17 - 1, 10)) == 17

    def test_rungs_above_what_a_float_holds(self) -> None:
        pruner = Asha(min_epochs=1, reduction_factor=10)
        own = {10**16: 0.9, 10**17 - 1: 0.1, 10**17: 0.1}
        others = running({10**16: 0.5, 10**17: 0.5})
        assert [stopped(pruner, own, others, epoch=epoch) for epoch in own] == [False, False, True]

    def test_reason(self) -> None:
        reason = stop_reason(
            Asha(min_epochs=2, reduction_factor=3),
            epoch=2,
            own={2: 0.1234},
            others=running({2: 0.5}, {2: 0.1}, {1: 0.1}),
            direction="maximize",
        )
        assert reason == "asha: 0.1234 at epoch 2 is not among the best 1 of 3"

    @pytest.mark.parametrize(
        ("min_epochs", "factor", "message"),
        [
            (0, 2, "got 0 for min_epochs; expected 1 or more"),
            (1, 1, "got 1 for reduction_factor; expected 2 or more"),
        ],
    )
    def test_rungs_that_never_rise_are_refused(self, min_epochs: int, factor: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Asha(min_epochs=min_epochs, reduction_factor=factor)


class TestMedian:
    def test_defaults_are_optunas(self) -> None:
        theirs = optuna.pruners.MedianPruner()
        mine = Median()
        assert (mine.startup_trials, mine.warmup_epochs, mine.interval_epochs) == (
            theirs._n_startup_trials,
            theirs._n_warmup_steps,
            theirs._interval_steps,
        )

    @pytest.mark.parametrize("startup", [0, 1, 5])
    @pytest.mark.parametrize("others", [[], running(*[{1: 0.9}] * 9)])
    def test_none_complete(self, startup: int, others: list[Reported]) -> None:
        assert not stopped(Median(startup_trials=startup), {1: 0.1}, others, epoch=1)

    @pytest.mark.parametrize(("count", "stops"), [(1, False), (4, False), (5, True), (6, True)])
    def test_startup(self, count: int, stops: bool) -> None:
        others = [*complete(*[{1: 0.9}] * count), *running(*[{1: 0.9}] * 9)]
        assert stopped(Median(), {1: 0.1}, others, epoch=1) is stops

    def test_startup_counts_complete_ones_without_a_value_there(self) -> None:
        others = complete({2: 0.9}, {3: 0.0}, {3: 0.0})
        assert stopped(Median(startup_trials=3), {2: 0.1}, others, epoch=2)
        assert not stopped(Median(startup_trials=4), {2: 0.1}, others, epoch=2)

    def test_none_with_a_value_at_that_epoch(self) -> None:
        assert not stopped(Median(startup_trials=1), {2: 0.1}, complete({1: 0.9, 3: 0.9}), epoch=2)

    @pytest.mark.parametrize(
        ("values", "median"),
        [([0.5], 0.5), ([0.25, 0.75], 0.5), ([0.0, 0.25, 1.0], 0.25), ([1.0, 0.0, 0.5, 0.25], 0.375), ([0.5] * 6, 0.5)],
    )
    def test_worse_than_the_median_and_not_equal(self, values: list[float], median: float) -> None:
        pruner, others = Median(startup_trials=1), complete(*({1: value} for value in values))
        assert not stopped(pruner, {1: median}, others, epoch=1)
        assert not stopped(pruner, {1: math.nextafter(median, 2)}, others, epoch=1)
        assert stopped(pruner, {1: math.nextafter(median, -1)}, others, epoch=1)

    def test_only_complete_ones_count(self) -> None:
        others = [*complete({1: 0.4}), *running({1: 0.9}, {1: 0.9})]
        assert not stopped(Median(startup_trials=1), {1: 0.5}, others, epoch=1)

    def test_the_best_value_so_far_counts(self) -> None:
        pruner, others = Median(startup_trials=1), complete({1: 0.5, 2: 0.5, 3: 0.9})
        own = {2: 0.1, 3: 0.1, 1: 0.5}
        assert [stopped(pruner, own, others, epoch=epoch) for epoch in (1, 2, 3)] == [False, False, True]

    def test_replicates_that_are_ahead_do_not_count(self) -> None:
        pruner, others = Median(startup_trials=1), complete({1: 0.5, 2: 0.5})
        assert stopped(pruner, {1: 0.1, 2: 0.9}, others, epoch=1)
        assert not stopped(pruner, {1: 0.5, 2: 0.1}, others, epoch=1)

    @pytest.mark.parametrize(
        ("warmup", "interval", "every", "decided"),
        [
            (0, 1, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            (3, 1, 1, [4, 5, 6, 7, 8, 9, 10, 11, 12]),
            (0, 4, 1, [1, 5, 9]),
            (2, 4, 1, [3, 7, 11]),
            (12, 1, 1, []),
            (11, 1, 1, [12]),
            (0, 1, 5, [5, 10, 12]),
            (5, 1, 5, [10, 12]),
            (4, 1, 5, [5, 10, 12]),
            (0, 3, 2, [2, 4, 8, 10]),  # due at 1, 4, 7, 10
            (1, 4, 3, [3, 6, 12]),  # due at 2, 6, 10
        ],
    )
    def test_when_it_decides(self, warmup: int, interval: int, every: int, decided: list[int]) -> None:
        pruner = Median(startup_trials=1, warmup_epochs=warmup, interval_epochs=interval)
        own = dict.fromkeys(evaluated(epochs=12, every=every), 0.1)
        others = complete(dict.fromkeys(range(1, 13), 0.9))
        assert [epoch for epoch in own if stopped(pruner, own, others, epoch=epoch)] == decided

    def test_reason(self) -> None:
        reason = stop_reason(
            Median(startup_trials=2),
            epoch=3,
            own={1: 0.2, 3: 0.1},
            others=complete({3: 0.25}, {3: 0.5}, {1: 0.0}),
            direction="maximize",
        )
        assert reason == "median: 0.2, the best up to epoch 3, is worse than 0.375, the median of 2"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((-1, 0, 1), "got -1 for startup_trials; expected 0 or more"),
            ((0, -1, 1), "got -1 for warmup_epochs; expected 0 or more"),
            ((0, 0, 0), "got 0 for interval_epochs; expected 1 or more"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, values: tuple[int, int, int], message: str) -> None:
        startup, warmup, interval = values
        with pytest.raises(ValueError, match=message):
            Median(startup_trials=startup, warmup_epochs=warmup, interval_epochs=interval)


@pytest.mark.parametrize("pruner", [Asha(min_epochs=1, reduction_factor=2), Median()])
def test_the_reported_epoch_must_have_a_value(pruner: Pruner) -> None:
    with pytest.raises(AssertionError, match="no value at epoch 2"):
        stop_reason(pruner, epoch=2, own={1: 0.5, 3: 0.5}, others=[], direction="maximize")


def evaluated(*, epochs: int, every: int) -> list[int]:
    """When the trainer evaluates."""
    return [epoch for epoch in range(1, epochs + 1) if epoch % every == 0 or epoch == epochs]


class TestCanAct:
    @pytest.mark.parametrize(
        ("pruner", "epochs", "every", "can"),
        [
            (Asha(min_epochs=1, reduction_factor=3), 1, 1, False),  # stopping at the end saves nothing
            (Asha(min_epochs=1, reduction_factor=3), 2, 1, True),
            (Asha(min_epochs=1, reduction_factor=3), 2, 2, False),
            (Asha(min_epochs=20, reduction_factor=3), 20, 1, False),
            (Asha(min_epochs=19, reduction_factor=3), 20, 1, True),
            (Asha(min_epochs=18, reduction_factor=3), 20, 7, False),  # evaluated after 7, 14 and 20
            (Asha(min_epochs=14, reduction_factor=3), 20, 7, True),
            (Median(warmup_epochs=19), 20, 1, False),
            (Median(warmup_epochs=18), 20, 1, True),
            (Median(warmup_epochs=14), 20, 7, False),
            (Median(warmup_epochs=13), 20, 7, True),
            (Median(startup_trials=99, interval_epochs=99), 20, 1, True),
            (Median(), 1, 1, False),
            (Median(), 20, 30, False),
        ],
    )
    def test_by_hand(self, pruner: Pruner, epochs: int, every: int, can: bool) -> None:
        assert can_act(pruner, epochs=epochs, every=every) is can

    def test_is_whether_the_worst_of_all_is_ever_stopped(self) -> None:
        answers = []
        for pruner in self.pruners():
            for epochs in range(1, 10):
                for every in range(1, 11):
                    own = dict.fromkeys(evaluated(epochs=epochs, every=every), 0.0)
                    others = complete(*[dict.fromkeys(own, 1.0)] * 5)
                    stops = [epoch for epoch in own if epoch < epochs and stopped(pruner, own, others, epoch=epoch)]
                    answers.append(can_act(pruner, epochs=epochs, every=every))
                    assert answers[-1] == bool(stops), (pruner, epochs, every)
        assert {True, False} == set(answers)

    @staticmethod
    def pruners() -> Iterator[Pruner]:
        for first in range(1, 6):
            for step in range(2, 5):
                yield Asha(min_epochs=first, reduction_factor=step)
                yield Median(warmup_epochs=first - 1, interval_epochs=step - 1)


# Many random cases against slow loops and against Optuna. Values are eighths and few, so ties are frequent and every
# median is exact.


def random_value(generator: random.Random) -> float:
    return generator.randint(-4, 4) / 8


def random_pruner(generator: random.Random, kind: type[Asha] | type[Median]) -> Pruner:
    if kind is Asha:
        return Asha(min_epochs=generator.randint(1, 4), reduction_factor=generator.randint(2, 4))
    return Median(
        startup_trials=generator.randint(0, 4),
        warmup_epochs=generator.randint(0, 4),
        interval_epochs=generator.randint(1, 4),
    )


def random_curve(generator: random.Random) -> Curve:
    """In random order, of a trial that may be anywhere in its training."""
    epochs = evaluated(epochs=generator.randint(1, 20), every=generator.randint(1, 6))
    epochs = epochs[: generator.randint(1, len(epochs))]
    generator.shuffle(epochs)
    return MappingProxyType({epoch: random_value(generator) for epoch in epochs})


def random_others(generator: random.Random) -> list[Reported]:
    curves: list[Curve] = [random_curve(generator) for _ in range(generator.randint(0, 9))]
    curves += [{}] * generator.randint(0, 1)
    return [Reported(curve=curve, complete=generator.random() < 0.6) for curve in curves]


def slowly(pruner: Pruner, *, epoch: int, own: Curve, others: Sequence[Reported], direction: Direction) -> bool:
    """The rules, in the plainest words."""
    if isinstance(pruner, Asha):
        return asha_slowly(pruner, epoch=epoch, own=own, others=others, direction=direction)
    return median_slowly(pruner, epoch=epoch, own=own, others=others, direction=direction)


def better(one: float, other: float, direction: Direction) -> bool:
    return (direction == "maximize" and one > other) or (direction == "minimize" and one < other)


def asha_slowly(asha: Asha, *, epoch: int, own: Curve, others: Sequence[Reported], direction: Direction) -> bool:
    rungs = [asha.min_epochs * asha.reduction_factor**power for power in range(10)]
    passed_now = [rung for rung in rungs if next((e for e in range(rung, 1000) if e in own), None) == epoch]
    if not passed_now:
        return False
    at_rung = [own[epoch]]
    for other in others:
        for later in range(passed_now[-1], 1000):
            if later in other.curve:
                at_rung.append(other.curve[later])
                break
    places_before = sum(better(value, own[epoch], direction) for value in at_rung)
    go_on = 1 if len(at_rung) < asha.reduction_factor else math.floor(Fraction(len(at_rung), asha.reduction_factor))
    return places_before >= go_on


def median_slowly(median: Median, *, epoch: int, own: Curve, others: Sequence[Reported], direction: Direction) -> bool:
    due = False
    for candidate in range(1, epoch + 1):
        if candidate > median.warmup_epochs and (candidate - median.warmup_epochs - 1) % median.interval_epochs == 0:
            due = True
        if candidate in own and candidate < epoch:
            due = False  # it was decided there
    finished = [other for other in others if other.complete]
    values = sorted(Fraction(other.curve[epoch]) for other in finished if epoch in other.curve)
    if not due or len(finished) < median.startup_trials or not values:
        return False
    middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    seen = [value for reported, value in own.items() if reported <= epoch]
    return all(better(float(middle), value, direction) for value in seen)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", [Asha, Median])
def test_against_slow_loops(kind: type[Asha] | type[Median], direction: Direction) -> None:
    decisions = []
    for seed in range(3000):
        generator = random.Random(seed)
        pruner, own, others = random_pruner(generator, kind), random_curve(generator), random_others(generator)
        epoch = generator.choice(list(own))
        expected = slowly(pruner, epoch=epoch, own=own, others=others, direction=direction)
        decisions.append(stopped(pruner, own, others, epoch=epoch, direction=direction))
        assert decisions[-1] == expected, (seed, pruner, epoch, own, others)
    assert 150 < sum(decisions) < 2850


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", [Asha, Median])
def test_order_of_the_others_does_not_matter(kind: type[Asha] | type[Median], direction: Direction) -> None:
    reasons = set()
    for seed in range(500):
        generator = random.Random(seed)
        pruner, own, others = random_pruner(generator, kind), random_curve(generator), random_others(generator)
        for epoch in own:
            reason = stop_reason(pruner, epoch=epoch, own=own, others=others, direction=direction)
            shuffled = generator.sample(others, len(others))
            assert stop_reason(pruner, epoch=epoch, own=own, others=shuffled, direction=direction) == reason
            reasons.add(reason)
    assert len(reasons) > 50


@dataclass
class Replayed:
    """A trial that Optuna and we watch."""

    theirs: optuna.Trial
    schedule: list[int]
    curve: dict[int, float]
    complete: bool = False

    @property
    def ours(self) -> Reported:
        return Reported(curve=self.curve, complete=self.complete)


def optunas(pruner: Pruner) -> optuna.pruners.BasePruner:
    if isinstance(pruner, Asha):
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=pruner.min_epochs, reduction_factor=pruner.reduction_factor, min_early_stopping_rate=0
        )
    return optuna.pruners.MedianPruner(
        n_startup_trials=pruner.startup_trials,
        n_warmup_steps=pruner.warmup_epochs,
        interval_steps=pruner.interval_epochs,
    )


def replay(
    pruner: Pruner, *, generator: random.Random, direction: Direction, longest_gap: int, obey: bool
) -> Iterator[tuple[bool, bool]]:
    """Random reports of some trials in random interleaving: Optuna's decision and ours after each.

    Args:
        longest_gap: epochs between a trial's evaluations, at most.
        obey: whether a trial ends where Optuna stops it; else all are trained to the end.
    """
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction=direction, pruner=optunas(pruner), sampler=sampler)
    first_step = 1 if isinstance(pruner, Asha) else 0  # see the docstring of Median
    trials: list[Replayed] = []
    waiting = generator.randint(1, 15)
    while alive := [trial for trial in trials if trial.schedule] + [None] * min(1, waiting):
        trial = generator.choice(alive)
        if trial is None:
            waiting -= 1
            schedule = evaluated(epochs=generator.randint(1, 20), every=generator.randint(1, longest_gap))
            trials.append(Replayed(theirs=study.ask(), schedule=schedule, curve={}))
            continue
        epoch, *trial.schedule = trial.schedule
        trial.curve[epoch] = random_value(generator)
        trial.theirs.report(trial.curve[epoch], step=first_step + epoch - 1)
        their_decision = trial.theirs.should_prune()
        others = [other.ours for other in trials if other is not trial]
        yield bool(their_decision), stopped(pruner, trial.curve, others, epoch=epoch, direction=direction)
        if their_decision and obey:
            trial.schedule = []
            study.tell(trial.theirs, state=optuna.trial.TrialState.PRUNED)
        elif not trial.schedule:
            trial.complete = True
            study.tell(trial.theirs, trial.curve[epoch])


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.usefixtures("quiet_optuna")
class TestAgainstOptuna:
    @pytest.mark.parametrize("obey", [True, False])
    @pytest.mark.parametrize("direction", DIRECTIONS)
    @pytest.mark.parametrize("kind", [Asha, Median])
    def test_decides_as_we_do(self, kind: type[Asha] | type[Median], direction: Direction, obey: bool) -> None:
        """For ASHA where no report passes two rungs."""
        decisions: list[tuple[bool, bool]] = []
        for seed in range(200):
            generator = random.Random(seed)
            pruner = random_pruner(generator, kind)
            gap = pruner.min_epochs * (pruner.reduction_factor - 1) if isinstance(pruner, Asha) else 4
            replayed = list(replay(pruner, generator=generator, direction=direction, longest_gap=gap, obey=obey))
            assert [ours for _, ours in replayed] == [theirs for theirs, _ in replayed], (seed, pruner)
            decisions += replayed
        stops = sum(theirs for theirs, _ in decisions)
        assert len(decisions) > 4000
        assert stops > 250

    def test_asha_differs_where_a_report_passes_two_rungs(self) -> None:
        """Rungs 1 and 2 at epoch 2. Values 1, 3, 2, 2: for us the last is one of the best 2 of 4.

        Optuna lets it pass rung 1, where the third, stopped there, competes too; at rung 2 it is not the best 1 of 3.
        """
        pruner = Asha(min_epochs=1, reduction_factor=2)
        study = optuna.create_study(direction="maximize", pruner=optunas(pruner))
        theirs, ours, curves = [], [], list[Curve]()
        for value in (1.0, 3.0, 2.0, 2.0):
            trial = study.ask()
            trial.report(value, step=2)
            theirs.append(trial.should_prune())
            ours.append(stopped(pruner, {2: value}, running(*curves), epoch=2))
            curves.append({2: value})
        assert theirs == [False, False, True, True]
        assert ours == [False, False, True, False]
