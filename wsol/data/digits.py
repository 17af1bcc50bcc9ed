"""A small VOC-layout data set, generated once from real images that scikit-learn ships. Torch-free.

Handwritten digits (`load_digits`) are pasted at random sizes and bright colours on dimmed crops of scikit-learn's two
photographs (`load_sample_images`). A digit stands out from what is behind it, so selective search finds it, and no
digit image is used by two splits.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import logging
import os
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsol.seeding import generator

CLASSES: tuple[str, ...] = tuple(f"digit_{digit}" for digit in range(10))
"""Sorted by name as by digit, so that `classes: auto` gives this order."""
SPLITS: tuple[str, ...] = ("train", "val", "trainval", "test")
"""Files in ImageSets/Main. `trainval` is `train` followed by `val`."""

GENERATOR_VERSION = 1
"""Raise it with every change of what is drawn: a new version is a new folder."""
DEFAULTS: Mapping[str, int] = {"seed": 0, "train": 400, "val": 200, "test": 200, "image_px": 128}
"""What `digits_root` generates."""

_MANIFEST = "digits.json"
_SHARE_OF_DIGITS = {"train": 0.5, "val": 0.25, "test": 0.25}
_MAX_OBJECTS = 3
_DIGIT_SIDE = (0.35, 0.6)
"""Side of a pasted digit's square, as a fraction of the image's side."""
_ZOOM = (0.3, 0.6)
"""Side of the photograph's crop over that of the image: enlarged, so that its texture is coarser than a stroke."""
_DIM = 0.5
"""Brightness of the photographs, so that ink is always the brighter one: shapes are learned from few images."""
_INK_SATURATION = (0.2, 0.7)
_INK_VALUE = (0.8, 1.0)
_GAP_PX = 2
_CONTRAST = 140.0
"""RGB distance (0 to 442) of a digit's colour to nine tenths of the pixels behind it."""
_JPEG_QUALITY = 95

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]

_log = logging.getLogger("wsol.data")


@dataclass(frozen=True)
class _Sources:
    """What scikit-learn ships: digits (1797, 8, 8) in [0, 1], their classes (1797,), photographs (H, W, 3)."""

    digits: FloatArray
    digit_classes: npt.NDArray[np.int64]
    photographs: tuple[UInt8Array, ...]


@dataclass(frozen=True)
class _Scene:
    """One drawn image: pixels (S, S, 3) RGB, and for each object its class and its tight box."""

    pixels: UInt8Array
    classes: tuple[str, ...]
    boxes: tuple[Box, ...]


def digits_root(cache_dir: Path) -> Path:
    """The default data set's folder below `cache_dir`, generated on the first call (seconds) and then reused.

    The folder's name carries a hash of everything that shapes its content. Two processes may call this at once: both
    may generate, one of the two results stays, and they are equal. A folder with a missing or shortened file is
    replaced, with a warning.

    Raises:
        OSError: where the folder cannot be written.
    """
    folder = cache_dir / _folder_name()
    if _is_complete(folder):
        return folder
    if folder.exists():
        _log.warning("%s is incomplete: generating it again", folder)
        _remove_at_once(folder)
    try:
        generate(folder, **DEFAULTS)
    except FileExistsError:  # another process was faster
        if not _is_complete(folder):
            raise
    return folder


def generate(folder: Path, *, seed: int, train: int, val: int, test: int, image_px: int) -> None:
    """Writes a VOC-layout folder: JPEGImages, Annotations, ImageSets/Main. All of it appears at once, or none.

    An image has 1 to 3 objects that do not overlap; the first object's class is the image's number modulo 10, so a
    split of ten images has every class. Ids are `<split>_<number>`. An image depends on the seed, `image_px`, its
    split and its number alone. Equal arguments give equal bytes (with equal versions of Pillow and numpy).

    Args:
        folder: must not exist, or be empty; its parents are made.
        seed: of every random choice, >= 0.
        train: images in the split; likewise `val` and `test`. `trainval` lists the first two.
        image_px: side of the square images, at least 32.

    Raises:
        FileExistsError: when `folder` has files (also when another process filled it meanwhile).
        ValueError: when a count is negative, or the images too small.
    """
    counts = {"train": train, "val": val, "test": test}
    if image_px < 32 or min(counts.values()) < 0:
        raise ValueError(f"got image_px={image_px}, {counts}; expected image_px >= 32 and no negative count")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not empty; expected a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_sibling(folder) as temporary:
        _write_dataset(temporary, seed=seed, counts=counts, image_px=image_px)
        _write_manifest(temporary, {"seed": seed, **counts, "image_px": image_px})
        try:
            temporary.rename(folder)
        except OSError as error:
            if folder.is_dir():
                raise FileExistsError(f"{folder} was filled by another process") from error
            raise


