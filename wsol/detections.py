"""What a model found in a split: stored, read back, measured. Torch-free.

docs/protocol.md says how each number is computed. Everything that a metric needs is kept, so a metric can be computed
again, or another one later, without the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsol.atomic_file import pending_file
from wsol.boxes import Detections
from wsol.data.voc import EvaluationSplit
from wsol.metrics.average_precision import detection_average_precision
from wsol.metrics.classification import classification_average_precision
from wsol.metrics.corloc import corloc
from wsol.metrics.names import DETECTION_METRICS, IMAGE_METRICS
from wsol.metrics.point_localization import TOLERANCE_PX, point_localization_average_precision
from wsol.metrics.summary import mean_over_defined_classes

IOU_THRESHOLD = 0.5
"""Of the detection metrics: a box matches an object at this overlap or more. The 50 in their names."""

Metrics = dict[str, float | None]
"""`<metric>/<class>` and `<metric>/mean` in [0, 1]; None where it is not defined (no image shows the class)."""


@dataclass(frozen=True, eq=False)
class SplitDetections:
    """What a model found in a split of I images, in pixels of the original images.

    Attributes:
        image_ids: I names.
        classes: C names.
        detections: one for each image: class by class, best score first within a class.
        class_scores: float32 (I, C), any monotone scale.
        points: float32 (I, C, 2) x y; NaN where there is none.
        top_boxes: float32 (I, C, 4), the best box of each class before score cut and NMS, NaN in images without
            proposals; None for a model that gives no boxes.
    """

    image_ids: tuple[str, ...]
    classes: tuple[str, ...]
    detections: tuple[Detections, ...]
    class_scores: NDArray[np.float32]
    points: NDArray[np.float32]
    top_boxes: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        images, classes = len(self.image_ids), len(self.classes)
        shapes = {
            "detections": ((len(self.detections),), (images,)),
            "class_scores": (self.class_scores.shape, (images, classes)),
            "points": (self.points.shape, (images, classes, 2)),
            "top_boxes": (None if self.top_boxes is None else self.top_boxes.shape, (images, classes, 4)),
        }
        for name, (shape, expected) in shapes.items():
            if shape is not None and shape != expected:
                raise ValueError(f"got shape {shape} for {name}; expected {expected}")


def save_detections(path: Path, found: SplitDetections) -> None:
    """Writes an .npz, whole or not at all, replacing what was there.

    Arrays: image_ids (I,), classes (C,), class_scores (I, C), points (I, C, 2), top_boxes (I, C, 4) if there are
    boxes; and of all M detections, image by image: boxes (M, 4), scores (M,), labels (M,), image_index (M,).
    """
    counts = [len(detections.labels) for detections in found.detections]
    arrays: dict[str, NDArray[Any]] = {
        "image_ids": np.array(found.image_ids, dtype=np.str_),
        "classes": np.array(found.classes, dtype=np.str_),
        "class_scores": found.class_scores,
        "points": found.points,
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(d.boxes for d in found.detections)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(d.scores for d in found.detections)]),
        "labels": np.concatenate([np.zeros(0, np.int64), *(d.labels for d in found.detections)]),
        "image_index": np.repeat(np.arange(len(counts)), counts),
    }
    if found.top_boxes is not None:
        arrays["top_boxes"] = found.top_boxes
    with pending_file(path.with_name(f".{path.name}.pending")) as pending:
        np.savez_compressed(pending.file, allow_pickle=False, **arrays)
        pending.publish(path.name)


def load_detections(path: Path) -> SplitDetections:
    """Reads what `save_detections` wrote.

    Raises:
        OSError, ValueError, KeyError: if it is no such file.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    images = len(arrays["image_ids"])
    ends = np.cumsum(np.bincount(arrays["image_index"], minlength=images))
    pieces = (np.split(arrays[name], ends)[:images] for name in ("boxes", "scores", "labels"))
    per_image = zip(*pieces, strict=True)
    detections = [Detections(boxes=boxes, scores=scores, labels=labels) for boxes, scores, labels in per_image]
    return SplitDetections(
        image_ids=tuple(arrays["image_ids"].tolist()),
        classes=tuple(arrays["classes"].tolist()),
        detections=tuple(detections),
        class_scores=arrays["class_scores"],
        points=arrays["points"],
        top_boxes=arrays.get("top_boxes"),
    )


def measure(found: SplitDetections, split: EvaluationSplit) -> Metrics:
    """Every metric that applies: those of boxes where there are boxes, then those of images.

    Raises:
        ValueError: if `found` is of other images or classes than `split`.
    """
    _check_same_split(found, split)
    per_class: dict[str, NDArray[np.float64]] = {}
    if found.top_boxes is not None:
        count = len(found.classes)
        precision = detection_average_precision(
            split.ground_truth, found.detections, num_classes=count, iou_threshold=IOU_THRESHOLD
        )
        located = corloc(split.ground_truth, found.top_boxes, num_classes=count, iou_threshold=IOU_THRESHOLD)
        per_class |= zip(DETECTION_METRICS, (precision.ap_11pt, precision.ap_area, located), strict=True)
    shown = classification_average_precision(found.class_scores, split.labels)
    pointed = point_localization_average_precision(
        split.ground_truth, found.points, found.class_scores, split.labels, tolerance_px=TOLERANCE_PX
    )
    per_class |= zip(IMAGE_METRICS, (shown, pointed), strict=True)
    return _flat(per_class, found.classes)


def _check_same_split(found: SplitDetections, split: EvaluationSplit) -> None:
    ids = tuple(record.id for record in split.images)
    if found.image_ids != ids:
        strange = sorted(set(found.image_ids) - set(ids))[:1]
        raise ValueError(
            f"got detections of {len(found.image_ids)} images{f', {strange[0]!r} among them' if strange else ''};"
            f" expected the {len(ids)} of split {split.name}, in its order"
        )
    if found.classes != split.classes:
        raise ValueError(f"got detections of classes {found.classes}; expected {split.classes}")


def _flat(per_class: dict[str, NDArray[np.float64]], classes: tuple[str, ...]) -> Metrics:
    metrics: Metrics = {}
    for name, values in per_class.items():
        metrics |= {f"{name}/{label}": _none_if_nan(value) for label, value in zip(classes, values, strict=True)}
        metrics[f"{name}/mean"] = _none_if_nan(mean_over_defined_classes(values))
    return metrics


def _none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)
