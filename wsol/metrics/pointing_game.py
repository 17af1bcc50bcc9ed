"""The pointing game: does the peak of a class's map lie on an object, or next to one? See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.boxes import GroundTruth
from wsol.metrics.instances import flatten

TOLERANCE_PX = 15.0
"""Source: TorchRay, torchray/benchmark/pointing_game.py."""


def pointing_accuracy(
    ground_truth: Sequence[GroundTruth],
    points: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.signedinteger[Any]],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> npt.NDArray[np.float64]:
    """The share of the images showing a class in which its point lies on an object of the class, or near one.

    A point hits if a box of the class is nearer than the tolerance, in a straight line; a point in a box has
    distance 0. Images in which all objects of the class are difficult (label 0) are skipped; in an image of label 1
    a difficult object can be hit like any other. Confidence plays no part, nor do images without the class.

    Args:
        ground_truth: one for each of the I images.
        points: (I, C, 2), x y in pixels of the original image, continuous like boxes. NaN hits nothing.
        labels: (I, C): 1 shown, -1 not shown, 0 only as difficult objects.
        tolerance_px: > 0, pixels of the original image; a box at exactly this distance is missed.

    Returns:
        float64 (C,) in [0, 1]; NaN for classes without an image of label 1.

    Raises:
        ValueError: for shapes that differ, or a tolerance out of range.

    Source: J. Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016; TorchRay,
        torchray/benchmark/pointing_game.py (there between whole pixels).
    """
    hit = hit_where_shown(ground_truth, points, labels, tolerance_px=tolerance_px)
    count = (labels == 1).sum(axis=0)
    accuracy = np.full(labels.shape[1], np.nan)
    np.divide(hit.sum(axis=0), count, out=accuracy, where=count > 0)
    return accuracy


def hit_where_shown(
    ground_truth: Sequence[GroundTruth],
    points: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.signedinteger[Any]],
    *,
    tolerance_px: float = TOLERANCE_PX,
) -> npt.NDArray[np.bool_]:
    """bool (I, C): the image shows the class and its point hits; see `pointing_accuracy`."""
    if len(ground_truth) != len(labels) or points.shape != (*labels.shape, 2):
        got = f"points {points.shape} and ground truth of {len(ground_truth)} images"
        raise ValueError(f"got {got}; expected {(*labels.shape, 2)} and {len(labels)}, as labels have")
    if not tolerance_px > 0:
        raise ValueError(f"got {tolerance_px} for tolerance_px; expected a number > 0")
    instances = flatten(ground_truth, num_classes=labels.shape[1])
    point = points[instances.images, instances.labels].astype(np.float64)  # (K, 2)
    box = instances.boxes.astype(np.float64)
    beside = np.maximum(np.maximum(box[:, :2] - point, point - box[:, 2:]), 0.0)  # (K, 2), pixels in x and y
    near = np.hypot(beside[:, 0], beside[:, 1]) < tolerance_px
    hit = np.zeros(labels.shape, np.bool_)
    hit[instances.images[near], instances.labels[near]] = True
    shown: npt.NDArray[np.bool_] = labels == 1
    return hit & shown
