"""One VOC annotation file. Elements are found by name, never by position.

Two readers: `read_content` for what an image contains, which is all that training may know, and
`read_content_and_boxes`, the only code that looks at a `bndbox`.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException

from wsol.data.images import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_BYTES = 10 * 2**20
"""A larger file is no annotation: theirs have a few kB."""

_MAX_COORDINATE_PX = 2.0**24
"""Beyond it float32 has gaps, and no image is that wide."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"0": False, "1": True, "false": False, "true": True, "": False}


@dataclass(frozen=True)
class NamedObject:
    """An object without its place."""

    number: int
    """1 for the first `object` element of the file."""
    name: str
    difficult: bool


@dataclass(frozen=True)
class Content:
    """What an image contains: the image level, no boxes."""

    size: tuple[int, int] | None
    """(width, height) in pixels as the file declares it; None where it is absent, zero, negative or no integer."""
    objects: tuple[NamedObject, ...]


def read_content(path: Path) -> Content:
    """The image level of an annotation file; never looks at a box.

    Raises:
        DataError: no such file, no XML, too large, a DTD, an object without a name, a `difficult` that is no flag.
    """
    return _content(_parse(path), path=path)


def read_content_and_boxes(path: Path, *, classes: Container[str]) -> tuple[Content, npt.NDArray[np.float64]]:
    """The image level, and the boxes of the objects whose class is in `classes`.

    Returns:
        The whole content, and float64 `(K, 4)`: xmin ymin xmax ymax as written (1-based, inclusive) for each of
        its objects in `classes`, in order. Boxes of other classes are not looked at.

    Raises:
        DataError: as `read_content`, and for a coordinate that is missing or no finite number.
    """
    root = _parse(path)
    content = _content(root, path=path)
    elements = root.findall("object")
    boxes = [_box(elements[item.number - 1], item, path=path) for item in content.objects if item.name in classes]
    return content, np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _parse(path: Path) -> Element:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_BYTES:
            raise DataError(f"got an annotation of {size_bytes} bytes in {path}; expected at most {MAX_BYTES}")
        root: Element = defusedxml.ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"got {error.strerror!r} for {path}; expected an XML file") from error
    except DefusedXmlException as error:
        raise DataError(
            f"got a document type or entity declaration in {path}; expected plain XML (entity bombs are refused)"
        ) from error
    except DataError:
        raise
    except (ParseError, LookupError, ValueError) as error:  # LookupError: an encoding that Python does not know
        raise DataError(f"got broken XML in {path} ({error}); expected a VOC annotation") from error
    if root.tag != "annotation":
        raise DataError(f"got <{root.tag}> as the outermost element of {path}; expected <annotation>")
    return root


def _content(root: Element, *, path: Path) -> Content:
    objects = [_named(element, number, path=path) for number, element in enumerate(root.findall("object"), start=1)]
    return Content(size=_declared_size(root), objects=tuple(objects))


def _named(element: Element, number: int, *, path: Path) -> NamedObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"got no name for object {number} in {path}; expected <name>CLASS</name>")
    flag = (element.findtext("difficult") or "").strip()
    if flag.lower() not in _DIFFICULT:
        raise DataError(f"got {flag!r} for difficult of object {number} ({name}) in {path}; expected 0 or 1")
    return NamedObject(number=number, name=name, difficult=_DIFFICULT[flag.lower()])


def _declared_size(root: Element) -> tuple[int, int] | None:
    """None for whatever is no size: the image itself is the truth."""
    try:
        width, height = (float(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
    except ValueError:
        return None
    if not (width.is_integer() and height.is_integer() and width > 0 and height > 0):  # NaN and infinity: no integers
        return None
    return int(width), int(height)


def _box(element: Element, item: NamedObject, *, path: Path) -> list[float]:
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"got no bndbox for object {item.number} ({item.name}) in {path}; expected one")
    return [_coordinate(box, corner, item, path=path) for corner in _CORNERS]


def _coordinate(box: Element, corner: str, item: NamedObject, *, path: Path) -> float:
    text = (box.findtext(corner) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_COORDINATE_PX:  # NaN fails every comparison
        got = repr(text) if text else "nothing"
        raise DataError(
            f"got {got} for bndbox/{corner} of object {item.number} ({item.name}) in {path};"
            " expected a number of pixels"
        )
    return value
