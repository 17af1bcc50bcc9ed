"""How sure a mean over seeds is: its variance over images and over seeds, and an interval of 95 %.

docs/statistics.md has the formulas. A configuration's value is a mean over seeds, measured on a sample of images. Both
would come out otherwise another time: the images' part is known from resampling them, the seeds' part from how the
seeds differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

CAUTION = 0.5
"""The seeds' variances of configurations are taken to differ by so many standard errors more than they seem to: taking
them for alike where they are not leads to claims that are false, in simulated sweeps."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval of 95 %, both ends included."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Estimates:
    """What is known of one figure (a metric's mean, or its value of a class) of K configurations.

    Attributes:
        means: float64 (K,), over seeds.
        seeds: int64 (K,), at least 1.
        image_covariance: float64 (K, K): of two configurations' means, over images, as all seeds have it in common; of
            a configuration with one seed the variance of that one. Zeros where images were not resampled.
        image_df: degrees of freedom of all these.
        seed_variance: float64 (K,), of one seed's value about the configuration's mean; 0 for one seed.
        seed_df: float64 (K,), degrees of freedom of these; infinite for one seed.
        prior_df: how many of these they have in common: 0 where each was estimated by itself.
    """

    means: Floats
    seeds: NDArray[np.int64]
    image_covariance: Floats
    image_df: float
    seed_variance: Floats
    seed_df: Floats
    prior_df: float

    @property
    def seed_part(self) -> Floats:
        """float64 (K,): the variance of a mean that comes of the seeds."""
        return self.seed_variance / self.seeds


@dataclass(frozen=True, eq=False)
class Resampled:
    """Values on resamples of the images, the same resamples for all.

    Attributes:
        values: of each configuration float (S, B), S seeds.
        images: how many the figure rests on.
        factor: of the variance, see `Resampling.variance_factor`.
    """

    values: Sequence[NDArray[np.floating[Any]]]
    images: int
    factor: float


def estimate(values: Sequence[Floats], resampled: Resampled | None) -> Estimates:
    """The parts of the variance of configurations' means.

    Args:
        values: of each configuration float64 (S,), one a seed.
        resampled: the same with images resampled; None where the images are not known.
    """
    seeds = np.array([len(one) for one in values], np.int64)
    own = np.array([one.var(ddof=1) if len(one) > 1 else 0.0 for one in values])
    if resampled is None:
        covariance, least = np.zeros((len(values), len(values))), np.zeros(len(values))
        image_df = float("inf")
    else:
        covariance, least = _image_covariance(resampled)
        image_df = float(max(1, min(resampled.images, resampled.values[0].shape[1]) - 1))
    seed_variance, seed_df, prior_df = moderated(own, seeds - 1)
    return Estimates(
        means=np.array([one.mean() for one in values]),
        seeds=seeds,
        image_covariance=covariance,
        image_df=image_df,
        seed_variance=np.where(seeds > 1, np.maximum(seed_variance, least), 0.0),
        seed_df=seed_df,
        prior_df=prior_df,
    )


def _image_covariance(resampled: Resampled) -> tuple[Floats, Floats]:
    """The covariance (K, K) of means over images, and the part (K,) of one seed's variance that seeds do not share.

    Two seeds of a configuration do not fail on the same images. What each has of its own is part of how the seeds
    differ, and must not count twice: so the variance of a mean is that which any two seeds have in common.
    """
    seeds = np.array([len(one) for one in resampled.values])
    first = np.cumsum(seeds) - seeds
    apart = np.concatenate(resampled.values).astype(np.float64)  # (T, B)
    apart -= apart.mean(axis=1, keepdims=True)
    factor = resampled.factor / (apart.shape[1] - 1)
    means = np.add.reduceat(apart, first) / seeds[:, None]  # (K, B)
    covariance = means @ means.T * factor
    single = np.add.reduceat(np.einsum("tb,tb->t", apart, apart), first) / seeds * factor  # (K,), of one seed
    of_mean = np.diag(covariance).copy()
    several = seeds > 1
    shared = of_mean.copy()
    shared[several] = np.maximum(
        0.0, (seeds * of_mean - single)[several] / (seeds[several] - 1)
    )  # the mean of all covariances of two seeds
    np.fill_diagonal(covariance, shared)
    return covariance, np.where(several, np.maximum(0.0, single - shared), 0.0)


