from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import pytest

from wsol.boxes import GroundTruth, iou
from wsol.heat_maps import GRID, HeatMaps
from wsol.metrics.box_accuracy import THRESHOLDS, best_overlap_by_threshold, max_box_accuracy_v2

Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]
SIZE = (512, 128)
"""Width and height: a cell of the kept map is 8 x 2 pixels."""


def image(*objects: tuple[Box, int, bool]) -> GroundTruth:
    return GroundTruth(
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def of_pairs(*pairs: tuple[int, int, Array]) -> HeatMaps:
    return HeatMaps(
        maps=np.array([heat for _, _, heat in pairs], np.float16).reshape(-1, GRID, GRID),
        images=np.array([index for index, _, _ in pairs], np.int64),
        labels=np.array([label for _, label, _ in pairs], np.int64),
    )


def patch(x1: int, y1: int, x2: int, y2: int, value: float = 1.0) -> Array:
    """A map that is hot in these cells."""
    heat = np.zeros((GRID, GRID), np.float16)
    heat[y1:y2, x1:x2] = value
    return heat


def in_pixels(x1: int, y1: int, x2: int, y2: int) -> Box:
    return (8.0 * x1, 2.0 * y1, 8.0 * x2, 2.0 * y2)


def accuracy(maps: HeatMaps, truth: list[GroundTruth], labels: list[list[int]]) -> list[float]:
    result = max_box_accuracy_v2(maps, truth, [SIZE] * len(truth), np.array(labels, np.int8).reshape(len(truth), -1))
    return result.tolist()


PLACE = (8, 16, 24, 48)


def test_a_map_of_the_object_is_right_at_every_iou() -> None:
    assert accuracy(of_pairs((0, 0, patch(*PLACE))), [image((in_pixels(*PLACE), 0, False))], [[1]]) == [1.0]


def test_a_map_beside_the_object_is_not_right() -> None:
    # At threshold 0 the box is the whole image, of which the object is 1/8.
    assert accuracy(of_pairs((0, 0, patch(40, 0, 60, 10))), [image((in_pixels(*PLACE), 0, False))], [[1]]) == [0.0]


def test_the_mean_over_iou_thresholds() -> None:
    # The map's box holds the object, which is 6/10 of it: right at 0.3 and 0.5, not at 0.7.
    truth = [image((in_pixels(10, 10, 20, 22), 0, False))]
    assert accuracy(of_pairs((0, 0, patch(10, 10, 20, 30))), truth, [[1]]) == [pytest.approx(2 / 3, abs=1e-15)]


def test_any_component_and_any_object_of_the_class_will_do() -> None:
    heat = np.maximum(patch(*PLACE, value=0.5), patch(40, 0, 60, 30))
    truth = [
        image((in_pixels(60, 60, 64, 64), 0, False), (in_pixels(*PLACE), 0, True), (in_pixels(40, 0, 60, 30), 1, False))
    ]
    labels = [[1, -1]]
    assert accuracy(of_pairs((0, 0, heat)), truth, labels)[0] == 1.0  # a difficult object counts
    other_class = [image((in_pixels(60, 60, 64, 64), 0, False), (in_pixels(*PLACE), 1, False))]
    assert accuracy(of_pairs((0, 0, heat)), other_class, labels)[0] == 0.0


def test_one_threshold_for_all_classes() -> None:
    """Class 0 (two pairs) is right below half of the peak alone, class 1 (one pair) above it alone."""
    small, large = (8, 8, 16, 16), (0, 0, 48, 48)
    heat = np.maximum(patch(*large, value=0.5), patch(*small))
    maps = of_pairs((0, 0, heat), (1, 0, heat), (2, 1, heat))
    truth = [image((in_pixels(*large), 0, False))] * 2 + [image((in_pixels(*small), 1, False))]
    labels = [[1, -1], [1, -1], [-1, 1]]
    assert accuracy(maps, truth, labels) == [1.0, 0.0]
    assert accuracy(of_pairs((2, 1, heat)), truth, [[-1, -1], [-1, -1], [-1, 1]])[1] == 1.0


def test_of_several_best_thresholds_the_lowest() -> None:
    small, large = (8, 8, 16, 16), (0, 0, 48, 48)
    heat = np.maximum(patch(*large, value=0.5), patch(*small))
    truth = [image((in_pixels(*large), 0, False)), image((in_pixels(*small), 1, False))]
    assert accuracy(of_pairs((0, 0, heat), (1, 1, heat)), truth, [[1, -1], [-1, 1]]) == [1.0, 0.0]


def test_only_pairs_of_label_1() -> None:
    truth = [image((in_pixels(*PLACE), 0, False)), image((in_pixels(*PLACE), 0, True))]
    maps = of_pairs((0, 0, patch(*PLACE)), (1, 0, patch(40, 0, 60, 10)))
    assert accuracy(maps, truth, [[1], [0]]) == [1.0]
    assert accuracy(maps, truth, [[1], [1]]) == [0.5]


def test_without_positives_nan() -> None:
    assert np.isnan(accuracy(of_pairs(), [image()], [[-1, 0]])).tolist() == [True, True]
    nothing = max_box_accuracy_v2(of_pairs(), [], [], np.zeros((0, 2), np.int8))
    assert np.isnan(nothing).tolist() == [True, True]


def test_an_image_of_label_1_without_objects_is_not_right() -> None:
    """Boxes without area are dropped on reading; the label stays."""
    assert accuracy(of_pairs((0, 0, patch(*PLACE))), [image()], [[1]]) == [0.0]


def test_refusals() -> None:
    truth = [image((in_pixels(*PLACE), 1, False))]
    with pytest.raises(ValueError, match="got no heat map of class 1 in image 0; expected one, its label is 1"):
        accuracy(of_pairs((0, 0, patch(*PLACE))), truth, [[-1, 1]])
    with pytest.raises(ValueError, match="got 1 ground truths, 2 sizes and labels of 1 images; expected one each"):
        max_box_accuracy_v2(of_pairs(), truth, [SIZE] * 2, np.zeros((1, 2), np.int8))


def slow_overlap(heat: Array, objects: Array, size: tuple[int, int]) -> Array:
    """OpenCV's components, one threshold after the other."""
    large = cv2.resize(heat.astype(np.float32), (256, 256), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    scaled = (large - large.min()) / (large.max() - large.min())
    best = []
    for step in range(1000):
        mask = (scaled >= step / 1000).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        x, y, width, height = stats[1:, :4].T
        boxes = np.stack([x, y, x + width, y + height], axis=1) / 256.0 * [*size, *size]
        best.append(iou(boxes, objects).max(initial=0.0))
    return np.array(best)


@pytest.mark.parametrize("kind", ["noise", "smooth", "steps"])
def test_equals_a_loop_over_thresholds(kind: str) -> None:
    rng = np.random.default_rng(5)
    heat = rng.random((GRID, GRID)).astype(np.float32)
    if kind == "smooth":
        heat = cv2.GaussianBlur(heat, (0, 0), 4)
    if kind == "steps":
        heat = np.kron(rng.integers(0, 6, size=(8, 8)), np.ones((8, 8)))
    heat = heat.astype(np.float16)
    corners = np.sort(rng.uniform(0, [500, 300], size=(5, 2, 2)), axis=1)
    objects = corners.reshape(5, 4).astype(np.float32)
    expected = slow_overlap(heat, objects, (500, 300))
    overlap = best_overlap_by_threshold(heat, objects, size=(500, 300))
    np.testing.assert_allclose(overlap, expected, rtol=0, atol=1e-12)
    assert len(np.unique(expected)) > 5


def test_thresholds_are_those_of_the_protocol() -> None:
    assert THRESHOLDS.tolist() == [step / 1000 for step in range(1000)]


def test_faster_than_a_loop_over_thresholds() -> None:
    rng = np.random.default_rng(2)
    heat = cv2.GaussianBlur(rng.random((GRID, GRID)).astype(np.float32), (0, 0), 3)
    objects = np.array([[10, 10, 200, 100]], np.float32)

    def seconds(measured: Any) -> float:
        start = time.perf_counter()
        measured()
        return time.perf_counter() - start

    fast = min(seconds(lambda: best_overlap_by_threshold(heat, objects, size=SIZE)) for _ in range(3))
    assert fast * 5 < seconds(lambda: slow_overlap(heat, objects, SIZE))
