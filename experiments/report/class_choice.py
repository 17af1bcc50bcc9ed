"""What choosing a configuration for each class by itself would gain over the best one on average.

The best of many figures is too good: chosen on the same images and seeds that it is measured on, each class seems to
gain something even where all configurations are equal. So it is chosen on one half of the images and of the seeds and
measured on the other, then the other way round, for many divisions into halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.report.intervals import CONFIDENCE, Floats, Interval


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """A metric of all trials, class by class.

    Attributes:
        values: float64 (T, C) of the images as they are. Only classes that are defined in all trials.
        resampled: float32 (T, C, B), on resamples of the images.
        halves: float32 (T, C, 2 H), on each division's first and second half; NaN where a half shows no such class.
        configuration: int64 (T,), the index of each trial's configuration.
        factor: of the variance over resamples, see `Resampling.variance_factor`.
    """

    values: Floats
    resampled: NDArray[np.float32]
    halves: NDArray[np.float32]
    configuration: NDArray[np.int64]
    factor: float

    @property
    def count(self) -> int:
        """K, of configurations."""
        return int(self.configuration.max()) + 1

    @property
    def seeds(self) -> NDArray[np.int64]:
        """int64 (K,)."""
        return np.bincount(self.configuration, minlength=self.count)


def cross_fitted_gain(figures: ClassFigures, *, sign: float, generator: np.random.Generator) -> Interval | None:
    """The gain in the mean over classes, with an interval of 95 %.

    The interval takes the shares in which configurations were chosen as given.

    Args:
        sign: 1 where more is better, -1 where less is.
        generator: divides the seeds.

    Returns:
        None where no division leaves a class in both halves, or nothing is known of how the gain would vary.
    """
    shares = _shares_of_choice(figures, sign=sign, generator=generator)
    if shares is None:
        return None
    estimate, contrast = shares
    return _interval(figures, sign * estimate, contrast)


def _shares_of_choice(
    figures: ClassFigures, *, sign: float, generator: np.random.Generator
) -> tuple[float, Floats] | None:
    """The mean gain, and float64 (K, C): in what share of choices each configuration stood for a class, less the best.

    Their product with the configurations' figures is what the gain is an estimate of.
    """
    gains: list[float] = []
    contrast = np.zeros((figures.count, figures.values.shape[1]))
    for division in range(figures.halves.shape[2] // 2):
        groups = _halves_of_seeds(figures, generator)
        for choose, measure in ((0, 1), (1, 0)):
            chosen_on = groups[choose] @ figures.halves[:, :, 2 * division + choose].astype(np.float64)  # (K, C)
            measured_on = groups[measure] @ figures.halves[:, :, 2 * division + measure].astype(np.float64)
            defined = np.flatnonzero(~np.isnan(chosen_on + measured_on).any(axis=0))
            if not defined.size:
                continue
            by_class = np.argmax(sign * chosen_on[:, defined], axis=0)
            overall = int(np.argmax(sign * chosen_on[:, defined].mean(axis=1)))
            gains.append(float(np.mean(measured_on[by_class, defined] - measured_on[overall, defined])))
            contrast[by_class, defined] += 1 / defined.size
            contrast[overall, defined] -= 1 / defined.size
    if not gains:
        return None
    return float(np.mean(gains)), contrast / len(gains)


def _halves_of_seeds(figures: ClassFigures, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Two (K, T): the means over one half of each configuration's seeds, and over the other; one seed is in both."""
    halves = np.zeros((2, figures.count, len(figures.configuration)))
    for index, seeds in enumerate(figures.seeds.tolist()):
        trials = generator.permutation(np.flatnonzero(figures.configuration == index))
        first, second = (trials, trials) if seeds == 1 else (trials[: seeds // 2], trials[seeds // 2 :])
        if generator.integers(2):  # of three seeds either half may be the larger
            first, second = second, first
        halves[0, index, first] = 1 / len(first)
        halves[1, index, second] = 1 / len(second)
    return halves[0], halves[1]


def _interval(figures: ClassFigures, estimate: float, contrast: Floats) -> Interval | None:
    """Of the sum of the configurations' figures, each weighted by its share."""
    from scipy.stats import t as student

    weights = contrast[figures.configuration]  # (T, C)
    values = (weights * figures.values).sum(axis=1)
    resampled = np.einsum("tc,tcb->tb", weights.astype(np.float32), figures.resampled).astype(np.float64)
    means = [resampled[figures.configuration == index].mean(axis=0) for index in range(figures.count)]
    image_part = float(np.var(np.sum(means, axis=0), ddof=1)) * figures.factor
    seed_part = doubt = 0.0
    for index, seeds in enumerate(figures.seeds.tolist()):
        if seeds > 1:
            part = float(values[figures.configuration == index].var(ddof=1)) / seeds
            seed_part += part
            doubt += part**2 / (seeds - 1)
    variance = image_part + seed_part
    if variance == 0:
        return None if estimate else Interval(0.0, 0.0, 0.0)
    df = variance**2 / (doubt + image_part**2 / max(resampled.shape[1] - 1, 1))
    width = float(student.ppf((1 + CONFIDENCE) / 2, max(1.0, df))) * float(np.sqrt(variance))
    return Interval(estimate, estimate - width, estimate + width)
