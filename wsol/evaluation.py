"""Runs a model over a split: its predictions in original pixels, after score cut and non-maximum suppression.

An image is seen in one view or in several (scales, mirrored or not). What the views say is put together first, and
becomes points, boxes and detections then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image, nms

from wsol.boxes import Detections, GroundTruth, iou
from wsol.data.batch import NEGATIVE, ImageBatch
from wsol.data.transforms import View
from wsol.detections import SplitDetections
from wsol.heat_maps import GRID, HeatMaps, component_boxes
from wsol.models.detector import ImagePrediction, ScoreMaps, WeaklySupervisedModel

_FLOAT16_LIMIT = 6e4

SeenImages = Sequence[tuple[View, ImageBatch]]
"""The same images in each view. The first view is not mirrored."""


class NonFinitePredictionError(ArithmeticError):
    """A model predicted NaN: its weights have diverged. The message names the image."""


@dataclass(frozen=True)
class PostProcessing:
    """What becomes of a model's scores. See `EvaluateConfig`.

    Attributes:
        score_threshold: detections of lower scores are dropped, of an equal one kept. On the scale of the scores.
        nms_iou: a detection is dropped when it overlaps a better one of its class by more than this.
        combine: what becomes of the region scores of several views.
        box_threshold: boxes are drawn around where a heat map, scaled to [0, 1], is at least this.
        box_components: one box around the largest component of a heat map, or one around each.
    """

    score_threshold: float
    nms_iou: float
    combine: Literal["mean", "sum"]
    box_threshold: float
    box_components: Literal["largest", "all"]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What all views together say of one image, in pixels of the original.

    Attributes:
        width: of the original, like `height`.
        class_scores: (C,).
        boxes: float32 (N, 4), the proposals, clipped to the image; N is 0 for a model of score maps.
        box_scores: (N, C).
        heat_maps: float32 (C, GRID, GRID) over the whole image; None for a model that scores proposals.
    """

    width: int
    height: int
    class_scores: Tensor
    boxes: Tensor
    box_scores: Tensor
    heat_maps: Tensor | None


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """What is found in one image, in pixels of the original.

    Attributes:
        detections: after score cut and NMS: class by class, best score first.
        class_scores: float32 (C,).
        points: float32 (C, 2) x y, the best place for each class; NaN where there is none.
        top_boxes: float32 (C, 4), the best box of each class before score cut and NMS; NaN where there is none.
    """

    detections: Detections
    class_scores: NDArray[np.float32]
    points: NDArray[np.float32]
    top_boxes: NDArray[np.float32]


def detect(
    model: WeaklySupervisedModel,
    passes: Iterable[SeenImages],
    *,
    classes: Sequence[str],
    post_processing: PostProcessing,
    device: torch.device,
    ground_truth: Sequence[GroundTruth],
) -> SplitDetections:
    """Runs a model over a split. Keeps detections, not the scores of all regions.

    The model is put in eval mode, and back into the mode it was in, also when something fails.

    Args:
        model: lives on `device`.
        passes: the images of the split, in its order, some at a time.
        classes: C names.
        post_processing: of the scores.
        device: where batches are sent.
        ground_truth: one for each image: for the overlap of the proposals with it, and for nothing else.

    Raises:
        NonFinitePredictionError: for scores of NaN.
    """
    split = _SplitRecord(classes=tuple(classes), ground_truth=ground_truth)
    with eval_mode(model), torch.inference_mode():
        for seen in passes:
            labels, ids = seen[0][1].labels, seen[0][1].image_ids
            for row, scores in enumerate(score_images(model, seen, device=device, combine=post_processing.combine)):
                split.add(ids[row], scores, detections_of(scores, post_processing), labels[row])
    return split.stacked()


