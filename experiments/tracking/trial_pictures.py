"""Pictures of what a complete trial found, as W&B shows them: boxes as data, so that they can be filtered there.

They are made anew from the trial's detections and the images of its eval split. Where those cannot be read, as on a
machine without the data, the pictures that the trial drew itself stand for them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.store import StoredTrial
from experiments.tracking.run_content import value_at

if TYPE_CHECKING:
    from wsol.boxes import Detections, GroundTruth
    from wsol.data.voc import EvaluationSplit
    from wsol.detections import SplitDetections
    from wsol.pictures import Choice
    from wsol.visualize import LabelledBox, RgbImage

log = logging.getLogger(__name__)

MAX_SIDE_PX = 640
"""Larger images are scaled down to this longer side: what is uploaded is for looking at."""


@dataclass(frozen=True)
class BoxOnPicture:
    """A box as fractions of the picture's sides, x1 y1 x2 y2 in [0, 1]."""

    corners: tuple[float, float, float, float]
    label: int
    text: str
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
        image: uint8 (H, W, 3), or a file of one that is drawn on already.
        caption: one line.
        boxes: by the name of the layer that can be shown and hidden.
        classes: names by label.
    """

    image: RgbImage | Path
    caption: str
    boxes: Mapping[str, Sequence[BoxOnPicture]] = field(default_factory=dict)
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class TrialPictures:
    """Of a trial.

    Attributes:
        pictures: ground truth beside detections.
        heat_maps: of images that have one, as the class that the model is surest of.
    """

    pictures: Sequence[Picture] = ()
    heat_maps: Sequence[Picture] = ()


def trial_pictures(trial: StoredTrial, config: Mapping[str, Any]) -> TrialPictures:
    """Of a complete trial: its best, worst and random images, `evaluate.pictures` of each kind.

    Args:
        config: resolved, as plain values.
    """
    count = value_at(config, "evaluate.pictures")
    if not count:
        return TrialPictures()
    try:
        return _from_detections(trial, config, count)
    except (OSError, ValueError) as error:  # DataError is a ValueError
        log.warning("trial %d: its drawn pictures stand for pictures with boxes (%s)", trial.number, error)
        files = sorted(trial.paths.images.glob("*.jpg"))
        return TrialPictures([Picture(image=file, caption=file.stem) for file in files])


def _from_detections(trial: StoredTrial, config: Mapping[str, Any], count: int) -> TrialPictures:
    from wsol.detections import load_detections
    from wsol.pictures import choose_images, image_qualities

    found = load_detections(trial.paths.detections)
    split = _read_split(str(value_at(config, "data.root")), str(value_at(config, "data.eval")), found.classes)
    if found.image_ids != tuple(image.id for image in split.images):
        raise ValueError(f"split {split.name} has other images than {trial.paths.detections}")
    qualities = image_qualities(found, split)
    choices = choose_images(qualities, split, count=count)
    drawn = [_picture(choice, found, split, quality=float(qualities[choice.index])) for choice in choices]
    maps = [one for choice in choices if (one := _heat_map(choice, found, split)) is not None]
    return TrialPictures(drawn, maps)


@lru_cache(maxsize=2)
def _read_split(root: str, name: str, classes: tuple[str, ...]) -> EvaluationSplit:
    from wsol.data.prepare import data_root
    from wsol.data.voc import read_evaluation_split

    return read_evaluation_split(data_root(root), split=name, classes=classes)


def _picture(choice: Choice, found: SplitDetections, split: EvaluationSplit, *, quality: float) -> Picture:
    import numpy as np

    from wsol.data.images import read_image
    from wsol.pictures import SHOWN, detection_boxes, ground_truth_boxes

    index = choice.index
    image = read_image(split.images[index])
    shown = np.flatnonzero(split.labels[index] == SHOWN)
    truth: GroundTruth = split.ground_truth[index]
    detections: Detections = found.detections[index]
    size = (image.shape[1], image.shape[0])
    mean_iou = "no class shown" if math.isnan(quality) else f"mean IoU of the best boxes {quality:.2f}"
    return Picture(
        image=_small(image),
        caption=f"{choice.kind} {choice.rank} of {split.name}: {split.images[index].id}, {mean_iou}",
        boxes={
            "ground_truth": [_fraction(box, size) for box in ground_truth_boxes(truth, split.classes)],
            "detections": [
                _scored(_fraction(box, size)) for box in detection_boxes(detections, found.classes, of_interest=shown)
            ],
        },
        classes=found.classes,
    )


def _fraction(box: LabelledBox, size: tuple[int, int]) -> BoxOnPicture:
    """Inside of the picture: W&B refuses what sticks out."""
    width, height = size
    x1, y1, x2, y2 = box.corners
    corners = (_clipped(x1 / width), _clipped(y1 / height), _clipped(x2 / width), _clipped(y2 / height))
    return BoxOnPicture(corners=corners, label=box.label, text=box.text)


def _scored(box: BoxOnPicture) -> BoxOnPicture:
    """With the score that the text of a detection ends with, by which W&B filters boxes."""
    return replace(box, score=float(box.text.rpartition(": ")[2]))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))


def _heat_map(choice: Choice, found: SplitDetections, split: EvaluationSplit) -> Picture | None:
    """The map of the class, among those of the image that have one, that the model is surest of."""
    import numpy as np

    from wsol.data.images import read_image
    from wsol.heat_maps import min_max_scaled
    from wsol.visualize import overlay_heat_map

    if found.heat_maps is None:
        return None
    rows = np.flatnonzero(found.heat_maps.images == choice.index)
    if not len(rows):
        return None
    labels = found.heat_maps.labels[rows]
    best = int(found.class_scores[choice.index, labels].argmax())
    record = split.images[choice.index]
    heat_map = min_max_scaled(found.heat_maps.maps[rows[best]])
    caption = f"{choice.kind} {choice.rank} of {split.name}: {record.id}, map of {found.classes[labels[best]]}"
    return Picture(image=overlay_heat_map(_small(read_image(record)), heat_map), caption=caption)


def _small(image: RgbImage) -> RgbImage:
    import numpy as np
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BICUBIC)
    return np.array(small)
