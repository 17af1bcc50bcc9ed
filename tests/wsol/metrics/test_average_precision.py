"""Average precision against small cases worked by hand, and against a slow reference in exact arithmetic.

Published vectors are in test_published_vectors.py.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsol.boxes import Detections, GroundTruth, from_voc
from wsol.metrics.average_precision import (
    average_precision_11pt,
    average_precision_area,
    detection_average_precision,
)

Box = tuple[int, int, int, int]
Object = tuple[Box, int, bool]  # box, label, difficult
Found = tuple[Box, float, int]  # box, score, label
TRUE, FALSE, IGNORED = "TFi"


# The reference: one detection at a time, Fractions, boxes as in annotation files (1-based, inclusive).


def devkit_iou(a: Box, b: Box) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return Fraction(width * height, area_a + area_b - width * height)


def reference_verdicts(truth: list[list[Object]], found: list[list[Found]], label: int, threshold: Fraction) -> str:
    """A letter for each detection of the class, in rank order."""
    ranked = sorted(
        (-score, image, index)
        for image, of_image in enumerate(found)
        for index, (_, score, of_label) in enumerate(of_image)
        if of_label == label
    )
    used = set()
    verdicts = ""
    for _, image, index in ranked:
        best, best_overlap = None, Fraction(-1)
        for candidate, (box, of_label, _) in enumerate(truth[image]):
            overlap = devkit_iou(found[image][index][0], box)
            if of_label == label and overlap > best_overlap:
                best, best_overlap = candidate, overlap
        if best is None or best_overlap < threshold:
            verdicts += FALSE
        elif truth[image][best][2]:
            verdicts += IGNORED
        elif (image, best) in used:
            verdicts += FALSE
        else:
            used.add((image, best))
            verdicts += TRUE
    return verdicts


def reference_curve(verdicts: str, num_positives: int) -> list[tuple[Fraction, Fraction]]:
    """(recall, precision) after each rank that counts."""
    counted = [verdict for verdict in verdicts if verdict != IGNORED]
    found = [counted[: rank + 1].count(TRUE) for rank in range(len(counted))]
    return [(Fraction(true, num_positives), Fraction(true, rank + 1)) for rank, true in enumerate(found)]


def reference_11pt(verdicts: str, num_positives: int) -> Fraction:
    curve = reference_curve(verdicts, num_positives)
    best = [max((p for r, p in curve if r >= Fraction(k, 10)), default=Fraction(0)) for k in range(11)]
    return sum(best, Fraction(0)) / 11


def reference_area(verdicts: str, num_positives: int) -> Fraction:
    """VOCap of the devkit, line by line."""
    curve = reference_curve(verdicts, num_positives)
    recall = [Fraction(0), *(r for r, _ in curve), Fraction(1)]
    precision = [Fraction(0), *(p for _, p in curve), Fraction(0)]
    for rank in range(len(precision) - 2, -1, -1):
        precision[rank] = max(precision[rank], precision[rank + 1])
    steps = zip(pairwise(recall), precision[1:], strict=True)
    return sum(((after - before) * height for (before, after), height in steps), Fraction(0))


def arrays(verdicts: str) -> tuple[np.ndarray, np.ndarray]:
    ranks = np.array(list(verdicts), dtype="U1")
    return ranks == TRUE, ranks == FALSE


def ground_truth(*objects: Object) -> GroundTruth:
    return GroundTruth(
        boxes=from_voc([box for box, _, _ in objects]),
        labels=np.array([label for _, label, _ in objects], np.int64),
        difficult=np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def detections(*found: Found, dtype: type = np.float32) -> Detections:
    return Detections(
        boxes=from_voc([box for box, _, _ in found]),
        scores=np.array([score for _, score, _ in found], dtype),
        labels=np.array([label for _, _, label in found], np.int64),
    )


class TestFromVerdicts:
    def test_three_of_ten_reach_recall_three_tenths(self) -> None:
        # 0.1 * 3 is 0.30000000000000004 in floating point, and 3 / 10 is less than that.
        flags = arrays("TTT" + 20 * "F")
        assert average_precision_11pt(*flags, 10) == 4 / 11
        assert average_precision_area(*flags, 10) == pytest.approx(3 / 10, abs=1e-15)

    @pytest.mark.parametrize("num_positives", [10, 20, 30, 70, 110, 1000, 12032])
    def test_each_recall_step_is_reached_exactly(self, num_positives: int) -> None:
        for k in range(1, 11):
            needed = -(-k * num_positives // 10)
            enough = arrays(needed * "T" + "F")
            too_few = arrays((needed - 1) * "T" + "F")
            assert average_precision_11pt(*enough, num_positives) == (k + 1) / 11
            assert average_precision_11pt(*too_few, num_positives) == (k / 11 if needed > 1 else 0)

    def test_worked_by_hand(self) -> None:
        # Precision 1/1 at recall 1/4, 2/3 at 2/4, 3/6 at 3/4; the fourth is never found.
        flags = arrays("TFTFFT")
        assert average_precision_area(*flags, 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4, abs=1e-15)
        # 1 at recalls 0, .1, .2; 2/3 at .3, .4, .5; 1/2 at .6, .7
        assert average_precision_11pt(*flags, 4) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 1 / 2) / 11, abs=1e-15)

    def test_precision_is_the_best_at_a_recall_or_a_higher_one(self) -> None:
        # 0/1, 1/2, 2/3, 3/4: each of the three is found at precision 3/4 or better.
        flags = arrays("FTTT")
        assert average_precision_area(*flags, 3) == 0.75
        assert average_precision_11pt(*flags, 3) == 0.75

    @pytest.mark.parametrize("ap", [average_precision_11pt, average_precision_area])
    def test_extremes(self, ap: object) -> None:
        assert ap(*arrays("TTTTT"), 5) == 1
        assert ap(*arrays("FFFFF"), 5) == 0
        assert ap(*arrays("iii"), 5) == 0
        assert ap(*arrays(""), 5) == 0
        assert ap(*arrays("T"), 1) == 1
        assert np.isnan(ap(*arrays(""), 0))
        assert np.isnan(ap(*arrays("FiF"), 0))

    @settings(deadline=None, derandomize=True, max_examples=500)
    @given(st.text(alphabet=TRUE + FALSE + IGNORED, max_size=60), st.integers(0, 30))
    def test_equals_the_reference(self, verdicts: str, missed: int) -> None:
        num_positives = verdicts.count(TRUE) + missed
        if num_positives:
            flags = arrays(verdicts)
            expected = float(reference_11pt(verdicts, num_positives))
            assert average_precision_11pt(*flags, num_positives) == pytest.approx(expected, abs=1e-14)
            expected = float(reference_area(verdicts, num_positives))
            assert average_precision_area(*flags, num_positives) == pytest.approx(expected, abs=1e-14)

    @settings(deadline=None, derandomize=True)
    @given(st.text(alphabet=TRUE + FALSE + IGNORED, max_size=40), st.integers(0, 40))
    def test_an_ignored_rank_changes_nothing(self, verdicts: str, position: int) -> None:
        with_ignored = verdicts[:position] + IGNORED + verdicts[position:]
        num_positives = verdicts.count(TRUE) + 1
        for ap in (average_precision_11pt, average_precision_area):
            assert ap(*arrays(with_ignored), num_positives) == ap(*arrays(verdicts), num_positives)

    @pytest.mark.parametrize("ap", [average_precision_11pt, average_precision_area])
    def test_what_is_no_flag_is_refused(self, ap: object) -> None:
        true, false = arrays("TF")
        with pytest.raises(ValueError, match=r"got int64 \(2,\) for true_positives; expected bool \(2,\)"):
            ap(np.cumsum(true), false, 2)
        with pytest.raises(ValueError, match=r"got bool \(1,\) for false_positives; expected bool \(2,\)"):
            ap(true, false[:1], 2)
        with pytest.raises(ValueError, match="a rank that is a true and a false positive"):
            ap(true, true, 2)
        with pytest.raises(ValueError, match="got 2 true positives; expected at most num_positives, 1"):
            ap(*arrays("TT"), 1)


SQUARE = (1, 1, 10, 10)
FAR = (51, 51, 60, 60)


class TestDetection:
    def test_iou_equal_to_the_threshold_is_a_match(self) -> None:
        half, less = (1, 1, 10, 5), (1, 1, 10, 4)  # 50 and 40 of 100 pixels
        truth = [ground_truth((SQUARE, 0, False))]
        for box, expected in ((half, 1.0), (less, 0.0)):
            ap = detection_average_precision(truth, [detections((box, 0.9, 0))], num_classes=1)
            assert ap.ap_area.tolist() == [expected]
            assert ap.ap_11pt.tolist() == [expected]

    @pytest.mark.parametrize("rows", [2, 3, 6, 7, 9, 10])
    def test_other_thresholds_are_exact_too(self, rows: int) -> None:
        truth = [ground_truth((SQUARE, 0, False))]
        for height, expected in ((rows, 1.0), (rows - 1, 0.0)):  # IoU height / 10
            found = [detections(((1, 1, 10, height), 0.9, 0))]
            ap = detection_average_precision(truth, found, num_classes=1, iou_threshold=rows / 10)
            assert ap.ap_area.tolist() == [expected]

    def test_a_second_box_on_an_object_is_false_even_if_it_would_do_for_another(self) -> None:
        # a and b overlap; both detections overlap a most, and b by more than 0.5. COCO would give
        # the second one b, two true positives and AP 1; VOC gives one, at precision 1, of two.
        a, b = (1, 1, 10, 10), (1, 3, 10, 12)  # IoU 80 / 120
        truth = [ground_truth((a, 0, False), (b, 0, False))]
        second = (1, 2, 10, 10)  # 90 / 100 of a, 80 / 110 of b
        ap = detection_average_precision(truth, [detections((a, 0.9, 0), (second, 0.8, 0))], num_classes=1)
        assert ap.ap_area.tolist() == [0.5]
        assert ap.ap_11pt.tolist() == [6 / 11]
        assert ap.num_positives.tolist() == [2]

    def test_of_objects_that_overlap_equally_the_first_is_taken(self) -> None:
        left, right, middle = (1, 1, 10, 10), (5, 1, 14, 10), (3, 1, 12, 10)  # 80 / 120 each
        found = [detections((middle, 0.9, 0), (left, 0.8, 0))]
        truth = [ground_truth((left, 0, False), (right, 0, False))]
        assert detection_average_precision(truth, found, num_classes=1).ap_area.tolist() == [0.5]  # `left` found twice
        truth = [ground_truth((right, 0, False), (left, 0, False))]
        assert detection_average_precision(truth, found, num_classes=1).ap_area.tolist() == [1.0]

    def test_difficult_objects_are_neither_missed_nor_found(self) -> None:
        truth = [ground_truth((SQUARE, 0, True), (FAR, 0, False))]
        found = [detections((SQUARE, 0.9, 0), (SQUARE, 0.8, 0), (FAR, 0.7, 0))]
        ap = detection_average_precision(truth, found, num_classes=1)
        assert ap.ap_area.tolist() == [1.0]
        assert ap.num_positives.tolist() == [1]

    def test_a_class_with_only_difficult_objects_has_no_ap(self) -> None:
        ap = detection_average_precision(
            [ground_truth((SQUARE, 0, True))], [detections((SQUARE, 0.9, 0))], num_classes=1
        )
        assert np.isnan(ap.ap_area).tolist() == [True]
        assert np.isnan(ap.ap_11pt).tolist() == [True]
        assert ap.num_positives.tolist() == [0]

    def test_a_difficult_object_takes_the_detection_that_overlaps_it_most(self) -> None:
        # Were difficult objects dropped before matching, the detection would find the other: AP 1.
        difficult, other = (1, 1, 10, 10), (1, 3, 10, 12)
        truth = [ground_truth((difficult, 0, True), (other, 0, False))]
        ap = detection_average_precision(truth, [detections((difficult, 0.9, 0))], num_classes=1)
        assert ap.ap_area.tolist() == [0.0]

    def test_absent_class_is_nan_and_a_class_without_detections_is_zero(self) -> None:
        truth = [ground_truth((SQUARE, 0, False), (SQUARE, 1, False))]
        ap = detection_average_precision(truth, [detections((SQUARE, 0.9, 0), (SQUARE, 0.9, 2))], num_classes=4)
        np.testing.assert_array_equal(ap.ap_area, [1, 0, np.nan, np.nan])
        np.testing.assert_array_equal(ap.ap_11pt, [1, 0, np.nan, np.nan])
        assert ap.num_positives.tolist() == [1, 1, 0, 0]

    def test_a_box_on_an_object_of_another_class_is_false(self) -> None:
        truth = [ground_truth((SQUARE, 0, False), (FAR, 1, False))]
        ap = detection_average_precision(truth, [detections((SQUARE, 0.9, 1), (FAR, 0.8, 1))], num_classes=2)
        assert ap.ap_area.tolist() == [0, 0.5]

    def test_a_box_at_the_place_of_an_object_in_another_image_is_false(self) -> None:
        truth = [ground_truth((SQUARE, 0, False)), ground_truth((FAR, 0, False))]
        found = [detections((FAR, 0.9, 0)), detections((FAR, 0.8, 0))]
        assert detection_average_precision(truth, found, num_classes=1).ap_area.tolist() == [0.25]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_equal_scores_rank_by_image_then_by_the_order_given(self, dtype: type) -> None:
        truth = [ground_truth(), ground_truth((SQUARE, 0, False))]
        hit, miss = (SQUARE, 0.5, 0), (FAR, 0.5, 0)

        def area(first: Detections, second: Detections) -> list[float]:
            return detection_average_precision(truth, [first, second], num_classes=1).ap_area.tolist()

        nothing = detections(dtype=dtype)
        assert area(nothing, detections(hit, miss, dtype=dtype)) == [1.0]
        assert area(nothing, detections(miss, hit, dtype=dtype)) == [0.5]
        assert area(detections(miss, dtype=dtype), detections(hit, dtype=dtype)) == [0.5]
        # Many, of two scores, so that an unstable sort shows.
        many = [miss, (FAR, 0.25, 0)] * 1000
        assert area(nothing, detections(hit, *many, dtype=dtype)) == [1.0]
        assert area(nothing, detections(*many, hit, *many, dtype=dtype)) == [1 / 1001]

    def test_no_image_no_object_no_detection(self) -> None:
        assert np.isnan(detection_average_precision([], [], num_classes=3).ap_area).tolist() == [True] * 3
        assert detection_average_precision([], [], num_classes=3).num_positives.tolist() == [0, 0, 0]
        empty = detection_average_precision([ground_truth()], [detections()], num_classes=2)
        assert np.isnan(empty.ap_11pt).tolist() == [True] * 2
        missed = detection_average_precision([ground_truth((SQUARE, 0, False))], [detections()], num_classes=1)
        assert missed.ap_area.tolist() == [0]

    def test_boxes_without_extent_or_position_are_false(self) -> None:
        nowhere = Detections(
            boxes=np.array([[np.nan] * 4, [5, 5, 5, 5], [10, 10, 0, 0]], np.float32),
            scores=np.ones(3, np.float32),
            labels=np.zeros(3, np.int64),
        )
        truth = [ground_truth((SQUARE, 0, False))]
        assert detection_average_precision(truth, [nowhere], num_classes=1).ap_area.tolist() == [0]


class TestRefusals:
    def test_nan_scores(self) -> None:
        found = [detections((SQUARE, 0.5, 0)), detections((SQUARE, 0.5, 0), (SQUARE, float("nan"), 0))]
        with pytest.raises(ValueError, match="got a score of NaN in the detections of image 1; expected a number"):
            detection_average_precision([ground_truth(), ground_truth()], found, num_classes=1)

    @pytest.mark.parametrize("label", [-1, 2])
    def test_labels_that_are_no_class(self, label: int) -> None:
        truth = [ground_truth(), ground_truth((SQUARE, label, False))]
        with pytest.raises(ValueError, match=f"got label {label} in the ground truth of image 1; expected 0 <= label"):
            detection_average_precision(truth, [detections(), detections()], num_classes=2)
        found = [detections((SQUARE, 0.5, label))]
        with pytest.raises(ValueError, match=f"got label {label} in the detections of image 0; expected 0 <= label"):
            detection_average_precision([ground_truth()], found, num_classes=2)

    def test_other_numbers_of_images(self) -> None:
        with pytest.raises(ValueError, match="got detections of 1 images; expected 2"):
            detection_average_precision([ground_truth()] * 2, [detections()], num_classes=1)

    @pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1, 50.0, float("nan")])
    def test_thresholds(self, threshold: float) -> None:
        with pytest.raises(ValueError, match="for iou_threshold; expected 0 < iou_threshold <= 1"):
            detection_average_precision([], [], num_classes=1, iou_threshold=threshold)


# Random cases. A small grid and few scores, so that ties of score and of overlap, duplicates and
# overlaps of exactly the threshold are common.


def random_box(rng: np.random.Generator) -> Box:
    x1, x2 = np.sort(rng.integers(1, 9, size=2)).tolist()
    y1, y2 = np.sort(rng.integers(1, 9, size=2)).tolist()
    return x1, y1, x2, y2


def random_case(rng: np.random.Generator, num_classes: int) -> tuple[list[list[Object]], list[list[Found]]]:
    present = rng.integers(1, num_classes + 1)  # higher labels have no objects
    difficult_share = rng.choice([0.0, 0.3, 1.0], p=[0.3, 0.6, 0.1])
    truth: list[list[Object]] = []
    found: list[list[Found]] = []
    for _ in range(rng.integers(0, 7)):
        objects = [
            (random_box(rng), int(rng.integers(present)), bool(rng.random() < difficult_share))
            for _ in range(rng.integers(0, 5))
        ]
        boxes = [random_box(rng) for _ in range(rng.integers(0, 7))]
        boxes += [box for box, _, _ in objects if rng.random() < 0.5]
        # The upper half of an object with an even number of rows: an IoU of exactly 0.5.
        boxes += [(x1, y1, x2, (y1 + y2) // 2) for (x1, y1, x2, y2), _, _ in objects if rng.random() < 0.5]
        truth.append(objects)
        found.append([(box, float(rng.integers(-2, 5)) / 4, int(rng.integers(num_classes))) for box in boxes])
    return truth, found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_reference_on_random_cases(dtype: type) -> None:
    rng = np.random.default_rng(7)
    num_classes = 3
    seen = {TRUE: 0, FALSE: 0, IGNORED: 0}
    absent = exact = 0
    for _ in range(400):
        truth, found = random_case(rng, num_classes)
        threshold = Fraction(int(rng.choice([3, 5, 5, 5, 7])), 10)
        ap = detection_average_precision(
            [ground_truth(*objects) for objects in truth],
            [detections(*of_image, dtype=dtype) for of_image in found],
            num_classes=num_classes,
            iou_threshold=float(threshold),
        )
        for label in range(num_classes):
            positives = sum(of_label == label and not difficult for image in truth for _, of_label, difficult in image)
            assert ap.num_positives[label] == positives
            verdicts = reference_verdicts(truth, found, label, threshold)
            if not positives:
                assert np.isnan(ap.ap_area[label])
                assert np.isnan(ap.ap_11pt[label])
                absent += 1
                continue
            assert ap.ap_area[label] == pytest.approx(float(reference_area(verdicts, positives)), abs=1e-14)
            assert ap.ap_11pt[label] == pytest.approx(float(reference_11pt(verdicts, positives)), abs=1e-14)
            for verdict in verdicts:
                seen[verdict] += 1
            exact += verdicts != reference_verdicts(truth, found, label, threshold + Fraction(1, 10**6))
    # The cases hold what they are for.
    assert min(seen.values()) > 100
    assert absent > 100
    assert exact > 50