def score_images(
    model: WeaklySupervisedModel, seen: SeenImages, *, device: torch.device, combine: Literal["mean", "sum"]
) -> Iterator[ImageScores]:
    """What the model says of each image, all views together. Call it in eval mode, under `torch.inference_mode`.

    Raises:
        NonFinitePredictionError: for scores of NaN.
    """
    predictions = [model.predict(batch.to(device)) for _, batch in seen]  # one list a view
    batch = seen[0][1]
    for index, image_id in enumerate(batch.image_ids):
        of_image = [of_view[index] for of_view in predictions]
        for prediction in of_image:
            _check_scores(prediction, image_id)
        sizes = [(int(some.images[index].shape[1]), int(some.images[index].shape[2])) for _, some in seen]
        mirrored = [view.flip for view, _ in seen]
        # The scale is the quotient of two whole sizes, so the original size comes out exactly.
        height, width = (round(side / scale) for side, scale in zip(sizes[0], batch.scales[index][::-1], strict=True))
        boxes = to_original_pixels(of_image[0].boxes, batch.scales[index])
        box_scores = torch.stack([prediction.box_scores for prediction in of_image])  # (views, N, C)
        yield ImageScores(
            width=width,
            height=height,
            class_scores=torch.stack([prediction.class_scores for prediction in of_image]).mean(dim=0),
            boxes=clip_boxes_to_image(boxes, (height, width)),
            box_scores=box_scores.sum(dim=0) if combine == "sum" else box_scores.mean(dim=0),
            heat_maps=_mean_heat_maps([prediction.score_maps for prediction in of_image], sizes, mirrored),
        )


def detections_of(scores: ImageScores, options: PostProcessing) -> ImageDetections:
    """Points, boxes and detections of one image. On the device of the scores, then copied once."""
    if scores.heat_maps is None:
        top = top_boxes(scores.boxes, scores.box_scores)  # (C, 4)
        points = (top[:, :2] + top[:, 2:]) / 2
        candidates = above_threshold(scores.boxes, scores.box_scores, threshold=options.score_threshold)
    else:
        boxes, box_scores, labels = _boxes_of_heat_maps(scores, options)
        first = [labels.tolist().index(label) for label in range(len(scores.class_scores))]
        top, points = boxes[first], _peaks(scores.heat_maps, width=scores.width, height=scores.height)
        kept = box_scores >= options.score_threshold
        candidates = boxes[kept], box_scores[kept], labels[kept]
    kept_boxes, kept_scores, kept_labels = suppress_by_class(
        *candidates, num_classes=len(scores.class_scores), iou_threshold=options.nms_iou
    )
    return ImageDetections(
        detections=Detections(boxes=_numpy(kept_boxes), scores=_numpy(kept_scores), labels=kept_labels.cpu().numpy()),
        class_scores=_numpy(scores.class_scores),
        points=_numpy(points),
        top_boxes=_numpy(top),
    )


def on_grid(maps: ScoreMaps, *, height: int, width: int) -> Tensor:
    """Score maps over the whole image, whatever its size: bilinear, (C, h, w) to float32 (C, GRID, GRID).

    Args:
        maps: of an image of `height` x `width` pixels, which they may not cover exactly: what sticks out is cut off,
            and beyond the last cell its value holds.
        height: of the image that the network saw.
        width: likewise.
    """
    cells_high, cells_wide = maps.values.shape[1:]
    centres = (torch.arange(GRID, device=maps.values.device) + 0.5) / GRID  # fractions of the image's sides
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and the last cell.
    y = centres * (2 * height / (cells_high * maps.stride)) - 1
    x = centres * (2 * width / (cells_wide * maps.stride)) - 1
    places = torch.stack([x.expand(GRID, GRID), y[:, None].expand(GRID, GRID)], dim=2)  # (GRID, GRID, 2)
    values = maps.values.float()[None]
    return F.grid_sample(values, places[None], padding_mode="border", align_corners=False)[0]


def _mean_heat_maps(
    maps: Sequence[ScoreMaps | None], sizes: Sequence[tuple[int, int]], mirrored: Sequence[bool]
) -> Tensor | None:
    """The mean over the views, each on the grid and mirrored back."""
    views = [
        on_grid(some, height=height, width=width).flip(-1 if flip else ())
        for some, (height, width), flip in zip(maps, sizes, mirrored, strict=True)
        if some is not None
    ]
    return torch.stack(views).mean(dim=0) if views else None


