from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.parameters import (
    COUNT_LIMIT,
    Choice,
    Number,
    Parameter,
    Point,
    contains,
    count,
    enumerate_points,
    index_of,
    is_active,
    is_point,
    size,
    value_at,
)
from experiments.rules import ABSENT, Rule


def integers(key: str, low: int, high: int, step: int | None = None, when: Rule | None = None) -> Number:
    return Number(key, low, high, integer=True, log=False, step=step, when=when)


def floats(key: str, low: float, high: float, step: float | None = None, when: Rule | None = None) -> Number:
    return Number(key, low, high, integer=False, log=False, step=step, when=when)


def when(**rule: tuple[Any, ...]) -> Rule:
    return rule


class TestIsActive:
    def test_without_a_condition(self) -> None:
        assert is_active(integers("n", 1, 2), {}, {})
        assert is_active(integers("n", 1, 2, when=when()), {}, {})

    def test_every_key_must_have_one_of_its_values(self) -> None:
        parameter = integers("n", 1, 2, when=when(a=(1, 2), b=("x",)))
        assert is_active(parameter, {"a": 2, "b": "x"}, {})
        assert not is_active(parameter, {"a": 3, "b": "x"}, {})
        assert not is_active(parameter, {"a": 2, "b": "y"}, {})

    def test_keys_that_are_not_sampled_are_looked_up_in_fixed(self) -> None:
        parameter = integers("n", 1, 2, when=when(a=(1,), b=("x",)))
        assert is_active(parameter, {"a": 1}, {"b": "x"})
        assert not is_active(parameter, {"a": 1}, {"b": "y"})

    def test_the_point_speaks_before_fixed(self) -> None:
        assert is_active(integers("n", 1, 2, when=when(a=(1,))), {"a": 1}, {"a": 2})

    def test_an_absent_parent_makes_it_false_even_where_null_is_allowed(self) -> None:
        assert not is_active(integers("n", 1, 2, when=when(a=(1, None))), {}, {})

    def test_true_is_not_one(self) -> None:
        assert not is_active(integers("n", 1, 2, when=when(a=(1,))), {"a": True}, {})
        assert is_active(integers("n", 1, 2, when=when(a=([1, 2],))), {"a": (1, 2)}, {})


class TestIsPoint:
    PARAMETERS = (Choice("a", ("x", "y")), integers("n", 1, 3, when=when(a=("x",))))

    def test_points(self) -> None:
        assert is_point(self.PARAMETERS, {"a": "x", "n": 3}, {})
        assert is_point(self.PARAMETERS, {"n": 3, "a": "x"}, {})
        assert is_point(self.PARAMETERS, {"a": "y"}, {})
        assert is_point((), {}, {})

    @pytest.mark.parametrize(
        "point", [{}, {"a": "x"}, {"a": "y", "n": 1}, {"a": "x", "n": 4}, {"a": "z"}, {"a": "y", "b": 1}, {"n": 1}]
    )
    def test_others(self, point: Point) -> None:
        assert not is_point(self.PARAMETERS, point, {})


