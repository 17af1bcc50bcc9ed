"""Metrics on resampled images: each image counts as often as it weighs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsol.metrics.matches import Matches, RankedMatches, Shares

Weights = NDArray[np.floating[Any]]

RESAMPLES = 400
"""Bootstrap resamples: a standard error has an error of 1 / sqrt(2 * 400) = 3.5 %."""
SPLITS = 20
"""How often the images are divided into two halves."""


@dataclass(frozen=True)
class Resampling:
    """Which resamples of a split's images there are: the same for every trial, so that trials can be compared.

    Attributes:
        resamples: Bayesian bootstrap. Weights that are spread like those of a resample with replacement, but never 0:
            a class that few images show stays defined.
        splits: into two random halves; weight 1 in one half and 0 in the other.
    """

    resamples: int = RESAMPLES
    splits: int = SPLITS

    @property
    def columns(self) -> int:
        """Of the weights, and of what is computed by them: the resamples, then each split's first and second half."""
        return self.resamples + 2 * self.splits

    def weights(self, images: int) -> NDArray[np.float32]:
        """float32 (I, columns), at least 0.

        Source: D. B. Rubin, The Bayesian Bootstrap, Annals of Statistics 9(1), 1981.
        """
        generator = np.random.default_rng(_seed(f"images of a split, {images}"))
        drawn = generator.standard_exponential((images, self.resamples), dtype=np.float32)
        drawn /= np.maximum(drawn.mean(axis=0), np.finfo(np.float32).tiny)
        first = np.zeros((images, self.splits), np.float32)
        for split in range(self.splits):
            first[generator.permutation(images)[: images // 2], split] = 1
        halves = np.stack([first, 1 - first], axis=2).reshape(images, 2 * self.splits)
        return np.hstack([drawn, halves])

    def variance_factor(self, images: int) -> float:
        """What the variance over the resamples is multiplied by to be that over samples of so many images.

        The weights of the bootstrap vary a little less than they should: (n + 1) / (n - 1), exact for a mean.
        """
        return (images + 1) / max(images - 1, 1)


def _seed(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def weighted_values(matches: Matches, weights: Weights) -> Weights:
    """A metric with images weighted.

    Args:
        matches: what the metric counts.
        weights: float (I, R), at least 0, in the precision to compute in; each column is one weighting.

    Returns:
        float (C, R); NaN where nothing that weighs anything was to be found.
    """
    if isinstance(matches, Shares):
        return _shares(matches, weights)
    return _average_precisions(matches, weights)


def _shares(matches: Shares, weights: Weights) -> Weights:
    hits = matches.hits.T.astype(weights.dtype) @ weights
    return _quotient(hits, matches.counted.T.astype(weights.dtype) @ weights)


def _average_precisions(matches: RankedMatches, weights: Weights) -> Weights:
    steps = int(matches.steps.sum())
    true = _sums(matches.true_steps, matches.true_images, steps, weights)
    false = _sums(matches.false_steps, matches.false_images, steps, weights)
    positives = matches.positives.T.astype(weights.dtype) @ weights  # (C, R)
    values = np.zeros_like(positives)
    ends = np.cumsum(matches.steps).tolist()
    for label, (count, end) in enumerate(zip(matches.steps.tolist(), ends, strict=True)):
        if count:
            part = slice(end - count, end)
            values[label] = _average_precision(true[part], false[part], positives[label], curve=matches.curve)
    values[positives <= 0] = np.nan
    return values


def _sums(steps: NDArray[np.int64], images: NDArray[np.int64], count: int, weights: Weights) -> Weights:
    """(count, R): of each step the weights of the images that are in it."""
    from scipy.sparse import csr_array

    ones = np.ones(len(steps), weights.dtype)
    found: Weights = csr_array((ones, (steps, images)), shape=(count, len(weights))) @ weights
    return found


def _average_precision(true: Weights, false: Weights, positives: Weights, *, curve: str) -> Weights:
    """Of one class: (R,), from the weights that each step (S, R) adds."""
    found = np.cumsum(true, axis=0)
    precision = _quotient(found, found + np.cumsum(false, axis=0), otherwise=0.0)
    if curve != "steps":  # a step without weight has a lower precision than the one before it: it is never the best
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if curve == "11pt":
        return _mean_at_11_recalls(precision, found, positives)
    return _quotient((true * precision).sum(axis=0), positives)


def _mean_at_11_recalls(best: Weights, found: Weights, positives: Weights) -> Weights:
    """`best` (S, R) is the best precision at a step or a later one, `found` (S, R) what is found up to it."""
    total = best[0].copy()  # recall 0 is reached by anything
    columns = np.arange(best.shape[1])
    padded = np.vstack([best, np.zeros_like(best[:1])])  # a recall that is not reached has precision 0
    rounding = 1 - 100 * np.finfo(best.dtype).eps  # sums of weights may miss a recall that they reach
    for tenth in range(1, 11):
        below = 10 * found < tenth * positives * rounding
        total += padded[np.count_nonzero(below, axis=0), columns]
    mean: Weights = total / 11
    return mean


def _quotient(over: Weights, under: Weights, *, otherwise: float = float("nan")) -> Weights:
    return np.divide(over, under, out=np.full_like(over, otherwise), where=under > 0)