def _boxes_of_heat_maps(scores: ImageScores, options: PostProcessing) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (M, 4), scores (M,) and labels (M,): class by class, best first; at least one a class.

    A box has the class's score for the image, less what its peak lies below that of the class's map.
    """
    assert scores.heat_maps is not None
    boxes, box_scores, labels = [], [], []
    class_scores = _numpy(scores.class_scores)
    for label, heat_map in enumerate(_numpy(scores.heat_maps)):
        fractions, peaks = component_boxes(heat_map, threshold=options.box_threshold, components=options.box_components)
        boxes.append(fractions * np.array([scores.width, scores.height] * 2, dtype=np.float32))
        box_scores.append(class_scores[label] + peaks - peaks[0])
        labels += [label] * len(peaks)
    return (
        torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
        torch.from_numpy(np.concatenate(box_scores).astype(np.float32)),
        torch.tensor(labels),
    )


def _peaks(heat_maps: Tensor, *, width: int, height: int) -> Tensor:
    """The centre of the best cell of each map (C, GRID, GRID): (C, 2) x y.

    Of those that are tied it is the one nearest to the centre of the image (of these the first): beyond the centres
    of a score map's outermost cells a heat map is flat, and such a cell's point is its centre, not the image's edge.
    """
    offsets = torch.arange(GRID, device=heat_maps.device) - (GRID - 1) / 2
    distance = (offsets.square()[:, None] + offsets.square()).flatten()  # (GRID * GRID,)
    cells = heat_maps.flatten(1)
    best = distance.masked_fill(cells < cells.amax(dim=1, keepdim=True), math.inf).argmin(dim=1)  # (C,)
    x = (best % GRID + 0.5) * (width / GRID)
    y = (best // GRID + 0.5) * (height / GRID)
    return torch.stack([x, y], dim=1)


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


class _SplitRecord:
    """What is kept of a split, image by image."""

    def __init__(self, *, classes: tuple[str, ...], ground_truth: Sequence[GroundTruth]) -> None:
        self._classes = classes
        self._ground_truth = ground_truth
        self._ids: list[str] = []
        self._found: list[ImageDetections] = []
        self._overlap: list[NDArray[np.float32]] = []
        self._maps: list[tuple[int, int, NDArray[np.float16]]] = []  # image, label, heat map
        self._gives_maps = False

    def add(self, image_id: str, scores: ImageScores, found: ImageDetections, labels: Tensor) -> None:
        """Of the next image; `labels` (C,) says which heat maps are worth keeping."""
        image = len(self._ids)
        self._ids.append(image_id)
        self._found.append(found)
        if scores.heat_maps is None:
            overlap = iou(self._ground_truth[image].boxes, _numpy(scores.boxes))  # (K, N)
            self._overlap.append(overlap.max(axis=1, initial=0.0).astype(np.float32))
            return
        self._gives_maps = True
        maps = scores.heat_maps.clamp(-_FLOAT16_LIMIT, _FLOAT16_LIMIT).half().cpu().numpy()
        self._maps += [(image, label, maps[label]) for label in (labels != NEGATIVE).nonzero().flatten().tolist()]

    def stacked(self) -> SplitDetections:
        """Everything that was added."""
        images, classes = len(self._ids), len(self._classes)
        return SplitDetections(
            image_ids=tuple(self._ids),
            classes=self._classes,
            detections=tuple(found.detections for found in self._found),
            class_scores=_array([found.class_scores for found in self._found], (images, classes)),
            points=_array([found.points for found in self._found], (images, classes, 2)),
            top_boxes=_array([found.top_boxes for found in self._found], (images, classes, 4)),
            proposal_overlap=None if self._gives_maps else np.concatenate([np.zeros(0, np.float32), *self._overlap]),
            heat_maps=self._heat_maps() if self._gives_maps else None,
        )

    def _heat_maps(self) -> HeatMaps:
        return HeatMaps(
            maps=np.array([kept for _, _, kept in self._maps], dtype=np.float16).reshape(-1, GRID, GRID),
            images=np.array([image for image, _, _ in self._maps], dtype=np.int64),
            labels=np.array([label for _, label, _ in self._maps], dtype=np.int64),
        )


def _array(values: Sequence[NDArray[np.float32]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32).reshape(shape)


@contextmanager
def eval_mode(model: WeaklySupervisedModel) -> Iterator[None]:
    """The model in eval mode, and then back in the mode it was in."""
    assert isinstance(model, nn.Module), "WeaklySupervisedModel promises it"
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_scores(prediction: ImagePrediction, image_id: str) -> None:
    """Refuses NaN, and infinity in maps. Other infinities can be ranked: the logarithm of a score may be one."""
    undefined = prediction.class_scores.isnan().any() | prediction.box_scores.isnan().any()
    if prediction.score_maps is not None:
        undefined |= ~prediction.score_maps.values.isfinite().all()
    if bool(undefined):
        raise NonFinitePredictionError(f"got a score of NaN for image {image_id}: the weights have diverged")


def _numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
