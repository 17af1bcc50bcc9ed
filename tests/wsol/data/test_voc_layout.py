"""Files of a data set in VOC layout: which are used, which refused, and what an error says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsol.data.images import DataError
from wsol.data.voc import check_layout, read_evaluation_split, read_image_level_split

CAT = (
    "<annotation><object><name>cat</name>"
    "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    "<size><width>100</width><height>80</height></size></annotation>"
)


def make(root: Path, ids: Iterable[str], *, split: str = "train") -> Path:
    """A data set of 100 x 80 images with a cat each."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        Image.new("RGB", (100, 80), (90, 120, 30)).save(root / "JPEGImages" / f"{image_id}.jpg")
        (root / "Annotations" / f"{image_id}.xml").write_text(CAT)
    write_list(root, split, ids)
    return root


def write_list(root: Path, name: str, lines: Iterable[str]) -> None:
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


def test_crlf_bom_blank_lines_and_trailing_columns(tmp_path: Path) -> None:
    root = make(tmp_path, ["a", "b", "c 1"])
    crlf = CAT.replace("><", ">\r\n<")
    for image_id, prefix in (("a", b"\xef\xbb\xbf"), ("b", b""), ("c 1", b"")):
        (root / "Annotations" / f"{image_id}.xml").write_bytes(prefix + crlf.encode())
    main = root / "ImageSets" / "Main"
    (main / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n  b   1 \r\n\t\r\nc 1\r\n")
    read = read_image_level_split(root, split="train", classes=("cat",))
    assert [image.id for image in read.images] == ["a", "b", "c 1"]
    (main / "cat_train.txt").write_bytes(b"\xef\xbb\xbfa 1\r\nb\t-1\r\n\r\nc 1  -1")
    read = read_image_level_split(root, split="train", classes=("cat",))
    np.testing.assert_array_equal(read.labels, [[1], [-1], [-1]])


def test_extensions_in_any_case(tmp_path: Path) -> None:
    root = make(tmp_path, ["a", "b", "c.d"])
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "a.JPG")
    (root / "JPEGImages" / "b.jpg").rename(root / "JPEGImages" / "b.Jpeg")
    (root / "Annotations" / "b.xml").rename(root / "Annotations" / "b.XML")
    Image.new("L", (100, 80)).save(root / "JPEGImages" / "c.d.png")
    (root / "JPEGImages" / "c.d.jpg").unlink()
    read = read_evaluation_split(root, split="train", classes=("cat",))
    assert [image.path.name for image in read.images] == ["a.JPG", "b.Jpeg", "c.d.png"]


def test_two_images_for_one_id_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path, ["a", "b"])
    Image.new("RGB", (9, 9)).save(root / "JPEGImages" / "b.png")
    with pytest.raises(DataError, match=r"1 ids in .*train\.txt with several files .*: b \(b\.jpg and b\.png\)"):
        read_image_level_split(root, split="train", classes=("cat",))
    write_list(root, "train", ["a"])
    assert len(read_image_level_split(root, split="train", classes=("cat",)).images) == 1


def test_ids_without_files_are_counted_and_named(tmp_path: Path) -> None:
    root = make(tmp_path, ["image1"])
    write_list(root, "train", ["image1", *(f"lost{number}" for number in range(7)), "image1.jpg"])
    with pytest.raises(DataError, match=r"8 ids in .*train\.txt without an image .*: lost0, lost1, .*lost4, \.\.\.;"):
        read_image_level_split(root, split="train", classes=("cat",))
    write_list(root, "train", ["Image1"])
    with pytest.raises(DataError, match=r"did you mean 'image1'\?"):
        read_image_level_split(root, split="train", classes=("cat",))
    write_list(root, "train", ["image1.jpg"])
    with pytest.raises(DataError, match=r"did you mean 'image1' \(ids and splits have no extension\)\?"):
        read_evaluation_split(root, split="train", classes=("cat",))
    (root / "Annotations" / "image1.xml").unlink()
    write_list(root, "train", ["image1"])
    for read in (read_image_level_split, read_evaluation_split):
        with pytest.raises(DataError, match=r"1 ids in .*train\.txt without an annotation in .*Annotations: image1;"):
            read(root, split="train", classes=("cat",))


def test_a_repeated_id_is_kept_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, ["a", "b"])
    write_list(root, "train", ["b", "a", "b", "b 1"])
    read = read_evaluation_split(root, split="train", classes=("cat",))
    assert [image.id for image in read.images] == ["b", "a"]
    assert len(warnings_of(caplog)) == 1
    assert "listed more than once, kept once: 2 (b)" in warnings_of(caplog)[0]


