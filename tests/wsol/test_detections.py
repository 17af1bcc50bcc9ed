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
from PIL import Image

from wsol.boxes import Detections, GroundTruth
from wsol.data.images import ImageRecord
from wsol.data.voc import EvaluationSplit
from wsol.detections import HeatMaps, SplitDetections, load_detections, measure, save_detections
from wsol.metrics.average_precision import detection_average_precision
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
def split(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSplit:
    """A cat; a cat and a dog; nothing. No owl anywhere. 100 x 100 pixels."""
    folder = tmp_path_factory.mktemp("images")
    for name in "abc":
        Image.new("L", (100, 100)).save(folder / f"{name}.png")
    return EvaluationSplit(
        name="val",
        classes=CLASSES,
        images=tuple(ImageRecord(id=name, path=folder / f"{name}.png") for name in "abc"),
        labels=np.array([[1, -1, -1], [1, 1, -1], [-1, -1, -1]], dtype=np.int8),
        ground_truth=(_truth((CAT, NEAR)), _truth((CAT, NEAR), (DOG, FAR)), _truth()),
    )


@pytest.fixture
def found() -> SplitDetections:
    """Of the cats the first is found, the second only as the best box; the dog is missed, but for its point.

    The map of the first cat is hot where it is, that of the second where nothing is, that of the dog where it is.
    """
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
        heat_maps=HeatMaps(
            maps=np.array([_hot(6, 19), _hot(0, 3), _hot(38, 58)], np.float16),
            images=np.array([0, 1, 1]),
            labels=np.array([CAT, CAT, DOG]),
        ),
        proposal_overlap=np.array([0.9, 0.5, 0.4], np.float32),
    )


def _hot(start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    heat = np.zeros((64, 64), np.float16)
    heat[start:stop, start:stop] = 1.0
    return heat


ALL = (*METRICS_OF_TASK["wsddn"], "maxboxacc_v2", "corloc95", "ap30_11pt", "ap30_area", "proposal_recall30")


def test_every_metric_of_a_case_done_by_hand(found: SplitDetections, split: EvaluationSplit) -> None:
    metrics = measure(found, split, metrics=ALL)
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
        # So is the distance of it from the cat, and the point of the dog is in it.
        "pointing_game/cat": 0.5,
        "pointing_game/dog": 1.0,
        "pointing_game/owl": None,
        "pointing_game/mean": 0.75,
        "proposal_recall50/cat": 1.0,
        "proposal_recall50/dog": 0.0,
        "proposal_recall50/owl": None,
        "proposal_recall50/mean": 0.5,
        # Two of three pairs are right at some threshold, at each IoU.
        "maxboxacc_v2/cat": 0.5,
        "maxboxacc_v2/dog": 1.0,
        "maxboxacc_v2/owl": None,
        "maxboxacc_v2/mean": 0.75,
        "corloc95/cat": 1.0,
        "corloc95/dog": 0.0,
        "corloc95/owl": None,
        "corloc95/mean": 0.5,
        "ap30_11pt/cat": 6 / 11,
        "ap30_11pt/dog": 0.0,
        "ap30_11pt/owl": None,
        "ap30_11pt/mean": 3 / 11,
        "ap30_area/cat": 0.5,
        "ap30_area/dog": 0.0,
        "ap30_area/owl": None,
        "ap30_area/mean": 0.25,
        "proposal_recall30/cat": 1.0,
        "proposal_recall30/dog": 1.0,
        "proposal_recall30/owl": None,
        "proposal_recall30/mean": 1.0,
    }
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected)
    json.dumps(metrics, allow_nan=False)


def test_the_metrics_asked_for_in_their_order(found: SplitDetections, split: EvaluationSplit) -> None:
    metrics = measure(found, split, metrics=["cls_ap", "ap70_area", "cls_ap", "ap70_11pt"])
    assert [name for name in metrics if name.endswith("/mean")] == ["cls_ap/mean", "ap70_area/mean", "ap70_11pt/mean"]
    assert measure(found, split, metrics=[]) == {}


