"""What a model found in a split: stored, read back, measured. Torch-free.

docs/protocol.md says how each number is computed. Everything that a metric needs is kept, so a metric can be computed
again, or another one later, without the model.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsol.atomic_file import pending_file
from wsol.boxes import Detections
from wsol.data.images import read_header
from wsol.data.voc import EvaluationSplit
from wsol.heat_maps import HeatMaps
from wsol.metrics.average_precision import DetectionAP, detection_average_precision
from wsol.metrics.box_accuracy import max_box_accuracy_v2
from wsol.metrics.classification import classification_average_precision
from wsol.metrics.corloc import corloc
from wsol.metrics.names import Metric, parse_metric
from wsol.metrics.point_localization import point_localization_average_precision
from wsol.metrics.pointing_game import pointing_accuracy
from wsol.metrics.proposal_recall import proposal_recall
from wsol.metrics.summary import mean_over_defined_classes

__all__ = ["HeatMaps", "Metrics", "SplitDetections", "load_detections", "measure", "save_detections"]

_T = TypeVar("_T")

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
            proposals; None in files of localizers from before they drew boxes.
        heat_maps: of the pairs of an image and a class whose image-level label is 1 or 0, for a model of score maps.
        proposal_overlap: float32 (K,), for a model that scores proposals: for each object of the split, in the order
            of `wsol.metrics.instances.flatten`, the best IoU of any proposal of its image; 0 where there is none.
    """

    image_ids: tuple[str, ...]
    classes: tuple[str, ...]
    detections: tuple[Detections, ...]
    class_scores: NDArray[np.float32]
    points: NDArray[np.float32]
    top_boxes: NDArray[np.float32] | None
    heat_maps: HeatMaps | None = field(default=None, kw_only=True)
    proposal_overlap: NDArray[np.float32] | None = field(default=None, kw_only=True)

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
        if self.proposal_overlap is not None and self.proposal_overlap.ndim != 1:
            raise ValueError(f"got shape {self.proposal_overlap.shape} for proposal_overlap; expected (K,)")
        if self.heat_maps is not None:
            _check_pairs(self.heat_maps, images=images, classes=classes)


def _check_pairs(heat_maps: HeatMaps, *, images: int, classes: int) -> None:
    for name, indices, count in (("images", heat_maps.images, images), ("labels", heat_maps.labels, classes)):
        if indices.size and not (indices.min() >= 0 and indices.max() < count):
            given = f"{indices.min()} to {indices.max()}"
            raise ValueError(f"got {given} for heat_maps.{name}; expected at least 0 and below {count}")


def save_detections(path: Path, found: SplitDetections) -> None:
    """Writes an .npz, whole or not at all, replacing what was there.

    Arrays: image_ids (I,), classes (C,), class_scores (I, C), points (I, C, 2), top_boxes (I, C, 4) if there are
    boxes; of all M detections, image by image: boxes (M, 4), scores (M,), labels (M,), image_index (M,); where there
    are heat maps: heat_maps (P, 64, 64), heat_map_images (P,), heat_map_labels (P,); proposal_overlap (K,) likewise.
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
    if found.heat_maps is not None:
        arrays["heat_maps"] = found.heat_maps.maps
        arrays["heat_map_images"], arrays["heat_map_labels"] = found.heat_maps.images, found.heat_maps.labels
    if found.proposal_overlap is not None:
        arrays["proposal_overlap"] = found.proposal_overlap
    with pending_file(path.with_name(f".{path.name}.pending")) as pending:
        np.savez_compressed(pending.file, allow_pickle=False, **arrays)
        pending.publish(path.name)


def load_detections(path: Path, *, with_heat_maps: bool = True) -> SplitDetections:
    """Reads what `save_detections` wrote, also before there were heat maps and overlaps.

    Args:
        with_heat_maps: False leaves them out: they are most of a localizer's file, and few metrics need them.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is another kind of file, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # np.load leaves damaged files open
            names = [name for name in archive.files if with_heat_maps or not name.startswith("heat_map")]
            arrays = {name: archive[name] for name in names}
        return _from_arrays(arrays)
    except (ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"got {path}, which does not hold the detections of a split ({error})") from error


def _from_arrays(arrays: dict[str, NDArray[Any]]) -> SplitDetections:
    images = len(arrays["image_ids"])
    ends = np.cumsum(np.bincount(arrays["image_index"], minlength=images))
    pieces = (np.split(arrays[name], ends)[:images] for name in ("boxes", "scores", "labels"))
    per_image = zip(*pieces, strict=True)
    detections = [Detections(boxes=boxes, scores=scores, labels=labels) for boxes, scores, labels in per_image]
    maps = arrays.get("heat_maps")
    return SplitDetections(
        image_ids=tuple(arrays["image_ids"].tolist()),
        classes=tuple(arrays["classes"].tolist()),
        detections=tuple(detections),
        class_scores=arrays["class_scores"],
        points=arrays["points"],
        top_boxes=arrays.get("top_boxes"),
        heat_maps=None if maps is None else HeatMaps(maps, arrays["heat_map_images"], arrays["heat_map_labels"]),
        proposal_overlap=arrays.get("proposal_overlap"),
    )


