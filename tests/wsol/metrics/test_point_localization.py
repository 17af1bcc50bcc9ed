from __future__ import annotations

import numpy as np
import pytest

from wsol.boxes import GroundTruth
from wsol.metrics.point_localization import point_localization_average_precision

BOX = (50, 50, 80, 80)
ELSEWHERE = (300, 300, 320, 320)


def image(*objects: tuple[tuple[int, int, int, int], int, bool]) -> GroundTruth:
    return GroundTruth(
        boxes=np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def one_point(point: tuple[float, float], *, tolerance_px: float = 18.0, objects: tuple[int, ...] = BOX) -> float:
    truth = [image((objects, 0, False))]
    scores, labels = np.array([[0.5]]), np.array([[1]], np.int8)
    points = np.array([[point]], np.float32)
    (ap,) = point_localization_average_precision(truth, points, scores, labels, tolerance_px=tolerance_px)
    return float(ap)


def one_class(
    truth: list[GroundTruth], points: list[tuple[float, float]], scores: list[float], labels: list[int]
) -> float:
    (ap,) = point_localization_average_precision(
        truth,
        np.array(points, np.float32).reshape(-1, 1, 2),
        np.array(scores)[:, None],
        np.array(labels, np.int8)[:, None],
    )
    return float(ap)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((65, 65), 1),
        ((94, 94), 1),  # 14 px beyond the corner both ways, 19.8 in a straight line: outside a disc of 18 px
        ((98, 98), 1),  # the far corner of the enlarged box
        ((32, 32), 1),
        ((98.01, 65), 0),
        ((65, 98.01), 0),
        ((31.99, 65), 0),
        ((65, 31.99), 0),
        ((np.nan, np.nan), 0),
        ((65, np.nan), 0),
    ],
)
def test_enlarged_box_is_square_cornered_and_closed(point: tuple[float, float], expected: float) -> None:
    assert one_point(point) == expected


def test_tolerance() -> None:
    assert one_point((80, 50), tolerance_px=0) == 1
    assert one_point((80.5, 50), tolerance_px=0) == 0
    assert one_point((80.5, 50), tolerance_px=0.5) == 1


def test_tolerance_is_18_px_unless_given() -> None:
    truth = [image((BOX, 0, False))]
    assert one_class(truth, [(98, 98)], [0.5], [1]) == 1
    assert one_class(truth, [(98.01, 98)], [0.5], [1]) == 0


def test_x_is_x_and_y_is_y() -> None:
    wide = (0, 0, 200, 10)
    assert one_point((150, 5), objects=wide) == 1
    assert one_point((5, 150), objects=wide) == 0


def test_area_under_the_curve_worked_by_hand() -> None:
    truth = [image((BOX, 0, False)), image(), image((BOX, 0, False)), image((BOX, 0, False))]
    points = [(65, 65), (65, 65), (65, 65), (200, 200)]
    # Hit, image without the class, hit, miss: precision 1/1, then 2/3; the third is never found.
    ap = one_class(truth, points, [0.9, 0.8, 0.7, 0.6], [1, -1, 1, 1])
    assert ap == pytest.approx((1 + 2 / 3) / 3, abs=1e-15)


def test_precision_is_interpolated() -> None:
    truth = [image(), image((BOX, 0, False)), image((BOX, 0, False))]
    # 1/2, then 2/3: both count as found at 2/3.
    assert one_class(truth, [(65, 65)] * 3, [0.9, 0.8, 0.7], [-1, 1, 1]) == pytest.approx(2 / 3, abs=1e-15)


def test_equal_scores_rank_in_the_order_given() -> None:
    truth = [image((BOX, 0, False)), image()]
    assert one_class(truth, [(65, 65)] * 2, [0.5, 0.5], [1, -1]) == 1
    assert one_class(truth[::-1], [(65, 65)] * 2, [0.5, 0.5], [-1, 1]) == 0.5


def test_any_object_of_the_class_will_do_but_none_of_another() -> None:
    truth = [image((ELSEWHERE, 0, False), (BOX, 0, False), (BOX, 1, False))]
    points = np.array([[[65, 65], [310, 310]]], np.float32)
    ap = point_localization_average_precision(truth, points, np.ones((1, 2)), np.ones((1, 2), np.int8))
    assert ap.tolist() == [1, 0]


def test_images_with_only_difficult_objects_are_out_of_the_ranking() -> None:
    truth = [image((BOX, 0, True)), image((BOX, 0, True)), image((BOX, 0, False))]
    points = [(65, 65), (200, 200), (65, 65)]  # on the object, beside it: neither counts
    assert one_class(truth, points, [0.9, 0.8, 0.7], [0, 0, 1]) == 1


