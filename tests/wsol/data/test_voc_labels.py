"""Labels from the files `<class>_<split>.txt`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsol.data import voc_xml
from wsol.data.images import DataError
from wsol.data.voc import check_layout, read_evaluation_split, read_image_level_split, resolve_classes

CLASSES = ("cat", "dog")


def make(root: Path, ids: Iterable[str], *, split: str = "train") -> Path:
    """A data set without annotations."""
    for folder in ("JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        Image.new("RGB", (10, 8)).save(root / "JPEGImages" / f"{image_id}.jpg")
    write_list(root, split, ids)
    return root


def write_list(root: Path, name: str, lines: Iterable[str]) -> None:
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


def test_labels_from_label_files_open_no_annotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, ["a", "b", "c"])
    (tmp_path / "Annotations").mkdir()
    for image_id in "abc":
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text("no XML at all")
    write_list(tmp_path, "cat_train", ["c  0", "a  1", "b -1"])  # another order than the split's
    write_list(tmp_path, "dog_train", ["a -1", "b +1", "c\t1"])
    monkeypatch.setattr(voc_xml, "_parse", lambda path: pytest.fail(f"{path} was opened"))
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels, [[1, -1], [-1, 1], [0, 1]])
    assert warnings_of(caplog) == []


def test_a_set_without_annotations_trains(tmp_path: Path) -> None:
    make(tmp_path, ["a", "b"])
    write_list(tmp_path, "cat_train", ["a 1", "b -1"])
    write_list(tmp_path, "dog_train", ["a -1", "b 1"])
    assert resolve_classes(tmp_path, "auto", "train") == CLASSES
    check_layout(tmp_path, splits=["train"])
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels, [[1, -1], [-1, 1]])
    with pytest.raises(DataError, match="no folder Annotations in .*which split 'train' needs"):
        read_evaluation_split(tmp_path, split="train", classes=CLASSES)


def test_class_train_of_split_train(tmp_path: Path) -> None:
    """VOC's own trap: train_train.txt is class *train* in split train, and train_val.txt is no split of its own."""
    make(tmp_path, ["a", "b"])
    make(tmp_path, ["c"], split="val")
    write_list(tmp_path, "train_train", ["a 1", "b -1"])
    write_list(tmp_path, "train_val", ["c 1"])
    write_list(tmp_path, "cat_train", ["a -1", "b 1"])
    write_list(tmp_path, "cat_val", ["c -1"])
    classes = resolve_classes(tmp_path, "auto", "train")
    assert classes == ("cat", "train")
    train = read_image_level_split(tmp_path, split="train", classes=classes)
    np.testing.assert_array_equal(train.labels, [[-1, 1], [1, -1]])
    val = read_image_level_split(tmp_path, split="val", classes=classes)
    np.testing.assert_array_equal(val.labels, [[-1, 1]])


def test_the_longest_split_name_owns_a_label_file(tmp_path: Path) -> None:
    make(tmp_path, ["a"])
    make(tmp_path, ["b"], split="old_train")
    write_list(tmp_path, "cat_train", ["a 1"])
    write_list(tmp_path, "dog_old_train", ["b 1"])
    assert resolve_classes(tmp_path, "auto", "train") == ("cat",)
    assert resolve_classes(tmp_path, "auto", "old_train") == ("dog",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a 1", "b 2"], r"'b 2' in .*cat_train\.txt:2; expected `<id> 1`"),
        (["a 1", "b"], r"'b' in .*cat_train\.txt:2"),
        (["a 1", "b one"], r"'b one' in .*cat_train\.txt:2"),
        (["a 1"], r"no label for 1 ids of split 'train' in .*cat_train\.txt: b;"),
        ([], r"no label for 2 ids of split 'train' in .*cat_train\.txt: a, b;"),
        (["a 1", "b 1", "a -1"], r"two different labels for 'a' in .*cat_train\.txt:3"),
    ],
)
def test_faults_in_label_files(tmp_path: Path, lines: list[str], message: str) -> None:
    make(tmp_path, ["a", "b"])
    write_list(tmp_path, "cat_train", lines)
    with pytest.raises(DataError, match=message):
        read_image_level_split(tmp_path, split="train", classes=("cat",))


def test_label_files_may_list_more_ids_than_the_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, ["a"])
    for name in CLASSES:
        write_list(tmp_path, f"{name}_train", ["a 1", "a 1", "x 1", "y 1"])
    read = read_image_level_split(tmp_path, split="train", classes=CLASSES)
    np.testing.assert_array_equal(read.labels, [[1, 1]])
    assert len(warnings_of(caplog)) == 1
    assert "not in the split, ignored: 2 (x, y)" in warnings_of(caplog)[0]


def test_auto_leaves_out_label_files_without_an_image(tmp_path: Path) -> None:
    make(tmp_path, ["a"])
    for name, label in (("cat", 1), ("dog", -1), ("fox", 0)):
        write_list(tmp_path, f"{name}_train", [f"a {label}"])
    assert resolve_classes(tmp_path, "auto", "train") == ("cat", "fox")
