from __future__ import annotations

import numpy as np
import pytest

from wsol.boxes import GroundTruth
from wsol.metrics.proposal_recall import proposal_recall


def image(*objects: tuple[int, bool]) -> GroundTruth:
    return GroundTruth(
        boxes=np.array([(0, 0, 9, 9)] * len(objects), np.float32).reshape(-1, 4),
        labels=np.array([label for label, _ in objects], np.int64),
        difficult=np.array([difficult for _, difficult in objects], np.bool_),
    )


def test_share_of_a_classs_objects() -> None:
    truth = [image((0, False), (1, False)), image(), image((0, False), (0, False), (1, False))]
    overlap = np.array([0.9, 0.1, 0.5, 0.49, 0.0], np.float32)
    np.testing.assert_array_equal(proposal_recall(truth, overlap, num_classes=3), [2 / 3, 0, np.nan])


def test_difficult_objects_are_left_out() -> None:
    truth = [image((0, True), (0, False), (1, True))]
    overlap = np.array([1.0, 0.0, 1.0], np.float32)
    np.testing.assert_array_equal(proposal_recall(truth, overlap, num_classes=2), [0, np.nan])


@pytest.mark.parametrize("percent", range(5, 96))
def test_an_iou_equal_to_the_threshold_is_enough_however_it_was_rounded(percent: int) -> None:
    truth, overlap = [image((0, False))], np.array([percent / 100], np.float32)
    assert proposal_recall(truth, overlap, num_classes=1, iou_threshold=percent / 100).tolist() == [1]
    below = np.nextafter(overlap, np.float32(0))
    assert proposal_recall(truth, below, num_classes=1, iou_threshold=percent / 100).tolist() == [0]


def test_no_objects() -> None:
    assert np.isnan(proposal_recall([image()], np.zeros(0, np.float32), num_classes=2)).tolist() == [True, True]


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"got overlaps \(2,\); expected \(1,\), one for each object"):
        proposal_recall([image((0, False))], np.zeros(2, np.float32), num_classes=1)
    with pytest.raises(ValueError, match="got 0 for iou_threshold; expected 0 < iou_threshold <= 1"):
        proposal_recall([image((0, False))], np.zeros(1, np.float32), num_classes=1, iou_threshold=0)
