"""Splits with annotations and detections drawn by chance: good ones, bad ones, duplicates, difficult objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsol.boxes import Detections, GroundTruth
from wsol.data.images import ImageRecord
from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections

CLASSES = ("cat", "dog", "owl", "nothing")
"""There is no object of the last."""


def random_truth(rng: np.random.Generator, *, images: int) -> list[GroundTruth]:
    found = []
    for _ in range(images):
        count = int(rng.integers(0, 4))
        corner = rng.integers(0, 60, (count, 2))
        boxes = np.hstack([corner, corner + rng.integers(10, 40, (count, 2))]).astype(np.float32)
        found.append(
            GroundTruth(
                boxes=boxes,
                labels=rng.integers(0, len(CLASSES) - 1, count),
                difficult=rng.random(count) < 0.2,
            )
        )
    return found


def random_detections(rng: np.random.Generator, truth: GroundTruth, *, coarse: bool = False) -> Detections:
    """Some on the objects, some elsewhere. `coarse` scores are shared by images, never by two boxes of one image."""
    near = np.repeat(np.arange(len(truth.labels)), rng.integers(0, 3, len(truth.labels)))
    far = int(rng.integers(0, 5))
    corner = rng.integers(0, 60, (far, 2))
    boxes = np.vstack(
        [
            truth.boxes[near] + rng.normal(0, 4, (len(near), 4)),
            np.hstack([corner, corner + rng.integers(10, 40, (far, 2))]),
        ]
    ).astype(np.float32)
    labels = np.concatenate([truth.labels[near], rng.integers(0, len(CLASSES), far)])
    scores = rng.permutation(12)[: len(labels)] / 12 if coarse else rng.random(len(labels))
    return Detections(boxes=boxes, scores=scores.astype(np.float32), labels=labels)


def split_of(truth: Sequence[GroundTruth]) -> EvaluationSplit:
    labels = np.full((len(truth), len(CLASSES)), -1, np.int8)
    for row, one in zip(labels, truth, strict=True):
        row[one.labels] = 0
        row[one.labels[~one.difficult]] = 1
    images = tuple(ImageRecord(id=f"{index:06d}", path=Path(f"{index}.png")) for index in range(len(truth)))
    return EvaluationSplit(name="val", classes=CLASSES, images=images, labels=labels, ground_truth=tuple(truth))


def random_found(rng: np.random.Generator, split: EvaluationSplit, *, coarse: bool = False) -> SplitDetections:
    images = len(split.images)
    shape = (images, len(CLASSES))
    points = rng.uniform(0, 100, (*shape, 2)).astype(np.float32)
    points[rng.random(shape) < 0.1] = np.nan
    top = np.concatenate([rng.uniform(0, 30, (*shape, 2)), rng.uniform(40, 90, (*shape, 2))], axis=2)
    for index, truth in enumerate(split.ground_truth):
        near = rng.random(len(truth.labels)) < 0.5
        top[index, truth.labels[near]] = truth.boxes[near] + rng.normal(0, 3, (int(near.sum()), 4))
    scores = rng.random(shape)
    return SplitDetections(
        image_ids=tuple(record.id for record in split.images),
        classes=CLASSES,
        detections=tuple(random_detections(rng, truth, coarse=coarse) for truth in split.ground_truth),
        class_scores=(np.round(scores, 1) if coarse else scores).astype(np.float32),
        points=points,
        top_boxes=top.astype(np.float32),
        proposal_overlap=rng.random(sum(len(one.labels) for one in split.ground_truth)).astype(np.float32),
    )
