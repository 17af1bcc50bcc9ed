"""The boxes around the connected components of an image's cells at every threshold at once.

Lowering a threshold only lets components grow and merge. So each cell is assigned to a basin, the cells from which
steepest ascent leads to one maximum, and of these there are few: all that happens from threshold to threshold is that
basins grow, and that two merge where the pass between them is reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF_OF_THE_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(row, column) steps; with their opposites they are the 8 neighbours."""


def component_boxes_by_level(
    levels: NDArray[np.integer[Any]], *, num_levels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The box around every 8-connected component of the cells with `levels >= t`, for every t in [0, num_levels).

    Args:
        levels: (h, w), at least 1 x 1, in [0, num_levels).
        num_levels: T.

    Returns:
        thresholds: int64 (N,), the t of each box.
        boxes: int64 (N, 4), x1 y1 x2 y2 in cells; a box around one cell is 1 wide.
        In no particular order. A t above the highest level has no box.

    Raises:
        ValueError: for levels out of range.

    Source: the tree of components by union-find, L. Najman, M. Couprie, Building the Component Tree in Quasi-Linear
        Time, IEEE TIP 2006 (recalled); here on basins instead of cells.
    """
    if levels.ndim != 2 or not levels.size or levels.min() < 0 or levels.max() >= num_levels:
        raise ValueError(f"got levels of shape {levels.shape}; expected (h, w) of values in [0, {num_levels})")
    basins, peaks = _basins(levels.astype(np.int64))
    extents = _extents_of_basins(levels, basins, count=len(peaks), num_levels=num_levels)
    alive_from = _merge(extents, _passes(levels, basins, count=len(peaks)))
    every_t = np.arange(num_levels)
    alive = (every_t >= alive_from[:, None]) & (every_t <= peaks[:, None])  # (M, T)
    corners = extents[alive]  # (N, 4)
    corners[:, :2] *= -1
    return np.nonzero(alive)[1], corners


def _basins(levels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The basin of each cell (h, w), numbered from 0, and the level of each basin's maximum (M,).

    A cell leads to its neighbour of the highest level, the last of several, if that is above it or level with it and
    later in the image. Levels on such a path never fall, so that what a basin has of a threshold's cells is connected.
    """
    height, width = levels.shape
    keys = levels * levels.size + np.arange(levels.size).reshape(levels.shape)  # unique; keys % size is the cell
    padded = np.pad(keys, 1, constant_values=-1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])  # (h, w + 2)
    best = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])  # (h, w)
    leads_to = (best % levels.size).ravel()
    while not np.array_equal(further := leads_to[leads_to], leads_to):
        leads_to = further
    maxima = leads_to == np.arange(levels.size)
    numbers = np.cumsum(maxima) - 1
    return numbers[leads_to].reshape(height, width), levels.ravel()[maxima]


def _extents_of_basins(
    levels: NDArray[np.integer[Any]], basins: NDArray[np.int64], *, count: int, num_levels: int
) -> NDArray[np.int64]:
    """For each basin and threshold (M, T, 4): -x1, -y1, x2, y2 of its cells, so that a union is a maximum."""
    height, width = levels.shape
    y, x = np.divmod(np.arange(levels.size), width)
    corners = np.stack([-x, -y, x + 1, y + 1])  # (4, h * w)
    where = (basins * num_levels + levels).ravel()
    extents = np.full((4, count * num_levels), -max(height, width), np.int64)  # no union is changed by it
    for extent, corner in zip(extents, corners, strict=True):
        np.maximum.at(extent, where, corner)
    by_level = extents.reshape(4, count, num_levels)
    falling = np.maximum.accumulate(by_level[:, :, ::-1], axis=2)[:, :, ::-1]  # a threshold has the cells above it too
    return np.ascontiguousarray(np.moveaxis(falling, 0, 2))


def _passes(levels: NDArray[np.integer[Any]], basins: NDArray[np.int64], *, count: int) -> list[tuple[int, int, int]]:
    """(level, basin, other basin) of the highest pass between any two that touch, highest first."""
    height, width = levels.shape
    keys = []
    for down, right in _HALF_OF_THE_NEIGHBOURS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width - max(0, -right)))
        a, b = basins[here], basins[there]
        touch = a != b
        pair = np.minimum(a, b)[touch] * count + np.maximum(a, b)[touch]
        keys.append(np.minimum(levels[here], levels[there])[touch].astype(np.int64) * count**2 + pair)
    found = np.unique(np.concatenate(keys))[::-1]
    _, first = np.unique(found % count**2, return_index=True)
    highest = found[np.sort(first)]
    return list(
        zip(
            (highest // count**2).tolist(),
            (highest % count**2 // count).tolist(),
            (highest % count).tolist(),
            strict=True,
        )
    )


def _merge(extents: NDArray[np.int64], passes: list[tuple[int, int, int]]) -> NDArray[np.int64]:
    """Unites components where they meet, in `extents`, and returns the lowest threshold of each basin's own (M,).

    Below it the component goes by the name of another basin. Thresholds above that basin's peak are not touched.
    """
    parent = list(range(len(extents)))
    alive_from = np.zeros(len(extents), np.int64)

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    for level, basin, other in passes:
        kept, gone = root(basin), root(other)
        if kept != gone:
            np.maximum(extents[kept, : level + 1], extents[gone, : level + 1], out=extents[kept, : level + 1])
            parent[gone] = kept
            alive_from[gone] = level + 1
    return alive_from