def test_a_difficult_object_beside_one_that_is_not_counts_like_any_other() -> None:
    truth = [image((ELSEWHERE, 0, False), (BOX, 0, True))]
    assert one_class(truth, [(65, 65)], [0.9], [1]) == 1


def test_the_label_decides_what_is_positive() -> None:
    # An annotation that disagrees with the image's label cannot find more than there is to find.
    truth = [image((BOX, 0, False)), image((BOX, 0, False))]
    assert one_class(truth, [(65, 65)] * 2, [0.9, 0.8], [-1, 1]) == 0.5


def test_without_positives_nan() -> None:
    truth = [image((BOX, 1, True))]
    points, scores, labels = np.zeros((1, 2, 2)), np.zeros((1, 2)), np.array([[-1, 0]])
    assert np.isnan(point_localization_average_precision(truth, points, scores, labels)).tolist() == [True, True]
    nothing = point_localization_average_precision([], np.zeros((0, 2, 2)), np.zeros((0, 2)), np.zeros((0, 2), np.int8))
    assert np.isnan(nothing).tolist() == [True, True]


def test_refusals() -> None:
    truth = [image((BOX, 0, False))]
    points, scores, labels = np.zeros((1, 2, 2)), np.zeros((1, 2)), np.ones((1, 2), np.int8)
    with pytest.raises(
        ValueError, match=r"got points \(1, 1, 2\) and ground truth of 1 images; expected \(1, 2, 2\) and 1"
    ):
        point_localization_average_precision(truth, points[:, :1], scores, labels)
    with pytest.raises(
        ValueError, match=r"got points \(1, 2, 2\) and ground truth of 2 images; expected \(1, 2, 2\) and 1"
    ):
        point_localization_average_precision(truth * 2, points, scores, labels)
    with pytest.raises(ValueError, match=r"got shapes \(1, 2\) for scores and \(1, 1\) for labels"):
        point_localization_average_precision(truth, points, scores, labels[:, :1])
    with pytest.raises(ValueError, match=r"got labels \[3\]; expected 1, 0 or -1"):
        point_localization_average_precision(truth, points, scores, labels * 3)
    with pytest.raises(ValueError, match="got a score of NaN for class 0 of image 0; expected a number"):
        point_localization_average_precision(truth, points, scores * np.nan, labels)
    for tolerance_px in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"got {tolerance_px} for tolerance_px; expected a number >= 0"):
            point_localization_average_precision(truth, points, scores, labels, tolerance_px=tolerance_px)


def slow_ap(
    truth: list[GroundTruth],
    points: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    label: int,
    tolerance_px: float,
) -> float:
    """One image at a time; precision interpolated at each hit."""
    ranked = sorted((-scores[i, label], i) for i in range(len(truth)) if labels[i, label] != 0)
    hits = []
    for _, i in ranked:
        x, y = points[i, label]
        on_object = False
        for (x1, y1, x2, y2), of_label in zip(truth[i].boxes, truth[i].labels, strict=True):
            across = x1 - tolerance_px <= x <= x2 + tolerance_px
            along = y1 - tolerance_px <= y <= y2 + tolerance_px
            on_object = on_object or (of_label == label and across and along)
        hits.append(on_object and labels[i, label] == 1)
    precision = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits))]
    best = [max(precision[rank:]) for rank in range(len(hits)) if hits[rank]]
    return sum(best) / sum(labels[:, label] == 1)


def test_equals_a_slow_loop_on_random_cases() -> None:
    rng = np.random.default_rng(11)
    num_classes, values = 3, set()
    for _ in range(200):
        truth = []
        for _ in range(rng.integers(0, 12)):
            corners = np.sort(rng.integers(0, 12, size=(rng.integers(0, 4), 2, 2)), axis=1)
            boxes = corners.reshape(-1, 4).astype(np.float32)
            labels_of_boxes = rng.integers(0, num_classes, size=len(boxes))
            difficult = rng.random(len(boxes)) < 0.4
            truth.append(GroundTruth(boxes=boxes, labels=labels_of_boxes, difficult=difficult))
        labels = np.full((len(truth), num_classes), -1)
        for row, of_image in zip(labels, truth, strict=True):
            row[of_image.labels] = 0
            row[of_image.labels[~of_image.difficult]] = 1
        points = rng.integers(0, 14, size=(len(truth), num_classes, 2)).astype(np.float32)
        scores = rng.integers(0, 5, size=(len(truth), num_classes)) / 4
        ap = point_localization_average_precision(truth, points, scores, labels, tolerance_px=1.0)
        for label in range(num_classes):
            if (labels[:, label] == 1).any():
                assert ap[label] == pytest.approx(slow_ap(truth, points, scores, labels, label, 1.0), abs=1e-14)
                values.add(round(float(ap[label]), 6))
            else:
                assert np.isnan(ap[label])
    assert len(values) > 50
