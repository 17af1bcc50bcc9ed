"""What trials of simulated sweeps have matched: with effects of the images, of the seeds, and of both together.

Each image that shows a class has one object of it, and a detection that finds it or not; each image has a second
detection that is false. An image that is hard is so for all trials; a seed may be a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.report.class_choice import ClassFigures
from experiments.report.intervals import Estimates, Resampled, estimate
from experiments.report.resampling import Resampling, weighted_values
from wsol.metrics.average_precision import JudgedRankings, Ranking
from wsol.metrics.matches import Curve, RankedMatches, ranked_matches


@dataclass(frozen=True)
class Simulation:
    """How sweeps are drawn.

    Attributes:
        better: of each configuration, by how much it finds more than others, in logits; its length is their number.
        seed_spread: standard deviation of the seeds' effect, logits.
        image_spread: of the images' effect.
        own_spread: of what an image is for one trial alone.
    """

    better: Sequence[float] = (0.0,) * 12
    seeds: int = 3
    images: int = 100
    classes: int = 3
    seed_spread: float = 0.3
    image_spread: float = 1.0
    own_spread: float = 1.0
    curve: Curve = "area"
    resampling: Resampling = Resampling(resamples=200, splits=4)

    def sweep(self, rng: np.random.Generator) -> SimulatedSweep:
        shown = rng.random((self.images, self.classes)) < 0.4
        image_effect = rng.normal(0, self.image_spread, (self.images, self.classes))
        weights = self.resampling.weights(self.images)
        ones = np.ones((self.images, 1))
        values, resampled = [], []
        for better in self.better:
            for seed_effect in rng.normal(0, self.seed_spread, self.seeds):
                matches = self._trial(rng, shown, image_effect + better + seed_effect)
                values.append(weighted_values(matches, ones)[:, 0])
                resampled.append(weighted_values(matches, weights))
        return SimulatedSweep(self, np.stack(values), np.stack(resampled), np.count_nonzero(shown, axis=0))

    def _trial(self, rng: np.random.Generator, shown: NDArray[np.bool_], effect: NDArray[np.float64]) -> RankedMatches:
        quality = effect + rng.normal(0, self.own_spread, shown.shape)
        hits = shown & (quality > 0)
        scores = np.concatenate([quality + 0.5 * shown, rng.normal(0, 1, shown.shape)])  # (2 I, C)
        true = np.concatenate([hits, np.zeros_like(hits)])
        images = np.tile(np.arange(self.images), 2)
        rankings = {}
        for label in np.flatnonzero(shown.any(axis=0)).tolist():
            order = np.argsort(-scores[:, label])
            flags = true[order, label]
            rankings[label] = Ranking(flags, ~flags, images[order])
        return ranked_matches(JudgedRankings(rankings, shown.astype(np.int64)), curve=self.curve)


@dataclass(frozen=True, eq=False)
class SimulatedSweep:
    """The figures of its trials, seeds of a configuration side by side.

    Attributes:
        values: float64 (T, C).
        resampled: float32 (T, C, columns).
        shown: int64 (C,).
    """

    simulation: Simulation
    values: NDArray[np.float64]
    resampled: NDArray[np.float32]
    shown: NDArray[np.int64]

    def estimates(self, label: int | None = None) -> Estimates:
        """Of a class; None: of the mean over classes."""
        count = self.simulation.resampling.resamples
        images = self.simulation.images if label is None else int(self.shown[label])
        labels = slice(None) if label is None else slice(label, label + 1)
        values, resampled = self.values[:, labels].mean(axis=1), self.resampled[:, labels, :count].mean(axis=1)
        groups = len(self.simulation.better)
        factor = self.simulation.resampling.variance_factor(images)
        return estimate(np.split(values, groups), Resampled(np.split(resampled, groups), images, factor))

    def class_figures(self) -> ClassFigures:
        count = self.simulation.resampling.resamples
        return ClassFigures(
            values=self.values,
            resampled=self.resampled[:, :, :count],
            halves=self.resampled[:, :, count:],
            configuration=np.repeat(np.arange(len(self.simulation.better)), self.simulation.seeds),
            factor=self.simulation.resampling.variance_factor(self.simulation.images),
        )
