"""Image files as they really are: modes, EXIF, damage."""

from __future__ import annotations

import errno
import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from wsol.data.images import DataError, ImageRecord, image_size, read_header, read_image


def record(path: Path, *, apply_exif: bool = True) -> ImageRecord:
    return ImageRecord(id=path.stem, path=path, apply_exif=apply_exif)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(height, width, channels), dtype=np.uint8)


def save_rotated(path: Path, pixels: np.ndarray, orientation: object) -> Path:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size, with no pixels in it: what a decompression bomb looks like before it goes off."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")


def test_rgb_is_read_as_stored(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(record(tmp_path / "a.png"))
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert read.flags.owndata
    assert image_size(record(tmp_path / "a.png")) == (7, 5)


def test_grey_alpha_and_binary(tmp_path: Path) -> None:
    grey = noise(4, 6)[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey, 255 - grey])).save(tmp_path / "grey_alpha.png")
    Image.fromarray(grey > 127).save(tmp_path / "binary.png")
    for name in ("grey", "grey_alpha"):
        np.testing.assert_array_equal(read_image(record(tmp_path / f"{name}.png")), np.dstack([grey] * 3))
    binary = read_image(record(tmp_path / "binary.png"))
    np.testing.assert_array_equal(binary[:, :, 1], np.where(grey > 127, 255, 0))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    pixels = noise(4, 6, channels=4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(record(tmp_path / "a.png")), pixels[:, :, :3])


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "transparent.png", transparency=bytes([0, 128, 255]))  # Pillow warns: an error in this suite
    expected = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    for name in ("plain.png", "transparent.png"):
        np.testing.assert_array_equal(read_image(record(tmp_path / name)), expected)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    read = read_image(record(tmp_path / "red.jpg"))
    assert read.shape == (16, 16, 3)
    np.testing.assert_allclose(read[8, 8].astype(int), [255, 0, 0], atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 300, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    read = read_image(record(path))
    expected = [[round(value * 255 / 65535) for value in row] for row in values.tolist()]
    np.testing.assert_array_equal(read, np.dstack([expected] * 3))
    assert read[0, 5, 0] == 128  # clipped, it would be 255


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.tif"
    Image.new(mode, (3, 3)).save(path)
    with pytest.raises(DataError, match=rf"x\.tif.*mode '{mode}' have no known range"):
        read_image(record(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_against_pillow(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = save_rotated(tmp_path / f"a.{suffix}", np.repeat(np.repeat(noise(2, 3), 16, 0), 16, 1), orientation)
    with Image.open(path) as image:
        upright, stored = np.asarray(ImageOps.exif_transpose(image)), np.asarray(image)
    np.testing.assert_array_equal(read_image(record(path)), upright)
    np.testing.assert_array_equal(read_image(record(path, apply_exif=False)), stored)
    assert image_size(record(path)) == (upright.shape[1], upright.shape[0])
    assert image_size(record(path, apply_exif=False)) == (48, 32)
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(tmp_path: Path, orientation: int) -> None:
    path = save_rotated(tmp_path / "a.png", noise(2, 3), orientation)
    assert image_size(record(path)) == (3, 2)
    np.testing.assert_array_equal(read_image(record(path)), noise(2, 3))


def test_broken_exif_is_upright(tmp_path: Path) -> None:
    Image.fromarray(noise(16, 24)).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's "Corrupt EXIF data", which is no error outside this suite
        assert image_size(record(tmp_path / "a.jpg")) == (24, 16)
        assert read_image(record(tmp_path / "a.jpg")).shape == (16, 24, 3)


def test_the_size_comes_from_the_header_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(noise(400, 300)).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:2000])
    assert image_size(record(cut)) == (300, 400)
    with pytest.raises(DataError, match=r"cut\.jpg.*truncated"):
        read_image(record(cut))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(60, 60)).save(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"damaged or unreadable image in .*cut\.{suffix}"):
        read_image(record(cut))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # Pillow could open it, by starting Ghostscript


@pytest.mark.parametrize("content", [b"", b"GIF", b"\xff\xd8\xff", b"<html>not found</html>", EPS])
def test_no_images_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"damaged or unreadable image in .*a\.jpg"):
            read(record(tmp_path / "a.jpg"))


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_pixels_or_a_data_error(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = save_rotated(tmp_path / f"a.{('jpg', 'png', 'webp', 'tif')[seed % 4]}", noise(20, 30), 6)
    data = bytearray(path.read_bytes())
    for position in rng.integers(0, min(len(data), 200), size=12):
        data[position] = rng.integers(256)
    path.write_bytes(data)
    with warnings.catch_warnings(), suppress(DataError):
        warnings.simplefilter("ignore")
        assert read_image(record(path)).dtype == np.uint8


@pytest.mark.parametrize("warning", ["error", "ignore"])
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused(tmp_path: Path, width: int, height: int, warning: str) -> None:
    """The smaller one is over Pillow's limit, but Pillow itself would only warn of it."""
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    for read in (read_image, image_size):
        with warnings.catch_warnings():
            warnings.simplefilter(warning, Image.DecompressionBombWarning)  # type: ignore[arg-type]
            with pytest.raises(DataError, match=r"decompression bomb in .*bomb\.png"):
                read(record(tmp_path / "bomb.png"))


def test_a_raised_limit_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").write_bytes(png_header(10_000, 9_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000 * 9_000)
    assert image_size(record(tmp_path / "large.png")) == (10_000, 9_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert image_size(record(tmp_path / "large.png")) == (10_000, 9_000)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"'No such file or directory' for .*none\.jpg"):
        read_image(record(tmp_path / "none.jpg"))
    with pytest.raises(DataError, match=r"'Is a directory' for .*folder\.jpg"):
        image_size(record(tmp_path / "folder.jpg"))


def test_a_failing_disk_is_no_fault_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png")

    def fail(self: Image.Image) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read_image(record(tmp_path / "a.png"))
    assert not isinstance(caught.value, DataError)
