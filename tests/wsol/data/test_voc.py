"""Data sets in VOC layout as they really are: labels, boxes, mends and refusals."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import ExifTags, Image

from wsol.data import voc_xml
from wsol.data.images import DataError, image_size
from wsol.data.voc import (
    VOC_CLASSES,
    EvaluationSplit,
    ImageLevelSplit,
    check_layout,
    read_evaluation_split,
    read_image_level_split,
    resolve_classes,
)

CLASSES = ("cat", "dog")
BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"


def thing(name: str = "cat", *, difficult: object = 0, box: str = BOX) -> str:
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"


def corners(xmin: object, ymin: object, xmax: object, ymax: object) -> str:
    return f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"


def annotation(*objects: str, size: tuple[object, object] | None = (100, 80)) -> str:
    declared = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>other.jpg</filename>{declared}{''.join(objects)}</annotation>"


def make(root: Path, images: Mapping[str, str | None], *, split: str = "train") -> Path:
    """A data set of 100 x 80 images: id -> text of its annotation, or None for none."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_id, text in images.items():
        Image.new("RGB", (100, 80), (90, 120, 30)).save(root / "JPEGImages" / f"{image_id}.jpg")
        if text is not None:
            (root / "Annotations" / f"{image_id}.xml").write_text(text, encoding="utf-8")
    write_list(root, split, images)
    return root


def write_list(root: Path, name: str, lines: Sequence[str] | Mapping[str, Any]) -> None:
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def evaluate_one(root: Path, text: str, classes: tuple[str, ...] = CLASSES) -> EvaluationSplit:
    return read_evaluation_split(make(root, {"a": text}), split="train", classes=classes)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


# --- labels -----------------------------------------------------------------------------------


def test_labels_from_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(
        tmp_path,
        {
            "one": annotation(thing("cat"), thing("cat", difficult=1)),
            "other_order": annotation(thing("cat", difficult=1), thing("cat")),
            "only_difficult": annotation(thing("cat", difficult=1), thing("dog")),
            "none": annotation(),
        },
    )
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels, [[1, -1], [1, -1], [0, 1], [-1, -1]])
    assert read.labels.dtype == np.int8
    assert [image.id for image in read.images] == ["one", "other_order", "only_difficult", "none"]
    assert read.images[0].path == tmp_path / "JPEGImages" / "one.jpg"
    assert (read.name, read.classes) == ("train", CLASSES)
    assert warnings_of(caplog) == []


def test_difficult_is_optional_and_takes_words(tmp_path: Path) -> None:
    bare = "<object><name> cat </name></object>"
    make(
        tmp_path,
        {
            "missing": annotation(bare),
            "empty": annotation(thing("cat", difficult="")),
            "blanks": annotation(thing("cat", difficult=" 1 ")),
            "word": annotation(thing("cat", difficult="True")),
        },
    )
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels[:, 0], [1, 1, 0, 0])


def test_label_files_for_some_classes_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"a": annotation(thing("dog"))})
    write_list(tmp_path, "cat_train", ["a 1"])
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels, [[-1, 1]])
    assert "classes without a label file" in warnings_of(caplog)[0]
    assert "1 (dog)" in warnings_of(caplog)[0]
    (tmp_path / "Annotations" / "a.xml").unlink()
    (tmp_path / "Annotations").rmdir()
    with pytest.raises(DataError, match=r"no dog_train\.txt in .*no folder Annotations .*1 of 2 have none"):
        read_image_level_split(tmp_path, split="train", classes=CLASSES)


def test_annotations_are_the_truth_for_evaluation(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(thing("cat"))})
    write_list(tmp_path, "cat_train", ["a -1"])
    write_list(tmp_path, "dog_train", ["a 1"])
    seen = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    measured = read_evaluation_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(seen.labels, [[-1, 1]])
    np.testing.assert_array_equal(measured.labels, [[1, -1]])


# --- training sees no boxes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "box",
    [
        "",
        "<bndbox/>",
        corners("x", "", "nan", "1e999"),
        corners(-5, -5, -1, -1),
        "<bndbox><xmin>3</xmin></bndbox>",
        BOX * 2,
    ],
)
def test_boxes_change_nothing_in_training(tmp_path: Path, box: str, caplog: pytest.LogCaptureFixture) -> None:
    def contents(box: str) -> dict[str, str]:
        return {
            "a": annotation(thing("cat", box=box), thing("dog", difficult=1, box=box)),
            "b": annotation(thing("dog", box=box)),
        }

    whole = make(tmp_path / "whole", contents(BOX))
    damaged = make(tmp_path / "damaged", contents(box))
    expected = read_image_level_split(whole, split="train", classes=resolve_classes(whole, "auto", "train"))
    read = read_image_level_split(damaged, split="train", classes=resolve_classes(damaged, "auto", "train"))
    np.testing.assert_array_equal(read.labels, expected.labels)
    assert [image.id for image in read.images] == [image.id for image in expected.images]
    assert warnings_of(caplog) == []


