"""Values that a spec does not write out, against numpy and against decimal arithmetic."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.generators import axis_values, inclusive_range, linspace, logspace
from experiments.spec_document import MAX_GENERATED, GeneratedValues


def twelve_digits(value: float) -> float:
    return float(np.format_float_scientific(value, precision=11, unique=False))


class TestLinspace:
    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ((0.0, 1.0, 5), [0.0, 0.25, 0.5, 0.75, 1.0]),
            ((0.0, 0.3, 4), [0.0, 0.1, 0.2, 0.3]),
            ((0.1, 0.2, 2), [0.1, 0.2]),
            ((1.0, 0.0, 3), [1.0, 0.5, 0.0]),
            ((-1.0, 1.0, 3), [-1.0, 0.0, 1.0]),
            ((2.0, 2.0, 3), [2.0, 2.0, 2.0]),
            ((0.0, 1.0, 4), [0.0, 0.333333333333, 0.666666666667, 1.0]),
            ((0.1234567890123456, 1, 2), [0.1234567890123456, 1.0]),  # an end is as it was written
            ((1e-20, 3e-20, 3), [1e-20, 2e-20, 3e-20]),
            ((-0.1, 0.2, 4), [-0.1, 0.0, 0.1, 0.2]),  # in floats the second is 1.4e-17
        ],
    )
    def test_values(self, given: tuple[float, float, int], values: list[float]) -> None:
        assert linspace(*given) == values

    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ((0, 8, 5), [0, 2, 4, 6, 8]),
            ((0, 1, 2), [0, 1]),
            ((3, 3, 2), [3, 3]),
            ((8, 0, 3), [8, 4, 0]),
            ((0, 1, 3), [0, 0.5, 1]),
            ((0, 8.0, 5), [0, 2.0, 4.0, 6.0, 8.0]),
        ],
    )
    def test_whole_numbers_where_all_are(self, given: tuple[float, float, int], values: list[float]) -> None:
        found = linspace(*given)
        assert found == values
        assert [type(value) for value in found] == [type(value) for value in values]

    def test_against_numpy(self) -> None:
        random_ = random.Random(0)
        for _ in range(200):
            first, last, count = random_.uniform(-9, 9), random_.uniform(-9, 9), random_.randrange(2, 40)
            found = linspace(first, last, count)
            np.testing.assert_allclose(found, np.linspace(first, last, count), rtol=1e-11, atol=1e-14)
            assert (len(found), found[0], found[-1]) == (count, first, last)
            assert all(value == twelve_digits(value) for value in found[1:-1])

    def test_in_decimal(self) -> None:
        """What has few digits is what one would write down."""
        for count in range(2, 102):
            for scale in (Decimal(1), Decimal("1e-6"), Decimal("1e3")):
                last = scale * (count - 1) / 100
                expected = [float(scale * index / 100) for index in range(count)]
                assert linspace(0.0, float(last), count) == expected


class TestLogspace:
    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ((1e-6, 1e-2, 5), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
            ((1e-2, 1e-6, 5), [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]),
            ((1.0, 4.0, 3), [1.0, 2.0, 4.0]),
            ((1.0, 2.0, 3), [1.0, 1.41421356237, 2.0]),
            ((3e-4, 3e-4, 2), [3e-4, 3e-4]),
        ],
    )
    def test_values(self, given: tuple[float, float, int], values: list[float]) -> None:
        assert logspace(*given) == values

    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ((1, 1000, 4), [1, 10, 100, 1000]),
            ((16, 256, 5), [16, 32, 64, 128, 256]),
            ((1, 8, 3), [1, 2.82842712475, 8]),
            ((1, 8.0, 4), [1, 2.0, 4.0, 8.0]),
        ],
    )
    def test_whole_numbers_where_all_are(self, given: tuple[float, float, int], values: list[float]) -> None:
        found = logspace(*given)
        assert found == values
        assert [type(value) for value in found] == [type(value) for value in values]

    def test_against_numpy(self) -> None:
        random_ = random.Random(0)
        for _ in range(200):
            first, last, count = 10 ** random_.uniform(-9, 3), 10 ** random_.uniform(-9, 3), random_.randrange(2, 40)
            found = logspace(first, last, count)
            np.testing.assert_allclose(found, np.geomspace(first, last, count), rtol=1e-11)
            assert (len(found), found[0], found[-1]) == (count, first, last)
            assert all(value == twelve_digits(value) for value in found[1:-1])

    def test_every_power_of_ten_is_that_power(self) -> None:
        for low in range(-12, 6):
            for high in range(low + 1, 7):
                expected = [float(f"1e{exponent}") for exponent in range(low, high + 1)]
                assert logspace(expected[0], expected[-1], len(expected)) == expected


class TestRange:
    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ((2, 6, 2), [2, 4, 6]),
            ((2, 7, 2), [2, 4, 6]),
            ((6, 2, -2), [6, 4, 2]),
            ((6, 1, -2), [6, 4, 2]),
            ((3, 3, 1), [3]),
            ((3, 3, -5), [3]),
            ((0, 1, 2), [0]),
            ((0, 3 * 10**9 - 1, 10**9), [0, 10**9, 2 * 10**9]),  # no rounding for whole numbers
            ((0.0, 0.3, 0.1), [0.0, 0.1, 0.2, 0.3]),
            ((0.0, 0.29, 0.1), [0.0, 0.1, 0.2]),
            ((0.3, 0.0, -0.1), [0.3, 0.2, 0.1, 0.0]),
            ((1e-5, 4e-5, 1e-5), [1e-5, 2e-5, 3e-5, 4e-5]),
            ((0, 1, 0.5), [0.0, 0.5, 1.0]),
            ((0.5, 0.5, 1), [0.5]),
            ((-0.3, 0.3, 0.3), [-0.3, 0.0, 0.3]),
            ((-0.3, 0.0, 0.1), [-0.3, -0.2, -0.1, 0.0]),  # in floats the last is 5.6e-17
        ],
    )
    def test_values(self, given: tuple[float, float, float], values: list[float]) -> None:
        found = inclusive_range(*given)
        assert [type(value) for value in found] == [type(value) for value in values]
        assert found == values

    def test_whole_numbers_against_a_loop(self) -> None:
        for first in range(-3, 4):
            for last in range(-6, 7):
                for step in (-3, -2, -1, 1, 2, 3):
                    if (last - first) * step >= 0:
                        expected = [v for v in range(-9, 10) if (v - first) % step == 0 and is_between(first, v, last)]
                        assert sorted(inclusive_range(first, last, step)) == expected

    def test_fractions_in_decimal(self) -> None:
        random_ = random.Random(0)
        for _ in range(300):
            digits = Decimal(10) ** -random_.randrange(6)
            first, step = random_.randrange(-50, 50) * digits, random_.randrange(1, 30) * digits
            last = first + random_.randrange(200) * digits
            expected = [float(first + index * step) for index in range(int((last - first) // step) + 1)]
            assert inclusive_range(float(first), float(last), float(step)) == expected


def is_between(a: int, value: int, b: int) -> bool:
    return min(a, b) <= value <= max(a, b)


class TestAxis:
    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ({"linspace": [0, 4, 3]}, [0, 2, 4]),
            ({"logspace": [1, 100, 3]}, [1, 10, 100]),
            ({"range": [1, 3, 1]}, [1, 2, 3]),
            ({"values": [None, "a", [1]]}, [None, "a", [1]]),
            ({"range": [1, 1, 5], "when": {"a": 1}}, [1]),
            ({"linspace": [0, MAX_GENERATED - 1, MAX_GENERATED]}, list(range(MAX_GENERATED))),
            ({"range": [0, MAX_GENERATED - 1, 1]}, list(range(MAX_GENERATED))),
        ],
    )
    def test_each_kind(self, given: dict[str, Any], values: list[Any]) -> None:
        assert axis_values(GeneratedValues.model_validate(given)) == values

    def test_written_out(self) -> None:
        values = [3, "a", None, 3]
        assert axis_values(values) is values

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"linspace": [0, 1]}, "first, last, how many"),
            ({"linspace": [0, 1, 1]}, "2 to 10,000 values"),
            ({"linspace": [0, 1, MAX_GENERATED + 1]}, "2 to 10,000 values"),
            ({"linspace": [0, 1, 2.0]}, "first, last, how many"),
            ({"linspace": [0, "a", 2]}, "should be a valid"),
            ({"logspace": [0, 1, 2]}, "both ends greater than 0"),
            ({"logspace": [1, -1, 2]}, "both ends greater than 0"),
            ({"range": [0, 1, 0]}, "a step that leads from first to last"),
            ({"range": [0, 1, -1]}, "a step that leads from first to last"),
            ({"range": [0, 1]}, "a step that leads from first to last"),
            ({"range": [0, MAX_GENERATED, 1]}, "at most 10,000 values"),
            ({"values": []}, "at least 1 item"),
            ({}, "expected exactly one of values, linspace, logspace, range; got none"),
            ({"values": [1], "range": [0, 1, 1]}, "got values and range"),
        ],
    )
    def test_faults(self, given: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValidationError, match=problem):
            GeneratedValues.model_validate(given)