def test_what_two_metrics_share_is_computed_once(
    found: SplitDetections, split: EvaluationSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = []

    def counted(*arguments: Any, iou_threshold: float, **keywords: Any) -> Any:
        thresholds.append(iou_threshold)
        return detection_average_precision(*arguments, iou_threshold=iou_threshold, **keywords)

    monkeypatch.setattr("wsol.detections.detection_average_precision", counted)
    measure(found, split, metrics=["ap50_11pt", "ap50_area", "ap30_area", "ap50_11pt"])
    assert thresholds == [0.5, 0.3]


@pytest.mark.parametrize(
    ("lost", "metric", "whose"),
    [
        (
            "heat_maps",
            "maxboxacc_v2",
            "heat maps, which maxboxacc_v2 needs; expected those of a trial of task: localizer",
        ),
        ("proposal_overlap", "proposal_recall70", "overlaps of proposals, .* expected those of a trial of task: wsddn"),
        (
            "top_boxes",
            "corloc50",
            "boxes, which corloc50 needs; expected those of a trial of any task, trained by this",
        ),
        ("top_boxes", "ap50_area", "boxes, which ap50_area needs; expected those of a trial of any task"),
    ],
)
def test_what_a_file_does_not_hold(
    found: SplitDetections, split: EvaluationSplit, lost: str, metric: str, whose: str
) -> None:
    less = dataclasses.replace(found, **{lost: None})
    with pytest.raises(ValueError, match=f"got detections without {whose}"):
        measure(less, split, metrics=["cls_ap", metric])
    others = [name for name in ("cls_ap", "point_ap", "pointing_game", "maxboxacc_v2", "corloc50") if name != metric]
    if lost != "top_boxes":
        assert measure(less, split, metrics=others) == measure(found, split, metrics=others)


def test_a_name_that_is_no_metrics(found: SplitDetections, split: EvaluationSplit) -> None:
    with pytest.raises(ValueError, match=r"did you mean ap50_area\?"):
        measure(found, split, metrics=["ap50"])


def test_sizes_are_those_of_the_frame_that_boxes_are_in(
    found: SplitDetections, split: EvaluationSplit, tmp_path: Path
) -> None:
    """A picture on its side: 200 wide and 50 high as stored, turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (200, 50)).save(tmp_path / "a.jpg", exif=exif)
    turned = dataclasses.replace(split.images[0], path=tmp_path / "a.jpg")
    truth = _truth((CAT, (0.0, 0.0, 25.0, 200.0)))  # the left half of the upright picture
    of_a = dataclasses.replace(split, images=(turned, *split.images[1:]), ground_truth=(truth, *split.ground_truth[1:]))
    left = np.zeros((64, 64), np.float16)
    left[:, :32] = 1.0
    assert found.heat_maps is not None
    maps = dataclasses.replace(found.heat_maps, maps=np.array([left, *found.heat_maps.maps[1:]]))
    in_left_half = dataclasses.replace(found, heat_maps=maps)
    assert measure(in_left_half, of_a, metrics=["maxboxacc_v2"])["maxboxacc_v2/cat"] == 0.5
    stored = dataclasses.replace(turned, apply_exif=False)
    as_stored = dataclasses.replace(of_a, images=(stored, *split.images[1:]))
    assert measure(in_left_half, as_stored, metrics=["maxboxacc_v2"])["maxboxacc_v2/cat"] == 0.0


def test_a_split_without_any_object_has_undefined_means(found: SplitDetections, split: EvaluationSplit) -> None:
    empty = dataclasses.replace(split, labels=np.full((3, 3), -1, np.int8), ground_truth=(_truth(),) * 3)
    found = dataclasses.replace(found, proposal_overlap=np.zeros(0, np.float32))
    assert set(measure(found, empty, metrics=ALL).values()) == {None}


def test_detections_of_another_split_are_refused(found: SplitDetections, split: EvaluationSplit) -> None:
    other_image = dataclasses.replace(found, image_ids=("a", "b", "d"))
    with pytest.raises(ValueError, match="got detections of 3 images, 'd' among them; expected the 3 of split val"):
        measure(other_image, split, metrics=["cls_ap"])
    with pytest.raises(
        ValueError, match="of 3 images, 'd' among them; expected the 3 of split val, 'c' among them, in"
    ):
        measure(other_image, split, metrics=[])
    with pytest.raises(ValueError, match="got detections of 3 images; expected the 3 of split val, in its order"):
        measure(dataclasses.replace(found, image_ids=("b", "a", "c")), split, metrics=[])
    with pytest.raises(ValueError, match=r"classes \('cat', 'dog', 'cow'\); expected \('cat', 'dog', 'owl'\)"):
        measure(dataclasses.replace(found, classes=("cat", "dog", "cow")), split, metrics=["cls_ap"])


def test_objects_that_were_added_or_taken_away(found: SplitDetections, split: EvaluationSplit) -> None:
    """Most metrics can be measured on mended annotations; those that a trial prepared for its objects cannot."""
    more = dataclasses.replace(
        split,
        labels=np.array([[1, 1, -1], [1, 1, -1], [-1, -1, -1]], np.int8),
        ground_truth=(_truth((CAT, NEAR), (DOG, FAR)), *split.ground_truth[1:]),
    )
    assert measure(found, more, metrics=["cls_ap", "corloc50"])
    with pytest.raises(ValueError, match=r"got overlaps \(3,\); expected \(4,\), one for each object"):
        measure(found, more, metrics=["proposal_recall50"])
    with pytest.raises(ValueError, match="got no heat map of class 1 in image 0"):
        measure(found, more, metrics=["maxboxacc_v2"])


def _assert_same(first: SplitDetections, second: SplitDetections) -> None:
    assert (first.image_ids, first.classes) == (second.image_ids, second.classes)
    assert (first.heat_maps is None) is (second.heat_maps is None)
    if first.heat_maps is not None and second.heat_maps is not None:
        for name in ("maps", "images", "labels"):
            assert getattr(first.heat_maps, name).dtype == getattr(second.heat_maps, name).dtype
            assert np.array_equal(getattr(first.heat_maps, name), getattr(second.heat_maps, name))
    for name in ("class_scores", "points", "top_boxes", "proposal_overlap"):
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
    found = dataclasses.replace(found, detections=(_found(), *found.detections[1:]))
    if not with_boxes:
        found = dataclasses.replace(found, top_boxes=None, heat_maps=None, proposal_overlap=None)
    path = tmp_path / "detections.npz"
    path.write_bytes(b"of an attempt before")
    save_detections(path, found)
    _assert_same(load_detections(path), found)
    metrics = ALL if with_boxes else METRICS_OF_TASK["localizer"][:2]
    assert measure(load_detections(path), split, metrics=metrics) == measure(found, split, metrics=metrics)
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


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([0, 3], [0, 0], "got 0 to 3 for heat_maps.images; expected at least 0 and below 3"),
        ([0], [3], "3 to 3 .*labels"),
    ],
)
def test_pairs_of_heat_maps_are_checked(
    found: SplitDetections, images: list[int], labels: list[int], message: str
) -> None:
    maps = HeatMaps(np.zeros((len(images), 64, 64), np.float16), np.array(images), np.array(labels))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(found, heat_maps=maps)
    with pytest.raises(ValueError, match=r"got shape \(3, 1\) for proposal_overlap; expected \(K,\)"):
        dataclasses.replace(found, proposal_overlap=np.zeros((3, 1), np.float32))


def test_what_is_no_such_file(found: SplitDetections, tmp_path: Path) -> None:
    path = tmp_path / "detections.npz"
    with pytest.raises(FileNotFoundError, match="detections.npz"):
        load_detections(path)
    save_detections(path, found)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for damaged in (b"", b"text", whole[:-100], whole[: len(whole) // 2], (tmp_path / "other.npz").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="detections.npz, which does not hold the detections of a split"):
            load_detections(path)


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
