"""Which configurations are worse than the best, though the best was chosen by looking.

The best of twelve equal configurations is better than another one by more than two of them differ, so a test of the
best against each other one that takes it for given finds differences that are not there. Here every pair is tested,
of which those with the best are some, whichever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.report.intervals import CONFIDENCE, Estimates, Floats, Interval, degrees_of_freedom

LEVEL = 1 - CONFIDENCE
MAX_PAIRS = 50_000
"""With more pairs, Holm's bound takes the place of the simulation."""
_ELEMENTS = 12_000_000
_DRAWS = (1_000, 10_000)
_CHUNK = 1_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Every pair of the K configurations that have several seeds.

    Attributes:
        first, second: int64 (P,), indices into the configurations.
        statistic: float64 (P,), the difference in standard errors, at least 0.
        p_values: float64 (P,), of each pair alone.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    statistic: Floats
    p_values: Floats


def difference(found: Estimates, first: int, second: int) -> Interval:
    """The first configuration's mean less the second's, with an interval of this pair alone.

    Of configurations with one seed it covers the images alone.
    """
    from scipy.special import stdtrit

    variance, df = _variance(found, np.array([first]), np.array([second]))
    width = float(stdtrit(df[0], (1 + CONFIDENCE) / 2) * np.sqrt(variance[0]))
    value = float(found.means[first] - found.means[second])
    return Interval(value, value - width, value + width)