def measure(found: SplitDetections, split: EvaluationSplit, *, metrics: Sequence[str]) -> Metrics:
    """Measures detections.

    Args:
        found: of the images of `split`, in its order.
        split: images and annotations. `maxboxacc_v2` reads the sizes of the images from their files.
        metrics: names, see `wsol.metrics.names`. One given twice counts once.

    Returns:
        Metric by metric in the order given: its classes, then its mean.

    Raises:
        ValueError: if `found` is of other images or classes than `split`, for a name that is no metric's, and for a
            metric that needs what `found` does not hold.
        DataError: for an image that cannot be read.
    """
    check_same_split(found, split)
    measurement = _Measurement(found, split)
    return _flat({name: measurement.per_class(parse_metric(name)) for name in metrics}, found.classes)


class _Measurement:
    """Detections against annotations. What two metrics share is computed once."""

    def __init__(self, found: SplitDetections, split: EvaluationSplit) -> None:
        self._found = found
        self._split = split
        self._precision: dict[float, DetectionAP] = {}

    def per_class(self, metric: Metric) -> NDArray[np.float64]:
        """float64 (C,), NaN where the metric is not defined."""
        found, split, truth = self._found, self._split, self._split.ground_truth
        if metric.family == "cls_ap":
            return classification_average_precision(found.class_scores, split.labels)
        if metric.family == "point_ap":
            return point_localization_average_precision(truth, found.points, found.class_scores, split.labels)
        if metric.family == "pointing_game":
            return pointing_accuracy(truth, found.points, split.labels)
        if metric.family == "maxboxacc_v2":
            maps = present(found.heat_maps, "heat maps", metric)
            return max_box_accuracy_v2(maps, truth, _sizes(split), split.labels)
        assert metric.iou_threshold is not None, "the metrics below have one"
        count, iou_threshold = len(found.classes), metric.iou_threshold
        if metric.family == "proposal_recall":
            overlap = present(found.proposal_overlap, "overlaps of proposals", metric)
            return proposal_recall(truth, overlap, num_classes=count, iou_threshold=iou_threshold)
        boxes = present(found.top_boxes, "boxes", metric)
        if metric.family == "corloc":
            return corloc(truth, boxes, num_classes=count, iou_threshold=iou_threshold)
        precision = self._average_precision(iou_threshold)
        return precision.ap_11pt if metric.family == "ap_11pt" else precision.ap_area

    def _average_precision(self, iou_threshold: float) -> DetectionAP:
        if iou_threshold not in self._precision:
            self._precision[iou_threshold] = detection_average_precision(
                self._split.ground_truth,
                self._found.detections,
                num_classes=len(self._found.classes),
                iou_threshold=iou_threshold,
            )
        return self._precision[iou_threshold]


def present(values: _T | None, what: str, metric: Metric) -> _T:
    """What a metric needs.

    Raises:
        ValueError: where the detections do not hold it, saying whose do.
    """
    if values is None:
        task = f"task: {metric.only_task}" if metric.only_task else "any task"
        raise ValueError(
            f"got detections without {what}, which {metric.name} needs; expected those of a trial of {task}, trained"
            " by this version"
        )
    return values


def _sizes(split: EvaluationSplit) -> list[tuple[int, int]]:
    """(width, height) of each image in the frame of its boxes, from the files' headers."""
    return [read_header(record.path).size(apply_exif=record.apply_exif) for record in split.images]


def check_same_split(found: SplitDetections, split: EvaluationSplit) -> None:
    """Raises ValueError where detections are of other images or classes than those of a split."""
    ids = tuple(record.id for record in split.images)
    if found.image_ids != ids:
        strange, missed = sorted(set(found.image_ids) - set(ids)), sorted(set(ids) - set(found.image_ids))
        raise ValueError(
            f"got detections of {len(found.image_ids)} images{_one_of(strange)}; expected the {len(ids)} of split"
            f" {split.name}{_one_of(missed)}, in its order"
        )
    if found.classes != split.classes:
        raise ValueError(f"got detections of classes {found.classes}; expected {split.classes}")


def _one_of(names: list[str]) -> str:
    return f", {names[0]!r} among them" if names else ""


def _flat(per_class: dict[str, NDArray[np.float64]], classes: tuple[str, ...]) -> Metrics:
    metrics: Metrics = {}
    for name, values in per_class.items():
        metrics |= {f"{name}/{label}": _none_if_nan(value) for label, value in zip(classes, values, strict=True)}
        metrics[f"{name}/mean"] = _none_if_nan(mean_over_defined_classes(values))
    return metrics


def _none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)