@pytest.mark.parametrize("line", ["../../secret", "sub/a", "..\\a", "/etc/passwd", "..", "."])
def test_ids_that_are_paths_are_refused(tmp_path: Path, line: str) -> None:
    root = make(tmp_path / "root", ["a"])
    make(tmp_path, ["secret"])
    write_list(root, "train", ["a", line])
    with pytest.raises(DataError, match=r"train\.txt:2; expected the name of an image in JPEGImages, not a path"):
        read_image_level_split(root, split="train", classes=("cat",))


def test_class_and_split_names_lead_nowhere(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ["a"])
    write_list(root, "cat_train", ["a 1"])
    outside = tmp_path / "root" / "ImageSets" / "up_train.txt"
    outside.write_text("a 1\n")
    with pytest.raises(DataError, match="no image with any of the classes"):
        read_image_level_split(root, split="train", classes=("../up",))
    with pytest.raises(DataError, match=r"got no split '\.\./up_train'"):
        read_image_level_split(root, split="../up_train", classes=("cat",))


@pytest.mark.parametrize("content", ["", "\n", "\r\n \t\r\n", "\ufeff"])
def test_an_empty_split_is_refused(tmp_path: Path, content: str) -> None:
    root = make(tmp_path, ["a"])
    (root / "ImageSets" / "Main" / "train.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"got an empty split 'train' in .*train\.txt"):
        read_image_level_split(root, split="train", classes=("cat",))


def test_a_split_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, ["a"])
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"no UTF-8 text in .*train\.txt"):
        read_image_level_split(root, split="train", classes=("cat",))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, ["a"])
    (root / "JPEGImages" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"unreadable image in .*a\.jpg"):
        read_evaluation_split(root, split="train", classes=("cat",))


def test_check_layout_opens_no_annotation_and_no_image(tmp_path: Path) -> None:
    make(tmp_path, ["a"])
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "Annotations" / "a.xml").write_bytes(b"no XML")
    check_layout(tmp_path, splits=["train"], boxes_in=["train"])


@pytest.mark.parametrize(
    ("name", "near"), [("trian", "train"), ("train.txt", "train"), ("Val", "val"), ("testing", "test")]
)
def test_a_missing_split_names_the_nearest(tmp_path: Path, name: str, near: str) -> None:
    for split in ("train", "val", "test"):
        make(tmp_path, ["a"], split=split)
    write_list(tmp_path, "cat_train", ["a 1"])  # no split, and not offered as one
    message = rf"no split '{name}' in .*Main; expected one of test, train, val; did you mean '{near}'"
    with pytest.raises(DataError, match=message):
        check_layout(tmp_path, splits=["train", name])


def test_a_missing_root_names_what_is_near(tmp_path: Path) -> None:
    make(tmp_path / "fruit-voc", ["a"])
    with pytest.raises(DataError, match=r"no folder at .*fruit-vok; .*did you mean 'fruit-voc'\?"):
        check_layout(tmp_path / "fruit-vok", splits=["train"])
    with pytest.raises(DataError, match=rf"of this path only {tmp_path} exists"):
        check_layout(tmp_path / "no" / "such" / "place", splits=["train"])


@pytest.mark.parametrize(
    "given", [".", "VOCdevkit", "VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/ImageSets/Main"]
)
def test_a_root_above_or_below_names_the_right_one(tmp_path: Path, given: str) -> None:
    voc = make(tmp_path / "VOCdevkit" / "VOC2007", ["a"])
    with pytest.raises(DataError, match=rf"no folder JPEGImages in .*did you mean {voc}\?"):
        check_layout(tmp_path / given, splits=["train"])


def test_missing_folders_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, ["a"])
    (root / "Annotations").rename(root / "annotation")
    with pytest.raises(DataError, match="neither a folder Annotations nor label files for split 'train'"):
        check_layout(root, splits=["train"])
    write_list(root, "cat_train", ["a 1"])
    check_layout(root, splits=["train"])
    with pytest.raises(DataError, match="no folder Annotations .*with the boxes of split 'train'"):
        check_layout(root, splits=["train"], boxes_in=["train"])
    (root / "JPEGImages").rename(root / "JPEGImage")
    with pytest.raises(DataError, match=r"no folder JPEGImages in .*did you mean 'JPEGImage'\?"):
        check_layout(root, splits=["train"])
    (root / "JPEGImage").rename(root / "JPEGImages")
    (root / "ImageSets" / "Main").rename(root / "ImageSets" / "main")
    with pytest.raises(DataError, match=r"no folder ImageSets/Main in .*did you mean 'main'\?"):
        check_layout(root, splits=["train"])
