"""Average precision on files whose results other projects publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsol.boxes import Detections, GroundTruth, from_voc
from wsol.metrics.average_precision import DetectionAP, average_precision_11pt, average_precision_area
from wsol.metrics.average_precision import detection_average_precision as evaluate
from wsol.metrics.summary import mean_over_defined_classes


def image_from_lines(
    truth_file: Path, found_file: Path, classes: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth boxes, truth labels, found boxes, found scores and found labels, in the coordinates of the files."""
    truth = [line.split() for line in truth_file.read_text().splitlines() if line.strip()]
    found = [line.split() for line in found_file.read_text().splitlines() if line.strip()]
    return (
        np.array([fields[1:5] for fields in truth], float).reshape(-1, 4),
        np.array([classes.index(fields[0]) for fields in truth], np.int64),
        np.array([fields[2:6] for fields in found], float).reshape(-1, 4),
        np.array([fields[1] for fields in found], float),
        np.array([classes.index(fields[0]) for fields in found], np.int64),
    )


def inclusive_to_continuous(boxes: np.ndarray) -> np.ndarray:
    return (boxes + [0, 0, 1, 1]).astype(np.float32)


def read(
    folder: Path, classes: list[str], *, xywh: bool, inclusive: bool
) -> tuple[list[GroundTruth], list[Detections]]:
    truth, found = [], []
    for truth_file in sorted((folder / "groundtruths").glob("*.txt")):
        boxes, labels, found_boxes, scores, found_labels = image_from_lines(
            truth_file, folder / "detections" / truth_file.name, classes
        )
        if xywh:
            boxes[:, 2:] += boxes[:, :2]
            found_boxes[:, 2:] += found_boxes[:, :2]
        if inclusive:
            boxes, found_boxes = inclusive_to_continuous(boxes), inclusive_to_continuous(found_boxes)
        truth.append(GroundTruth(boxes=boxes, labels=labels, difficult=np.zeros(len(labels), np.bool_)))
        found.append(Detections(boxes=found_boxes, scores=scores, labels=found_labels))
    return truth, found


class TestPadilla:
    """rafaelpadilla/Object-Detection-Metrics: 15 persons, 24 detections; at IoU 0.3 it publishes 24.57 % and 26.84 %.

    The other thresholds were computed with an independent script, the 11-point AP with numpy's range of recalls.
    """

    def read(self, shared_dir: Path, *, inclusive: bool = True) -> tuple[list[GroundTruth], list[Detections]]:
        return read(shared_dir / "data/ap-vectors/padilla", ["person"], xywh=True, inclusive=inclusive)

    @pytest.mark.parametrize(
        ("iou_threshold", "area", "eleven"),
        [
            # 0.333333 with numpy's recalls: there 9 found of 15, at precision 9 / 23, miss 0.6000000000000001.
            (0.1, 0.337198, 0.333333 + 9 / 23 / 11),
            (0.2, 0.280133, 0.302454),
            (0.3, 0.245687, 0.268398),
            (0.4, 0.052991, 0.072261),
            (0.5, 0.022222, 0.030303),
        ],
    )
    def test_ap(self, shared_dir: Path, iou_threshold: float, area: float, eleven: float) -> None:
        truth, found = self.read(shared_dir)
        ap = evaluate(truth, found, num_classes=1, iou_threshold=iou_threshold)
        assert ap.num_positives.tolist() == [15]
        assert sum(len(image.labels) for image in found) == 24
        assert ap.ap_area[0] == pytest.approx(area, abs=5.1e-7)
        assert ap.ap_11pt[0] == pytest.approx(eleven, abs=5.1e-7)

    def test_it_tells_inclusive_pixels_from_exclusive_ones(self, shared_dir: Path) -> None:
        truth, found = self.read(shared_dir, inclusive=False)
        ap = evaluate(truth, found, num_classes=1, iou_threshold=0.3)
        assert ap.ap_area[0] == pytest.approx(0.225397, abs=5.1e-7)


CARTUCHO = {
    "backpack": 22.73,
    "bed": 85.94,
    "book": 17.52,
    "bookcase": 14.29,
    "bottle": 23.48,
    "bowl": 31.86,
    "cabinetry": 7.93,
    "chair": 53.84,
    "coffeetable": 4.55,
    "countertop": 19.05,
    "cup": 42.50,
    "diningtable": 39.66,
    "doll": 0,
    "door": 20.69,
    "heater": 7.69,
    "nightstand": 71.43,
    "person": 42.86,
    "pictureframe": 17.71,
    "pillow": 13.01,
    "pottedplant": 62.31,
    "remote": 73.21,
    "shelf": 0,
    "sink": 16.33,
    "sofa": 90.48,
    "tap": 1.39,
    "tincan": 0,
    "tvmonitor": 63.25,
    "vase": 18.75,
    "wastecontainer": 45.45,
    "windowblind": 23.53,
}


