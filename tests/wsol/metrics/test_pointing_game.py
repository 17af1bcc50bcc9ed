from __future__ import annotations

from math import hypot

import numpy as np
import pytest

from wsol.boxes import GroundTruth
from wsol.metrics.point_localization import point_localization_average_precision
from wsol.metrics.pointing_game import pointing_accuracy

BOX = (50, 50, 80, 80)


def image(*objects: tuple[tuple[int, int, int, int], int, bool]) -> GroundTruth:
    return GroundTruth(
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def one_point(point: tuple[float, float], tolerance_px: float = 15.0) -> float:
    points = np.array([[point]], np.float64)
    (accuracy,) = pointing_accuracy([image((BOX, 0, False))], points, np.array([[1]]), tolerance_px=tolerance_px)
    return float(accuracy)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((65, 65), 1),
        ((50, 50), 1),
        ((94.999, 65), 1),
        ((95, 65), 0),  # at exactly the tolerance: a miss
        ((65, 35.001), 1),
        ((65, 35), 0),
        ((89, 92), 0),  # 9, 12: exactly 15 px from the corner
        ((89, 91.99), 1),
        ((41, 38.01), 1),
        ((41, 38), 0),
        ((94, 65), 1),
        ((94, 94), 0),
        ((np.nan, np.nan), 0),
        ((65, np.nan), 0),
        ((np.inf, 65), 0),
    ],
)
def test_a_disc_around_the_point_its_border_left_out(point: tuple[float, float], expected: float) -> None:
    assert one_point(point) == expected


def test_not_oquabs_enlarged_box() -> None:
    """14 px beyond the corner both ways: in the box enlarged by 18 px, 19.8 px away in a straight line."""
    truth, points, labels = [image((BOX, 0, False))], np.array([[[94.0, 94.0]]]), np.array([[1]])
    assert point_localization_average_precision(truth, points, np.ones((1, 1)), labels).tolist() == [1]
    assert pointing_accuracy(truth, points, labels, tolerance_px=18.0).tolist() == [0]
    assert pointing_accuracy(truth, points, labels, tolerance_px=19.79).tolist() == [0]
    assert pointing_accuracy(truth, points, labels, tolerance_px=19.8).tolist() == [1]


def test_tolerance_is_15_px_unless_given() -> None:
    truth, labels = [image((BOX, 0, False))], np.array([[1]])
    assert pointing_accuracy(truth, np.array([[[94.9, 60.0]]]), labels).tolist() == [1]
    assert pointing_accuracy(truth, np.array([[[95.0, 60.0]]]), labels).tolist() == [0]


def test_share_of_the_images_that_show_the_class() -> None:
    truth = [image((BOX, 0, False)), image((BOX, 0, False), (BOX, 1, False)), image((BOX, 0, True)), image()]
    labels = np.array([[1, -1], [1, 1], [0, -1], [-1, -1]])
    on, off = [65, 65], [300, 300]
    points = np.array([[on, on], [off, on], [on, on], [on, on]], np.float32)
    assert pointing_accuracy(truth, points, labels).tolist() == [0.5, 1.0]


def test_a_difficult_object_beside_one_that_is_not_can_be_hit() -> None:
    truth = [image(((300, 300, 320, 320), 0, False), (BOX, 0, True))]
    assert pointing_accuracy(truth, np.array([[[65.0, 65.0]]]), np.array([[1]])).tolist() == [1]


def test_an_object_of_another_class_is_no_hit() -> None:
    truth = [image(((300, 300, 320, 320), 0, False), (BOX, 1, False))]
    assert pointing_accuracy(truth, np.array([[[65.0, 65.0]] * 2]), np.array([[1, 1]])).tolist() == [0, 1]


def test_without_positives_nan() -> None:
    truth = [image((BOX, 1, True))]
    assert np.isnan(pointing_accuracy(truth, np.zeros((1, 2, 2)), np.array([[-1, 0]]))).all()
    assert np.isnan(pointing_accuracy([], np.zeros((0, 2, 2)), np.zeros((0, 2), int))).tolist() == [True, True]


def test_refusals() -> None:
    truth, points, labels = [image((BOX, 0, False))], np.zeros((1, 2, 2)), np.ones((1, 2), int)
    with pytest.raises(ValueError, match=r"got points \(1, 1, 2\) and ground truth of 1 images; expected \(1, 2, 2\)"):
        pointing_accuracy(truth, points[:, :1], labels)
    with pytest.raises(ValueError, match=r"ground truth of 2 images; expected \(1, 2, 2\) and 1"):
        pointing_accuracy(truth * 2, points, labels)
    for tolerance_px in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"got {tolerance_px} for tolerance_px; expected a number > 0"):
            pointing_accuracy(truth, points, labels, tolerance_px=tolerance_px)


def test_equals_a_slow_loop_on_random_cases() -> None:
    rng = np.random.default_rng(8)
    values = set()
    for _ in range(200):
        truth, labels = [], np.full((rng.integers(1, 8), 2), -1)
        for row in labels:
            corners = np.sort(rng.integers(0, 12, size=(rng.integers(0, 4), 2, 2)), axis=1)
            boxes = corners.reshape(-1, 4).astype(np.float32)
            of_class, difficult = rng.integers(0, 2, size=len(boxes)), rng.random(len(boxes)) < 0.4
            row[of_class] = 0
            row[of_class[~difficult]] = 1
            truth.append(GroundTruth(boxes=boxes, labels=of_class, difficult=difficult))
        points = rng.integers(0, 14, size=(*labels.shape, 2)).astype(np.float32)
        accuracy = pointing_accuracy(truth, points, labels, tolerance_px=5.0)
        for label in range(2):
            hits = []
            for of_image, point, shown in zip(truth, points[:, label], labels[:, label], strict=True):
                if shown != 1:
                    continue
                distances = [
                    hypot(point[0] - min(max(point[0], x1), x2), point[1] - min(max(point[1], y1), y2))
                    for (x1, y1, x2, y2), of_label in zip(of_image.boxes, of_image.labels, strict=True)
                    if of_label == label
                ]
                hits.append(min(distances) < 5)
            if hits:
                assert accuracy[label] == sum(hits) / len(hits)
                values.add(accuracy[label])
            else:
                assert np.isnan(accuracy[label])
    assert len(values) > 5
