"""The order in which trials that wait should start."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from experiments.footprint import Footprints, Shape
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan
from experiments.waiting import Waiting

A, B, C = ("a",), ("b",), ("c",)


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    return load("{EXPERIMENT}\nsearch: [{grid: {train.lr: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}}]\n").plans


def known(**epoch_s: float) -> Footprints:
    found = Footprints()
    for name, seconds in epoch_s.items():
        found.note_epoch((name,), seconds)
    return found


def order(waiting: Waiting, footprints: Footprints) -> list[TrialPlan]:
    """In which they would start, were nothing more learnt."""
    found = []
    while waiting:
        found.append(waiting.heads(footprints)[0])
        waiting.remove(found[-1])
        footprints.note_start(("nobody",))
    return found


def test_none() -> None:
    waiting = Waiting()
    assert (len(waiting), list(waiting), waiting.heads(Footprints())) == (0, [], [])
    assert waiting.work_s(known(a=1.0)) == (0.0, 0.0)


def test_in_the_specs_order_where_nothing_is_known(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for plan, shape in zip(plans, [A, B, A, B, C, A], strict=True):
        waiting.add(plan, shape, epochs_left=5)
    assert list(waiting) == list(plans)
    assert waiting.heads(Footprints()) == [plans[0], plans[1], plans[4]]
    assert waiting.work_s(Footprints()) is None


def test_new_shapes_first_then_the_longest(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for plan, shape in zip(plans, [A, B, A, B, C, A], strict=True):
        waiting.add(plan, shape, epochs_left=5)
    assert order(waiting, known(a=1.0, b=2.0)) == [plans[i] for i in (4, 1, 3, 0, 2, 5)]


def test_a_shape_of_which_one_runs_is_new_no_more_and_taken_to_cost_the_mean(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for plan, shape in zip(plans, [A, B, A, B, C, C], strict=True):
        waiting.add(plan, shape, epochs_left=5)
    found = known(a=1.0, b=3.0)
    found.note_start(C)
    assert waiting.heads(found) == [plans[1], plans[4], plans[0]]


def test_epochs_that_are_left_count(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for plan, epochs in zip(plans, [1, 3, 2, 3, 1, 9], strict=True):
        waiting.add(plan, A, epochs_left=epochs)
    assert order(waiting, known(a=1.0)) == [plans[i] for i in (5, 1, 3, 2, 0, 4)]


def test_what_was_begun_goes_on_first(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for index, shape, epochs in ((0, A, 5), (1, B, 5), (2, C, 5), (3, A, 1), (4, B, 2)):
        waiting.add(plans[index], shape, epochs_left=epochs, is_begun=index in (1, 3, 4))
    assert order(waiting, known(a=9.0, b=1.0)) == [plans[i] for i in (1, 3, 4, 2, 0)]


def test_work(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    for plan, shape in zip(plans[:3], [A, A, B], strict=True):
        waiting.add(plan, shape, epochs_left=5)
    assert waiting.work_s(known(a=2.0, b=7.0)) == (10.0 + 10.0 + 35.0, 35.0)
    assert waiting.work_s(known(a=2.0)) == (30.0, 10.0), "what is unknown costs the mean"


def test_one_that_starts_waits_no_more(plans: tuple[TrialPlan, ...]) -> None:
    waiting = Waiting()
    waiting.add(plans[0], A, epochs_left=1)
    waiting.add(plans[1], B, epochs_left=1)
    assert (plans[0] in waiting, waiting.shape(plans[0])) == (True, A)
    waiting.remove(plans[0])
    assert plans[0] not in waiting
    assert list(waiting) == [plans[1]]
    with pytest.raises(KeyError, match=plans[0].signature):
        waiting.shape(plans[0])


def test_against_a_slow_sort(plans: tuple[TrialPlan, ...]) -> None:
    rng = random.Random(0)
    for _ in range(200):
        shapes: list[Shape] = [rng.choice([A, B, C]) for _ in plans]
        epochs = [rng.randint(1, 3) for _ in plans]
        found = known(**{name: rng.randint(1, 3) for name in rng.sample("abc", rng.randint(0, 3))})
        waiting = Waiting()
        for plan, shape, left in zip(plans, shapes, epochs, strict=True):
            waiting.add(plan, shape, epochs_left=left)
        mean = found.mean_epoch_s() or 1.0

        def rank(index: int) -> tuple[bool, float, int]:
            seconds = found.epoch_s(shapes[index])  # noqa: B023
            return seconds is not None, -(seconds or mean) * epochs[index], index  # noqa: B023

        assert order(waiting, found) == [plans[index] for index in sorted(range(len(plans)), key=rank)]
