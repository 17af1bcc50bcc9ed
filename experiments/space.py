"""Search blocks -> cells. A cell is one point of the space: a value for each key of its block that it has. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.rules import ABSENT, Rule, holds

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Axis:
    """The values of one key of a grid or zip, and the cells that have the key (None: all of them)."""

    values: Sequence[Any]
    when: Rule | None = None


@dataclass(frozen=True)
class Cell:
    """Values of the swept keys, in the spec's order, and where the file has them.

    Attributes:
        values: of the keys that the cell has.
        path: of its block's mapping of keys.
        indices: position of each value in its key's list; empty where the file does not list the values.
    """

    values: Mapping[str, Any]
    path: KeyPath = ()
    indices: Mapping[str, int] = ()  # type: ignore[assignment]  # nothing is looked up in it but with `in`

    def place(self, key: str) -> KeyPath:
        """Where the file gives this cell its value of a key that it has."""
        return (*self.path, key, self.indices[key]) if key in self.indices else (*self.path, key)


class WhenError(ValueError):
    """A `when` that cannot be followed; `key` is the swept key that has it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def grid_cells(axes: Mapping[str, Axis], *, path: KeyPath, unswept: Callable[[str], Any]) -> Iterator[Cell]:
    """The product of all axes; the first key varies slowest, as in nested loops.

    Cells that differ only in keys that neither has, by their `when`, come once.

    Args:
        axes: by dotted key.
        path: of the block's mapping of keys.
        unswept: gives the value of a key that is no axis.
    """
    order = parents_first({key: axis.when for key, axis in axes.items()})
    ranges = [range(len(axis.values)) for axis in axes.values()]
    return _cells(axes, itertools.product(*ranges), path=path, order=order, unswept=unswept)


def zip_cells(axes: Mapping[str, Axis], *, path: KeyPath, unswept: Callable[[str], Any]) -> Iterator[Cell]:
    """The first values of all axes, the second values of all axes, and so on. Arguments as for `grid_cells`.

    Raises:
        ValueError: where the axes differ in length.
    """
    lengths = {key: len(axis.values) for key, axis in axes.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ValueError(f"got lists of unequal lengths in zip ({counts}); expected equal lengths")
    order = parents_first({key: axis.when for key, axis in axes.items()})
    rows = ([index] * len(axes) for index in range(next(iter(lengths.values()), 0)))
    return _cells(axes, rows, path=path, order=order, unswept=unswept)


def _cells(
    axes: Mapping[str, Axis],
    rows: Iterable[Sequence[int]],
    *,
    path: KeyPath,
    order: Sequence[str],
    unswept: Callable[[str], Any],
) -> Iterator[Cell]:
    """A cell for each row of indices."""
    conditional = any(axis.when is not None for axis in axes.values())
    seen = set()
    for row in rows:
        indices = dict(zip(axes, row, strict=True))
        values = {key: axes[key].values[index] for key, index in indices.items()}
        if conditional:
            values = active(values, {key: axes[key].when for key in order}, unswept)
            indices = {key: indices[key] for key in values}
            if tuple(indices.items()) in seen:
                continue
            seen.add(tuple(indices.items()))
        yield Cell(values=values, path=path, indices=indices)


def active(
    values: Mapping[str, Any], conditions: Mapping[str, Rule | None], unswept: Callable[[str], Any]
) -> dict[str, Any]:
    """The values of the keys whose `when` holds, in the order of `values`.

    Args:
        values: one for every key of `conditions`.
        conditions: parents first; a condition that names a key which is not active does not hold.
        unswept: gives the value of a key that is not among `values`.
    """
    found: set[str] = set()

    def value_of(key: str) -> Any:
        if key in conditions:
            return values[key] if key in found else ABSENT
        return unswept(key)

    for key, when in conditions.items():
        if when is None or holds(when, value_of):
            found.add(key)
    return {key: value for key, value in values.items() if key in found}


def parents_first(conditions: Mapping[str, Rule | None]) -> list[str]:
    """The keys in an order in which each comes after those that its `when` names; else in the order given.

    Raises:
        WhenError: where conditions go in a circle.
    """
    order: dict[str, None] = {}

    def visit(key: str, chain: tuple[str, ...]) -> None:
        if key in chain:
            circle = " -> ".join([*chain[chain.index(key) :], key])
            raise WhenError(key, f"got when in a circle: {circle}")
        if key not in order:
            for parent in conditions[key] or ():
                if parent in conditions:
                    visit(parent, (*chain, key))
            order[key] = None

    for key in conditions:
        visit(key, ())
    return list(order)