def test_training_looks_up_no_box_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only is nothing changed by boxes: no element of one is touched."""
    touched: list[str] = []

    class Spy(Element):
        def find(self, path: str, *args: Any) -> Any:
            touched.append(path)
            return super().find(path, *args)

        def findtext(self, path: str, *args: Any) -> Any:
            touched.append(path)
            return super().findtext(path, *args)

        def findall(self, path: str, *args: Any) -> Any:
            touched.append(path)
            return super().findall(path, *args)

    def spied(element: Element) -> Element:
        copy = Spy(element.tag)
        copy.text = element.text
        copy.extend([spied(child) for child in element])
        return copy

    parse = voc_xml._parse
    monkeypatch.setattr(voc_xml, "_parse", lambda path: spied(parse(path)))
    make(tmp_path, {"a": annotation(thing("cat"))})
    read_image_level_split(tmp_path, split="train", classes=("cat",))
    assert set(touched) == {"object", "name", "difficult", "size/width", "size/height"}
    read_evaluation_split(tmp_path, split="train", classes=("cat",))
    assert {"bndbox", "xmin"} <= set(touched)  # the spy does see boxes


def test_the_training_type_has_no_place_for_boxes() -> None:
    assert {field.name for field in dataclasses.fields(ImageLevelSplit)} == {"name", "classes", "images", "labels"}
    assert not issubclass(EvaluationSplit, ImageLevelSplit)


def test_splits_check_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"got labels int8 \(2, 2\); expected int8 \(0, 2\)"):
        ImageLevelSplit(name="x", classes=CLASSES, images=(), labels=np.zeros((2, 2), dtype=np.int8))
    with pytest.raises(ValueError, match="got labels int64"):
        EvaluationSplit(name="x", classes=CLASSES, images=(), labels=np.zeros((0, 2), dtype=np.int64), ground_truth=())


# --- classes --------------------------------------------------------------------------------------


def test_voc_classes() -> None:
    assert len(set(VOC_CLASSES)) == 20
    assert sorted(VOC_CLASSES) == list(VOC_CLASSES)
    assert resolve_classes(Path("/nowhere"), "voc", "train") == VOC_CLASSES


def test_auto_classes_are_those_of_the_training_split_sorted(tmp_path: Path) -> None:
    objects = thing("zebra"), thing("dog"), thing("dog")
    make(tmp_path, {"a": annotation(*objects), "b": annotation(thing("Ant", difficult=1))})
    make(tmp_path, {"c": annotation(thing("fox"))}, split="val")
    assert resolve_classes(tmp_path, "auto", "train") == ("Ant", "dog", "zebra")


def test_classes_that_are_refused(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(thing("mean"))})
    make(tmp_path, {"b": annotation()}, split="empty")
    with pytest.raises(DataError, match=r"got classes mean for .*expected another name for class 'mean'"):
        resolve_classes(tmp_path, "auto", "train")
    with pytest.raises(DataError, match=r"got no classes in .*split 'empty'; expected at least one"):
        resolve_classes(tmp_path, "auto", "empty")
    with pytest.raises(DataError, match="class 'cat' is listed twice"):
        resolve_classes(tmp_path, ("cat", "cat"), "train")
    assert resolve_classes(tmp_path, ("dog", "cat"), "train") == ("dog", "cat")


def test_a_listed_class_never_seen_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"a": annotation(thing("cat"), thing("elk", difficult=1))})
    read_image_level_split(tmp_path, split="train", classes=("cat", "dog", "elk"))
    assert len(warnings_of(caplog)) == 1
    assert "split 'train': classes without one positive image: 2 (dog, elk)" in warnings_of(caplog)[0]


def test_training_on_no_positive_image_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(thing("cat"))})
    with pytest.raises(DataError, match="got no image with any of the classes dog, fox in .*split 'train'"):
        read_image_level_split(tmp_path, split="train", classes=("dog", "fox"))


def test_objects_of_other_classes_are_ignored_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = [thing(name, box="") for name in ("ant", "bee", "ant", "elk", "fox")]  # not even their boxes are read
    read = evaluate_one(tmp_path, annotation(thing("cat"), *others), classes=("cat",))
    assert len(read.ground_truth[0].boxes) == 1
    assert len(warnings_of(caplog)) == 1
    assert "objects of classes outside the list, ignored: 5 (ant, bee, elk, ...)" in warnings_of(caplog)[0]


# --- boxes ----------------------------------------------------------------------------------------


def test_boxes_by_name_in_any_order_with_fractions(tmp_path: Path) -> None:
    """Some exporters write xmin, xmax, ymin, ymax; parts of an object have boxes of their own."""
    text = (
        "<annotation><object><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
        "<bndbox><xmax>30.5</xmax><xmin>1</xmin><ymax>80</ymax><ymin>20.25</ymin></bndbox>"
        "<difficult>1</difficult><name>dog</name></object>"
        "<size><height>80</height><width>100</width></size>"
        f"{thing('cat', box=corners(1, 1, 100, 80))}</annotation>"
    )
    (truth,) = evaluate_one(tmp_path, text).ground_truth
    np.testing.assert_array_equal(truth.boxes, [[0, 19.25, 30.5, 80], [0, 0, 100, 80]])
    assert truth.boxes.dtype == np.float32
    np.testing.assert_array_equal(truth.labels, [1, 0])
    np.testing.assert_array_equal(truth.difficult, [True, False])


def test_an_image_without_objects(tmp_path: Path) -> None:
    (truth,) = evaluate_one(tmp_path, annotation()).ground_truth
    assert truth.boxes.shape == (0, 4)
    assert truth.labels.shape == truth.difficult.shape == (0,)


def test_one_pixel_and_the_image_border(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = annotation(thing(box=corners(1, 1, 1, 1)), thing(box=corners(100, 80, 100, 80)), thing("dog"))
    (truth,) = evaluate_one(tmp_path, text).ground_truth
    np.testing.assert_array_equal(truth.boxes[:2], [[0, 0, 1, 1], [99, 79, 100, 80]])
    assert warnings_of(caplog) == []


def test_mended_boxes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = [
        corners(30, 40, 11, 21),  # both swapped
        corners(11, 40, 30, 21),  # y swapped
        corners(0, 1, 10, 10),  # 0-based: one pixel outside
        corners(90, 70, 100.5, 200),
        corners(101, 1, 120, 10),  # begins where the image ends
        corners(-20, 1, 0, 10),  # ends where the image begins
        corners(1000, 1000, 900, 900),  # swapped and outside
    ]
    names, difficult = ("cat", "dog") * 4, (0, 1, 0, 1, 1, 0, 1)
    objects = [
        thing(name, difficult=flag, box=box) for name, flag, box in zip(names[:7], difficult, boxes, strict=True)
    ]
    (truth,) = evaluate_one(tmp_path, annotation(*objects, thing("dog"))).ground_truth
    expected = [[10, 20, 30, 40], [10, 20, 30, 40], [0, 0, 10, 10], [89, 69, 100, 80], [10, 20, 30, 40]]
    np.testing.assert_array_equal(truth.boxes, expected)
    np.testing.assert_array_equal(truth.labels, [0, 1, 0, 1, 1])
    np.testing.assert_array_equal(truth.difficult, [False, True, False, True, False])
    messages = warnings_of(caplog)
    assert len(messages) == 3
    assert "corners swapped: 3 (a)" in messages[0]
    assert "clipped: 2 (a)" in messages[1]
    assert "dropped: 3 (a)" in messages[2]


def test_a_dropped_box_leaves_the_image_label(tmp_path: Path) -> None:
    read = evaluate_one(tmp_path, annotation(thing("cat", box=corners(500, 500, 600, 600)), thing("dog")))
    np.testing.assert_array_equal(read.labels, [[1, 1]])
    np.testing.assert_array_equal(read.ground_truth[0].labels, [1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("", r"no bndbox for object 2 \(dog\) in .*a\.xml"),
        ("<bndbox><xmin>1</xmin></bndbox>", r"nothing for bndbox/ymin of object 2 \(dog\) in .*a\.xml"),
        (corners(1, "", 3, 4), "nothing for bndbox/ymin"),
        (corners(1, 2, "12,5", 4), "'12,5' for bndbox/xmax .*expected a number of pixels"),
        (corners("nan", 2, 3, 4), "'nan' for bndbox/xmin"),
        (corners(1, 2, 3, "inf"), "'inf' for bndbox/ymax"),
        (corners(1, 2, 3, "-1e300"), "'-1e300' for bndbox/ymax"),
    ],
)
def test_coordinates_that_are_no_numbers(tmp_path: Path, box: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_one(tmp_path, annotation(thing("cat"), thing("dog", box=box)))


# --- sizes and EXIF -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(0, 0), (100, 0), None, ("", ""), ("wide", 80), ("nan", 80), ("inf", 80), (100.5, 80), (-100, -80)]
)
def test_an_unusable_size_is_counted(
    tmp_path: Path, size: tuple[object, object] | None, caplog: pytest.LogCaptureFixture
) -> None:
    text = annotation(thing("cat", box=corners(91, 71, 120, 120)), thing("dog"), size=size)
    make(tmp_path, dict.fromkeys("abcde", text))
    read_image_level_split(tmp_path, split="train", classes=CLASSES)
    assert len(warnings_of(caplog)) == 1
    assert "without a usable image size" in warnings_of(caplog)[0]
    assert "5 (a, b, c, ...)" in warnings_of(caplog)[0]
    truth = read_evaluation_split(tmp_path, split="train", classes=CLASSES).ground_truth[0]
    np.testing.assert_array_equal(truth.boxes[0], [90, 70, 100, 80])  # clipped to the image as it is


def test_a_wrong_size_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = evaluate_one(tmp_path, annotation(thing("cat"), thing("dog"), size=(50, 40)))
    assert image_size(read.images[0]) == (100, 80)
    assert ["another size than their image" in message for message in warnings_of(caplog)] == [True]


@pytest.mark.parametrize(
    ("declared", "apply_exif", "frame", "kind"),
    [
        ((100, 80), False, (100, 80), "left as they are stored: 1 (a)"),
        ((80, 100), True, (80, 100), None),
        ((0, 0), True, (80, 100), "without a usable image size"),
        ((300, 300), True, (80, 100), "another size than their image"),
    ],
)
def test_exif_is_applied_unless_the_annotation_is_as_stored(
    tmp_path: Path,
    declared: tuple[int, int],
    apply_exif: bool,
    frame: tuple[int, int],
    kind: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = thing("cat", box=corners(1, 1, 100, 100))
    make(tmp_path, {"a": annotation(box, thing("dog"), size=declared)})
    rotate(tmp_path / "JPEGImages" / "a.jpg", orientation=6)
    train = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    assert train.images[0].apply_exif is apply_exif
    messages = warnings_of(caplog)
    assert len(messages) == (kind is not None)
    assert all(kind is not None and kind in message for message in messages)
    read = read_evaluation_split(tmp_path, split="train", classes=CLASSES)
    assert read.images == train.images
    assert image_size(read.images[0]) == frame
    np.testing.assert_array_equal(read.ground_truth[0].boxes[0], [0, 0, *frame])


def test_turning_upside_down_cannot_be_seen_in_the_size(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(thing("cat"), size=(100, 80))})
    rotate(tmp_path / "JPEGImages" / "a.jpg", orientation=3)
    assert read_evaluation_split(tmp_path, split="train", classes=("cat",)).images[0].apply_exif


def test_exif_is_applied_where_labels_come_from_label_files(tmp_path: Path) -> None:
    make(tmp_path, {"a": annotation(thing("cat"), size=(100, 80))})
    rotate(tmp_path / "JPEGImages" / "a.jpg", orientation=6)
    write_list(tmp_path, "cat_train", ["a 1"])
    assert read_image_level_split(tmp_path, split="train", classes=("cat",)).images[0].apply_exif
    assert not read_evaluation_split(tmp_path, split="train", classes=("cat",)).images[0].apply_exif


def rotate(path: Path, *, orientation: int) -> None:
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)


# --- as a whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_no_image_is_decoded(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of images are looked at before a trial begins."""
    root = make(tmp_path, {"a": annotation(thing("cat"))})
    (root / "JPEGImages" / "a.jpg").unlink()
    Image.new("RGB", (100, 80)).save(root / "JPEGImages" / f"a.{suffix}")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    assert read_evaluation_split(root, split="train", classes=("cat",)).images[0].apply_exif
    assert read_image_level_split(root, split="train", classes=("cat",)).images[0].apply_exif


def test_photographs_of_fruit(shared_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = shared_dir / "data" / "fruit-voc"
    check_layout(root, splits=["train", "val", "trainval", "test"], boxes_in=["val", "test"])
    classes = resolve_classes(root, "auto", "train")
    assert classes == ("apple", "banana", "orange")
    unusable = {}
    for split, images, objects in (("train", 180, 343), ("val", 60, 122), ("test", 60, 117)):
        caplog.clear()
        read = read_evaluation_split(root, split=split, classes=classes)
        assert len(read.images) == images
        assert sum(len(truth.boxes) for truth in read.ground_truth) == objects
        assert len(warnings_of(caplog)) == 1
        unusable[split] = int(warnings_of(caplog)[0].rpartition(": ")[2].split()[0])
        seen = read_image_level_split(root, split=split, classes=classes)
        np.testing.assert_array_equal(seen.labels, read.labels)
        assert seen.images == read.images
    assert unusable == {"train": 23, "val": 10, "test": 4}