class TestValues:
    def test_of_a_choice(self) -> None:
        choice = Choice("a", (1, True, 1.0, [1], (1,), None, "1", 1))
        assert list(choice.distinct) == [1, True, [1], None, "1"]
        assert type(choice.distinct[1]) is bool
        assert [index_of(choice, value) for value in (1.0, True, (1,), None, "1", 2, False)] == [0, 1, 2, 3, 4] + [
            None
        ] * 2

    @pytest.mark.parametrize(
        ("parameter", "values"),
        [
            (integers("n", 3, 3), [3]),
            (integers("n", -1, 2), [-1, 0, 1, 2]),
            (integers("n", 1, 10, 4), [1, 5, 9]),
            (Number("n", 2.0, 6.0, True, False, 2.0), [2, 4, 6]),
            (Number("n", 1, 4, True, True, None), [1, 2, 3, 4]),
            (floats("x", 0, 0.5, 0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
            (floats("x", 0.1, 0.75, 0.3), [0.1, 0.4, 0.7]),
            (floats("x", -0.3, 0.3, 0.3), [-0.3, 0.0, 0.3]),
            (floats("x", 1e-5, 4e-5, 1e-5), [1e-5, 2e-5, 3e-5, 4e-5]),
            (floats("x", 0.7, 0.7), [0.7]),
        ],
    )
    def test_of_a_number(self, parameter: Number, values: list[float]) -> None:
        found = [value_at(parameter, index) for index in range(size(parameter) or 0)]
        assert found == values
        assert {type(value) for value in found} == {int if parameter.integer else float}
        assert [index_of(parameter, value) for value in values] == list(range(len(values)))

    def test_infinitely_many(self) -> None:
        assert size(floats("x", 0, 1)) is None
        assert size(Number("x", 1e-5, 1, False, True, None)) is None
        assert index_of(floats("x", 0, 1), 0.5) is None

    @given(st.integers(-50, 50), st.integers(1, 9), st.integers(0, 400), st.integers(0, 4))
    def test_steps_survive_rounding(self, low: int, step: int, index: int, digits: int) -> None:
        scale = 10.0**-digits
        parameter = floats("x", low * scale, (low + step * 400) * scale, step * scale)
        assert size(parameter) in (400, 401)  # the bounds themselves were rounded
        for value in (low * scale + index * (step * scale), (low + index * step) / 10**digits):
            assert index_of(parameter, value) == index or index == 400


class TestContains:
    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            (floats("x", 0, 1), 0),
            (floats("x", 0, 1), 1),
            (floats("x", 0, 0.3), 0.1 + 0.2),
            (floats("x", 0, 0.3, 0.1), 0.1 + 0.2),
            (floats("x", 0, 1, 0.1), 0.1 * 3),
            (floats("x", 0.5, 0.5), 0.5),
            (Number("x", 1e-5, 1, False, True, None), 1e-5),
            (integers("n", 1, 9, 4), 5),
            (integers("n", 1, 9), 2.0),
            (integers("n", 0, 10**18), 10**18),
            (Choice("c", (1, None)), None),
            (Choice("c", ([1, 2],)), (1, 2)),
        ],
    )
    def test_inside(self, parameter: Parameter, value: Any) -> None:
        assert contains(parameter, value)

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            (floats("x", 0, 1), -1e-9),
            (floats("x", 0, 1), 1.000001),
            (floats("x", 0, 1), math.nan),
            (floats("x", 0, 1), math.inf),
            (floats("x", 0, 1), True),
            (floats("x", 0, 1), "0.5"),
            (floats("x", 0, 1), None),
            (floats("x", 0, 1), [0.5]),
            (floats("x", 0, 1, 0.1), 0.15),
            (floats("x", 0, 1, 0.1), 0.1001),
            (floats("x", 0, 1, 0.1), 1.1),
            (floats("x", 0, 1, 0.1), -0.1),
            (floats("x", 0, 1, 0.1), math.nan),
            (floats("x", 0, 1, 0.1), -math.inf),
            (floats("x", 0, 1, 0.3), 1.0),
            (floats("x", 1e-12, 1e-12), 2e-12),
            (integers("n", 1, 9, 4), 6),
            (integers("n", 1, 10, 4), 10),
            (integers("n", 1, 9), 2.5),
            (integers("n", 1, 9), 2.0000001),
            (integers("n", 0, 10**18), 10**18 + 1),
            (integers("n", 0, 10), 10**400),
            (integers("n", 0, 1), True),
            (integers("n", 0, 1), "1"),
            (Choice("c", (1, None)), True),
            (Choice("c", (1, None)), "1"),
        ],
    )
    def test_outside(self, parameter: Parameter, value: Any) -> None:
        assert not contains(parameter, value)


