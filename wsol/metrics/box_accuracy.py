"""MaxBoxAccV2: do boxes around a class's heat map find its objects, at the best threshold? See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsol.boxes import GroundTruth, iou
from wsol.heat_maps import BOX_GRID, HeatMaps, min_max_scaled, on_box_grid
from wsol.metrics.component_tree import component_boxes_by_level

THRESHOLDS = np.arange(1000) / 1000
"""Of the heat map scaled to [0, 1]. Source: clovaai/wsolevaluation."""
IOU_THRESHOLDS = np.array([0.3, 0.5, 0.7])
"""Source: Choe et al., as in clovaai/wsolevaluation."""


def max_box_accuracy_v2(
    heat_maps: HeatMaps,
    ground_truth: Sequence[GroundTruth],
    sizes: Sequence[tuple[int, int]],
    labels: NDArray[np.signedinteger[Any]],
) -> NDArray[np.float64]:
    """The share of a class's images in which a box around its heat map finds one of its objects.

    A map gives a box around each connected component of its cells at or above a threshold. It is right at an IoU
    threshold if any of its boxes overlaps any object of the class in the image by so much, difficult objects
    included. For each IoU threshold, the map threshold at which most pairs of the split are right, all classes
    together, counts for all classes (the lowest of several). The result is the mean over the IoU thresholds.

    Args:
        heat_maps: of at least all pairs of an image and a class with label 1; the others are not looked at.
        ground_truth: one for each of the I images, boxes in pixels.
        sizes: (width, height) of each image, pixels.
        labels: (I, C): 1 shown, 0 only as difficult objects, -1 not shown.

    Returns:
        float64 (C,) in [0, 1]; NaN for classes without an image of label 1.

    Raises:
        ValueError: for lengths that differ, or a pair of label 1 without a heat map.

    Source: J. Choe et al., Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets,
        arXiv 2007.04178; clovaai/wsolevaluation.
    """
    if not len(ground_truth) == len(sizes) == len(labels):
        lengths = f"{len(ground_truth)} ground truths, {len(sizes)} sizes and labels of {len(labels)} images"
        raise ValueError(f"got {lengths}; expected one each an image")
    shown = np.argwhere(labels == 1)  # (P, 2), by image, then class
    rows = _rows_of(shown, heat_maps)
    right = np.zeros((len(shown), len(IOU_THRESHOLDS), len(THRESHOLDS)), np.bool_)
    for index, (row, (image, label)) in enumerate(zip(rows, shown, strict=True)):
        truth = ground_truth[image]
        overlap = best_overlap_by_threshold(heat_maps.maps[row], truth.boxes[truth.labels == label], size=sizes[image])
        right[index] = overlap >= IOU_THRESHOLDS[:, None]
    best = right.sum(axis=0).argmax(axis=1)  # (IoU thresholds,), the first of several
    right_at_best = right[:, np.arange(len(best)), best].mean(axis=1)  # (P,)
    counts = np.bincount(shown[:, 1], minlength=labels.shape[1])
    sums = np.bincount(shown[:, 1], weights=right_at_best, minlength=labels.shape[1])
    accuracy = np.full(labels.shape[1], np.nan)
    np.divide(sums, counts, out=accuracy, where=counts > 0)
    return accuracy


def best_overlap_by_threshold(
    heat_map: NDArray[np.floating[Any]], objects: NDArray[np.float32], *, size: tuple[int, int]
) -> NDArray[np.float64]:
    """The best IoU of any component's box with any object, at each of THRESHOLDS.

    Boxes and objects are compared on the grid of BOX_GRID cells a side that the map is resized to.

    Args:
        heat_map: (h, w) over the whole image.
        objects: (K, 4), pixels of the image.
        size: (width, height) of the image, pixels.

    Returns:
        float64 (T,); 0 where K is 0.
    """
    scaled = min_max_scaled(on_box_grid(heat_map))
    levels = np.searchsorted(THRESHOLDS, scaled, side="right") - 1  # the last threshold that each cell reaches
    thresholds, boxes = component_boxes_by_level(levels, num_levels=len(THRESHOLDS))
    width, height = size
    on_grid = objects.astype(np.float64) * BOX_GRID / (width, height, width, height)
    best = np.zeros(len(THRESHOLDS))
    np.maximum.at(best, thresholds, iou(boxes.astype(np.float64), on_grid).max(axis=1, initial=0.0))
    return best


def _rows_of(pairs: NDArray[np.int64], heat_maps: HeatMaps) -> NDArray[np.int64]:
    """Where in `heat_maps` the pairs (P, 2) of image and class are."""
    row_of = {
        pair: row for row, pair in enumerate(zip(heat_maps.images.tolist(), heat_maps.labels.tolist(), strict=True))
    }
    for image, label in pairs.tolist():
        if (image, label) not in row_of:
            raise ValueError(f"got no heat map of class {label} in image {image}; expected one, its label is 1")
    return np.array([row_of[image, label] for image, label in pairs.tolist()], np.int64)
