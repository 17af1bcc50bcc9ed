from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsol.boxes import Detections, GroundTruth, clip, from_voc, iou, paired_iou


def voc_boxes(*, max_px: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    """Boxes of an annotation file: integers, 1-based, inclusive."""
    side = st.tuples(st.integers(1, max_px), st.integers(1, max_px)).map(sorted)
    return st.tuples(side, side).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def devkit_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> Fraction:
    """VOCevaldet's, exact: a box covers its corner pixels, so its width is xmax - xmin + 1."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return Fraction(width * height, area_a + area_b - width * height)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 100, size=(count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


class TestFromVoc:
    def test_first_pixel_and_whole_image(self) -> None:
        # In a 500 x 375 image: the top left pixel alone, and everything.
        boxes = from_voc([[1, 1, 1, 1], [1, 1, 500, 375]])
        np.testing.assert_array_equal(boxes, [[0, 0, 1, 1], [0, 0, 500, 375]])
        assert boxes.dtype == np.float32

    def test_fractions_survive(self) -> None:
        np.testing.assert_array_equal(from_voc(np.array([[1.5, 2.25, 10.75, 20.5]])), [[0.5, 1.25, 10.75, 20.5]])

    @pytest.mark.parametrize("empty", [[], np.zeros((0, 4))])
    def test_no_boxes(self, empty: object) -> None:
        assert from_voc(empty).shape == (0, 4)

    def test_input_is_left_alone(self) -> None:
        given_boxes = np.array([[1.0, 1.0, 2.0, 2.0]])
        from_voc(given_boxes)
        np.testing.assert_array_equal(given_boxes, [[1, 1, 2, 2]])

    @pytest.mark.parametrize("wrong", [[1, 2, 3, 4], [[1, 2, 3]], np.zeros((0, 5))])
    def test_other_shapes_are_refused(self, wrong: object) -> None:
        with pytest.raises(ValueError, match=r"for boxes; expected \(N, 4\)"):
            from_voc(wrong)


class TestIou:
    @settings(deadline=None, derandomize=True, max_examples=500)
    @given(voc_boxes(max_px=40), voc_boxes(max_px=40))
    def test_plain_iou_is_the_devkits_inclusive_iou(
        self, a: tuple[int, int, int, int], b: tuple[int, int, int, int]
    ) -> None:
        expected = devkit_iou(a, b)
        ((overlap,),) = iou(from_voc([a]), from_voc([b]))
        assert overlap == float(expected)  # equal to the last bit: the double nearest to the true ratio
        assert (overlap >= 0.5) == (expected >= Fraction(1, 2))
        assert (overlap >= 0.3) == (expected >= Fraction(3, 10))

    def test_exactly_one_half(self) -> None:
        # 10 x 10 pixels and their upper half: 50 / 100.
        ((overlap,),) = iou(from_voc([[1, 1, 10, 10]]), from_voc([[1, 1, 10, 5]]))
        assert overlap == 0.5

    def test_worked_by_hand(self) -> None:
        a = np.array([[0, 0, 2, 2], [0, 0, 1, 1]], np.float32)
        b = np.array([[1, 1, 3, 3], [0, 0, 2, 1], [2, 0, 4, 2]], np.float32)
        # 1 / (4 + 4 - 1), 2 / (4 + 2 - 2), edges touch; corners touch, 1 / (1 + 2 - 1), apart
        np.testing.assert_array_equal(iou(a, b), [[1 / 7, 2 / 4, 0], [0, 1 / 2, 0]])

    def test_computed_in_double_precision(self) -> None:
        overlap = iou(np.array([[0, 0, 3, 1]], np.float32), np.array([[0, 0, 1, 1]], np.float32))
        assert overlap.dtype == np.float64
        assert overlap[0, 0] == 1 / 3  # in float32 it would be 0.3333333432674408

    def test_itself_and_symmetry(self) -> None:
        boxes = random_boxes(np.random.default_rng(0), 50)
        overlap = iou(boxes, boxes)
        np.testing.assert_array_equal(np.diag(overlap), np.ones(50))
        np.testing.assert_array_equal(overlap, overlap.T)
        assert overlap.min() >= 0
        assert overlap.max() <= 1

    @pytest.mark.parametrize(
        "box",
        [
            [5, 5, 5, 9],
            [5, 5, 5, 5],
            [9, 0, 1, 9],
            [9, 9, 1, 1],
            [np.nan] * 4,
            [0, 0, np.nan, 9],
            [0, 0, np.inf, np.inf],
            [-np.inf, 0, np.inf, 0],
        ],
    )
    def test_a_box_without_area_overlaps_nothing(self, box: list[float]) -> None:
        boxes = np.array([box, [0, 0, 9, 9]], np.float32)
        np.testing.assert_array_equal(iou(boxes, boxes), [[0, 0], [0, 1]])

    @pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
    def test_no_boxes(self, n: int, m: int) -> None:
        assert iou(np.zeros((n, 4), np.float32), np.zeros((m, 4), np.float32)).shape == (n, m)

    def test_other_shapes_are_refused(self) -> None:
        boxes = np.zeros((2, 4), np.float32)
        with pytest.raises(ValueError, match=r"got shape \(4,\) for a; expected \(N, 4\)"):
            iou(boxes[0], boxes)
        with pytest.raises(ValueError, match=r"got shape \(2, 3\) for b; expected \(N, 4\)"):
            iou(boxes, boxes[:, :3])


class TestPairedIou:
    def test_is_the_diagonal_of_iou(self) -> None:
        rng = np.random.default_rng(1)
        a, b = random_boxes(rng, 200), random_boxes(rng, 200)
        paired = paired_iou(a, b)
        np.testing.assert_array_equal(paired, np.diag(iou(a, b)))
        assert (paired > 0).sum() > 50

    def test_other_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="got 2 and 1 boxes; expected as many in a as in b"):
            paired_iou(np.zeros((2, 4)), np.zeros((1, 4)))


class TestClip:
    def test_each_side(self) -> None:
        boxes = np.array([[-5, -6, 700, 800], [10, 20, 30, 40], [600, 10, 700, 20], [10, -9, 20, -3]], np.float32)
        clipped = clip(boxes, width=500, height=375)
        np.testing.assert_array_equal(clipped, [[0, 0, 500, 375], [10, 20, 30, 40], [500, 10, 500, 20], [10, 0, 20, 0]])
        assert clipped.dtype == np.float32
        assert boxes[0, 0] == -5

    def test_no_boxes(self) -> None:
        assert clip(np.zeros((0, 4), np.float32), width=5, height=5).shape == (0, 4)

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"got shape \(4,\) for boxes; expected \(N, 4\)"):
            clip(np.zeros(4), width=5, height=5)


class TestOneImage:
    BOXES = np.zeros((2, 4), np.float32)
    LABELS = np.zeros(2, np.int64)
    FLAGS = np.zeros(2, np.bool_)
    SCORES = np.zeros(2, np.float32)

    def test_an_image_without_boxes(self) -> None:
        GroundTruth(boxes=self.BOXES[:0], labels=self.LABELS[:0], difficult=self.FLAGS[:0])
        Detections(boxes=self.BOXES[:0], scores=self.SCORES[:0], labels=self.LABELS[:0])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"boxes": np.zeros((2, 5), np.float32)}, r"got shape \(2, 5\) for GroundTruth.boxes; expected \(2, 4\)"),
            ({"boxes": np.zeros(4, np.float32)}, r"got shape \(4,\) for GroundTruth.boxes; expected \(4, 4\)"),
            ({"labels": np.zeros(3, np.int64)}, r"got shape \(3,\) for GroundTruth.labels; expected \(2,\)"),
            (
                {"difficult": np.zeros((2, 1), np.bool_)},
                r"got shape \(2, 1\) for GroundTruth.difficult; expected \(2,\)",
            ),
            ({"boxes": np.zeros((2, 4), np.int64)}, "got dtype int64 for GroundTruth.boxes; expected a floating-point"),
            ({"labels": np.zeros(2)}, "got dtype float64 for GroundTruth.labels; expected a signed integer"),
            # ~ of an int array is no mask, and indexing with it is no selection.
            ({"difficult": np.zeros(2, np.int64)}, "got dtype int64 for GroundTruth.difficult; expected a bool"),
        ],
    )
    def test_ground_truth_refuses(self, change: dict[str, np.ndarray], message: str) -> None:
        fields = {"boxes": self.BOXES, "labels": self.LABELS, "difficult": self.FLAGS} | change
        with pytest.raises(ValueError, match=message):
            GroundTruth(**fields)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"boxes": np.zeros((2, 3), np.float32)}, r"got shape \(2, 3\) for Detections.boxes; expected \(2, 4\)"),
            ({"scores": np.zeros((2, 1))}, r"got shape \(2, 1\) for Detections.scores; expected \(2,\)"),
            ({"labels": np.zeros(1, np.int64)}, r"got shape \(1,\) for Detections.labels; expected \(2,\)"),
            ({"scores": np.zeros(2, np.int64)}, "got dtype int64 for Detections.scores; expected a floating-point"),
            ({"labels": np.zeros(2, np.uint64)}, "got dtype uint64 for Detections.labels; expected a signed integer"),
        ],
    )
    def test_detections_refuse(self, change: dict[str, np.ndarray], message: str) -> None:
        fields = {"boxes": self.BOXES, "scores": self.SCORES, "labels": self.LABELS} | change
        with pytest.raises(ValueError, match=message):
            Detections(**fields)