class TestEnumeration:
    def test_the_first_varies_slowest(self) -> None:
        parameters: list[Parameter] = [Choice("a", ("x", "y")), integers("n", 1, 2)]
        points = list(enumerate_points(parameters, {}))
        assert points == [{"a": "x", "n": 1}, {"a": "x", "n": 2}, {"a": "y", "n": 1}, {"a": "y", "n": 2}]
        assert [list(point) for point in points] == [["a", "n"]] * 4
        assert count(parameters, {}) == 4

    def test_nested_conditions(self) -> None:
        parameters: list[Parameter] = [
            Choice("a", ("x", "y", None)),
            Choice("b", (True, 1), when=when(a=("x", None))),
            integers("n", 1, 2, when=when(b=(True,))),
            Choice("c", (0,), when=when(n=(2,), a=("x",))),
        ]
        assert list(enumerate_points(parameters, {})) == [
            {"a": "x", "b": True, "n": 1},
            {"a": "x", "b": True, "n": 2, "c": 0},
            {"a": "x", "b": 1},
            {"a": "y"},
            {"a": None, "b": True, "n": 1},
            {"a": None, "b": True, "n": 2},
            {"a": None, "b": 1},
        ]
        assert count(parameters, {}) == 7

    def test_fixed_keys(self) -> None:
        parameters: list[Parameter] = [integers("n", 1, 3, when=when(task=("wsddn",))), Choice("a", (1, 2))]
        assert count(parameters, {"task": "wsddn"}) == 6
        assert list(enumerate_points(parameters, {"task": "localizer"})) == [{"a": 1}, {"a": 2}]
        assert count(parameters, {"task": "localizer"}) == 2

    def test_nothing_is_one_point(self) -> None:
        assert list(enumerate_points([], {})) == [{}]
        assert count([], {}) == 1

    def test_equal_values_count_once(self) -> None:
        parameters: list[Parameter] = [Choice("a", (1, 1.0, True, [1], (1,)))]
        assert list(enumerate_points(parameters, {})) == [{"a": 1}, {"a": True}, {"a": [1]}]
        assert count(parameters, {}) == 3

    def test_points_are_made_when_asked_for(self) -> None:
        points = enumerate_points([integers(key, 0, 10**9) for key in "abcdefgh"], {})
        assert next(points) == dict.fromkeys("abcdefgh", 0)
        assert next(points) == {**dict.fromkeys("abcdefg", 0), "h": 1}

    def test_points_are_the_takers(self) -> None:
        points = []
        for point in enumerate_points([Choice("a", (1, 2)), Choice("b", (3,), when=when(a=(1,)))], {}):
            points.append(dict(point))
            point.clear()
        assert points == [{"a": 1, "b": 3}, {"a": 2}]

    def test_an_infinite_space_is_refused(self) -> None:
        points = enumerate_points([Choice("a", (1, 2)), floats("x", 0, 1, when=when(a=(2,)))], {})
        assert next(points) == {"a": 1}
        with pytest.raises(ValueError, match="got x with infinitely many values; expected a finite space"):
            next(points)


