"""The space of a sampled block: what a parameter can be, and when it is there. Pure; knows nothing of Optuna.

Parameters come parents first: a condition names earlier parameters, or keys of the experiment that are not sampled
(`fixed`). A key is one parameter, never two, and is not in `fixed` as well. The reader of specs sees to both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from experiments.rules import ABSENT, Rule, holds, same_value

COUNT_LIMIT = 100_000  # nobody waits for more trials than this, so a larger space need not be counted


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        key: dotted config key.
        values: any YAML values, lists and null too; at least one.
        when: what must hold for the parameter to be there; None: it always is.
    """

    key: str
    values: tuple[Any, ...]
    when: Rule | None = None

    @cached_property
    def distinct(self) -> tuple[Any, ...]:
        """The values in their order, each but once."""
        found: list[Any] = []
        for value in self.values:
            if not any(same_value(value, other) for other in found):
                found.append(value)
        return tuple(found)


@dataclass(frozen=True)
class Number:
    """A number between bounds.

    Attributes:
        key: dotted config key.
        low, high: inclusive, `low <= high`; whole where `integer`, above 0 where `log`.
        integer: whether it is a whole number.
        log: whether its logarithm is what is even.
        step: above 0, counted from `low`; whole where `integer`; None where `log`. None: 1 where `integer`, else
            every number between the bounds.
        when: as in Choice.
    """

    key: str
    low: float
    high: float
    integer: bool
    log: bool
    step: float | None
    when: Rule | None = None


Parameter = Choice | Number
Point = dict[str, Any]
"""The values of the parameters that are active, by key."""


def is_active(parameter: Parameter, point: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Whether a parameter is there.

    Args:
        point: has the active ones of the parameters before it; one that is missing makes its conditions false.
        fixed: values of the keys that are not sampled.
    """
    return holds(parameter.when or {}, lambda key: point[key] if key in point else fixed.get(key, ABSENT))


def is_point(parameters: Sequence[Parameter], point: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    """Whether `point` has a value of its range for each active parameter, and nothing else."""
    active = [parameter for parameter in parameters if is_active(parameter, point, fixed)]
    return point.keys() == {parameter.key for parameter in active} and all(
        contains(parameter, point[parameter.key]) for parameter in active
    )


def size(parameter: Parameter) -> int | None:
    """How many values a parameter has, at least 1; None: infinitely many."""
    if isinstance(parameter, Choice):
        return len(parameter.distinct)
    if parameter.integer:
        return int((parameter.high - parameter.low) // (parameter.step or 1)) + 1
    if parameter.step is not None:
        return int((_decimal(parameter.high) - _decimal(parameter.low)) // _decimal(parameter.step)) + 1
    return 1 if parameter.low == parameter.high else None


def value_at(parameter: Parameter, index: int) -> Any:
    """The value of that index (0 to size - 1): a Choice's in its order, a Number's upwards.

    A Number gives int or float. Steps are added in decimal, so a third step of 0.1 from 0 is 0.3 and not
    0.30000000000000004, and a sampled trial is the trial that a grid with 0.3 has.
    """
    if isinstance(parameter, Choice):
        return parameter.distinct[index]
    if parameter.integer:
        return int(parameter.low) + index * int(parameter.step or 1)
    return float(_decimal(parameter.low) + index * _decimal(parameter.step or 0.0))


def index_of(parameter: Parameter, value: Any) -> int | None:
    """The index of a value, the way back of `value_at`; a Number's up to float rounding.

    Returns:
        None where the value is not in the range, and where the parameter has infinitely many values.
    """
    if isinstance(parameter, Choice):
        return next((i for i, own in enumerate(parameter.distinct) if same_value(own, value)), None)
    count_of_values = size(parameter)
    if count_of_values is None or not _is_number(value):
        return None
    step = parameter.step or 1
    if not parameter.low - step <= value <= parameter.high + step:  # nan too ends here
        return None
    index = min(max(round((value - parameter.low) / step), 0), count_of_values - 1)
    nearest = value_at(parameter, index)
    tolerance = 0 if parameter.integer else max(1e-9 * (parameter.step or 0), _rounding(nearest))
    return index if abs(value - nearest) <= tolerance else None


def contains(parameter: Parameter, value: Any) -> bool:
    """Whether a value lies in a parameter's range, on its steps, up to float rounding."""
    if isinstance(parameter, Choice) or size(parameter) is not None:
        return index_of(parameter, value) is not None
    low, high = parameter.low - _rounding(parameter.low), parameter.high + _rounding(parameter.high)
    return _is_number(value) and low <= value <= high


def count(parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> int | None:
    """The number of distinct points, at least 1; None where it is infinite or above COUNT_LIMIT.

    Infinite: a parameter without steps can be active.
    """
    return _count(list(parameters), {}, fixed)


def enumerate_points(parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> Iterator[Point]:
    """All points, each made when it is asked for; the first parameter varies slowest.

    Raises:
        ValueError: on coming to an active parameter with infinitely many values.
    """
    return _points(list(parameters), {}, fixed)


def _count(parameters: list[Parameter], point: Point, fixed: Mapping[str, Any]) -> int | None:
    """The number of ways to go on from `point`, whose parameters were before these."""
    if not parameters:
        return 1
    first, rest = parameters[0], parameters[1:]
    if not is_active(first, point, fixed):
        return _count(rest, point, fixed)
    values = size(first)
    if values is None or values > COUNT_LIMIT:
        return None
    total: int | None = 0
    if any(other.when and first.key in other.when for other in rest):
        for index in range(values):
            total = _sum(total, _count(rest, {**point, first.key: value_at(first, index)}, fixed))
            if total is None:
                return None
        return total
    below = _count(rest, point, fixed)  # nothing depends on the value, so one stands for all
    return None if below is None or values * below > COUNT_LIMIT else values * below


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None or a + b > COUNT_LIMIT else a + b


def _points(parameters: list[Parameter], point: Point, fixed: Mapping[str, Any]) -> Iterator[Point]:
    if not parameters:
        yield point
        return
    first, rest = parameters[0], parameters[1:]
    if not is_active(first, point, fixed):
        yield from _points(rest, point, fixed)
        return
    values = size(first)
    if values is None:
        raise ValueError(f"got {first.key} with infinitely many values; expected a finite space")
    for index in range(values):
        yield from _points(rest, {**point, first.key: value_at(first, index)}, fixed)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _decimal(number: float) -> Decimal:
    """The number as it is written, not as it is stored."""
    return Decimal(str(float(number)))


def _rounding(number: float) -> float:
    """What a few roundings may have moved a float by."""
    return 4 * math.ulp(number)
