"""Oquab's point localization: does the peak of a class's score map lie on an object? See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.boxes import GroundTruth
from wsol.metrics.average_precision import JudgedRankings, Ranking, average_precision_area
from wsol.metrics.classification import check_image_scores
from wsol.metrics.instances import flatten
from wsol.metrics.ranking import descending_order

TOLERANCE_PX = 18.0
"""Half the pooling ratio of Oquab's network, 36 px. Source: Oquab et al., CVPR 2015."""


def point_localization_average_precision(
    ground_truth: Sequence[GroundTruth],
    points: npt.NDArray[np.floating[Any]],
    scores: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.signedinteger[Any]],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> npt.NDArray[np.float64]:
    """Average precision (area) of one point for each image and class.

    The images of a class are ranked by score, ties in the order given. An image of label 1 whose
    point lies on an object of the class is a true positive; every other image of label 1 or -1 is a
    false one. An image of label 0 (only difficult objects) is out of the ranking. In an image of
    label 1 a point on a difficult object counts as on any other: it is an object of the class.

    A point lies on an object if it is inside the object's box after each side was moved out by the
    tolerance: a box with square corners, borders included.

    Args:
        ground_truth: one for each of the I images.
        points: `(I, C, 2)`, x y in pixels of the original image, continuous like boxes. NaN is on no object.
        scores: `(I, C)`, confidence that the image shows the class, any scale.
        labels: `(I, C)`: 1 shown, -1 not shown, 0 only as difficult objects.
        tolerance_px: >= 0, pixels of the original image.

    Returns:
        float64 `(C,)` in [0, 1]; NaN for classes without an image of label 1.

    Raises:
        ValueError: for NaN scores, other labels, shapes that differ, or a negative tolerance.

    Source: M. Oquab, L. Bottou, I. Laptev, J. Sivic, Is Object Localization for Free?, CVPR 2015.
    """
    judged = judge_points(ground_truth, points, scores, labels, tolerance_px=tolerance_px)
    count = judged.positives.sum(axis=0)
    ap = np.full(scores.shape[1], np.nan)
    for label, ranking in judged.rankings.items():
        ap[label] = average_precision_area(ranking.true_positives, ranking.false_positives, int(count[label]))
    return ap


def judge_points(
    ground_truth: Sequence[GroundTruth],
    points: npt.NDArray[np.floating[Any]],
    scores: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.signedinteger[Any]],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> JudgedRankings:
    """Which points are true and which are false; see `point_localization_average_precision`."""
    check_image_scores(scores, labels)
    if len(ground_truth) != len(scores) or points.shape != (*scores.shape, 2):
        got = f"points {points.shape} and ground truth of {len(ground_truth)} images"
        raise ValueError(f"got {got}; expected {(*scores.shape, 2)} and {len(scores)}, as scores have")
    if not tolerance_px >= 0:
        raise ValueError(f"got {tolerance_px} for tolerance_px; expected a number >= 0")
    hit = _hits(ground_truth, points, tolerance_px=tolerance_px)
    shown = labels == 1
    rankings = {}
    for label in np.flatnonzero(shown.any(axis=0)).tolist():
        ranked = np.flatnonzero(labels[:, label] != 0)
        ranked = ranked[descending_order(scores[ranked, label])]
        true_positives = hit[ranked, label] & shown[ranked, label]
        rankings[label] = Ranking(true_positives, ~true_positives, ranked)
    return JudgedRankings(rankings=rankings, positives=shown.astype(np.int64))


def _hits(
    ground_truth: Sequence[GroundTruth], points: npt.NDArray[np.floating[Any]], *, tolerance_px: float
) -> npt.NDArray[np.bool_]:
    """bool `(I, C)`: the point of a class lies on an object of the class."""
    num_images, num_classes, _ = points.shape
    instances = flatten(ground_truth, num_classes=num_classes)
    point = points[instances.images, instances.labels].astype(np.float64)  # (K, 2)
    box = instances.boxes.astype(np.float64)
    inside = (box[:, :2] - tolerance_px <= point) & (point <= box[:, 2:] + tolerance_px)
    on_object = inside.all(axis=1)
    hit = np.zeros((num_images, num_classes), np.bool_)
    hit[instances.images[on_object], instances.labels[on_object]] = True
    return hit
