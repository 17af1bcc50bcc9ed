"""What choosing a configuration for each class would gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_matches import Simulation

from experiments.report.class_choice import ClassFigures, cross_fitted_gain
from experiments.report.intervals import Interval
from experiments.report.resampling import Resampling

SIMULATION = Simulation(better=(0.0,) * 6, images=80, classes=5, resampling=Resampling(resamples=100, splits=8))


def gain(figures: ClassFigures, *, sign: float = 1.0) -> Interval:
    found = cross_fitted_gain(figures, sign=sign, generator=np.random.default_rng(0))
    assert found is not None
    return found


def naive_gain(figures: ClassFigures) -> float:
    means = np.stack([figures.values[figures.configuration == k].mean(axis=0) for k in range(figures.count)])
    return float(means.max(axis=0).mean() - means.mean(axis=1).max())


def with_better_classes(figures: ClassFigures, by: float) -> ClassFigures:
    """Configuration k is better by so much in class k, for all images."""
    shift = np.zeros((figures.count, figures.values.shape[1]))
    for index in range(min(shift.shape)):
        shift[index, index] = by
    of_trial = shift[figures.configuration]
    return replace(
        figures,
        values=figures.values + of_trial,
        resampled=figures.resampled + of_trial[:, :, None].astype(np.float32),
        halves=figures.halves + of_trial[:, :, None].astype(np.float32),
    )


def test_of_equal_configurations_is_none() -> None:
    """The naive one shows what it is corrected for."""
    rng = np.random.default_rng(0)
    sweeps = [SIMULATION.sweep(rng).class_figures() for _ in range(20)]
    found = [gain(one) for one in sweeps]
    assert np.mean([naive_gain(one) for one in sweeps]) > 0.012
    assert abs(np.mean([one.estimate for one in found])) < 0.006
    assert sum(one.low > 0 for one in found) <= 2


def test_that_is_there_is_found() -> None:
    """Five classes, each with a configuration that is better by 0.3 there: the best one on average has 0.06 of it."""
    rng = np.random.default_rng(0)
    found = [gain(with_better_classes(SIMULATION.sweep(rng).class_figures(), 0.3)) for _ in range(10)]
    assert np.mean([one.estimate for one in found]) == pytest.approx(0.24, abs=0.02)
    assert all(one.low > 0 for one in found)
    assert sum(one.low <= 0.24 <= one.high for one in found) >= 8


def test_where_less_is_better() -> None:
    rng = np.random.default_rng(0)
    figures = with_better_classes(SIMULATION.sweep(rng).class_figures(), 0.3)
    turned = replace(figures, values=-figures.values, resampled=-figures.resampled, halves=-figures.halves)
    assert gain(turned, sign=-1.0) == gain(figures)


def test_of_one_class_is_0() -> None:
    rng = np.random.default_rng(0)
    figures = SIMULATION.sweep(rng).class_figures()
    one = replace(
        figures, values=figures.values[:, :1], resampled=figures.resampled[:, :1], halves=figures.halves[:, :1]
    )
    assert gain(one) == Interval(0.0, 0.0, 0.0)


def test_seeds_are_on_one_side() -> None:
    """A seed that is good by chance must not choose and be measured: with two seeds each is on one side."""
    figures = replace(SIMULATION, seeds=2, seed_spread=0.0).sweep(np.random.default_rng(0)).class_figures()
    lucky = np.zeros_like(figures.values)
    lucky[0, 0] = 0.5  # configuration 0, first seed, first class
    shifted = replace(
        figures,
        values=figures.values + lucky,
        resampled=figures.resampled + lucky[:, :, None].astype(np.float32),
        halves=figures.halves + lucky[:, :, None].astype(np.float32),
    )
    assert gain(shifted).low < 0


def test_a_class_that_a_half_does_not_show_is_left_out_there() -> None:
    figures = SIMULATION.sweep(np.random.default_rng(0)).class_figures()
    halves = figures.halves.copy()
    halves[:, 0, 0::2] = np.nan
    found = gain(replace(figures, halves=halves))
    assert np.isfinite([found.low, found.estimate, found.high]).all()


def test_without_any_class_in_both_halves_it_is_unknown() -> None:
    figures = SIMULATION.sweep(np.random.default_rng(0)).class_figures()
    nothing = replace(figures, halves=np.full_like(figures.halves, np.nan))
    assert cross_fitted_gain(nothing, sign=1.0, generator=np.random.default_rng(0)) is None
