"""Splits of a data set in VOC layout: what training sees (images and image-level labels), what evaluation sees.

Labels of a training split come from the label files `<class>_<split>.txt` where every class has
one, and then no annotation is opened; else from the names and `difficult` flags of the objects in
the annotations. Boxes are read by `read_evaluation_split` alone. docs/data.md lists every mend and
every refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsol.boxes import GroundTruth, clip, from_voc
from wsol.config import check_class_names
from wsol.data.images import DataError, ImageHeader, ImageRecord, read_header
from wsol.data.mends import Mends
from wsol.data.voc_labels import ABSENT, PRESENT, count_unseen, labels_from_contents, labels_from_files
from wsol.data.voc_layout import VocFolder, check_layout, listed
from wsol.data.voc_xml import Content, read_content, read_content_and_boxes

__all__ = [
    "VOC_CLASSES",
    "EvaluationSplit",
    "ImageLevelSplit",
    "check_layout",
    "read_evaluation_split",
    "read_image_level_split",
    "resolve_classes",
]

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


@dataclass(frozen=True, eq=False)
class ImageLevelSplit:
    """What training sees of a split. There are no boxes in it.

    Attributes:
        name: of the split.
        classes: in label order.
        images: in the order of the split file.
        labels: int8 (I, C): 1 present, 0 only objects marked difficult, -1 absent.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    labels: npt.NDArray[np.int8]

    def __post_init__(self) -> None:
        _check_labels(self.labels, images=len(self.images), classes=len(self.classes))


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """What evaluation sees of a split. Not an ImageLevelSplit, so that none can be trained on by accident.

    Attributes:
        name, classes, images, labels: as in ImageLevelSplit.
        ground_truth: one for each image; its labels index into `classes`.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    labels: npt.NDArray[np.int8]
    ground_truth: tuple[GroundTruth, ...]

    def __post_init__(self) -> None:
        _check_labels(self.labels, images=len(self.images), classes=len(self.classes))
        if len(self.ground_truth) != len(self.images):
            raise ValueError(f"got {len(self.ground_truth)} ground truths; expected {len(self.images)}, one an image")


def resolve_classes(root: Path, classes: Literal["voc", "auto"] | tuple[str, ...], train_split: str) -> tuple[str, ...]:
    """The classes of an experiment.

    Args:
        root: the data set's folder.
        classes: `voc` (the 20), `auto`, or the names themselves.
        train_split: split in which `auto` looks for names: label files with at least one image
            where there are any, else the objects of the annotations. Objects marked difficult count.

    Returns:
        The names: in the given order, or sorted for `auto`.

    Raises:
        DataError: a name twice, empty or `mean`; no class found; a fault in the files that `auto` reads.
    """
    if classes == "voc":
        return VOC_CLASSES
    found = _classes_seen(VocFolder(root), train_split) if classes == "auto" else tuple(classes)
    if not found:
        raise DataError(f"got no classes in {root}, split {train_split!r}; expected at least one")
    try:
        check_class_names(found)
    except ValueError as error:
        raise DataError(f"got classes {listed(found)} for {root}; {error}") from error
    return found


def read_image_level_split(root: Path, *, split: str, classes: tuple[str, ...]) -> ImageLevelSplit:
    """Reads what training sees. Looks at no box: a file whose boxes are damaged or missing changes nothing.

    Warns once for each kind of mend, see docs/data.md.

    Raises:
        DataError: see docs/data.md.
    """
    folder = VocFolder(root)
    mends = Mends(root=root, split=split)
    ids = folder.ids(split, mends)
    labels = labels_from_files(folder, ids, split=split, classes=classes, mends=mends)
    paths = folder.image_paths(ids, split=split)
    if labels is not None:
        images = [ImageRecord(id=image_id, path=path) for image_id, path in zip(ids, paths, strict=True)]
    else:
        annotations = folder.annotation_paths(ids, split=split)
        contents = [read_content(path) for path in annotations]
        images = [
            _record(image_id, path, read_header(path), content, mends)
            for image_id, path, content in zip(ids, paths, contents, strict=True)
        ]
        labels = labels_from_contents(contents, classes, mends)
    count_unseen(labels, classes, mends)
    mends.report()
    if not (labels == PRESENT).any():
        raise DataError(
            f"got no image with any of the classes {listed(classes)} in {root}, split {split!r};"
            " expected at least one to train on"
        )
    return ImageLevelSplit(name=split, classes=classes, images=tuple(images), labels=labels)


def read_evaluation_split(root: Path, *, split: str, classes: tuple[str, ...]) -> EvaluationSplit:
    """Reads what evaluation sees. The annotations are the truth for labels too: label files are not opened.

    Warns once for each kind of mend, see docs/data.md.

    Raises:
        DataError: see docs/data.md.
    """
    folder = VocFolder(root)
    mends = Mends(root=root, split=split)
    ids = folder.ids(split, mends)
    paths = folder.image_paths(ids, split=split)
    annotations = folder.annotation_paths(ids, split=split)
    contents, images, ground_truth = [], [], []
    for image_id, path, annotation in zip(ids, paths, annotations, strict=True):
        content, boxes = read_content_and_boxes(annotation, classes=classes)
        header = read_header(path)
        record = _record(image_id, path, header, content, mends)
        size = header.size(apply_exif=record.apply_exif)
        contents.append(content)
        images.append(record)
        ground_truth.append(_ground_truth(content, boxes, image_id=image_id, size=size, classes=classes, mends=mends))
    labels = labels_from_contents(contents, classes, mends)
    count_unseen(labels, classes, mends)
    mends.report()
    return EvaluationSplit(
        name=split, classes=classes, images=tuple(images), labels=labels, ground_truth=tuple(ground_truth)
    )


def _classes_seen(folder: VocFolder, split: str) -> tuple[str, ...]:
    unreported = Mends(root=folder.root, split=split)  # reading the split says the same again
    ids = folder.ids(split, unreported)
    candidates = folder.label_file_classes(split)
    if candidates:
        labels = labels_from_files(folder, ids, split=split, classes=tuple(candidates), mends=unreported)
        assert labels is not None
        return tuple(name for name, seen in zip(candidates, (labels != ABSENT).any(axis=0), strict=True) if seen)
    contents = (read_content(path) for path in folder.annotation_paths(ids, split=split))
    return tuple(sorted({item.name for content in contents for item in content.objects}))


def _record(image_id: str, path: Path, header: ImageHeader, content: Content, mends: Mends) -> ImageRecord:
    """EXIF is applied, unless the annotation's size shows that its boxes are in the frame of the stored pixels."""
    upright, stored = header.size(apply_exif=True), header.size(apply_exif=False)
    apply_exif = True
    if content.size is None:
        mends.count("unusable_size", image_id)
    elif content.size == stored != upright:
        mends.count("exif_off", image_id)
        apply_exif = False
    elif content.size != upright:
        mends.count("other_size", image_id)
    return ImageRecord(id=image_id, path=path, apply_exif=apply_exif)


