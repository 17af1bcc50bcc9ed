"""Pictures of a trial: which images, which boxes, which files."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsol import pictures
from wsol.boxes import Detections, GroundTruth
from wsol.data.images import DataError, ImageRecord
from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections
from wsol.heat_maps import HeatMaps
from wsol.pictures import (
    Choice,
    choose_images,
    detection_boxes,
    draw_choice,
    draw_prediction,
    ground_truth_boxes,
    image_qualities,
    write_pictures,
)

CLASSES = ("cat", "dog")
NEAR, HALF, FAR = (0.0, 0.0, 20.0, 20.0), (0.0, 0.0, 20.0, 10.0), (30.0, 30.0, 40.0, 40.0)


def truth(*objects: tuple[int, tuple[float, ...]], difficult: bool = False) -> GroundTruth:
    return GroundTruth(
        boxes=np.array([corners for _, corners in objects], np.float32).reshape(-1, 4),
        labels=np.array([label for label, _ in objects], np.int64),
        difficult=np.full(len(objects), difficult),
    )


def split_of(truths: list[GroundTruth], labels: list[list[int]], folder: Path = Path("absent")) -> EvaluationSplit:
    return EvaluationSplit(
        name="val",
        classes=CLASSES,
        images=tuple(ImageRecord(id=f"im {i}", path=folder / f"{i}.png") for i in range(len(truths))),
        labels=np.array(labels, np.int8).reshape(-1, 2),
        ground_truth=tuple(truths),
    )


def found_of(top: list[list[tuple[float, ...]]], detections: list[Detections] | None = None) -> SplitDetections:
    count = len(top)
    nothing = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int))
    return SplitDetections(
        image_ids=tuple(f"im {i}" for i in range(count)),
        classes=CLASSES,
        detections=tuple(detections or [nothing] * count),
        class_scores=np.zeros((count, 2), np.float32),
        points=np.zeros((count, 2, 2), np.float32),
        top_boxes=np.array(top, np.float32).reshape(-1, 2, 4),
    )


def unseen(count: int) -> EvaluationSplit:
    return split_of([truth()] * count, [[-1, -1]] * count)


NAN = (math.nan,) * 4


class TestQualities:
    def test_the_mean_over_shown_classes_of_the_best_overlap(self) -> None:
        objects = truth((0, FAR), (0, NEAR), (1, HALF))
        split = split_of([objects], [[1, 1]])
        assert image_qualities(found_of([[HALF, HALF]]), split).tolist() == [0.75]

    def test_classes_that_are_not_shown_do_not_count(self) -> None:
        split = split_of([truth((0, NEAR), (1, NEAR))] * 2, [[1, 0], [1, -1]])
        assert image_qualities(found_of([[HALF, NEAR]] * 2), split).tolist() == [0.5, 0.5]

    def test_images_that_show_none_have_none(self) -> None:
        split = split_of([truth(), truth((0, NEAR), difficult=True)], [[-1, -1], [0, -1]])
        assert np.isnan(image_qualities(found_of([[NEAR, NEAR]] * 2), split)).all()

    def test_no_proposals(self) -> None:
        assert image_qualities(found_of([[NAN, NAN]]), split_of([truth((0, NEAR))], [[1, -1]])).tolist() == [0.0]

    def test_no_images(self) -> None:
        assert image_qualities(found_of([]), split_of([], [])).shape == (0,)


def chosen(choices: list[Choice], kind: str) -> list[int]:
    of_kind = [choice for choice in choices if choice.kind == kind]
    assert [choice.rank for choice in of_kind] == list(range(1, len(of_kind) + 1))
    return [choice.index for choice in of_kind]


class TestChoice:
    def test_best_and_worst_are_those_of_the_images_that_are_not_drawn(self) -> None:
        rng = np.random.default_rng(0)
        qualities = rng.random(50)
        choices = choose_images(qualities, unseen(50), count=3)
        drawn = chosen(choices, "random")
        others = sorted(set(range(50)) - set(drawn), key=lambda index: -qualities[index])
        assert chosen(choices, "best") == others[:3]
        assert chosen(choices, "worst") == others[::-1][:3]
        assert [choice.kind for choice in choices] == ["best"] * 3 + ["worst"] * 3 + ["random"] * 3

    def test_ties_go_by_order(self) -> None:
        choices = choose_images(np.full(20, 0.5), unseen(20), count=2)
        others = sorted(set(range(20)) - set(chosen(choices, "random")))
        assert chosen(choices, "best") == others[:2]
        assert chosen(choices, "worst") == others[2:4]

    def test_the_random_ones_are_the_same_whatever_a_trial_found(self) -> None:
        drawn = {
            tuple(chosen(choose_images(np.random.default_rng(seed).random(30), unseen(30), count=4), "random"))
            for seed in range(5)
        }
        assert len(drawn) == 1
        assert len(set(*drawn)) == 4
        more = chosen(choose_images(np.zeros(30), unseen(30), count=6), "random")
        assert tuple(more[:4]) in drawn

    def test_they_depend_on_the_split(self) -> None:
        def drawn(split: EvaluationSplit) -> list[int]:
            return chosen(choose_images(np.zeros(100), split, count=5), "random")

        split = unseen(100)
        other_ids = [ImageRecord(id=f"other {i}", path=Path("x")) for i in range(100)]
        assert drawn(split) != drawn(dataclasses.replace(split, name="test"))
        assert drawn(split) != drawn(dataclasses.replace(split, images=tuple(other_ids)))
        assert drawn(split) != [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("count", [1, 2, 4, 100])
    @pytest.mark.parametrize("images", range(14))
    def test_small_splits_are_shared_and_no_image_comes_twice(self, images: int, count: int) -> None:
        choices = choose_images(np.linspace(0, 1, images), unseen(images), count=count)
        indices = [choice.index for choice in choices]
        assert len(set(indices)) == len(indices) == min(images, 3 * count)
        sizes = [len(chosen(choices, kind)) for kind in ("best", "worst", "random")]
        assert max(sizes) <= count
        assert max(sizes) - min(sizes) <= 1

    def test_images_that_show_no_class_are_neither_best_nor_worst(self) -> None:
        qualities = np.full(30, np.nan)
        qualities[[3, 7, 8]] = [0.1, 0.9, 0.5]
        choices = choose_images(qualities, unseen(30), count=5)
        assert set(chosen(choices, "best") + chosen(choices, "worst")) == {3, 7, 8} - set(chosen(choices, "random"))
        assert len(chosen(choices, "random")) == 5

    def test_nothing_shown_anywhere(self) -> None:
        assert {choice.kind for choice in choose_images(np.full(9, np.nan), unseen(9), count=2)} == {"random"}


def many_detections() -> Detections:
    """Class 0: scores 0.01 to 0.20; class 1: 0.81 to 1.00."""
    scores = np.concatenate([np.linspace(0.20, 0.01, 20), np.linspace(1.0, 0.81, 20)]).astype(np.float32)
    boxes = np.tile(np.array(NEAR, np.float32), (40, 1))
    return Detections(boxes=boxes, scores=scores, labels=np.repeat([0, 1], 20))


class TestBoxes:
    def test_the_best_of_the_classes_of_interest_then_the_best_of_all(self) -> None:
        boxes = detection_boxes(many_detections(), CLASSES, of_interest=[0])
        texts = [box.text for box in boxes]
        assert texts[:5] == ["cat: 0.2", "cat: 0.19", "cat: 0.18", "cat: 0.17", "cat: 0.16"]
        assert texts[5:] == ["dog: 1", "dog: 0.99", "dog: 0.98", "dog: 0.97", "dog: 0.96"]
        assert [box.label for box in boxes] == [0] * 5 + [1] * 5
        assert boxes[0].corners == NEAR

    def test_each_once(self) -> None:
        assert len(detection_boxes(many_detections(), CLASSES, of_interest=[1])) == 5

    def test_none(self) -> None:
        assert detection_boxes(found_of([[NAN, NAN]]).detections[0], CLASSES, of_interest=[0, 1]) == []

    def test_of_ground_truth(self) -> None:
        (box,) = ground_truth_boxes(truth((1, FAR), difficult=True), CLASSES)
        assert (box.corners, box.label, box.text) == (FAR, 1, "dog (difficult)")


@pytest.fixture
def written(tmp_path: Path) -> tuple[SplitDetections, EvaluationSplit, Path]:
    """Ten images with a cat each and a folder for the pictures of a trial."""
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    split = split_of([truth((0, NEAR))] * 10, [[1, -1]] * 10, tmp_path)
    trial = tmp_path / "trial"
    trial.mkdir()
    return found_of([[NEAR, NAN]] * 10, [many_detections()] * 10), split, trial / "images"


class TestFiles:
    def test_names_and_sizes(self, written: tuple[SplitDetections, EvaluationSplit, Path]) -> None:
        found, split, folder = written
        write_pictures(folder, found, split, count=2)
        names = sorted(path.name for path in folder.iterdir())
        assert [name.partition("-im_")[0] for name in names] == [
            *("best-1", "best-2", "random-1", "random-2", "worst-1", "worst-2"),
        ]
        for path in folder.iterdir():
            with Image.open(path) as picture:
                assert picture.format == "JPEG"
                assert max(picture.size) <= 2 * 480 + 30
        assert [path.name for path in folder.parent.iterdir()] == ["images"]

    def test_again_replaces_what_was_there(self, written: tuple[SplitDetections, EvaluationSplit, Path]) -> None:
        found, split, folder = written
        write_pictures(folder, found, split, count=3)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        (folder / "best-9-old.jpg").write_bytes(b"of an attempt before")
        (folder.parent / ".images.pending").mkdir()
        (folder.parent / ".images.pending" / "half.jpg").write_bytes(b"of a killed attempt")
        write_pictures(folder, found, split, count=3)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        write_pictures(folder, found, split, count=1)
        assert len(list(folder.iterdir())) == 3

    def test_none(self, written: tuple[SplitDetections, EvaluationSplit, Path]) -> None:
        found, split, folder = written
        write_pictures(folder, found, split, count=1)
        write_pictures(folder, found, split, count=0)
        assert list(folder.parent.iterdir()) == []
        write_pictures(folder, found, split, count=0)

    def test_a_failure_is_heard_and_leaves_the_pictures_before(
        self, written: tuple[SplitDetections, EvaluationSplit, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, split, folder = written
        write_pictures(folder, found, split, count=1)
        before = sorted(folder.iterdir())

        def full_disk(*args: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", full_disk)
            with pytest.raises(OSError, match="No space left"):
                write_pictures(folder, found, split, count=2)
        assert sorted(folder.iterdir()) == before
        shutil.copy(folder.parent.parent / "0.png", folder.parent.parent / "spare.png")
        for path in folder.parent.parent.glob("[0-9].png"):
            path.unlink()
        with pytest.raises(DataError, match="No such file"):
            write_pictures(folder, found, split, count=2)
        assert sorted(folder.iterdir()) == before

    def test_names_of_odd_ids(self) -> None:
        assert pictures._file_name(Choice("best", 1, 0), "a b:c*ä.x") == "best-1-a_b_c_ä.x.jpg"
        assert len(pictures._file_name(Choice("random", 10, 0), "ä" * 300).encode()) < 200


class TestDrawing:
    def draw(self, found: SplitDetections, split: EvaluationSplit) -> NDArray[np.uint8]:
        return draw_choice(Choice("best", 1, 0), found, split, quality=0.5)

    def test_a_heat_map_colours_the_right_panel_alone(
        self, written: tuple[SplitDetections, EvaluationSplit, Path]
    ) -> None:
        found, split, _ = written
        maps = HeatMaps(
            maps=np.random.default_rng(0).random((2, 64, 64)).astype(np.float16),
            images=np.array([0, 0]),
            labels=np.array([0, 1]),
        )
        bare, coloured = self.draw(found, split), self.draw(dataclasses.replace(found, heat_maps=maps), split)
        columns = np.flatnonzero((bare[24:] != coloured[24:]).any(axis=(0, 2)))
        assert columns.min() >= bare.shape[1] // 2
        assert len(columns) > 200

    def test_it_is_the_map_of_the_likeliest_class(self, written: tuple[SplitDetections, EvaluationSplit, Path]) -> None:
        found, _, _ = written
        values = np.stack([np.eye(64), 1 - np.eye(64)]).astype(np.float16)
        maps = HeatMaps(maps=values, images=np.array([1, 1]), labels=np.array([0, 1]))
        scores = found.class_scores.copy()
        scores[1] = [0.1, 0.2]
        found = dataclasses.replace(found, heat_maps=maps, class_scores=scores)
        title, heat_map = pictures._heat_map(found, 1)
        assert title == "detections, map of dog"
        assert heat_map is not None
        assert np.array_equal(heat_map, values[1])
        assert pictures._heat_map(found, 0) == ("detections", None)

    def test_of_a_prediction(self) -> None:
        image = np.zeros((50, 240, 3), np.uint8)
        picture = draw_prediction(
            image,
            many_detections(),
            CLASSES,
            heat_maps={1: np.ones((8, 8)), 0: np.zeros((8, 8))},
            class_scores=np.array([0.1, 0.2]),
            caption="x",
        )
        assert picture.shape[1] > 3 * 240
