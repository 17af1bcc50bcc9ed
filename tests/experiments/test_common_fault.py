from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from experiments.common_fault import CommonFault
from experiments.trial import TrialPlan
from wsol.config import ExperimentConfig

CONFIG = ExperimentConfig.model_validate({"task": "wsddn", "data": {"root": "digits"}})


def plan(**swept: Any) -> TrialPlan:
    text = repr(sorted(swept.items()))
    return TrialPlan(config=CONFIG, swept=swept, signature=text, configuration=text)


def grid(**lists: Sequence[Any]) -> list[TrialPlan]:
    """The last key changes fastest, as in a spec."""
    cells: list[dict[str, Any]] = [{}]
    for key, values in lists.items():
        cells = [{**cell, key: value} for cell in cells for value in values]
    return [plan(**cell) for cell in cells]


def starts(plans: list[TrialPlan], works: Any) -> tuple[int, list[TrialPlan]]:
    """One trial after the other, until the fault is in all or none waits: how many started, and which failed."""
    fault, waiting, failed = CommonFault(), list(plans), []
    for launch in range(len(plans)):
        trial = fault.next_of(waiting)
        waiting.remove(trial)
        if works(trial):
            fault.worked(launch)
        else:
            failed.append(trial)
            fault.failed(trial, launch)
            if fault.hits_all([other for other in plans if other not in failed]):
                return launch + 1, failed
    return len(plans), failed


@pytest.mark.parametrize(
    "plans",
    [
        grid(lr=range(500)),
        grid(backbone=["a", "b"], lr=range(5)),
        grid(backbone=["a", "b"], pooling=["max", "lse"], lr=range(5)),
        grid(seedless=[1]) * 5,
        grid(scales=[[1, 2], [1, 3], [2, 3]]),
    ],
    ids=["one key", "two keys", "three keys", "one configuration", "lists"],
)
def test_what_hits_all_is_known_after_three_starts(plans: list[TrialPlan]) -> None:
    assert starts(plans, lambda trial: False)[0] == 3


@pytest.mark.parametrize("bad", ["a", "b", "c"])
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_tied_to_a_value_fails_that_value_alone(bad: str, first: int) -> None:
    keys = {"backbone": ["a", "b", "c"], "lr": range(6)}
    plans = grid(**(keys if first == 0 else dict(reversed(keys.items()))))
    count, failed = starts(plans, lambda trial: trial.swept["backbone"] != bad)
    assert count == len(plans)
    assert {trial.swept["backbone"] for trial in failed} == {bad}
    assert len(failed) == 6


def test_nothing_is_known_of_two() -> None:
    assert starts(grid(lr=[1, 2]), lambda trial: False) == (2, grid(lr=[1, 2]))


def test_what_was_launched_before_something_worked_does_not_count() -> None:
    fault = CommonFault()
    for launch, lr in enumerate([1, 2, 3]):
        fault.failed(plan(lr=lr), launch)
    assert fault.hits_all([])
    fault.worked(1)
    assert fault.count == 1
    assert not fault.hits_all([])
    fault.worked(0)  # an attempt that was launched before it failed says nothing of it
    assert fault.count == 1


def test_a_value_to_blame_must_be_missing_somewhere() -> None:
    fault = CommonFault()
    for launch, lr in enumerate([1, 2, 3]):
        fault.failed(plan(backbone="a", lr=lr), launch)
    assert fault.hits_all([plan(backbone="a", lr=4)])
    assert not fault.hits_all([plan(backbone="a", lr=4), plan(backbone="b", lr=1)])
    assert not fault.hits_all([plan(lr=4)]), "a trial that does not have the key"


def test_without_failures_the_order_is_the_specs() -> None:
    assert CommonFault().next_of(grid(lr=[3, 1, 2])) == plan(lr=3)
