"""What an annotation file may and may not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsol.data import voc_xml
from wsol.data.images import DataError
from wsol.data.voc_xml import NamedObject, read_content, read_content_and_boxes

THING = "<object><name>cat</name><difficult>{}</difficult></object>"


def write(folder: Path, text: str) -> Path:
    path = folder / "a.xml"
    path.write_bytes(text.encode())
    return path


def read_both(path: Path) -> None:
    read_content_and_boxes(path, classes=())


READERS = (read_content, read_both)


BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
EXTERNAL = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&e;</name></object></annotation>"
)


@pytest.mark.parametrize("text", [BILLION_LAUGHS, EXTERNAL, "<!DOCTYPE annotation><annotation/>"])
def test_entity_bombs_are_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    for read in READERS:
        with pytest.raises(DataError, match=r"document type or entity declaration in .*a\.xml"):
            read(path)


def test_huge_annotations_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<annotation/>"
    path = write(tmp_path, text)
    monkeypatch.setattr(voc_xml, "MAX_BYTES", len(text))
    assert read_content(path).objects == ()
    monkeypatch.setattr(voc_xml, "MAX_BYTES", len(text) - 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(DataError, match=rf"annotation of {len(text)} bytes in .*a\.xml; expected at most"):
        read_content(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"broken XML in .*a\.xml \(no element found"),
        ("<annotation><object>", r"broken XML in .*a\.xml"),
        ("\n" + '<?xml version="1.0"?><annotation/>', r"broken XML in .*a\.xml"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', r"broken XML in .*a\.xml"),
        ("<html/>", r"<html> as the outermost element of .*a\.xml; expected <annotation>"),
        ("<annotation><object/></annotation>", r"no name for object 1 in .*a\.xml"),
        (f"<annotation>{THING.format(0)}<object><name> </name></object></annotation>", "no name for object 2 in .*a"),
        (f"<annotation>{THING.format(2)}</annotation>", r"'2' for difficult of object 1 \(cat\) in .*a\.xml"),
        (f"<annotation>{THING.format('maybe')}</annotation>", "'maybe' for difficult"),
    ],
)
def test_faults_in_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    for read in READERS:
        with pytest.raises(DataError, match=message):
            read(path)


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'No such file or directory' for .*none\.xml; expected an XML file"):
        read_content(tmp_path / "none.xml")


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "UTF-8-SIG"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    declaration = '<?xml version="1.0" encoding="ISO-8859-1"?>' if encoding.startswith("ISO") else ""
    text = f"{declaration}<annotation><object><name>c\u00e3o</name></object></annotation>"
    path.write_bytes(text.encode(encoding))
    assert read_content(path).objects == (NamedObject(number=1, name="c\u00e3o", difficult=False),)


def test_only_objects_of_the_image_itself_count(tmp_path: Path) -> None:
    nested = f"<annotation><other>{THING.format(0)}</other>{THING.format(1)}</annotation>"
    assert read_content(write(tmp_path, nested)).objects == (NamedObject(number=1, name="cat", difficult=True),)
