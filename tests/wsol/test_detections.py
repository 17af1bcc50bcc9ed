"""What a model found in a split: measured, stored, read back."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsol.boxes import Detections, GroundTruth
from wsol.data.images import ImageRecord
from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections, load_detections, measure, save_detections
from wsol.metrics.names import METRICS_OF_TASK

CLASSES = ("cat", "dog", "owl")
CAT, DOG = 0, 1


def _boxes(*boxes: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def _truth(*objects: tuple[int, tuple[float, ...]]) -> GroundTruth:
    return GroundTruth(
        boxes=_boxes(*(box for _, box in objects)),
        labels=np.array([label for label, _ in objects], dtype=np.int64),
        difficult=np.zeros(len(objects), dtype=np.bool_),
    )


def _found(*detections: tuple[int, float, tuple[float, ...]]) -> Detections:
    return Detections(
        boxes=_boxes(*(box for _, _, box in detections)),
        scores=np.array([score for _, score, _ in detections], dtype=np.float32),
        labels=np.array([label for label, _, _ in detections], dtype=np.int64),
    )


NEAR, FAR = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 90.0, 90.0)


@pytest.fixture
def split() -> EvaluationSplit:
    """A cat; a cat and a dog; nothing. No owl anywhere."""
    return EvaluationSplit(
        name="val",
        classes=CLASSES,
        images=tuple(ImageRecord(id=name, path=Path(f"{name}.jpg")) for name in "abc"),
        labels=np.array([[1, -1, -1], [1, 1, -1], [-1, -1, -1]], dtype=np.int8),
        ground_truth=(_truth((CAT, NEAR)), _truth((CAT, NEAR), (DOG, FAR)), _truth()),
    )


@pytest.fixture
def found() -> SplitDetections:
    """Of the cats the first is found, the second only as the best box; the dog is missed, but for its point."""
    top = np.zeros((3, 3, 4), dtype=np.float32)
    top[0, CAT], top[1, CAT], top[1, DOG], top[2] = NEAR, NEAR, NEAR, np.nan
    points = np.zeros((3, 3, 2), dtype=np.float32)
    points[0, CAT], points[1, CAT], points[1, DOG] = (20, 20), (80, 80), (75, 75)
    return SplitDetections(
        image_ids=("a", "b", "c"),
        classes=CLASSES,
        detections=(_found((CAT, 0.9, NEAR), (CAT, 0.2, FAR)), _found((DOG, 0.7, NEAR)), _found((CAT, 0.8, NEAR))),
        class_scores=np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.3, 0.2, 0.5]], dtype=np.float32),
        points=points,
        top_boxes=top,
    )


def test_every_metric_of_a_case_done_by_hand(found: SplitDetections, split: EvaluationSplit) -> None:
    metrics = measure(found, split)
    expected = {
        # One of two cats, found first: precision 1 at recall 1/2, that is at 0, 0.1, ..., 0.5. Nothing beyond.
        "ap50_11pt/cat": 6 / 11,
        "ap50_11pt/dog": 0.0,
        "ap50_11pt/owl": None,
        "ap50_11pt/mean": 3 / 11,
        "ap50_area/cat": 0.5,
        "ap50_area/dog": 0.0,
        "ap50_area/owl": None,
        "ap50_area/mean": 0.25,
        "corloc50/cat": 1.0,
        "corloc50/dog": 0.0,
        "corloc50/owl": None,
        "corloc50/mean": 0.5,
        # Images by cat score: a, c, b. Precision 1 at the first cat, 2/3 at the second.
        "cls_ap/cat": (1 + 2 / 3) / 2,
        "cls_ap/dog": 1.0,
        "cls_ap/owl": None,
        "cls_ap/mean": (5 / 6 + 1) / 2,
        # The point of image b misses its cat.
        "point_ap/cat": 0.5,
        "point_ap/dog": 1.0,
        "point_ap/owl": None,
        "point_ap/mean": 0.75,
    }
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected)
    json.dumps(metrics, allow_nan=False)


def test_a_model_without_boxes_has_no_metrics_of_boxes(found: SplitDetections, split: EvaluationSplit) -> None:
    metrics = measure(dataclasses.replace(found, top_boxes=None), split)
    assert tuple(dict.fromkeys(name.split("/")[0] for name in metrics)) == METRICS_OF_TASK["localizer"]
    assert {name: value for name, value in measure(found, split).items() if name in metrics} == metrics


def test_a_split_without_any_object_has_undefined_means(found: SplitDetections, split: EvaluationSplit) -> None:
    empty = dataclasses.replace(split, labels=np.full((3, 3), -1, np.int8), ground_truth=(_truth(),) * 3)
    assert set(measure(found, empty).values()) == {None}


def test_detections_of_another_split_are_refused(found: SplitDetections, split: EvaluationSplit) -> None:
    other_image = dataclasses.replace(found, image_ids=("a", "b", "d"))
    with pytest.raises(ValueError, match="got detections of 3 images, 'd' among them; expected the 3 of split val"):
        measure(other_image, split)
    with pytest.raises(ValueError, match=r"classes \('cat', 'dog', 'cow'\); expected \('cat', 'dog', 'owl'\)"):
        measure(dataclasses.replace(found, classes=("cat", "dog", "cow")), split)


def _assert_same(first: SplitDetections, second: SplitDetections) -> None:
    assert (first.image_ids, first.classes) == (second.image_ids, second.classes)
    for name in ("class_scores", "points", "top_boxes"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) is (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=True)
    for one, other in zip(first.detections, second.detections, strict=True):
        for name in ("boxes", "scores", "labels"):
            assert getattr(one, name).dtype == getattr(other, name).dtype
            assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("with_boxes", [True, False])
def test_stored_detections_come_back(
    found: SplitDetections, split: EvaluationSplit, tmp_path: Path, with_boxes: bool
) -> None:
    found = dataclasses.replace(
        found, detections=(_found(), *found.detections[1:]), top_boxes=found.top_boxes if with_boxes else None
    )
    path = tmp_path / "detections.npz"
    path.write_bytes(b"of an attempt before")
    save_detections(path, found)
    _assert_same(load_detections(path), found)
    assert measure(load_detections(path), split) == measure(found, split)
    assert [file.name for file in tmp_path.iterdir()] == ["detections.npz"]


def test_detections_of_no_image_at_all(tmp_path: Path) -> None:
    nothing = SplitDetections(
        image_ids=(),
        classes=CLASSES,
        detections=(),
        class_scores=np.zeros((0, 3), np.float32),
        points=np.zeros((0, 3, 2), np.float32),
        top_boxes=np.zeros((0, 3, 4), np.float32),
    )
    save_detections(tmp_path / "x.npz", nothing)
    _assert_same(load_detections(tmp_path / "x.npz"), nothing)


def test_a_failed_write_leaves_what_was_there(
    found: SplitDetections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_detections(tmp_path / "x.npz", found)

    def full_disk(file: Any, **arrays: object) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_detections(tmp_path / "x.npz", dataclasses.replace(found, classes=("x", "y", "z")))
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    _assert_same(load_detections(tmp_path / "x.npz"), found)


@pytest.mark.parametrize("field", ["class_scores", "points", "top_boxes", "detections"])
def test_shapes_are_checked(found: SplitDetections, field: str) -> None:
    with pytest.raises(ValueError, match=f"for {field}; expected"):
        dataclasses.replace(found, **{field: getattr(found, field)[:2]})


def test_torch_is_not_needed() -> None:
    program = "import sys, wsol.detections; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_scores_keep_every_bit(found: SplitDetections, tmp_path: Path) -> None:
    """Region scores are products of two softmaxes: rounded to decimals they would tie."""
    score = np.nextafter(np.float32(1e-6), np.float32(1))
    close = Detections(boxes=_boxes(NEAR), scores=np.array([score]), labels=np.array([0]))
    save_detections(tmp_path / "x.npz", dataclasses.replace(found, detections=(close,) * 3))
    assert load_detections(tmp_path / "x.npz").detections[0].scores[0] == score
    assert not math.isclose(float(score), 1e-6, rel_tol=1e-9)
