from __future__ import annotations

import numpy as np
import pytest

from wsol.boxes import GroundTruth
from wsol.metrics.instances import flatten


def image(*labels: int) -> GroundTruth:
    count = len(labels)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return GroundTruth(boxes=boxes, labels=np.array(labels, np.int64), difficult=np.arange(count) == 1)


def test_order_is_that_of_images_then_of_objects() -> None:
    instances = flatten([image(2, 0), image(), image(1, 1, 0)], num_classes=3)
    assert instances.labels.tolist() == [2, 0, 1, 1, 0]
    assert instances.images.tolist() == [0, 0, 2, 2, 2]
    assert instances.difficult.tolist() == [False, True, False, True, False]
    assert instances.boxes[:, 0].tolist() == [0, 4, 0, 4, 8]


@pytest.mark.parametrize("images", [[], [image()], [image(), image()]])
def test_no_objects(images: list[GroundTruth]) -> None:
    instances = flatten(images, num_classes=3)
    assert instances.boxes.shape == (0, 4)
    assert [len(part) for part in (instances.labels, instances.difficult, instances.images)] == [0, 0, 0]
    assert instances.labels.dtype == instances.images.dtype == np.int64


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"got label {label} in the ground truth of image 1; expected 0 <= label < 3"):
        flatten([image(0), image(1, label)], num_classes=3)
