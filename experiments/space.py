"""Search blocks -> cells. A cell is one point of the space: a value for every swept key of its block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Cell:
    """Values of the swept keys, in the spec's order, and where in the file each value stands."""

    values: Mapping[str, Any]
    paths: Mapping[str, KeyPath]


def grid_cells(axes: Mapping[str, Sequence[Any]], *, path: KeyPath) -> Iterator[Cell]:
    """The product of all axes; the first key varies slowest, as in nested loops."""
    for indices in itertools.product(*(range(len(values)) for values in axes.values())):
        yield _cell(axes, indices, path)


def zip_cells(axes: Mapping[str, Sequence[Any]], *, path: KeyPath) -> Iterator[Cell]:
    """The first values of all axes, the second values of all axes, and so on.

    Raises:
        ValueError: where the axes differ in length.
    """
    lengths = {key: len(values) for key, values in axes.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ValueError(f"got lists of unequal lengths in zip ({counts}); expected equal lengths")
    for index in range(next(iter(lengths.values()), 0)):
        yield _cell(axes, [index] * len(axes), path)


def _cell(axes: Mapping[str, Sequence[Any]], indices: Sequence[int], path: KeyPath) -> Cell:
    chosen = dict(zip(axes, indices, strict=True))
    return Cell(
        values={key: axes[key][index] for key, index in chosen.items()},
        paths={key: (*path, key, index) for key, index in chosen.items()},
    )