def corrected_p_values(
    found: Estimates, best: int, *, generator: np.random.Generator, draws: int | None = None
) -> Floats:
    """For each configuration the p-value of its difference from the best, corrected for all pairs.

    Args:
        best: index of the configuration that all others are compared with.
        generator: of the simulation.
        draws: of the simulation; None: as many as there is time for, 1,000 to 10,000.

    Returns:
        float64 (K,); 1 for the best itself, and for pairs of which one has a single seed: nothing can be said of them.
    """
    result = np.ones(len(found.means))
    pairs = all_pairs(found)
    if not len(pairs.first):
        return result
    if len(pairs.first) > MAX_PAIRS:
        corrected = holm(pairs.p_values)
    else:
        draws = draws or int(np.clip(_ELEMENTS // len(pairs.first), *_DRAWS))
        corrected = step_down(found, pairs, generator=generator, draws=draws)
    for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        with_best = one == best
        result[other[with_best]] = corrected[with_best]
    return result


def all_pairs(found: Estimates) -> Pairs:
    """The pairs with their statistics; pairs that differ by 0 have the statistic 0."""
    from scipy.special import stdtr

    several = np.flatnonzero(found.seeds > 1)
    first, second = (several[index] for index in np.triu_indices(len(several), 1))
    variance, df = _variance(found, first, second)
    statistic = _standardized(np.abs(found.means[first] - found.means[second]), variance)
    return Pairs(first, second, statistic, 2 * stdtr(df, -statistic))


def seeds_needed(found: Estimates, first: int, second: int) -> float:
    """About how many seeds each would tell two configurations apart, if they differ by as much as they seem to.

    Returns:
        Infinite where no number of seeds would: where the images alone leave more doubt than they differ by.
    """
    from scipy.special import ndtri

    several = int(np.count_nonzero(found.seeds > 1))
    critical = -float(ndtri(LEVEL / 2 / max(1, several * (several - 1) // 2)))
    image_part = float(_image_part(found.image_covariance, np.array([first]), np.array([second]))[0])
    left = (float(found.means[first] - found.means[second]) / critical) ** 2 - image_part
    of_one_seed = float(found.seed_variance[first] + found.seed_variance[second])
    return float(np.ceil(of_one_seed / left)) if left > 0 else float("inf")


def holm(p_values: Floats) -> Floats:
    """Corrected p-values. Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def step_down(found: Estimates, pairs: Pairs, *, generator: np.random.Generator, draws: int) -> Floats:
    """Corrected p-values: Holm's steps with the distribution of the largest statistic in place of Bonferroni's bound.

    That distribution is simulated: equal configurations with the images' covariance and the seeds' variances as they
    were estimated, whose seeds' variances are estimated again each time.

    Source: P. H. Westfall, S. S. Young, Resampling-Based Multiple Testing, 1993, algorithm 2.8; J. P. Romano,
        M. Wolf, Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing, JASA 100, 2005.
    """
    order = np.argsort(pairs.statistic, kind="stable")  # the largest statistic last
    observed = pairs.statistic[order]
    ordered = Pairs(pairs.first[order], pairs.second[order], observed, pairs.p_values[order])
    simulation = _Simulation(found, ordered)
    exceeded = np.zeros(len(order), np.int64)
    left = draws
    while left:
        count = min(left, max(1, _CHUNK // len(order)))
        statistics = simulation.draw(count, generator)
        exceeded += np.count_nonzero(np.maximum.accumulate(statistics, axis=1) >= observed, axis=0)
        left -= count
    p_values = (1 + exceeded) / (1 + draws)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(p_values[::-1])[::-1]
    return corrected


class _Simulation:
    """Draws the statistics of pairs as they would be if all configurations were equal."""

    def __init__(self, found: Estimates, pairs: Pairs) -> None:
        self._found, self._pairs = found, pairs
        covariance = found.image_covariance
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        self._root = vectors * np.sqrt(np.maximum(values, 0.0))  # of the nearest matrix that is a covariance
        variance = _image_part(self._root @ self._root.T, pairs.first, pairs.second)
        self._image_variance = variance.astype(np.float32)

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """float32 (count, P)."""
        found, first, second = self._found, self._pairs.first, self._pairs.second
        size = (count, len(found.means))
        means = generator.standard_normal(size) @ self._root.T
        means += generator.standard_normal(size) * np.sqrt(found.seed_part)
        seed_part = (found.seed_part * self._variance_ratios(count, generator)).astype(np.float32)
        means = means.astype(np.float32)
        image_part = self._image_variance
        if np.isfinite(found.image_df):
            image_part = image_part * (generator.chisquare(found.image_df, (count, 1)) / found.image_df).astype(
                np.float32
            )
        return _standardized(
            np.abs(means[:, first] - means[:, second]), image_part + seed_part[:, first] + seed_part[:, second]
        )

    def _variance_ratios(self, count: int, generator: np.random.Generator) -> Floats:
        """(count, K): the seeds' variances as they would be estimated, over what they are. See `moderated`."""
        df = np.where(np.isfinite(self._found.seed_df), self._found.seed_df, 1.0)
        together = np.isinf(self._found.prior_df)
        ratios: Floats = generator.chisquare(df.max() if together else df, (count, 1 if together else len(df))) / df
        return ratios


def _variance(found: Estimates, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The variance of differences of means, and its degrees of freedom."""
    image_part = _image_part(found.image_covariance, first, second)
    parts, dfs = found.seed_part, found.seed_df
    seed_part = parts[first] + parts[second]
    if np.isinf(found.prior_df):  # one variance for all
        seed_df = dfs[first]
    else:
        doubt = parts[first] ** 2 / dfs[first] + parts[second] ** 2 / dfs[second]
        seed_df = np.divide(seed_part**2, doubt, out=np.full_like(seed_part, np.inf), where=doubt > 0)
    return image_part + seed_part, degrees_of_freedom(image_part, found.image_df, seed_part, seed_df)


def _image_part(covariance: Floats, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    own = np.diag(covariance)
    part: Floats = np.maximum(0.0, own[first] + own[second] - 2 * covariance[first, second])
    return part


def _standardized(differences: NDArray[Any], variance: NDArray[Any]) -> NDArray[Any]:
    """Differences (at least 0) in standard errors; of a difference without any variance infinite, of none 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(differences > 0, differences / np.sqrt(variance), differences)
