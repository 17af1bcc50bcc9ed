"""The objects of a whole split in flat arrays, so that metrics need no loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsol.boxes import Detections, GroundTruth


@dataclass(frozen=True, eq=False)
class Instances:
    """All objects of a split, in the order of its images, and within an image in that of its GroundTruth.

    Attributes:
        boxes: float32 `(K, 4)`, convention of `wsol.boxes`.
        labels: int64 `(K,)` in [0, C).
        difficult: bool `(K,)`.
        images: int64 `(K,)`, index of the image that holds the object.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int64]


def flatten(ground_truth: Sequence[GroundTruth], *, num_classes: int) -> Instances:
    """Concatenates the objects of all images.

    Args:
        ground_truth: one for each image.
        num_classes: C.

    Raises:
        ValueError: if a label is not in [0, C), naming the image's index.
    """
    images = image_of_each(ground_truth)
    labels = np.concatenate([np.zeros(0, np.int64), *(truth.labels for truth in ground_truth)])
    check_labels(labels, images, num_classes=num_classes, what="ground truth")
    return Instances(
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(truth.boxes for truth in ground_truth)]),
        labels=labels,
        difficult=np.concatenate([np.zeros(0, np.bool_), *(truth.difficult for truth in ground_truth)]),
        images=images,
    )


def image_of_each(per_image: Sequence[GroundTruth] | Sequence[Detections]) -> npt.NDArray[np.int64]:
    """The index of the image that each object or detection belongs to, once all are concatenated: int64 `(K,)`."""
    counts = np.array([len(boxes.labels) for boxes in per_image], np.int64)
    return np.repeat(np.arange(len(per_image)), counts)


def check_labels(labels: npt.NDArray[np.int64], images: npt.NDArray[np.int64], *, num_classes: int, what: str) -> None:
    """Refuses class indices outside [0, C).

    Args:
        labels: int64 `(K,)`.
        images: int64 `(K,)`, the image of each label, for the message.
        num_classes: C.
        what: what the labels belong to, for the message.

    Raises:
        ValueError: naming the first such label and its image.
    """
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        label, image = labels[outside[0]], images[outside[0]]
        raise ValueError(f"got label {label} in the {what} of image {image}; expected 0 <= label < {num_classes}")
