"""CorLoc: in how many images of a class its best box finds an object. See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.boxes import GroundTruth, paired_iou
from wsol.metrics.average_precision import check_iou_threshold
from wsol.metrics.instances import flatten


def corloc(
    ground_truth: Sequence[GroundTruth],
    top_boxes: npt.NDArray[np.floating[Any]],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> npt.NDArray[np.float64]:
    """The fraction of the images showing a class in which its best box overlaps an object of the class.

    Difficult objects count like any other: an image that shows only difficult ones is in the
    denominator, and a box on one of them is a hit. Boxes of classes that an image does not show are
    not looked at.

    Args:
        ground_truth: one for each of the I images.
        top_boxes: `(I, C, 4)`, the best-scoring box of each class, whatever its score, before
            non-maximum suppression. A box of NaN (an image without proposals) never hits.
        num_classes: C.
        iou_threshold: in (0, 1]; an IoU equal to it is a hit.

    Returns:
        float64 `(C,)` in [0, 1]; NaN for classes that no image shows.

    Raises:
        ValueError: for another shape of `top_boxes`, labels outside [0, C), or a threshold out of range.

    Source: T. Deselaers, B. Alexe, V. Ferrari, Weakly Supervised Localization and Learning with
        Generic Knowledge, IJCV 2012; difficult objects as in OICR's dis_eval.py (ppengtang/oicr).
    """
    located, shown = located_and_shown(ground_truth, top_boxes, num_classes=num_classes, iou_threshold=iou_threshold)
    images_per_class = shown.sum(axis=0)
    fraction = np.full(num_classes, np.nan)
    np.divide(located.sum(axis=0), images_per_class, out=fraction, where=images_per_class > 0)
    return fraction


def located_and_shown(
    ground_truth: Sequence[GroundTruth],
    top_boxes: npt.NDArray[np.floating[Any]],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where the best box of a class is right, and where the class is shown, bool `(I, C)` each; see `corloc`."""
    shape = (len(ground_truth), num_classes, 4)
    if top_boxes.shape != shape:
        raise ValueError(f"got shape {top_boxes.shape} for top_boxes; expected (I, C, 4) = {shape}")
    check_iou_threshold(iou_threshold)
    instances = flatten(ground_truth, num_classes=num_classes)
    hit = paired_iou(top_boxes[instances.images, instances.labels], instances.boxes) >= iou_threshold
    shown = np.zeros((len(ground_truth), num_classes), np.bool_)
    shown[instances.images, instances.labels] = True
    located = np.zeros_like(shown)
    located[instances.images[hit], instances.labels[hit]] = True
    return located, shown
