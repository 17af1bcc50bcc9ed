from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.space import grid_cells, zip_cells

PATH = ("search", 2, "grid")


def test_the_last_key_of_a_grid_varies_fastest() -> None:
    cells = list(grid_cells({"a": [1, 2], "b": ["x", "y"]}, path=PATH))
    assert [dict(cell.values) for cell in cells] == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert cells[1].paths == {"a": (*PATH, "a", 0), "b": (*PATH, "b", 1)}
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
    assert cells[2].paths == {"a": (*PATH, "a", 2), "b": (*PATH, "b", 2)}


@pytest.mark.parametrize("short", [0, 1, 3])
def test_zip_of_unequal_lengths(short: int) -> None:
    with pytest.raises(ValueError, match=rf"in zip \(a has 2, b has {short}\); expected equal lengths"):
        list(zip_cells({"a": [1, 2], "b": [0] * short}, path=PATH))
