from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import space
from experiments.space import Axis, Cell, KeyPath, WhenError

PATH = ("search", 2, "grid")


def grid_cells(axes: Mapping[str, Sequence[Any] | Axis], *, path: KeyPath = PATH) -> Iterator[Cell]:
    return space.grid_cells(as_axes(axes), path=path, unswept=UNSWEPT.__getitem__)


def zip_cells(axes: Mapping[str, Sequence[Any] | Axis], *, path: KeyPath = PATH) -> Iterator[Cell]:
    return space.zip_cells(as_axes(axes), path=path, unswept=UNSWEPT.__getitem__)


def as_axes(axes: Mapping[str, Sequence[Any] | Axis]) -> dict[str, Axis]:
    return {key: axis if isinstance(axis, Axis) else Axis(axis) for key, axis in axes.items()}


UNSWEPT = {"fixed": 1}
"""The values of keys that are no axis."""


def test_the_last_key_of_a_grid_varies_fastest() -> None:
    cells = list(grid_cells({"a": [1, 2], "b": ["x", "y"]}, path=PATH))
    assert [dict(cell.values) for cell in cells] == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert (cells[1].place("a"), cells[1].place("b")) == ((*PATH, "a", 0), (*PATH, "b", 1))
    assert [list(cell.values) for cell in cells] == [["a", "b"]] * 4


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(), max_size=3), min_size=1, max_size=4))
def test_a_grid_is_the_product(axes: dict[str, list[int]]) -> None:
    found = [tuple(cell.values.values()) for cell in grid_cells(axes, path=PATH)]
    assert found == list(itertools.product(*axes.values()))


def test_equal_values_stay_two_cells() -> None:
    assert [dict(cell.values) for cell in grid_cells({"a": [1, 1]}, path=PATH)] == [{"a": 1}, {"a": 1}]


def test_an_empty_axis_leaves_nothing() -> None:
    assert list(grid_cells({"a": [1, 2], "b": []}, path=PATH)) == []
    assert list(zip_cells({"a": []}, path=PATH)) == []
    assert list(zip_cells({}, path=PATH)) == []


def test_zip_goes_side_by_side() -> None:
    cells = list(zip_cells({"a": [1, 2, 3], "b": ["x", "y", "z"]}, path=PATH))
    assert [dict(cell.values) for cell in cells] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    assert (cells[2].place("a"), cells[2].place("b")) == ((*PATH, "a", 2), (*PATH, "b", 2))


@pytest.mark.parametrize("short", [0, 1, 3])
def test_zip_of_unequal_lengths(short: int) -> None:
    with pytest.raises(ValueError, match=rf"in zip \(a has 2, b has {short}\); expected equal lengths"):
        list(zip_cells({"a": [1, 2], "b": [0] * short}, path=PATH))


class TestWhen:
    def test_a_key_is_left_out_where_its_condition_does_not_hold(self) -> None:
        axes = {"pooling": ["max", "topk"], "k": Axis([1, 5], when={"pooling": "topk"})}
        assert [dict(cell.values) for cell in grid_cells(axes)] == [
            {"pooling": "max"},
            {"pooling": "topk", "k": 1},
            {"pooling": "topk", "k": 5},
        ]

    def test_also_before_the_key_that_it_depends_on(self) -> None:
        axes = {"k": Axis([1, 5], when={"pooling": "topk"}), "pooling": ["max", "topk"]}
        cells = list(grid_cells(axes))
        assert [dict(cell.values) for cell in cells] == [
            {"pooling": "max"},
            {"k": 1, "pooling": "topk"},
            {"k": 5, "pooling": "topk"},
        ]
        assert cells[2].place("k") == (*PATH, "k", 1)

    def test_side_by_side(self) -> None:
        axes = {"pooling": ["max", "topk", "max"], "k": Axis([1, 5, 7], when={"pooling": "topk"})}
        assert [dict(cell.values) for cell in zip_cells(axes)] == [
            {"pooling": "max"},
            {"pooling": "topk", "k": 5},
            {"pooling": "max"},
        ]

    def test_what_depends_on_an_absent_key_is_absent(self) -> None:
        axes = {
            "a": [1, 2],
            "b": Axis([1, 2], when={"a": 2}),
            "c": Axis([7], when={"b": 1}),
        }
        assert [dict(cell.values) for cell in grid_cells(axes)] == [
            {"a": 1},
            {"a": 2, "b": 1, "c": 7},
            {"a": 2, "b": 2},
        ]

    @pytest.mark.parametrize(
        ("wanted", "has_it"), [(1, True), (True, False), ([0, 1], True), ({"min": 1}, True), ("1", False)]
    )
    def test_a_key_that_is_no_axis(self, wanted: Any, has_it: bool) -> None:
        (cell,) = grid_cells({"a": Axis([3], when={"fixed": wanted})})
        assert dict(cell.values) == ({"a": 3} if has_it else {})

    @pytest.mark.parametrize("conditions", [{"a": "a"}, {"a": "b", "b": "c", "c": "a"}])
    def test_a_circle(self, conditions: dict[str, str]) -> None:
        axes = {key: Axis([1], when={other: 1}) for key, other in conditions.items()}
        circle = " -> ".join([*conditions, "a"])
        with pytest.raises(WhenError, match=f"got when in a circle: {circle}") as error:
            list(grid_cells(axes))
        assert error.value.key == "a"

    @given(st.integers(0, 2**12 - 1))
    def test_against_a_slow_loop(self, bits: int) -> None:
        """Every way in which three keys of two values can depend on an earlier one."""
        wanted = [[value for value in (0, 1) if bits >> (4 * key + value) & 1] for key in range(3)]
        axes = {
            "x": Axis([0, 1]),
            "y": Axis([0, 1], when={"x": wanted[0]}) if wanted[0] else Axis([0, 1]),
            "z": Axis([0, 1], when={"y": wanted[1]}) if wanted[1] else Axis([0, 1]),
        }
        expected: list[dict[str, int]] = []
        for x, y, z in itertools.product((0, 1), repeat=3):
            cell = {"x": x}
            if not wanted[0] or x in wanted[0]:
                cell["y"] = y
            if not wanted[1] or cell.get("y") in wanted[1]:
                cell["z"] = z
            if cell not in expected:
                expected.append(cell)
        assert [dict(cell.values) for cell in grid_cells(axes)] == expected
