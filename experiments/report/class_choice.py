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

    Args:
        sign: 1 where more is better, -1 where less is.
        generator: divides the seeds.

    Returns:
        None where no division leaves a class in both halves, or nothing is known of how the gain would vary.
    """
    choices = _choices(figures, sign=sign, generator=generator)
    if not choices:
        return None
    estimate = sign * float(np.mean([gain for gain, _ in choices]))
    return _interval(figures, estimate, np.stack([contrast for _, contrast in choices]))


def _choices(figures: ClassFigures, *, sign: float, generator: np.random.Generator) -> list[tuple[float, Floats]]:
    """Of each half the gain on the other half by what is chosen on it, and the choice.

    A choice is float64 (K, C): what the gain is made of. It is 1 / C where a configuration stands for a class, less
    that where the best on average does.
    """
    found = []
    halves = np.ascontiguousarray(np.moveaxis(figures.halves, 2, 0), np.float64)  # (2 H, T, C)
    for division in range(len(halves) // 2):
        groups = _halves_of_seeds(figures, generator)
        for choose, measure in ((0, 1), (1, 0)):
            chosen_on = groups[choose] @ halves[2 * division + choose]  # (K, C)
            measured_on = groups[measure] @ halves[2 * division + measure]
            defined = np.flatnonzero(~np.isnan(chosen_on + measured_on).any(axis=0))
            if defined.size:
                by_class = np.argmax(sign * chosen_on[:, defined], axis=0)
                overall = int(np.argmax(sign * chosen_on[:, defined].mean(axis=1)))
                choice = np.zeros(chosen_on.shape)
                choice[by_class, defined] += 1 / defined.size
                choice[overall, defined] -= 1 / defined.size
                found.append((float((choice[:, defined] * measured_on[:, defined]).sum()), choice))
    return found


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


def _interval(figures: ClassFigures, estimate: float, choices: Floats) -> Interval | None:
    """Of the gain that is the mean over choices (N, K, C).

    Its variance is at least that of the mean choice, as if it had been made beforehand. Where the halves choose
    differently it is more: two halves that choose independently of each other give half the variance that one choice
    has on all images and seeds.
    """
    from scipy.special import stdtrit

    mean = choices.mean(axis=0, keepdims=True)
    of_mean = _variances(figures, mean)
    of_each = _variances(figures, choices)
    image_part, seed_part = (
        max(float(one[0]), float(each.mean()) / 2) for one, each in zip(of_mean, of_each, strict=True)
    )
    variance = image_part + seed_part
    if variance == 0:
        return None if estimate else Interval(0.0, 0.0, 0.0)
    seed_df = max(1.0, float(np.average(figures.seeds - 1, weights=np.abs(choices).sum(axis=(0, 2)))))
    df = variance**2 / (seed_part**2 / seed_df + image_part**2 / (figures.resampled.shape[2] - 1))
    width = float(stdtrit(max(1.0, df), (1 + CONFIDENCE) / 2)) * float(np.sqrt(variance))
    return Interval(estimate, estimate - width, estimate + width)


def _variances(figures: ClassFigures, choices: Floats) -> tuple[Floats, Floats]:
    """Of choices (N, K, C) made beforehand, on all images and seeds: the images' part and the seeds', (N,) each."""
    trials, count = figures.configuration, len(choices)
    weights = choices[:, trials] / figures.seeds[trials][:, None]  # (N, T, C)
    resampled = weights.reshape(count, -1).astype(np.float32) @ figures.resampled.reshape(weights[0].size, -1)
    image_part = resampled.astype(np.float64).var(axis=1, ddof=1) * figures.factor
    means = np.stack([figures.values[trials == index].mean(axis=0) for index in range(figures.count)])
    apart = ((figures.values - means[trials]) * weights).sum(axis=2) ** 2  # (N, T): of S seeds, over S squared
    seeds = figures.seeds[trials]
    of_each = np.where(seeds > 1, apart * seeds / np.maximum(seeds - 1, 1), 0.0)
    return image_part, of_each.sum(axis=1)
