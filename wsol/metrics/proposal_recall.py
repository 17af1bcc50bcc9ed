"""How many objects the proposals cover: what no detector that scores them can exceed. See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.boxes import GroundTruth
from wsol.metrics.average_precision import check_iou_threshold
from wsol.metrics.instances import flatten


def proposal_recall(
    ground_truth: Sequence[GroundTruth],
    overlap: npt.NDArray[np.floating[Any]],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> npt.NDArray[np.float64]:
    """The share of a class's objects, difficult ones left out, that some proposal of their image overlaps enough.

    Args:
        ground_truth: one for each image.
        overlap: (K,), best IoU of any proposal of the image with each object, in the order of
            `wsol.metrics.instances.flatten`; 0 where there is no proposal.
        num_classes: C.
        iou_threshold: in (0, 1]; an IoU equal to it is enough.

    Returns:
        float64 (C,) in [0, 1]; NaN for classes without an object that is not difficult.

    Raises:
        ValueError: for another number of overlaps than of objects, or a threshold out of range.
    """
    covered, counted = covered_and_counted(ground_truth, overlap, num_classes=num_classes, iou_threshold=iou_threshold)
    count = counted.sum(axis=0)
    recall = np.full(num_classes, np.nan)
    np.divide(covered.sum(axis=0), count, out=recall, where=count > 0)
    return recall


def covered_and_counted(
    ground_truth: Sequence[GroundTruth],
    overlap: npt.NDArray[np.floating[Any]],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many objects are covered, and how many there are, of each image and class: int64 (I, C) each.

    See `proposal_recall`.
    """
    check_iou_threshold(iou_threshold)
    instances = flatten(ground_truth, num_classes=num_classes)
    if overlap.shape != instances.labels.shape:
        raise ValueError(f"got overlaps {overlap.shape}; expected {instances.labels.shape}, one for each object")
    counted = ~instances.difficult
    # In the precision of the overlaps: as a float32, an IoU of 7 / 10 lies below the double 0.7.
    covered = counted & (overlap >= overlap.dtype.type(iou_threshold))
    counts = np.zeros((2, len(ground_truth), num_classes), np.int64)
    for count, which in zip(counts, (covered, counted), strict=True):
        np.add.at(count, (instances.images[which], instances.labels[which]), 1)
    return counts[0], counts[1]