class TestCount:
    def test_infinite_where_a_continuous_parameter_can_be_active(self) -> None:
        assert count([floats("x", 0, 1)], {}) is None
        parameters: list[Parameter] = [Choice("a", (1, 2)), floats("x", 0, 1, when=when(a=(2,)))]
        assert count(parameters, {}) is None
        assert count([floats("x", 0, 1, when=when(a=(2,)))], {"a": 2}) is None

    def test_finite_where_it_cannot(self) -> None:
        assert count([Choice("a", (1, 2)), floats("x", 0, 1, when=when(a=(3,)))], {}) == 2
        assert count([floats("x", 0.5, 0.5)], {}) == 1
        chain: list[Parameter] = [
            Choice("a", (1, 2)),
            Choice("b", (1,), when(a=(1,))),
            floats("x", 0, 1, None, when(a=(2,), b=(1,))),
        ]
        assert count(chain, {}) == 2

    def test_the_limit(self) -> None:
        assert count([integers("n", 1, COUNT_LIMIT)], {}) == COUNT_LIMIT
        assert count([integers("n", 0, COUNT_LIMIT)], {}) is None
        assert count([integers("n", 1, COUNT_LIMIT // 2), Choice("a", (1, 2))], {}) == COUNT_LIMIT
        assert count([integers("n", 0, COUNT_LIMIT // 2), Choice("a", (1, 2))], {}) is None
        half = integers("n", 1, COUNT_LIMIT // 2, when=when(a=(1,)))
        assert count([Choice("a", (1, 2)), half], {}) == COUNT_LIMIT // 2 + 1
        assert count([Choice("a", (1, 2)), half, integers("m", 0, COUNT_LIMIT // 2, when=when(a=(2,)))], {}) is None

    def test_a_huge_space_is_not_walked_through(self) -> None:
        parameters: list[Parameter] = [integers(key, 0, 10**9) for key in "abcd"]
        assert count([*parameters, Choice("z", (1,), when=when(a=(7,)))], {}) is None
        small: list[Parameter] = [Choice(f"k{index}", tuple(range(10))) for index in range(60)]
        assert count([*small, Choice("z", (1,), when=when(k59=(7,)))], {}) is None


def written(value: Any) -> str:
    """A value as text: equal texts are equal values."""
    if isinstance(value, (list, tuple)):
        return json.dumps([written(one) for one in value])
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def random_space(rng: random.Random) -> tuple[list[Parameter], dict[str, Any]]:
    """Up to 5 parameters with up to 4 values, most of them with conditions on those before and on a fixed key."""
    pool = [True, False, 0, 1, 1.0, 2, None, "x", "1", [1], (1,), [True], 0.5]
    parameters: list[Parameter] = []
    for name in "abcde"[: rng.randint(1, 5)]:
        parents = [*(parameter.key for parameter in parameters), "fixed"]
        keys = rng.sample(parents, rng.randint(0, min(2, len(parents))))
        condition = {key: tuple(rng.choices(pool, k=rng.randint(1, 7))) for key in keys} if keys else None
        kind = rng.randrange(4)
        if kind == 0:
            low = rng.randint(-1, 1)
            parameters.append(integers(name, low, low + rng.randint(0, 5), rng.choice([None, 2, 3]), condition))
        elif kind == 1:
            parameters.append(floats(name, 0, rng.choice([0, 0.5, 1, 1.7]), 0.5, condition))
        else:
            parameters.append(Choice(name, tuple(rng.choices(pool, k=rng.randint(1, 4))), condition))
    return parameters, {"fixed": rng.choice(pool)} if rng.random() < 0.8 else {}


def all_values(parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Choice):
        texts = [written(value) for value in parameter.values]
        return [value for index, value in enumerate(parameter.values) if written(value) not in texts[:index]]
    grid = [parameter.low + index * (parameter.step or 1) for index in range(9)]
    return [value for value in grid if value <= parameter.high]


def combinations(parameters: Sequence[Parameter]) -> Iterator[Point]:
    """Every combination of values, absent ones too."""
    for values in itertools.product(*([*all_values(parameter), ABSENT] for parameter in parameters)):
        yield {one.key: value for one, value in zip(parameters, values, strict=True) if value is not ABSENT}


def has_what_it_must(parameters: Sequence[Parameter], point: Point, fixed: dict[str, Any]) -> bool:
    known = {key: written(value) for key, value in {**fixed, **point}.items()}
    conditions = [one.when or {} for one in parameters]
    active = [
        all(known.get(key, "") in [written(values), *map(written, values)] for key, values in one.items())
        for one in conditions
    ]
    return active == [one.key in point for one in parameters]


@pytest.mark.parametrize("seed", range(300))
def test_against_a_slow_product(seed: int) -> None:
    parameters, fixed = random_space(random.Random(seed))
    every = list(combinations(parameters))
    expected = [point for point in every if has_what_it_must(parameters, point, fixed)]
    points = list(enumerate_points(parameters, fixed))
    assert [{key: written(value) for key, value in point.items()} for point in points] == [
        {key: written(value) for key, value in point.items()} for point in expected
    ]
    assert count(parameters, fixed) == len(expected)
    assert [point for point in every if is_point(parameters, point, fixed)] == expected