def _folder_name() -> str:
    ink = [_DIGIT_SIDE, _INK_SATURATION, _INK_VALUE, _CONTRAST, _GAP_PX, _MAX_OBJECTS]
    recipe = [GENERATOR_VERSION, *sorted(DEFAULTS.items()), _SHARE_OF_DIGITS, _ZOOM, _DIM, ink, _JPEG_QUALITY]
    return f"digits-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"


@contextmanager
def _temporary_sibling(folder: Path) -> Iterator[Path]:
    """A new folder on the same file system (so that a rename is atomic), gone at the end unless renamed."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    temporary.chmod(0o777 & ~_umask())  # mkdtemp's 0700 would shut other users out of a shared cache
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _remove_at_once(folder: Path) -> None:
    """Moves `folder` out of the way before deleting, so that nobody meets a half-deleted one."""
    with _temporary_sibling(folder) as graveyard:
        try:
            folder.rename(graveyard / "old")
        except FileNotFoundError:  # another process moved it first
            return


def _write_manifest(root: Path, parameters: Mapping[str, int]) -> None:
    """Names and sizes of all files: what `_is_complete` compares."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    manifest = {"version": GENERATOR_VERSION, "parameters": dict(parameters), "sizes": sizes}
    (root / _MANIFEST).write_text(json.dumps(manifest, indent=0), encoding="utf-8")


