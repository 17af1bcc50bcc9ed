"""From predictions in a network's pixels to detections in those of the original image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsol.boxes import GroundTruth, iou
from wsol.data.batch import ImageBatch
from wsol.data.transforms import View
from wsol.detections import SplitDetections
from wsol.evaluation import (
    NonFinitePredictionError,
    PostProcessing,
    above_threshold,
    detect,
    on_grid,
    score_images,
    suppress_by_class,
    to_original_pixels,
    top_boxes,
)
from wsol.heat_maps import GRID
from wsol.models.detector import ImagePrediction, ScoreMaps

CPU = torch.device("cpu")
OPTIONS = PostProcessing(score_threshold=0.1, nms_iou=0.5, combine="mean", box_threshold=0.5, box_components="largest")


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


def _prediction(boxes: Sequence[Sequence[float]], scores: Sequence[Sequence[float]]) -> ImagePrediction:
    """Of two classes."""
    return ImagePrediction(
        class_scores=torch.tensor([0.3, 0.6]),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        box_scores=torch.tensor(scores).reshape(-1, 2),
    )


def _map_prediction(values: Tensor, *, scores: tuple[float, float] = (2.0, -1.0), stride: int = 8) -> ImagePrediction:
    return ImagePrediction(
        class_scores=torch.tensor(scores),
        boxes=torch.zeros(0, 4),
        box_scores=torch.zeros(0, 2),
        score_maps=ScoreMaps(values, stride=stride),
    )


def _batch(*, size: tuple[int, int], scale: tuple[float, float], ids: tuple[str, ...] = ("a",)) -> ImageBatch:
    count = len(ids)
    return ImageBatch(
        images=[torch.zeros(3, size[1], size[0])] * count,
        labels=torch.tensor([[1.0, -1.0]] * count),
        proposals=[torch.zeros(0, 4)] * count,
        proposal_scores=[None] * count,
        image_ids=list(ids),
        scales=[scale] * count,
    )


def _truth(*boxes: Sequence[float]) -> GroundTruth:
    return GroundTruth(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.zeros(len(boxes), dtype=np.int64),
        difficult=np.zeros(len(boxes), dtype=np.bool_),
    )


def _detect(
    model: FakeModel,
    *batches: ImageBatch,
    options: PostProcessing = OPTIONS,
    truth: Sequence[GroundTruth] = (_truth(), _truth()),
) -> SplitDetections:
    """Each batch in one view."""
    passes = [[(View(1), batch)] for batch in batches]
    return detect(model, passes, classes=("cat", "dog"), post_processing=options, device=CPU, ground_truth=truth)


def test_predictions_come_back_in_original_pixels() -> None:
    # The original is 101 x 51 px, shown at 202 x 153: x was doubled, y tripled.
    model = FakeModel(
        [
            _prediction(
                [[20, 30, 60, 90], [22, 30, 60, 90], [-8, 0, 300, 300]],
                [[0.9, 0.05], [0.8, 0.09], [0.1, 0.099]],
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
    assert found.points[0].tolist() == [[20, 20], [50.5, 25.5]]  # the centres of the best boxes
    assert found.heat_maps is None
    assert found.class_scores[0].tolist() == pytest.approx([0.3, 0.6])
    assert (found.image_ids, found.classes) == (("a",), ("cat", "dog"))


def test_an_image_without_boxes_has_no_best_box() -> None:
    model = FakeModel([_prediction([], []), _prediction([[0, 0, 1, 1]], [[0.5, 0.5]])])
    found = _detect(model, _batch(size=(9, 9), scale=(1.0, 1.0), ids=("a", "b")))
    assert [len(detections.labels) for detections in found.detections] == [0, 2]
    assert found.top_boxes is not None
    assert np.isnan(found.top_boxes[0]).all()
    assert np.isnan(found.points[0]).all()
    assert not np.isnan(found.top_boxes[1]).any()


def test_views_of_proposals_are_averaged_or_summed() -> None:
    """The second view is mirrored: its boxes lie elsewhere, its scores are of the same proposals."""
    views = [
        _prediction([[0, 0, 10, 10], [20, 0, 30, 10]], [[0.4, 0.0], [0.2, 0.0]]),
        _prediction([[70, 0, 80, 10], [50, 0, 60, 10]], [[0.2, 0.0], [0.6, 0.0]]),
    ]
    seen = [
        (View(40), _batch(size=(40, 20), scale=(1.0, 1.0))),
        (View(80, flip=True), _batch(size=(80, 40), scale=(2.0, 2.0))),
    ]
    for combine, scores in (("mean", [0.4, 0.3]), ("sum", [0.8, 0.6])):
        options = replace(OPTIONS, combine=combine)  # type: ignore[arg-type]
        found = detect(
            FakeModel(list(views)),
            [seen],
            classes=("cat", "dog"),
            post_processing=options,
            device=CPU,
            ground_truth=[_truth()],
        )
        assert found.detections[0].boxes.tolist() == [[20, 0, 30, 10], [0, 0, 10, 10]]
        assert found.detections[0].scores.tolist() == pytest.approx(scores)
        assert found.class_scores[0].tolist() == pytest.approx([0.3, 0.6])


def test_the_overlap_of_proposals_with_objects() -> None:
    model = FakeModel([_prediction([], []), _prediction([[0, 0, 10, 10], [0, 0, 10, 5]], [[0.0, 0.0], [0.0, 0.0]])])
    truth = [_truth([0, 0, 5, 5]), _truth([0, 0, 10, 4], [20, 20, 30, 30])]
    found = _detect(model, _batch(size=(40, 40), scale=(1.0, 1.0), ids=("a", "b")), truth=truth)
    assert found.proposal_overlap is not None
    assert found.proposal_overlap.tolist() == pytest.approx([0.0, 0.8, 0.0])


# --- score maps


def test_a_map_is_laid_over_its_image() -> None:
    """Cells of 8 px on an image of 20 x 12 px: the last ones stick out of it, and are cut."""
    values = torch.tensor([[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]])
    grid = on_grid(ScoreMaps(values, stride=8), height=12, width=20)[0]
    assert grid.shape == (GRID, GRID)
    for row in (0, 13, 40, GRID - 1):
        for column in (0, 7, 33, GRID - 1):
            y, x = (row + 0.5) / GRID * 12 / 8 - 0.5, (column + 0.5) / GRID * 20 / 8 - 0.5  # in cells, from a centre
            expected = 10 * min(max(y, 0), 1) + min(max(x, 0), 2)
            assert grid[row, column].item() == pytest.approx(expected, abs=1e-4)


def test_a_map_that_ends_before_its_image_goes_on_with_its_border() -> None:
    grid = on_grid(ScoreMaps(torch.tensor([[[1.0, 3.0]]]), stride=8), height=8, width=32)[0]
    assert grid[:, GRID // 2 :].unique().tolist() == [3.0]


def test_boxes_and_points_of_maps_in_original_pixels() -> None:
    """A bright cell at column 2, row 1 of 4 x 4 cells; the original is twice as wide and as high as the image."""
    values = torch.zeros(2, 4, 4)
    values[0, 1, 2] = 4.0
    values[1, 3, 0] = 1.0
    found = _detect(FakeModel([_map_prediction(values)]), _batch(size=(32, 32), scale=(0.5, 0.5)))
    assert found.points[0].tolist() == pytest.approx(np.array([[40.0, 24.0], [8.0, 56.0]]), abs=0.51)
    assert found.top_boxes is not None
    # bilinear: half of the peak half a cell beyond the cell's centre, so the box is the cell
    assert found.top_boxes[0, 0].tolist() == pytest.approx([32, 16, 48, 32], abs=0.6)
    (detections,) = found.detections
    assert detections.labels.tolist() == [0]  # class 1 scores -1, below the threshold of 0.1
    assert detections.scores.tolist() == pytest.approx([2.0])
    assert found.proposal_overlap is None
    assert found.heat_maps is not None
    assert (found.heat_maps.images.tolist(), found.heat_maps.labels.tolist()) == ([0], [0])  # label 1 is -1


def test_every_component_has_a_box_with_the_score_of_its_peak() -> None:
    values = torch.zeros(2, 8, 8)
    values[0, 1, 1], values[0, 6, 6] = 4.0, 3.0
    options = replace(OPTIONS, box_components="all", score_threshold=0.9)
    found = _detect(FakeModel([_map_prediction(values)]), _batch(size=(64, 64), scale=(1.0, 1.0)), options=options)
    (detections,) = found.detections
    assert detections.boxes.tolist() == [
        pytest.approx([8, 8, 16, 16], abs=0.6),
        pytest.approx([48, 48, 56, 56], abs=2.0),
    ]
    assert detections.scores.tolist() == pytest.approx([2.0, 1.0], abs=0.2)


def test_maps_of_views_are_averaged_mirrored_back() -> None:
    """One view sees the left, the other, mirrored, the right of the image: together they see both."""
    left, right = torch.zeros(2, 4, 4), torch.zeros(2, 8, 8)
    left[0, :, 0], right[0, :, 0] = 2.0, 2.0
    seen = [
        (View(32), _batch(size=(32, 32), scale=(1.0, 1.0))),
        (View(64, flip=True), _batch(size=(64, 64), scale=(2.0, 2.0))),
    ]
    predictions = [_map_prediction(left, scores=(1.0, 0.0)), _map_prediction(right, scores=(2.0, 0.0))]
    (scores,) = score_images(FakeModel(predictions), seen, device=CPU, combine="sum")
    assert scores.heat_maps is not None
    assert scores.heat_maps[0, :, 0].unique().tolist() == [1.0]
    assert scores.heat_maps[0, :, -1].unique().tolist() == [1.0]
    assert scores.heat_maps[0, :, GRID // 2].unique().tolist() == [0.0]
    assert scores.class_scores.tolist() == [1.5, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_maps_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(NonFinitePredictionError, match="NaN for image a"):
        _detect(FakeModel([_map_prediction(torch.full((2, 4, 4), value))]), _batch(size=(32, 32), scale=(1.0, 1.0)))


def test_a_map_without_relief_is_a_box_around_the_image() -> None:
    found = _detect(FakeModel([_map_prediction(torch.ones(2, 4, 4))]), _batch(size=(32, 32), scale=(1.0, 1.0)))
    assert found.top_boxes is not None
    assert found.top_boxes[0].tolist() == [[0, 0, 32, 32]] * 2
    assert found.points[0] == pytest.approx(np.full((2, 2), 16.0), abs=0.26)  # tied: nearest to the centre


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
        detect(
            model,
            _fails_after(batch),
            classes=("cat", "dog"),
            post_processing=OPTIONS,
            device=CPU,
            ground_truth=[_truth()],
        )
    assert model.training is training
    assert model.modes == [(False, True)]


def _fails_after(batch: ImageBatch) -> Iterator[list[tuple[View, ImageBatch]]]:
    yield [(View(1), batch)]
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
