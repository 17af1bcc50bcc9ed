"""How much of the difference between configurations each swept key explains, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_CONFIGURATIONS = 6
MAX_GROUPS = 8
"""Values beyond so many, of a sampled key, are put together by rank."""
HALVES = 200
_BINS = 4


@dataclass(frozen=True)
class Importance:
    """Of one key.

    Attributes:
        share: of the variance of the configurations' values that the key explains by itself, in [0, 1].
        low, high: 95 % of the shares in random halves of the configurations lie between.
        groups: of values that were told apart.
    """

    key: str
    share: float
    low: float
    high: float
    groups: int


def importances(values: Sequence[float], swept: Mapping[str, Sequence[object]]) -> list[Importance]:
    """The keys by their share, the largest first; of equal ones in the order given. None for too few configurations.

    The share is epsilon squared of a one-way analysis of variance: unlike eta squared it is near 0 for a key without
    any effect, however many values it has. Interactions belong to no key, so the shares need not add up to 1.
    Source: Kelley, An unbiased correlation ratio measure, PNAS 21 (1935); intervals by half-sampling (McCarthy, Review
    of the International Statistical Institute 37, 1969), since a bootstrap's doubles would pass for agreement.

    Args:
        values: of the objective, one for each configuration, all finite.
        swept: of each key the values, one for each configuration; None where it has none.
    """
    figures = np.asarray(values, dtype=np.float64)
    count = len(figures)
    if count < LEAST_CONFIGURATIONS:
        return []
    rng = np.random.default_rng(0)
    half = (count + 1) // 2
    halves = np.zeros((HALVES, count))
    np.put_along_axis(halves, rng.random((HALVES, count)).argsort(axis=1)[:, :half], 1.0, axis=1)
    weights = np.concatenate([np.ones((1, count)), halves])
    found = []
    for key, own in swept.items():
        groups = _groups(own)
        if groups.max(initial=0) == 0:
            continue
        shares = _epsilon_squared(figures, groups, weights)
        low, high = np.quantile(shares[1:], [0.025, 0.975])
        share = float(shares[0])
        found.append(Importance(key, share, min(float(low), share), max(float(high), share), int(groups.max()) + 1))
    return sorted(found, key=lambda importance: -importance.share)


def _groups(values: Sequence[object]) -> NDArray[np.int64]:
    """The group of each configuration, from 0: one a value, or by rank where numbers are too many."""
    names = list(dict.fromkeys(map(repr, values)))
    if len(names) <= MAX_GROUPS or not all(isinstance(value, (int, float)) for value in values):
        return np.array([names.index(repr(value)) for value in values], dtype=np.int64)
    numbers = np.array([float(value) for value in values if isinstance(value, (int, float))])
    edges = np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.unique(np.searchsorted(edges, numbers, side="right"), return_inverse=True)[1].astype(np.int64)


def _epsilon_squared(
    figures: NDArray[np.float64], groups: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each row of `weights` (R, N), 1 for configurations that count: (R,) in [0, 1]; 0 where it is undefined."""
    member = np.eye(int(groups.max()) + 1)[groups]  # (N, G)
    number = weights.sum(axis=1)
    centred = figures - figures.mean()
    sizes = weights @ member  # (R, G)
    sums = weights @ (member * centred[:, None])
    total = weights @ centred**2 - (weights @ centred) ** 2 / number
    within = weights @ centred**2 - (sums**2 / np.maximum(sizes, 1.0)).sum(axis=1)
    freedom = number - (sizes > 0).sum(axis=1)
    per_freedom = within / np.maximum(freedom, 1.0)
    defined = (total > 1e-12 * len(figures) * max(1e-12, float(np.square(figures).max()))) & (freedom > 0)
    share = 1.0 - per_freedom * (number - 1) / np.where(defined, total, 1.0)
    return np.where(defined, np.clip(share, 0.0, 1.0), 0.0)