def _ground_truth(
    content: Content,
    boxes: npt.NDArray[np.float64],
    *,
    image_id: str,
    size: tuple[int, int],
    classes: tuple[str, ...],
    mends: Mends,
) -> GroundTruth:
    column = {name: index for index, name in enumerate(classes)}
    objects = [item for item in content.objects if item.name in column]
    mended, kept = _mend_boxes(boxes, size=size, image_id=image_id, mends=mends)
    return GroundTruth(
        boxes=mended[kept],
        labels=np.array([column[item.name] for item in objects], dtype=np.int64)[kept],
        difficult=np.array([item.difficult for item in objects], dtype=np.bool_)[kept],
    )


def _mend_boxes(
    boxes: npt.NDArray[np.float64], *, size: tuple[int, int], image_id: str, mends: Mends
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Boxes as written -> boxes in the project's convention, inside the image (K, 4), and which to keep (K,)."""
    first, second = boxes[:, :2], boxes[:, 2:]
    ordered = np.hstack([np.minimum(first, second), np.maximum(first, second)])
    mends.count("swapped", image_id, times=int((ordered != boxes).any(axis=1).sum()))
    converted = from_voc(ordered)
    clipped = clip(converted, width=size[0], height=size[1]).astype(np.float32)
    kept = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    mends.count("dropped", image_id, times=int((~kept).sum()))
    mends.count("clipped", image_id, times=int(((clipped != converted).any(axis=1) & kept).sum()))
    return clipped, kept


def _check_labels(labels: npt.NDArray[np.int8], *, images: int, classes: int) -> None:
    if labels.shape != (images, classes) or labels.dtype != np.int8:
        raise ValueError(f"got labels {labels.dtype} {labels.shape}; expected int8 ({images}, {classes})")
