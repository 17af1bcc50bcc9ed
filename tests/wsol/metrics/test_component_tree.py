from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsol.metrics.component_tree import component_boxes_by_level

Array = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]


def found(levels: Array, num_levels: int) -> list[list[Box]]:
    """The boxes of each threshold, sorted."""
    thresholds, boxes = component_boxes_by_level(levels, num_levels=num_levels)
    assert boxes.shape == (len(thresholds), 4)
    return [sorted(map(tuple, boxes[thresholds == t].tolist())) for t in range(num_levels)]


def flood_filled(levels: Array, num_levels: int) -> list[list[Box]]:
    every = []
    for t in range(num_levels):
        left = {(int(y), int(x)) for y, x in np.argwhere(levels >= t)}
        boxes = []
        while left:
            component, waiting = [], [left.pop()]
            while waiting:
                y, x = waiting.pop()
                component.append((y, x))
                around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= around
                waiting += around
            ys, xs = zip(*component, strict=True)
            boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
        every.append(sorted(boxes))
    return every


def test_two_hills_and_the_pass_between_them() -> None:
    levels = np.array([[0, 0, 0, 0, 0], [3, 1, 2, 1, 4]])
    assert found(levels, 6) == [
        [(0, 0, 5, 2)],
        [(0, 1, 5, 2)],
        [(0, 1, 1, 2), (2, 1, 3, 2), (4, 1, 5, 2)],
        [(0, 1, 1, 2), (4, 1, 5, 2)],
        [(4, 1, 5, 2)],
        [],
    ]


def test_corners_connect() -> None:
    assert found(np.array([[1, 0], [0, 1]]), 2) == [[(0, 0, 2, 2)], [(0, 0, 2, 2)]]
    assert found(np.array([[0, 1], [1, 0]]), 2) == [[(0, 0, 2, 2)], [(0, 0, 2, 2)]]


def test_opposite_borders_do_not_touch() -> None:
    levels = np.zeros((3, 5), np.int64)
    levels[:, 0] = levels[:, 4] = 1
    assert found(levels, 2)[1] == [(0, 0, 1, 3), (4, 0, 5, 3)]


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 3)])
def test_a_plateau_is_one_component(level: int, shape: tuple[int, int]) -> None:
    height, width = shape
    expected = [[(0, 0, width, height)] if t <= level else [] for t in range(3)]
    assert found(np.full(shape, level), 3) == expected


def test_equals_a_flood_fill_at_every_threshold() -> None:
    """Few levels, so many plateaus, rings and ties; and many levels."""
    rng = np.random.default_rng(17)
    for case in range(400):
        shape = tuple(rng.integers(1, 10, size=2))
        num_levels = int(rng.choice([1, 2, 3, 5, 40]))
        levels = rng.integers(0, num_levels, size=shape)
        assert found(levels, num_levels) == flood_filled(levels, num_levels), case


@pytest.mark.parametrize("levels", [np.array([[-1]]), np.array([[3]]), np.zeros((0, 2), int), np.zeros(3, int)])
def test_refusals(levels: Array) -> None:
    with pytest.raises(ValueError, match=r"expected \(h, w\) of values in \[0, 3\)"):
        component_boxes_by_level(levels, num_levels=3)
