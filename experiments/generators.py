"""`linspace`, `logspace` and `range` of a spec -> values. Pure.

Values between the ends are rounded to 12 significant digits, so that [1e-6, 1e-2, 5] has 1e-5 in it and not its
neighbour, and so that a trial's signature is the same on every machine. Sums are decimal, so that [-0.3, 0.3, 0.1] has
0 in it and not what rounding leaves of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from experiments.spec_document import GeneratedValues

_DIGITS = 12


def axis_values(axis: list[Any] | GeneratedValues) -> list[Any]:
    """The values of a key of `grid` or `zip`, in order."""
    if isinstance(axis, list):
        return axis
    if axis.linspace is not None:
        return linspace(*axis.linspace)
    if axis.logspace is not None:
        return logspace(*axis.logspace)
    if axis.range is not None:
        return inclusive_range(*axis.range)
    assert axis.values is not None
    return axis.values


def linspace(first: float, last: float, count: float) -> list[float]:
    """`count` (at least 2) evenly spaced values, both ends included; whole numbers where all of them are whole."""
    steps = int(count) - 1
    start, length = _decimal(first), _decimal(last) - _decimal(first)
    inner = [_rounded(start + length * index / steps) for index in range(1, steps)]
    return _whole_where_all_are([first, *inner, last])


def logspace(first: float, last: float, count: float) -> list[float]:
    """`count` (at least 2) values with equal ratios, both ends (greater than 0) included; whole as with `linspace`."""
    steps = int(count) - 1
    inner = [_rounded(first * (last / first) ** (index / steps)) for index in range(1, steps)]
    return _whole_where_all_are([first, *inner, last])


def inclusive_range(first: float, last: float, step: float) -> list[float]:
    """first, first + step and so on, up to `last`, which is included where it is met but for rounding.

    `step` is not 0 and leads from first to last.
    """
    if isinstance(first, int) and isinstance(last, int) and isinstance(step, int):
        return list(range(first, last + (1 if step > 0 else -1), step))
    count = int((last - first) / step * (1 + 1e-9) + 1e-9)
    return [_rounded(_decimal(first) + index * _decimal(step)) for index in range(count + 1)]


def _decimal(number: float) -> Decimal:
    """The number as it is written, not as it is stored."""
    return Decimal(str(number))


def _rounded(value: float | Decimal) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _whole_where_all_are(values: list[float]) -> list[float]:
    """Whole numbers where both ends were given as such and everything between them is one too."""
    ends_are_whole = isinstance(values[0], int) and isinstance(values[-1], int)
    return [int(value) for value in values] if ends_are_whole and all(v == int(v) for v in values) else values
