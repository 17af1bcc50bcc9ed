"""From predictions in a network's pixels to detections in those of the original image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsol.boxes import iou
from wsol.data.batch import ImageBatch
from wsol.detections import SplitDetections
from wsol.evaluation import (
    NonFinitePredictionError,
    PostProcessing,
    above_threshold,
    detect,
    suppress_by_class,
    to_original_pixels,
    top_boxes,
)
from wsol.models.detector import ImagePrediction

CPU = torch.device("cpu")
OPTIONS = PostProcessing(score_threshold=0.1, nms_iou=0.5, gives_boxes=True)


def test_pixels_are_divided_axis_by_axis() -> None:
    boxes = torch.tensor([[2.0, 9.0, 4.0, 12.0]])
    assert to_original_pixels(boxes, (2.0, 3.0)).tolist() == [[1, 3, 2, 4]]
    assert to_original_pixels(torch.tensor([[2.0, 9.0]]), (2.0, 3.0)).tolist() == [[1, 3]]
    assert to_original_pixels(torch.zeros(0, 4), (2.0, 3.0)).shape == (0, 4)


def test_there_and_back_is_exact_for_whole_pixels() -> None:
    corners = torch.arange(1.0, 2001.0)
    for network_side, original_side in ((480, 500), (688, 333), (1200, 1999)):
        scale = network_side / original_side
        resized = (corners.double() * scale).float().reshape(-1, 4)
        back = to_original_pixels(resized, (scale, scale)).flatten()
        assert (back - corners).abs().max() < 2e-4


def test_the_best_box_of_each_class() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    scores = torch.tensor([[0.1, 0.0, 0.5], [0.2, 0.0, 0.4]])
    assert top_boxes(boxes, scores)[:, 2].tolist() == [2, 1, 1]  # of equal scores the first
    assert top_boxes(boxes[:0], scores[:0]).isnan().all()
    assert top_boxes(boxes[:0], scores[:0]).shape == (3, 4)


def test_a_score_equal_to_the_threshold_is_kept() -> None:
    boxes = torch.arange(12.0).reshape(3, 4)
    scores = torch.tensor([[0.5, 0.2], [0.25, 0.25], [0.1, 0.3]])
    kept, values, labels = above_threshold(boxes, scores, threshold=0.25)
    assert labels.tolist() == [0, 0, 1, 1]
    assert kept[:, 0].tolist() == [0, 4, 4, 8]
    assert values.tolist() == pytest.approx([0.5, 0.25, 0.25, 0.3])


def test_nothing_above_the_threshold() -> None:
    for count in (0, 3):
        kept, values, labels = above_threshold(torch.zeros(count, 4), torch.zeros(count, 2), threshold=0.1)
        assert (kept.shape, values.shape, labels.shape) == ((0, 4), (0,), (0,))
        result = suppress_by_class(kept, values, labels, num_classes=2, iou_threshold=0.5)
        assert [len(part) for part in result] == [0, 0, 0]


def test_an_overlap_equal_to_the_threshold_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.1]])  # IoU 0.5 and 0.51 with the first
    result = suppress_by_class(
        boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), num_classes=1, iou_threshold=0.5
    )
    assert result[1].tolist() == pytest.approx([0.9, 0.8])


def test_classes_do_not_suppress_each_other_even_far_from_the_origin() -> None:
    near = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    for offset in (0.0, 1e6):
        result = suppress_by_class(
            near + offset, torch.tensor([0.5, 0.9]), torch.tensor([0, 2]), num_classes=3, iou_threshold=0.0
        )
        assert result[2].tolist() == [0, 2]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 9]])
    result = suppress_by_class(
        boxes, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64), num_classes=1, iou_threshold=0.5
    )
    assert result[0].tolist() == boxes[:2].tolist()


def _slow_suppression(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    overlap = iou(boxes.numpy(), boxes.numpy())
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda r: (int(labels[r]), -float(scores[r]), r)):
        if all(labels[row] != labels[other] or overlap[row, other] <= threshold for other in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_suppression_against_a_slow_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(60, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(60, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator).sort().values
    result = suppress_by_class(boxes, scores, labels, num_classes=5, iou_threshold=0.3)
    expected = _slow_suppression(boxes, scores, labels, 0.3)
    assert len(expected) < 60
    assert torch.equal(result[0], boxes[expected])
    assert torch.equal(result[1], scores[expected])
    assert torch.equal(result[2], labels[expected])


@dataclass(eq=False)
class FakeModel(nn.Module):
    """Predicts what it is told, image by image, and notes in which mode it was asked."""

    predictions: list[ImagePrediction]
    modes: list[tuple[bool, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._next = iter(self.predictions)

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        raise AssertionError("nobody trains here")

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        return [next(self._next) for _ in batch.images]


def _prediction(
    boxes: Sequence[Sequence[float]], scores: Sequence[Sequence[float]], *, point: tuple[float, float] = (0.0, 0.0)
) -> ImagePrediction:
    """Of two classes."""
    return ImagePrediction(
        class_scores=torch.tensor([0.3, 0.6]),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        box_scores=torch.tensor(scores).reshape(-1, 2),
        points=torch.tensor([point, (math.nan, math.nan)]),
    )


def _batch(*, size: tuple[int, int], scale: tuple[float, float], ids: tuple[str, ...] = ("a",)) -> ImageBatch:
    count = len(ids)
    return ImageBatch(
        images=[torch.zeros(3, size[1], size[0])] * count,
        labels=torch.ones(count, 2),
        proposals=[torch.zeros(0, 4)] * count,
        proposal_scores=[None] * count,
        image_ids=list(ids),
        scales=[scale] * count,
    )


def _detect(model: FakeModel, *batches: ImageBatch, gives_boxes: bool = True) -> SplitDetections:
    options = PostProcessing(score_threshold=0.1, nms_iou=0.5, gives_boxes=gives_boxes)
    return detect(model, batches, classes=("cat", "dog"), post_processing=options, device=CPU)


def test_predictions_come_back_in_original_pixels() -> None:
    # The original is 101 x 51 px, shown at 202 x 153: x was doubled, y tripled.
    model = FakeModel(
        [
            _prediction(
                [[20, 30, 60, 90], [22, 30, 60, 90], [-8, 0, 300, 300]],
                [[0.9, 0.05], [0.8, 0.09], [0.1, 0.099]],
                point=(210.0, 30.0),
            )
        ]
    )
    found = _detect(model, _batch(size=(202, 153), scale=(2.0, 3.0)))
    (detections,) = found.detections
    assert detections.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 101, 51]]  # the second one was suppressed
    assert detections.scores.tolist() == pytest.approx([0.9, 0.1])
    assert detections.labels.tolist() == [0, 0]
    assert found.top_boxes is not None
    assert found.top_boxes[0].tolist() == [[10, 10, 30, 30], [0, 0, 101, 51]]  # of class 1 below the threshold
    assert found.points[0, 0].tolist() == [101, 10]  # moved onto the border
    assert np.isnan(found.points[0, 1]).all()
    assert found.class_scores[0].tolist() == pytest.approx([0.3, 0.6])
    assert (found.image_ids, found.classes) == (("a",), ("cat", "dog"))


def test_an_image_without_boxes_has_no_best_box() -> None:
    model = FakeModel([_prediction([], []), _prediction([[0, 0, 1, 1]], [[0.5, 0.5]])])
    found = _detect(model, _batch(size=(9, 9), scale=(1.0, 1.0), ids=("a", "b")))
    assert [len(detections.labels) for detections in found.detections] == [0, 2]
    assert found.top_boxes is not None
    assert np.isnan(found.top_boxes[0]).all()
    assert not np.isnan(found.top_boxes[1]).any()


def test_a_model_that_gives_no_boxes() -> None:
    found = _detect(FakeModel([_prediction([], [])]), _batch(size=(9, 9), scale=(1.0, 1.0)), gives_boxes=False)
    assert found.top_boxes is None


def test_no_images() -> None:
    found = _detect(FakeModel([]))
    assert found.class_scores.shape == (0, 2)
    assert found.top_boxes is not None
    assert found.top_boxes.shape == (0, 2, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_given_back_also_after_a_failure(training: bool) -> None:
    model = FakeModel([_prediction([], [])])
    model.train(training)
    batch = _batch(size=(9, 9), scale=(1.0, 1.0))
    with pytest.raises(OSError, match="the second batch"):
        detect(model, _fails_after(batch), classes=("cat", "dog"), post_processing=OPTIONS, device=CPU)
    assert model.training is training
    assert model.modes == [(False, True)]


def _fails_after(batch: ImageBatch) -> Iterator[ImageBatch]:
    yield batch
    raise OSError("the second batch")


@pytest.mark.parametrize("broken", ["class_scores", "box_scores"])
def test_scores_of_nan_are_refused(broken: str) -> None:
    prediction = _prediction([[0, 0, 1, 1]], [[0.5, 0.5]])
    getattr(prediction, broken).view(-1)[-1] = math.nan
    with pytest.raises(NonFinitePredictionError, match="NaN for image b"):
        _detect(FakeModel([_prediction([], []), prediction]), _batch(size=(9, 9), scale=(1.0, 1.0), ids=("a", "b")))


def test_infinite_class_scores_are_fine() -> None:
    prediction = _prediction([], [])
    prediction.class_scores[0] = -math.inf
    assert _detect(FakeModel([prediction]), _batch(size=(9, 9), scale=(1.0, 1.0))).class_scores[0, 0] == -math.inf