def _is_complete(folder: Path) -> bool:
    """Whether every file that was generated is there in its full length. A power failure or a cleaner may cut it."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_dataset(root: Path, *, seed: int, counts: Mapping[str, int], image_px: int) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    sources = _load_sources()
    present: dict[str, dict[str, set[str]]] = {}  # split -> image id -> classes
    for split, count in counts.items():
        pools = _digit_pools(sources, seed=seed, split=split)
        present[split] = {}
        for number in range(count):
            image_id = f"{split}_{number:04d}"
            rng = generator(seed, "digits", "image", split, number)
            scene = _draw_scene(sources, pools, first_class=number % 10, image_px=image_px, rng=rng)
            _write_image(root, image_id, scene)
            present[split][image_id] = set(scene.classes)
    present["trainval"] = present["train"] | present["val"]
    for split, images in present.items():
        _write_split(root / "ImageSets" / "Main", split, images)


@lru_cache(maxsize=1)
def _load_sources() -> _Sources:
    # It takes a second, and most callers find the folder.
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    return _Sources(
        digits=(digits.images / 16.0).astype(np.float32),
        digit_classes=digits.target.astype(np.int64),
        photographs=tuple(load_sample_images().images),
    )


def _digit_pools(sources: _Sources, *, seed: int, split: str) -> list[npt.NDArray[np.int64]]:
    """For each class the rows of `sources.digits` that this split may use. Disjoint between splits."""
    names = list(_SHARE_OF_DIGITS)
    ends = np.cumsum(list(_SHARE_OF_DIGITS.values()))
    pools = []
    for digit in range(10):
        rows = generator(seed, "digits", "partition", digit).permutation(np.flatnonzero(sources.digit_classes == digit))
        pools.append(np.split(rows, np.round(ends[:-1] * len(rows)).astype(int))[names.index(split)])
    return pools


def _draw_scene(
    sources: _Sources,
    pools: list[npt.NDArray[np.int64]],
    *,
    first_class: int,
    image_px: int,
    rng: np.random.Generator,
) -> _Scene:
    canvas = _draw_background(sources.photographs, image_px, rng)
    digits = [first_class, *rng.integers(0, 10, size=rng.integers(0, _MAX_OBJECTS))]
    classes: list[str] = []
    boxes: list[Box] = []
    for digit in digits:
        image = sources.digits[rng.choice(pools[digit])]
        side = round(image_px * rng.uniform(*_DIGIT_SIDE))
        ink = _draw_ink(image, side)
        box = _find_room(ink.shape, boxes, image_px, rng)
        if box is None:  # a crowded image keeps what it has
            continue
        _paste(canvas, ink, box, rng)
        classes.append(CLASSES[digit])
        boxes.append(box)
    return _Scene(np.round(canvas).astype(np.uint8), tuple(classes), tuple(boxes))


def _draw_background(photographs: tuple[UInt8Array, ...], image_px: int, rng: np.random.Generator) -> FloatArray:
    """A random square crop of a random photograph, resized to (image_px, image_px, 3), in [0, 255]."""
    photograph = photographs[rng.integers(len(photographs))]
    height, width = photograph.shape[:2]
    side = min(round(image_px * rng.uniform(*_ZOOM)), height, width)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    return _DIM * np.asarray(crop.resize((image_px, image_px), Image.Resampling.LANCZOS), dtype=np.float32)


def _draw_ink(digit: FloatArray, side: int) -> FloatArray:
    """The 8x8 digit at `side` px with crisp strokes, as opacity in [0, 1], cut to the ink: (h, w).

    Every border row and column has a pixel of opacity >= 0.5.
    """
    grey = Image.fromarray(np.round(digit * 255).astype(np.uint8))
    smooth = np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    opacity = np.clip((smooth - 0.35) / 0.3, 0.0, 1.0)
    rows, columns = np.nonzero(opacity >= 0.5)
    return cast(FloatArray, opacity[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])


def _find_room(
    shape: tuple[int, ...], taken: Iterable[Box], image_px: int, rng: np.random.Generator, attempts: int = 50
) -> Box | None:
    """A random place at least `_GAP_PX` from the boxes in `taken`, or None."""
    height, width = shape
    for _ in range(attempts):
        x1, y1 = int(rng.integers(image_px - width + 1)), int(rng.integers(image_px - height + 1))
        x2, y2 = x1 + width, y1 + height
        if all(
            x2 + _GAP_PX <= other[0] or other[2] + _GAP_PX <= x1 or y2 + _GAP_PX <= other[1] or other[3] + _GAP_PX <= y1
            for other in taken
        ):
            return x1, y1, x2, y2
    return None


def _paste(canvas: FloatArray, ink: FloatArray, box: Box, rng: np.random.Generator) -> None:
    """Blends the ink, in a colour that contrasts with what is there, into `canvas` in place."""
    x1, y1, x2, y2 = box
    behind = canvas[y1:y2, x1:x2]
    colour = _contrasting_colour(behind.reshape(-1, 3), rng)
    opacity = ink[..., np.newaxis]
    canvas[y1:y2, x1:x2] = behind * (1 - opacity) + colour * opacity


def _contrasting_colour(pixels: FloatArray, rng: np.random.Generator, attempts: int = 30) -> FloatArray:
    """A random RGB colour (3,) in [0, 255], the first that has the contrast, else the one with the most."""
    best, best_contrast = np.zeros(3, dtype=np.float32), -1.0
    for _ in range(attempts):
        hue, saturation, value = rng.random(), rng.uniform(*_INK_SATURATION), rng.uniform(*_INK_VALUE)
        colour = np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32) * 255
        contrast = float(np.percentile(np.linalg.norm(pixels - colour, axis=1), 10))
        if contrast > best_contrast:
            best, best_contrast = colour, contrast
        if contrast >= _CONTRAST:
            break
    return best


def _write_image(root: Path, image_id: str, scene: _Scene) -> None:
    image = Image.fromarray(scene.pixels)
    # Full chroma: halved colour resolution would smear the strokes.
    image.save(root / "JPEGImages" / f"{image_id}.jpg", quality=_JPEG_QUALITY, subsampling=0)
    tree = ET.ElementTree(_annotation(image_id, scene))
    ET.indent(tree, space="\t")
    tree.write(root / "Annotations" / f"{image_id}.xml", encoding="utf-8")


def _annotation(image_id: str, scene: _Scene) -> ET.Element:
    """The elements of a VOC 2007 annotation. Its corners are pixels: 1-based and inclusive."""
    height, width, depth = scene.pixels.shape
    annotation = ET.Element("annotation")
    _add(annotation, {"folder": "digits", "filename": f"{image_id}.jpg", "source": {"database": "scikit-learn"}})
    _add(annotation, {"size": {"width": width, "height": height, "depth": depth}, "segmented": 0})
    for name, (x1, y1, x2, y2) in zip(scene.classes, scene.boxes, strict=True):
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        fields = {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": 0, "bndbox": corners}
        _add(annotation, {"object": fields})
    return annotation


def _add(parent: ET.Element, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        child = ET.SubElement(parent, name)
        if isinstance(value, Mapping):
            _add(child, value)
        else:
            child.text = str(value)


def _write_split(folder: Path, split: str, images: Mapping[str, set[str]]) -> None:
    """`<split>.txt` with ids, and VOC's `<class>_<split>.txt` with 1 or -1 after each."""
    (folder / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in images), encoding="utf-8")
    for name in CLASSES:
        lines = (f"{image_id} {1 if name in classes else -1:2d}\n" for image_id, classes in images.items())
        (folder / f"{name}_{split}.txt").write_text("".join(lines), encoding="utf-8")
