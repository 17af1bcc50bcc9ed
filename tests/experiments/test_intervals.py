"""Intervals of means over seeds and images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from simulated_matches import Simulation

from experiments.report.intervals import (
    Estimates,
    Interval,
    Resampled,
    degrees_of_freedom,
    estimate,
    intervals,
    moderated,
)


def known(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def values(*seeds: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(seeds)


class TestSeedsAlone:
    def test_one_configuration_has_the_interval_of_a_t_test(self) -> None:
        seeds = [0.30, 0.34, 0.41]
        found = known(intervals(estimate([values(*seeds)], None))[0])
        low, high = stats.t.interval(0.95, 2, loc=np.mean(seeds), scale=stats.sem(seeds))
        assert (found.low, found.estimate, found.high) == pytest.approx((low, 0.35, high))

    def test_configurations_that_vary_alike_share_their_variance(self) -> None:
        """Tukey's: 4 degrees of freedom in place of 2."""
        two = [values(0.30, 0.34, 0.41), values(0.50, 0.54, 0.60)]
        found = estimate(two, None)
        if not math.isinf(found.prior_df):
            pytest.skip("these are not taken for alike")
        assert found.seed_df.tolist() == [4, 4]
        assert found.seed_variance == pytest.approx(np.mean([np.var(one, ddof=1) for one in two]))

    def test_a_seed_alone_tells_nothing(self) -> None:
        assert intervals(estimate([values(0.5)], None)) == [None]
        assert intervals(estimate([values(0.5), values(0.1, 0.2)], None))[0] is None

    def test_seeds_that_are_equal_leave_no_doubt(self) -> None:
        assert intervals(estimate([values(0.5, 0.5), values(0.25, 0.25)], None)) == [
            Interval(0.5, 0.5, 0.5),
            Interval(0.25, 0.25, 0.25),
        ]

    def test_ends_stay_in_the_range_of_the_metric(self) -> None:
        found = known(intervals(estimate([values(0.02, 0.98)], None))[0])
        assert (found.low, found.high) == (0.0, 1.0)


class TestImages:
    @staticmethod
    def resampled(*seeds: np.ndarray, images: int = 10**6) -> Resampled:
        return Resampled([np.stack(seeds)], images=images, factor=1.0)

    def test_what_seeds_have_in_common_counts_once_whatever_their_number(self) -> None:
        rng = np.random.default_rng(0)
        common, own = rng.normal(0, 0.02, 4000), rng.normal(0, 0.05, (3, 4000))
        found = estimate([values(0.5, 0.6, 0.7)], self.resampled(*(0.5 + common + one for one in own)))
        assert found.image_covariance[0, 0] == pytest.approx(0.02**2, rel=0.2)

    def test_what_each_has_of_its_own_is_in_how_seeds_differ(self) -> None:
        """Equal seeds: their variance is at least what resampling shows."""
        rng = np.random.default_rng(0)
        own = rng.normal(0, 0.05, (3, 4000))
        found = estimate([values(0.5, 0.5, 0.5)], self.resampled(*(0.5 + own)))
        assert found.seed_variance[0] == pytest.approx(0.05**2, rel=0.1)
        assert found.image_covariance[0, 0] < 0.05**2 / 20

    def test_one_seed_has_the_interval_of_the_images(self) -> None:
        rng = np.random.default_rng(0)
        drawn = rng.normal(0.5, 0.03, 4000)
        found = known(intervals(estimate([values(0.5)], self.resampled(drawn)))[0])
        assert found.high - found.low == pytest.approx(2 * 1.96 * drawn.std(ddof=1), rel=0.01)

    def test_few_images_have_few_degrees_of_freedom(self) -> None:
        drawn = np.random.default_rng(0).normal(0.5, 0.03, 4000)
        found = known(intervals(estimate([values(0.5)], self.resampled(drawn, images=4)))[0])
        assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 3) * drawn.std(ddof=1))


class TestModerated:
    def test_alike_variances_become_one(self) -> None:
        rng = np.random.default_rng(5)
        own = rng.chisquare(4, 200) / 4
        found, df, prior_df = moderated(own, np.full(200, 4))
        assert prior_df > 20
        assert np.ptp(found) < np.ptp(own) / 4
        assert found.mean() == pytest.approx(1, rel=0.1)
        assert df.min() > 20

    def test_different_ones_stay_different(self) -> None:
        rng = np.random.default_rng(5)
        true = np.exp(rng.normal(0, 2, 200))
        own = true * rng.chisquare(8, 200) / 8
        found, df, prior_df = moderated(own, np.full(200, 8))
        assert prior_df < 2
        assert np.corrcoef(np.log(found), np.log(true))[0, 1] > 0.9
        assert df.max() < 10

    def test_they_are_never_worth_more_than_all_of_them_together(self) -> None:
        _, df, _ = moderated(np.array([1.0, 1.1, 0.9]), np.full(3, 2))
        assert df.max() <= 6

    def test_what_has_no_variance_keeps_it(self) -> None:
        found, df, _ = moderated(np.array([0.0, 1.0, 1.2, 0.8]), np.array([0, 2, 2, 2]))
        assert found[0] == 0
        assert math.isinf(df[0])

    def test_one_variance_is_its_own(self) -> None:
        found, df, prior_df = moderated(np.array([0.3]), np.array([2]))
        assert (found.tolist(), df.tolist(), prior_df) == ([0.3], [2], 0.0)

    def test_a_zero_among_others_is_finite(self) -> None:
        found, _, _ = moderated(np.array([0.0, 1.0, 1.2, 0.8]), np.full(4, 2))
        assert np.isfinite(found).all()
        assert found[0] > 0


def test_degrees_of_freedom_are_those_of_the_part_that_counts() -> None:
    one, nothing = np.array([1.0]), np.array([0.0])
    assert degrees_of_freedom(one, 50, nothing, np.array([2.0])).tolist() == [50]
    assert degrees_of_freedom(nothing, 50, one, np.array([2.0])).tolist() == [2]
    assert degrees_of_freedom(one, 4, one, np.array([4.0])).tolist() == [8]
    assert degrees_of_freedom(nothing, 50, nothing, np.array([2.0])).tolist() == [1e6]  # nothing is in doubt


def coverage(simulation: Simulation, *, sweeps: int) -> tuple[float, float]:
    """How many intervals hold what all sweeps together have: of the mean over classes, and of a class."""
    rng = np.random.default_rng(0)
    found = [simulation.sweep(rng) for _ in range(sweeps)]
    return _share_that_holds([one.estimates() for one in found]), _share_that_holds([one.estimates(0) for one in found])


def _share_that_holds(every: list[Estimates]) -> float:
    truth = float(np.mean([one.means for one in every]))
    held = [known(one).low <= truth <= known(one).high for found in every for one in intervals(found)]
    return float(np.mean(held))


def test_coverage_of_some_sweeps() -> None:
    """40 sweeps of 12 configurations on the same images: the standard error is some 2 %."""
    mean, of_class = coverage(Simulation(), sweeps=40)
    assert 0.89 <= mean <= 0.99
    assert 0.89 <= of_class <= 0.99


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_spread", [0.0, 0.1, 0.3])
def test_coverage(seeds: int, seed_spread: float) -> None:
    """93 to 97 %; of 600 sweeps the standard error is 0.6 %."""
    mean, of_class = coverage(Simulation(seeds=seeds, seed_spread=seed_spread), sweeps=600)
    print(f"seeds {seeds}, spread {seed_spread}: coverage {mean:.3f} of the mean, {of_class:.3f} of a class")
    assert 0.93 <= mean <= 0.97
    assert 0.93 <= of_class <= 0.97
