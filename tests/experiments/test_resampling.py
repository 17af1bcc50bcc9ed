"""The resamples of images. What metrics come to on them: tests/wsol/test_matches.py."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.report.resampling import Resampling, weighted_values
from wsol.metrics.matches import Shares

RESAMPLING = Resampling(resamples=4000, splits=6)


class TestWeights:
    def test_are_the_same_each_time(self) -> None:
        np.testing.assert_array_equal(RESAMPLING.weights(7), RESAMPLING.weights(7))

    def test_of_other_numbers_of_images_are_others(self) -> None:
        assert not np.array_equal(RESAMPLING.weights(7), RESAMPLING.weights(8)[:7])

    def test_of_a_resample_have_mean_1_and_are_never_0(self) -> None:
        weights = RESAMPLING.weights(50)[:, :4000]
        np.testing.assert_allclose(weights.mean(axis=0), 1, rtol=1e-5)
        assert weights.min() > 0

    def test_vary_like_those_of_the_bayesian_bootstrap(self) -> None:
        """Dirichlet: variance (n - 1) / (n + 1), correlation -1 / (n - 1)."""
        weights = RESAMPLING.weights(5)[:, :4000].astype(np.float64)
        covariance = np.cov(weights)
        np.testing.assert_allclose(np.diag(covariance), 4 / 6, rtol=0.1)
        np.testing.assert_allclose(covariance[~np.eye(5, dtype=bool)], -1 / 6, rtol=0.3)

    @pytest.mark.parametrize(("images", "first"), [(9, 4), (10, 5), (1, 0)])
    def test_of_halves_divide_the_images(self, images: int, first: int) -> None:
        halves = RESAMPLING.weights(images)[:, 4000:]
        assert halves.shape == (images, 12)
        np.testing.assert_array_equal(halves[:, 0::2] + halves[:, 1::2], 1)
        np.testing.assert_array_equal(halves[:, 0::2].sum(axis=0), first)

    def test_halves_differ(self) -> None:
        assert len(np.unique(RESAMPLING.weights(40)[:, 4000::2], axis=1).T) == 6


def test_the_variance_of_a_mean_is_that_of_samples() -> None:
    """Of a share the unbiased variance is p (1 - p) / (n - 1), over samples of images."""
    hits = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 0])[:, None]
    shares = Shares(hits=hits, counted=np.ones_like(hits))
    values = weighted_values(shares, RESAMPLING.weights(10)[:, :4000].astype(np.float64))[0]
    expected = 0.3 * 0.7 / 9
    assert values.var(ddof=1) * RESAMPLING.variance_factor(10) == pytest.approx(expected, rel=0.08)


def test_one_image_has_no_variance_to_correct() -> None:
    assert RESAMPLING.variance_factor(1) == 2.0
    assert RESAMPLING.variance_factor(3) == 2.0
