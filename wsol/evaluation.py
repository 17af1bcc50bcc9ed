"""Runs a model over a split: its predictions in original pixels, after score cut and non-maximum suppression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from wsol.boxes import Detections
from wsol.data.batch import ImageBatch
from wsol.detections import SplitDetections
from wsol.models.detector import ImagePrediction, WeaklySupervisedModel


class NonFinitePredictionError(ArithmeticError):
    """A model predicted NaN: its weights have diverged. The message names the image."""


@dataclass(frozen=True)
class PostProcessing:
    """What becomes of region scores. See `EvaluateConfig`.

    Attributes:
        score_threshold: lower scores are dropped, an equal one is kept.
        nms_iou: a detection is dropped when it overlaps a better one of its class by more than this.
        gives_boxes: whether the model gives boxes at all.
    """

    score_threshold: float
    nms_iou: float
    gives_boxes: bool


def detect(
    model: WeaklySupervisedModel,
    batches: Iterable[ImageBatch],
    *,
    classes: Sequence[str],
    post_processing: PostProcessing,
    device: torch.device,
) -> SplitDetections:
    """Runs a model over a split. Keeps detections, not the scores of all regions.

    The model is put in eval mode, and back into the mode it was in, also when something fails.

    Raises:
        NonFinitePredictionError: for scores of NaN.
    """
    assert isinstance(model, nn.Module), "WeaklySupervisedModel promises it"
    found = []
    with _eval_mode(model), torch.inference_mode():
        for batch in batches:
            predictions = model.predict(batch.to(device))
            for prediction, image, scale, image_id in zip(
                predictions, batch.images, batch.scales, batch.image_ids, strict=True
            ):
                _check_scores(prediction, image_id)
                found.append((image_id, _in_original_pixels(prediction, image, scale, post_processing)))
    return _stack(found, tuple(classes), gives_boxes=post_processing.gives_boxes)


def to_original_pixels(coordinates: Tensor, scale: tuple[float, float]) -> Tensor:
    """Divides x by scale[0] and y by scale[1], in float64.

    Args:
        coordinates: (N, 2) x y or (N, 4) x1 y1 x2 y2, in pixels of a resized image.
        scale: (x, y) factors from the original to the resized image.

    Returns:
        float32, shape of `coordinates`.
    """
    factors = coordinates.new_tensor(scale, dtype=torch.float64).repeat(coordinates.shape[1] // 2)
    return (coordinates.double() / factors).float()


def top_boxes(boxes: Tensor, box_scores: Tensor) -> Tensor:
    """The best box of each class, whatever its score: (N, 4), (N, C) -> (C, 4); NaN where N is 0."""
    if len(boxes) == 0:
        return boxes.new_full((box_scores.shape[1], 4), math.nan)
    return boxes[box_scores.argmax(dim=0)]


def above_threshold(boxes: Tensor, box_scores: Tensor, *, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of a box and a class with a score of at least `threshold`.

    Args:
        boxes: (N, 4).
        box_scores: (N, C).
        threshold: a score equal to it is kept.

    Returns:
        boxes (M, 4), scores (M,), labels int64 (M,): class by class, in the order of `boxes` within a class.
    """
    labels, rows = (box_scores >= threshold).T.nonzero(as_tuple=True)  # (M,), (M,)
    return boxes[rows], box_scores[rows, labels], labels


def suppress_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, num_classes: int, iou_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy non-maximum suppression within each class.

    One class at a time: torchvision's `batched_nms` moves classes apart by adding offsets to float32 coordinates,
    which rounds them.

    Args:
        boxes: (M, 4).
        scores: (M,).
        labels: int64 (M,), ascending, in [0, num_classes).
        num_classes: C.
        iou_threshold: a box that overlaps a better one by more than this is dropped; exactly this is kept.

    Returns:
        What is left of the three: class by class, best score first, equal scores in the order given.
    """
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    kept, start = [labels.new_zeros(0)], 0
    for count in counts:
        of_class = slice(start, start + count)
        if count:
            kept.append(start + nms(boxes[of_class], scores[of_class], iou_threshold))
        start += count
    rows = torch.cat(kept)
    return boxes[rows], scores[rows], labels[rows]


@dataclass(frozen=True, eq=False)
class _ImageDetections:
    detections: Detections
    class_scores: NDArray[np.float32]  # (C,)
    points: NDArray[np.float32]  # (C, 2)
    top_boxes: NDArray[np.float32]  # (C, 4)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_scores(prediction: ImagePrediction, image_id: str) -> None:
    """Refuses NaN. Infinities can be ranked: the logarithm of a score may be one."""
    if bool(prediction.class_scores.isnan().any() | prediction.box_scores.isnan().any()):
        raise NonFinitePredictionError(f"got a score of NaN for image {image_id}: the weights have diverged")


def _in_original_pixels(
    prediction: ImagePrediction, image: Tensor, scale: tuple[float, float], options: PostProcessing
) -> _ImageDetections:
    """Original pixels, clipped to the image; score cut; NMS. On the device of the prediction, then copied once."""
    # The scale is the quotient of two whole sizes, so the original size comes out exactly.
    width, height = round(image.shape[-1] / scale[0]), round(image.shape[-2] / scale[1])
    boxes = clip_boxes_to_image(to_original_pixels(prediction.boxes, scale), (height, width))  # (N, 4)
    best = top_boxes(boxes, prediction.box_scores)  # (C, 4)
    candidates = above_threshold(boxes, prediction.box_scores, threshold=options.score_threshold)
    kept = suppress_by_class(*candidates, num_classes=prediction.box_scores.shape[1], iou_threshold=options.nms_iou)
    points = to_original_pixels(prediction.points, scale)
    limit = points.new_tensor([width, height])
    return _ImageDetections(
        detections=Detections(boxes=_numpy(kept[0]), scores=_numpy(kept[1]), labels=kept[2].cpu().numpy()),
        class_scores=_numpy(prediction.class_scores),
        points=_numpy(torch.minimum(points.clamp(min=0), limit)),
        top_boxes=_numpy(best),
    )


def _numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def _stack(
    found: Sequence[tuple[str, _ImageDetections]], classes: tuple[str, ...], *, gives_boxes: bool
) -> SplitDetections:
    count = len(classes)
    images = [image for _, image in found]
    boxes = np.array([image.top_boxes for image in images], dtype=np.float32).reshape(len(images), count, 4)
    return SplitDetections(
        image_ids=tuple(image_id for image_id, _ in found),
        classes=classes,
        detections=tuple(image.detections for image in images),
        class_scores=np.array([image.class_scores for image in images], dtype=np.float32).reshape(-1, count),
        points=np.array([image.points for image in images], dtype=np.float32).reshape(-1, count, 2),
        top_boxes=boxes if gives_boxes else None,
    )
