"""Metrics of weighted images, against the metrics themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from random_split import CLASSES, random_found, random_truth, split_of

from experiments.report.resampling import weighted_values
from wsol.boxes import Detections
from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections, measure
from wsol.matches import matches
from wsol.metrics.names import parse_metric

METRICS = (
    "ap50_11pt",
    "ap50_area",
    "ap30_11pt",
    "ap75_area",
    "corloc50",
    "proposal_recall50",
    "cls_ap",
    "point_ap",
    "pointing_game",
)


def per_class(found: SplitDetections, split: EvaluationSplit, metric: str) -> NDArray[np.float64]:
    measured = measure(found, split, metrics=[metric])
    values = [measured[f"{metric}/{name}"] for name in CLASSES]
    return np.array([math.nan if value is None else value for value in values])


def weighted(
    found: SplitDetections, split: EvaluationSplit, metric: str, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(weighted_values(matches(found, split, parse_metric(metric)), weights[:, None])[:, 0])


def repeated(
    found: SplitDetections, split: EvaluationSplit, times: NDArray[np.int64]
) -> tuple[SplitDetections, EvaluationSplit]:
    """Each image so many times, one after the other."""
    rows = np.repeat(np.arange(len(times)), times)
    ends = np.cumsum([len(truth.labels) for truth in split.ground_truth])
    assert found.top_boxes is not None
    assert found.proposal_overlap is not None
    overlaps = np.split(found.proposal_overlap, ends[:-1])
    images = tuple(replace(split.images[row], id=f"{number:06d}") for number, row in enumerate(rows))
    more = SplitDetections(
        image_ids=tuple(record.id for record in images),
        classes=found.classes,
        detections=tuple(found.detections[row] for row in rows),
        class_scores=found.class_scores[rows],
        points=found.points[rows],
        top_boxes=found.top_boxes[rows],
        proposal_overlap=np.concatenate([overlaps[row] for row in rows]),
    )
    truth = tuple(split.ground_truth[row] for row in rows)
    return more, replace(split, images=images, labels=split.labels[rows], ground_truth=truth)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct scores", "ties"])
class TestWeights:
    def test_of_one_give_the_metric(self, metric: str, coarse: bool) -> None:
        for seed in range(5):
            rng = np.random.default_rng(seed)
            split = split_of(random_truth(rng, images=40))
            found = random_found(rng, split, coarse=coarse)
            expected = per_class(found, split, metric)
            np.testing.assert_allclose(
                weighted(found, split, metric, np.ones(40)), expected, rtol=0, atol=1e-12, equal_nan=True
            )
            assert np.isnan(expected).tolist() == [False, False, False, True]
            assert np.nanmax(expected) > 0

    def test_that_are_whole_give_the_metric_of_repeated_images(self, metric: str, coarse: bool) -> None:
        for seed in range(5):
            rng = np.random.default_rng(seed)
            split = split_of(random_truth(rng, images=40))
            found = random_found(rng, split, coarse=coarse)
            times = rng.integers(0, 4, 40)
            expected = per_class(*repeated(found, split, times), metric)
            np.testing.assert_allclose(
                weighted(found, split, metric, times.astype(np.float64)), expected, rtol=0, atol=1e-12, equal_nan=True
            )

    def test_do_not_count_by_their_scale(self, metric: str, coarse: bool) -> None:
        rng = np.random.default_rng(0)
        split = split_of(random_truth(rng, images=40))
        found = random_found(rng, split, coarse=coarse)
        weights = rng.exponential(size=40)
        np.testing.assert_allclose(
            weighted(found, split, metric, weights), weighted(found, split, metric, 7 * weights), equal_nan=True
        )


@pytest.mark.parametrize("metric", METRICS)
def test_a_class_of_which_nothing_weighs_is_undefined(metric: str) -> None:
    rng = np.random.default_rng(3)
    split = split_of(random_truth(rng, images=30))
    found = random_found(rng, split)
    without_cats = np.array([float(not (truth.labels == 0).any()) for truth in split.ground_truth])
    values = weighted(found, split, metric, without_cats)
    assert np.isnan(values).tolist() == [True, False, False, True]


@pytest.mark.parametrize("metric", ["ap50_11pt", "ap50_area"])
def test_nothing_detected_is_0(metric: str) -> None:
    rng = np.random.default_rng(3)
    split = split_of(random_truth(rng, images=30))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    found = replace(random_found(rng, split), detections=(nothing,) * 30)
    np.testing.assert_array_equal(weighted(found, split, metric, np.ones(30)), [0, 0, 0, np.nan])


def test_a_metric_that_has_no_share_of_an_image_is_refused() -> None:
    rng = np.random.default_rng(0)
    split = split_of(random_truth(rng, images=3))
    found = random_found(rng, split)
    with pytest.raises(ValueError, match=r"got maxboxacc_v2, whose images cannot be weighted: it would take drawing"):
        matches(found, split, parse_metric("maxboxacc_v2"))


def test_other_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    split = split_of(random_truth(rng, images=3))
    found = random_found(rng, split_of(random_truth(rng, images=4)))
    with pytest.raises(
        ValueError, match="got detections of 4 images, '000003' among them; expected the 3 of split val"
    ):
        matches(found, split, parse_metric("corloc50"))
