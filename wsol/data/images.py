"""Image files: which file an image is, its size, its pixels. Everything odd in a file is settled here.

The *frame* of an image is the pixel grid in which its boxes, proposals and detections are given:
the stored pixels turned by the EXIF orientation, or as they are stored (`ImageRecord.apply_exif`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
"""What Pillow may try, whatever a file is called. Others start programs (EPS) or are no photographs."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright. Source: EXIF 2.32, tag 0x0112."""

_BROKEN_FILE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)
"""What Pillow's decoders raise on damaged files."""


class DataError(ValueError):
    """A fault in the user's data. The message names the file and the field."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set."""

    id: str
    """Its name in the split files, without extension."""
    path: Path
    apply_exif: bool = True
    """Whether the EXIF orientation is applied. False where the annotation is in the frame of the stored pixels."""


@dataclass(frozen=True)
class ImageHeader:
    """What can be known of an image without decoding it."""

    stored_size: tuple[int, int]
    """(width, height) of the pixels as stored."""
    orientation: int
    """EXIF orientation in 1..8; 1 (upright) where there is none or it is broken."""

    def size(self, *, apply_exif: bool) -> tuple[int, int]:
        """(width, height) of the frame."""
        width, height = self.stored_size
        return (height, width) if apply_exif and self.orientation >= 5 else (width, height)


def read_image(record: ImageRecord) -> np.ndarray:
    """Decodes one image.

    Grey (8 and 16 bit), CMYK, palette and other color modes become RGB; an alpha channel is
    dropped, not blended; of an animation the first frame is taken.

    Returns:
        uint8 (H, W, 3), RGB, owned by the caller, in the frame that `record.apply_exif` says.

    Raises:
        DataError: no such file, no image, truncated, too many pixels (Pillow's decompression-bomb limit).
    """
    with _open(record.path) as image:
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
        if record.apply_exif and orientation in _TRANSPOSE:
            rgb = rgb.transpose(_TRANSPOSE[orientation])
        return np.array(rgb, dtype=np.uint8)


def image_size(record: ImageRecord) -> tuple[int, int]:
    """(width, height) in pixels of what `read_image` would return; reads the header alone.

    Raises:
        DataError: as `read_image`, less what only decoding shows.
    """
    return read_header(record.path).size(apply_exif=record.apply_exif)


def read_header(path: Path) -> ImageHeader:
    """Stored size and EXIF orientation, without decoding.

    Raises:
        DataError: as `image_size`.
    """
    with _open(path) as image:
        return ImageHeader(stored_size=image.size, orientation=_orientation(image))


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Opens an image, and says DataError for whatever is wrong with the file, while opening or in the with block."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image, path=path)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"got a decompression bomb in {path} ({error}); expected a smaller image") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"got {error.strerror!r} for {path}; expected an image file") from error
    except _BROKEN_FILE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network file system failed, which says nothing about the data
        reason = "no image format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(
            f"got a damaged or unreadable image in {path} ({reason}); expected one of {', '.join(FORMATS)}"
        ) from error


def _check_size(image: Image.Image, *, path: Path) -> None:
    """Refuses what Pillow only warns of: more than MAX_IMAGE_PIXELS. (Its error starts at twice as many.)

    Turning the warning into an error instead would change the filters of the whole process, for all threads.
    """
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise DataError(
            f"got a decompression bomb in {path} ({width} x {height} pixels); expected at most {limit} pixels"
            " (PIL.Image.MAX_IMAGE_PIXELS)"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 where it is absent, outside 1..8, or in an EXIF block that cannot be read.

    For PNG only an eXIf chunk before the pixels counts: for one behind them Pillow would decode the
    image, which is too slow for a header, and then header and image could disagree.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN_FILE:
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    if image.mode == "I" and image.format == "PNG":  # how Pillow before 11.3 opens 16-bit grey PNG
        return _from_16_bit(np.asarray(image))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns where the palette has transparent colors
    return image.convert("RGB")


def _from_16_bit(grey: np.ndarray) -> Image.Image:
    """0..65535 -> 0..255, rounded. (Pillow's own conversion clips at 255: almost every pixel turns white.)"""
    scaled = (grey.astype(np.uint32) + 128) // 257  # 257 = 65535 / 255
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
