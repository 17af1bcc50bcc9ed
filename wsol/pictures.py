"""Pictures of what a model found: of a finished trial, and of a single image. Torch-free.

Those of a trial show its best, its worst and some random images of the eval split. They are made from what is stored of
a trial (`SplitDetections`) and from the split: the model is not needed.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsol.atomic_file import pending_file, sync_folder
from wsol.boxes import Detections, GroundTruth, iou
from wsol.data.images import read_image
from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections
from wsol.heat_maps import min_max_scaled
from wsol.seeding import generator
from wsol.visualize import LabelledBox, Panel, RgbImage, side_by_side

DRAWN_PER_CLASS = 5
"""Of each class in question so many of the best detections are drawn, and as many of the best of any class."""
PANELS_A_ROW = 4
JPEG_QUALITY = 90
SHOWN = 1
"""The image-level label of a class with an object that is not difficult."""


@dataclass(frozen=True)
class Choice:
    """One picture: of image `index` of the split, the `rank`-th (from 1) of its kind."""

    kind: Literal["best", "worst", "random"]
    rank: int
    index: int


def write_pictures(folder: Path, found: SplitDetections, split: EvaluationSplit, *, count: int) -> None:
    """Replaces `folder` with the pictures of a trial: JPEG files like `best-1-000012.jpg`. None for a `count` of 0.

    The folder appears with all of its pictures or not at all.

    Args:
        folder: its parent exists. One writer at a time.
        found: on the images of `split`, in its order.
        split: what was to be found.
        count: of the best, of the worst and of the random images; at least 0. See `choose_images`.

    Raises:
        DataError: for an image that can no longer be read.
        OSError: where the folder cannot be written.
    """
    pending = folder.with_name(f".{folder.name}.pending")
    _remove(pending)  # of an attempt that was killed
    if count > 0:
        pending.mkdir()
        qualities = image_qualities(found, split)
        for choice in choose_images(qualities, split, count=count):
            picture = draw_choice(choice, found, split, quality=float(qualities[choice.index]))
            save_picture(pending / _file_name(choice, split.images[choice.index].id), picture)
    _remove(folder)
    if count > 0:
        pending.rename(folder)
    sync_folder(folder.parent)


def image_qualities(found: SplitDetections, split: EvaluationSplit) -> NDArray[np.float64]:
    """How well each image was localized: (I,) in [0, 1], NaN where the image shows no class.

    The mean, over the classes with label 1, of the best IoU of the class's top box with any object of the class,
    difficult ones included. A missing top box overlaps nothing.
    """
    assert found.top_boxes is not None, "both tasks give them"
    qualities = np.full(len(split.images), np.nan)
    for index, truth in enumerate(split.ground_truth):
        shown = np.flatnonzero(split.labels[index] == SHOWN)
        if len(shown):
            overlaps = [
                iou(found.top_boxes[index, label][None], truth.boxes[truth.labels == label]).max(initial=0.0)
                for label in shown
            ]
            qualities[index] = np.mean(overlaps)
    return qualities


def choose_images(qualities: NDArray[np.float64], split: EvaluationSplit, *, count: int) -> list[Choice]:
    """The images to be shown: the best, the worst, random ones. No image is chosen twice.

    The random ones come first, since they are to be the same in every trial: they depend on the split's name and ids
    and on `count` alone, and those for a smaller count are among those for a larger one. The best and the worst are
    the first and last by quality among the others that show a class; of equal ones the first of the split goes first.

    Args:
        qualities: (I,), NaN for images that show no class.
        split: of I images.
        count: of each kind. Where there are too few images the kinds share them.

    Returns:
        Best first, then worst, the worst first, then random.
    """
    total = len(qualities)
    order = generator(0, "pictures", split.name, *(image.id for image in split.images)).permutation(total)
    drawn = order[: min(count, total // 3)]
    candidates = np.setdiff1d(np.flatnonzero(~np.isnan(qualities)), drawn)  # ascending
    best = candidates[np.argsort(-qualities[candidates], kind="stable")][: min(count, math.ceil(len(candidates) / 2))]
    others = np.setdiff1d(candidates, best)
    worst = others[np.argsort(qualities[others], kind="stable")][:count]
    return [*_ranked("best", best), *_ranked("worst", worst), *_ranked("random", drawn)]


def draw_choice(choice: Choice, found: SplitDetections, split: EvaluationSplit, *, quality: float) -> RgbImage:
    """Ground truth beside detections, over a heat map where there is one, with a caption.

    Args:
        quality: of the image, see `image_qualities`.
    """
    index = choice.index
    record = split.images[index]
    image = read_image(record)
    shown = np.flatnonzero(split.labels[index] == SHOWN)
    title, heat_map = _heat_map(found, index)
    mean_iou = "no class shown" if math.isnan(quality) else f"mean IoU of the best boxes {quality:.2f}"
    return side_by_side(
        [
            Panel(
                title="ground truth", image=image, boxes=ground_truth_boxes(split.ground_truth[index], split.classes)
            ),
            Panel(
                title=title,
                image=image,
                boxes=detection_boxes(found.detections[index], found.classes, of_interest=shown),
                heat_map=heat_map,
            ),
        ],
        caption=f"{choice.kind} {choice.rank} of {split.name}: {record.id}, {mean_iou}",
    )


def save_picture(path: Path, picture: RgbImage) -> None:
    """Writes a .jpg or .png, whole or not at all, replacing what was there.

    Raises:
        OSError: where it cannot be written.
    """
    image_format, options = ("PNG", {}) if path.suffix == ".png" else ("JPEG", {"quality": JPEG_QUALITY})
    with pending_file(path.with_name(f".{path.name}.pending")) as pending:
        Image.fromarray(picture).save(pending.file, format=image_format, **options)
        pending.publish(path.name)


def draw_prediction(
    image: RgbImage,
    detections: Detections,
    classes: Sequence[str],
    *,
    heat_maps: Mapping[int, NDArray[np.floating]],
    class_scores: NDArray[np.floating],
    caption: str,
) -> RgbImage:
    """An image with its boxes, and beside it once for each predicted class with the class's heat map.

    Args:
        image: uint8 (H, W, 3).
        detections: in pixels of `image`.
        classes: C names.
        heat_maps: label -> float (h, w) in [0, 1]; the first panel shows the detections of these classes.
        class_scores: (C,).
        caption: one line.
    """
    boxes = detection_boxes(detections, classes, of_interest=list(heat_maps))
    panels = [Panel(title="detections", image=image, boxes=boxes)]
    panels += [
        Panel(title=f"map of {classes[label]}, score {class_scores[label]:.3g}", image=image, heat_map=heat_map)
        for label, heat_map in heat_maps.items()
    ]
    return side_by_side(panels, caption=caption, columns=PANELS_A_ROW)


def ground_truth_boxes(truth: GroundTruth, classes: Sequence[str]) -> list[LabelledBox]:
    """The objects of an image, in the order of the annotation."""
    return [
        LabelledBox(
            corners=(float(x1), float(y1), float(x2), float(y2)),
            label=int(label),
            text=f"{classes[label]} (difficult)" if difficult else classes[label],
        )
        for (x1, y1, x2, y2), label, difficult in zip(truth.boxes, truth.labels, truth.difficult, strict=True)
    ]


def detection_boxes(
    detections: Detections, classes: Sequence[str], *, of_interest: Sequence[int] | NDArray[np.integer]
) -> list[LabelledBox]:
    """The detections to be drawn: a few of each class of interest, then those of others among the best of the image.

    Both best first. Not all: a region's score may be tiny and count still, so a detector has hundreds of detections in
    an image.
    """
    order = np.argsort(-detections.scores, kind="stable")
    mine: set[int] = set()
    for label in of_interest:
        mine |= set(order[detections.labels[order] == label][:DRAWN_PER_CLASS].tolist())
    best = [row for row in order[:DRAWN_PER_CLASS].tolist() if row not in mine]
    rows = [row for row in order.tolist() if row in mine] + best
    return [_detection_box(detections, row, classes) for row in rows]


def _detection_box(detections: Detections, row: int, classes: Sequence[str]) -> LabelledBox:
    x1, y1, x2, y2 = detections.boxes[row].tolist()
    label = int(detections.labels[row])
    return LabelledBox(corners=(x1, y1, x2, y2), label=label, text=f"{classes[label]}: {detections.scores[row]:.2g}")


def _heat_map(found: SplitDetections, index: int) -> tuple[str, NDArray[np.float32] | None]:
    """The panel's title, and the map of that class with one in image `index` that the model is surest of."""
    if found.heat_maps is None:
        return "detections", None
    rows = np.flatnonzero(found.heat_maps.images == index)
    if len(rows) == 0:
        return "detections", None
    labels = found.heat_maps.labels[rows]
    best = int(found.class_scores[index, labels].argmax())
    return f"detections, map of {found.classes[labels[best]]}", min_max_scaled(found.heat_maps.maps[rows[best]]).astype(
        np.float32
    )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _file_name(choice: Choice, image_id: str) -> str:
    """An id may be long and hold anything but a slash; kind and rank already make the name unique."""
    plain_id = re.sub(r"[^\w.-]", "_", image_id)[:50]
    return f"{choice.kind}-{choice.rank}-{plain_id}.jpg"


def _ranked(kind: Literal["best", "worst", "random"], indices: NDArray[np.integer]) -> Iterator[Choice]:
    for rank, index in enumerate(indices.tolist(), start=1):
        yield Choice(kind=kind, rank=rank, index=index)
