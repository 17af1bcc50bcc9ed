from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from wsol.boxes import GroundTruth, from_voc
from wsol.metrics.corloc import corloc

SQUARE = (1, 1, 10, 10)
HALF = (1, 1, 10, 5)  # IoU with SQUARE: 50 / 100
LESS = (1, 1, 10, 4)
FAR = (51, 51, 60, 60)


def image(*objects: tuple[tuple[int, int, int, int], int, bool]) -> GroundTruth:
    return GroundTruth(
        boxes=from_voc([box for box, _, _ in objects]),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def top_boxes(*images: list[tuple[int, int, int, int]]) -> np.ndarray:
    """`(I, C, 4)` from one box for each class of each image."""
    return np.stack([from_voc(boxes) for boxes in images])


def test_fraction_of_the_images_that_show_the_class() -> None:
    truth = [image((SQUARE, 0, False)), image((SQUARE, 0, False), (FAR, 1, False)), image((FAR, 0, False)), image()]
    # Class 0 is shown by three images and found in the first two; class 1 by one, and missed.
    boxes = top_boxes([SQUARE, SQUARE], [SQUARE, SQUARE], [SQUARE, FAR], [SQUARE, FAR])
    np.testing.assert_array_equal(corloc(truth, boxes, num_classes=2), [2 / 3, 0])


def test_iou_equal_to_the_threshold_is_a_hit() -> None:
    truth = [image((SQUARE, 0, False))]
    assert corloc(truth, top_boxes([HALF]), num_classes=1).tolist() == [1]
    assert corloc(truth, top_boxes([LESS]), num_classes=1).tolist() == [0]
    assert corloc(truth, top_boxes([LESS]), num_classes=1, iou_threshold=0.4).tolist() == [1]


def test_any_object_of_the_class_will_do_and_an_image_counts_once() -> None:
    truth = [image((FAR, 0, False), (SQUARE, 0, False), (SQUARE, 0, False)), image((FAR, 0, False))]
    assert corloc(truth, top_boxes([SQUARE], [SQUARE]), num_classes=1).tolist() == [0.5]


def test_an_object_of_another_class_is_no_hit() -> None:
    truth = [image((SQUARE, 0, False), (FAR, 1, False))]
    assert corloc(truth, top_boxes([FAR, SQUARE]), num_classes=2).tolist() == [0, 0]


def test_difficult_objects_count_like_any_other() -> None:
    truth = [image((SQUARE, 0, True)), image((FAR, 0, True))]
    assert corloc(truth, top_boxes([SQUARE], [SQUARE]), num_classes=1).tolist() == [0.5]


def test_absent_class_is_nan() -> None:
    result = corloc([image((SQUARE, 1, False))], top_boxes([SQUARE, SQUARE, SQUARE]), num_classes=3)
    np.testing.assert_array_equal(result, [np.nan, 1, np.nan])


def test_a_box_of_nan_never_hits() -> None:
    truth = [image((SQUARE, 0, False)), image((SQUARE, 0, False))]
    boxes = top_boxes([SQUARE], [SQUARE])
    boxes[0] = np.nan
    assert corloc(truth, boxes, num_classes=1).tolist() == [0.5]


def test_no_images() -> None:
    assert np.isnan(corloc([], np.zeros((0, 2, 4), np.float32), num_classes=2)).tolist() == [True, True]


def test_refusals() -> None:
    truth = [image((SQUARE, 1, False))]
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 4\) for top_boxes; expected \(I, C, 4\) = \(1, 2, 4\)"):
        corloc(truth, np.zeros((1, 1, 4)), num_classes=2)
    with pytest.raises(ValueError, match="got label 1 in the ground truth of image 0; expected 0 <= label < 1"):
        corloc(truth, np.zeros((1, 1, 4)), num_classes=1)
    with pytest.raises(ValueError, match="got 0 for iou_threshold; expected 0 < iou_threshold <= 1"):
        corloc(truth, np.zeros((1, 2, 4)), num_classes=2, iou_threshold=0)


def exact_iou(a: tuple[int, ...], b: tuple[int, ...]) -> Fraction:
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return Fraction(width * height, sum(areas) - width * height)


def test_equals_a_slow_loop_on_random_cases() -> None:
    rng = np.random.default_rng(5)
    num_classes, absent, values = 3, 0, set()

    def random_box() -> tuple[int, int, int, int]:
        (x1, x2), (y1, y2) = np.sort(rng.integers(1, 8, size=(2, 2)), axis=1).tolist()
        return x1, y1, x2, y2

    for _ in range(300):
        objects = [
            [(random_box(), int(rng.integers(2)), bool(rng.random() < 0.3)) for _ in range(rng.integers(0, 4))]
            for _ in range(rng.integers(0, 6))
        ]
        tops = [[random_box() for _ in range(num_classes)] for _ in objects]
        boxes = top_boxes(*tops) if tops else np.zeros((0, num_classes, 4), np.float32)
        result = corloc([image(*of_image) for of_image in objects], boxes, num_classes=num_classes)
        for label in range(num_classes):
            hits = [
                any(exact_iou(top[label], box) >= Fraction(1, 2) for box, of_label, _ in of_image if of_label == label)
                for of_image, top in zip(objects, tops, strict=True)
                if any(of_label == label for _, of_label, _ in of_image)
            ]
            if hits:
                assert result[label] == sum(hits) / len(hits)
                values.add(result[label])
            else:
                assert np.isnan(result[label])
                absent += 1
    assert absent > 100
    assert len(values) > 5
