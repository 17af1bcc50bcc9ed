"""What `when`, `exclude` and `only` mean."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.rules import ABSENT, fits, holds, in_range, is_range, rule_text, same_value


class TestSameValue:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (1, 1.0),
            (True, True),
            (None, None),
            ("a", "a"),
            ([1, [2, "x"]], (1.0, (2, "x"))),
            ([], ()),
            ({"a": [1]}, {"a": (1,)}),
        ],
    )
    def test_same(self, a: Any, b: Any) -> None:
        assert same_value(a, b)
        assert same_value(b, a)

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (True, 1),
            (False, 0),
            (0.0, False),
            (None, False),
            (None, 0),
            ("1", 1),
            ("", None),
            ([True], [1]),
            ([1, 2], [1]),
            ([1, 2], [2, 1]),
            ("ab", ["a", "b"]),
            ({"a": True}, {"a": 1}),
            ({"a": 1}, {"b": 1}),
            ({"a": 1}, {"a": 1, "b": 1}),
            ({}, []),
        ],
    )
    def test_different(self, a: Any, b: Any) -> None:
        assert not same_value(a, b)
        assert not same_value(b, a)


class TestFits:
    @pytest.mark.parametrize(
        ("value", "wanted"),
        [
            (1, 1.0),
            ("max", ["lse", "max"]),
            ([480, 600], [480, 600]),  # the list is the value
            ([480, 600], [[480, 600], [576]]),  # the list has the value
            (None, None),
            (None, [None, 1]),
            (2, {"min": 2}),
            (2, {"max": 2}),
            (2.5, {"min": 2, "max": 3}),
        ],
    )
    def test_it_does(self, value: Any, wanted: Any) -> None:
        assert fits(value, wanted)

    @pytest.mark.parametrize(
        ("value", "wanted"),
        [
            (True, 1),
            (1, [True, "1"]),
            ("max", []),
            (1.999, {"min": 2}),
            (2.001, {"max": 2}),
            (True, {"min": 0, "max": 1}),
            ("2", {"min": 2}),
            (None, {"max": 2}),
            (ABSENT, [None, "max", 0]),
            (ABSENT, {"min": 0}),
        ],
    )
    def test_it_does_not(self, value: Any, wanted: Any) -> None:
        assert not fits(value, wanted)


@pytest.mark.parametrize("wanted", [{}, {"min": True}, {"min": "1"}, {"min": 1, "step": 2}, [1, 2], 3])
def test_no_range(wanted: Any) -> None:
    assert not is_range(wanted)


def test_nan_is_in_no_range() -> None:
    assert not in_range(float("nan"), {"min": 0})
    assert not in_range(float("nan"), {"max": 0})


class TestHolds:
    def test_all_keys_must(self) -> None:
        values = {"a": 1, "b": "x"}
        assert holds({"a": [1, 2], "b": "x"}, values.__getitem__)
        assert not holds({"a": [1, 2], "b": "y"}, values.__getitem__)

    def test_without_keys_it_does(self) -> None:
        assert holds({}, {}.__getitem__)


def test_the_text_is_what_a_spec_says() -> None:
    rule = {"train.lr": 0.0001, "model.pooling": ["max", "lse"], "train.batch_size": {"min": 2}, "a": None, "b": True}
    assert rule_text(rule) == (
        "{train.lr: 0.0001, model.pooling: [max, lse], train.batch_size: {min: 2}, a: null, b: true}"
    )