class TestCartucho:
    """The example of Cartucho/mAP: 85 images, 30 classes, IoU 0.5; its main.py prints mAP 31.05 %."""

    def evaluate(self, shared_dir: Path, *, inclusive: bool = True) -> tuple[list[str], DetectionAP]:
        folder = shared_dir / "data/ap-vectors/cartucho"
        lines = [line for file in folder.glob("*/*.txt") for line in file.read_text().splitlines() if line.strip()]
        classes = sorted({line.split()[0] for line in lines})
        truth, found = read(folder, classes, xywh=False, inclusive=inclusive)
        assert len(truth) == 85
        assert sum(len(image.labels) for image in found) == 494
        return classes, evaluate(truth, found, num_classes=len(classes))

    def test_every_class(self, shared_dir: Path) -> None:
        classes, ap = self.evaluate(shared_dir)
        percent = {name: value * 100 for name, value in zip(classes, ap.ap_area, strict=True) if not np.isnan(value)}
        assert percent == pytest.approx(CARTUCHO, abs=0.00501)

    def test_means(self, shared_dir: Path) -> None:
        _, ap = self.evaluate(shared_dir)
        assert ap.num_positives.sum() == 686
        assert np.isnan(ap.ap_area).sum() == 8
        assert 100 * mean_over_defined_classes(ap.ap_area) == pytest.approx(31.0477, abs=5.1e-5)
        assert 100 * mean_over_defined_classes(ap.ap_11pt) == pytest.approx(31.6965, abs=5.1e-5)

    def test_it_tells_inclusive_pixels_from_exclusive_ones(self, shared_dir: Path) -> None:
        classes, ap = self.evaluate(shared_dir, inclusive=False)
        assert 100 * mean_over_defined_classes(ap.ap_area) == pytest.approx(31.0297, abs=5.1e-5)
        assert 100 * ap.ap_area[classes.index("chair")] == pytest.approx(53.30, abs=0.00501)


class TestChainercv:
    """chainer/chainercv, tests/evaluations_tests/test_eval_detection_voc.py."""

    def test_ap_of_a_curve(self) -> None:
        # precision 0, 1/2, 1/3 at recall 0, 1/2, 1/2: false, true, false, with two to be found
        flags = np.array([False, True, False]), np.array([True, False, True])
        assert average_precision_area(*flags, 2) == pytest.approx(0.25, abs=1e-15)
        assert average_precision_11pt(*flags, 2) == pytest.approx(0.5 * 6 / 11, abs=1e-15)

    def test_ap_of_a_curve_that_starts_undefined(self) -> None:
        # precision undefined, then 1/2 at recall 1: an ignored rank, a false one, a true one
        flags = np.array([False, False, True]), np.array([False, True, False])
        assert average_precision_area(*flags, 1) == 0.5
        assert average_precision_11pt(*flags, 1) == 0.5

    @staticmethod
    def boxes(*y1x1y2x2: list[float]) -> np.ndarray:
        """Chainercv's order, and the 1 it adds to the far corners, whatever the unit of the boxes."""
        return inclusive_to_continuous(np.array(y1x1y2x2)[:, [1, 0, 3, 2]])

    @pytest.mark.parametrize("with_difficult", [False, True])
    @pytest.mark.parametrize(("iou_threshold", "expected"), [(0.5, 1 / 3), (0.97, 0.0)])
    def test_three_detections(self, iou_threshold: float, expected: float, with_difficult: bool) -> None:
        found = Detections(
            boxes=self.boxes([0, 0, 1, 1], [0, 0, 2, 2], [0.3, 0.3, 0.5, 0.5]),
            scores=np.array([0.8, 0.9, 1.0]),
            labels=np.zeros(3, np.int64),
        )
        boxes = [[0, 0, 1, 0.9], [1, 1, 2, 2]][: 1 + with_difficult]
        difficult = np.array([False, True])[: len(boxes)]
        truth = GroundTruth(boxes=self.boxes(*boxes), labels=np.zeros(len(boxes), np.int64), difficult=difficult)
        ap = evaluate([truth], [found], num_classes=2, iou_threshold=iou_threshold)
        # Only the lowest of three finds the object: precision 1/3 at recall 1.
        np.testing.assert_allclose(ap.ap_area, [expected, np.nan], rtol=0, atol=1e-15)
        np.testing.assert_allclose(ap.ap_11pt, [expected, np.nan], rtol=0, atol=1e-15)


def test_corners_counted_from_zero_or_from_one() -> None:
    """Inclusive corners through from_voc, or only closed at the far side: all shifts by a pixel, no AP changes."""
    rng = np.random.default_rng(3)
    corners = rng.integers(1, 60, size=(60, 2, 2))
    inclusive = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    labels, scores = rng.integers(0, 2, size=60), rng.permutation(40) / 40
    results = []
    for boxes in (from_voc(inclusive), inclusive_to_continuous(inclusive)):
        truth = GroundTruth(boxes=boxes[:20], labels=labels[:20], difficult=np.zeros(20, np.bool_))
        found = Detections(boxes=boxes[20:], scores=scores, labels=labels[20:])
        results.append(evaluate([truth], [found], num_classes=2, iou_threshold=0.3).ap_area)
    np.testing.assert_array_equal(*results)
    assert results[0].min() > 0