def moderated(variances: Floats, df: NDArray[np.int64]) -> tuple[Floats, Floats, float]:
    """Variances of few values each, drawn towards each other as far as they look alike.

    With three seeds a variance has two degrees of freedom and tells little by itself; a sweep has many of them.

    Args:
        variances: float64 (K,), unbiased.
        df: int64 (K,), degrees of freedom of each; 0 where there is no variance.

    Returns:
        float64 (K,) variances and their degrees of freedom, those with df 0 keep theirs, with infinite ones; and how
        many degrees of freedom come of the others: 0 where they stay as they are, infinite where all become one.

    Source: G. K. Smyth, Linear Models and Empirical Bayes Methods for Assessing Differential Expression in Microarray
        Experiments, Stat. Appl. Genet. Mol. Biol. 3(1), 2004, sections 3 and 6.2; limma (R), fitFDist and squeezeVar.
    """
    known = df > 0
    result, result_df = variances.astype(np.float64), np.where(known, df, np.inf)
    if np.count_nonzero(known) < 2 or not np.any(variances[known] > 0):
        return result, result_df, 0.0
    own, own_df = variances[known], df[known].astype(np.float64)
    prior, prior_df = _prior(own, own_df)
    if np.isinf(prior_df):
        result[known] = prior
    else:
        result[known] = (prior_df * prior + own_df * own) / (prior_df + own_df)
    result_df[known] = np.minimum(own_df + prior_df, own_df.sum())
    return result, result_df, prior_df


def _prior(variances: Floats, df: Floats) -> tuple[float, float]:
    """The variance they are drawn to and how many degrees of freedom it is worth; infinite where they are alike.

    Where they are not, it is their geometric mean. limma takes a smaller one, right for one distribution of variances.
    """
    from scipy.special import digamma, polygamma

    positive = np.maximum(variances, 1e-5 * np.mean(variances))  # the logarithm of 0 would outweigh all others
    logs = np.log(positive) - digamma(df / 2) + np.log(df / 2)
    expected = float(np.mean(polygamma(1, df / 2)))  # the variance of `logs` if all variances are the same
    error = float(np.sqrt((np.mean(polygamma(3, df / 2)) + 2 * expected**2) / len(logs)))  # of that, estimated
    excess = float(np.var(logs, ddof=1)) - expected + CAUTION * error
    if excess <= 0:
        return float(np.sum(df * variances) / np.sum(df)), float("inf")
    prior_df = 2 * _inverse_trigamma(excess)
    return float(np.exp(np.mean(logs))), prior_df


def _inverse_trigamma(value: float) -> float:
    """By Newton's method on 1 / trigamma, which is nearly straight. Source: Smyth 2004, appendix."""
    from scipy.special import polygamma

    if value > 1e7:
        return float(1 / np.sqrt(value))
    if value < 1e-6:
        return 1 / value
    found = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, found))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, found))
        found += step
        if -step / found < 1e-8:
            break
    return found


def intervals(found: Estimates, *, low: float = 0.0, high: float = 1.0) -> list[Interval | None]:
    """The interval of each configuration's mean; None where nothing is known of how it would vary.

    Args:
        low: the least value that the figure can have.
        high: the greatest.
    """
    from scipy.special import stdtrit

    image_part = np.diag(found.image_covariance)
    variance = image_part + found.seed_part
    df = degrees_of_freedom(image_part, found.image_df, found.seed_part, found.seed_df)
    half = stdtrit(df, (1 + CONFIDENCE) / 2) * np.sqrt(variance)
    unknown = (found.seeds == 1) & (image_part == 0)
    return [
        None if nothing else Interval(float(mean), float(max(low, mean - width)), float(min(high, mean + width)))
        for mean, width, nothing in zip(found.means, half, unknown, strict=True)
    ]


def degrees_of_freedom(image_part: Floats, image_df: float, seed_part: Floats, seed_df: Floats) -> Floats:
    """Of a sum of two estimated variances: F. E. Satterthwaite, Biometrics Bulletin 2(6), 1946. At least 1."""
    total = (image_part + seed_part) ** 2
    doubt = image_part**2 / image_df + seed_part**2 / seed_df
    return np.maximum(1.0, np.divide(total, doubt, out=np.full_like(total, 1e6), where=doubt > 0))
