"""Sources that make proposals from the image: selective search and a sliding-window grid. Torch-free."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsol.boxes import clip
from wsol.data.images import DataError, ImageRecord, image_size, read_image
from wsol.data.proposals import Proposals

MAX_WINDOWS = 1_000_000
"""Most windows of a grid. More is a slip in the parameters, and would not fit a GPU."""


@dataclass(frozen=True, kw_only=True)
class SelectiveSearch:
    """OpenCV's selective search: boxes around groups of similar neighbouring segments. No scores.

    Corners are whole pixels of the original image, in lexicographic order: OpenCV's own order is random (C `rand`),
    the set of boxes is not. Time and number of boxes grow with the number of segments, so photographs of some
    megapixels need `resize_px`.

    Source: Uijlings et al., Selective Search for Object Recognition, IJCV 2013;
    https://docs.opencv.org/5.x/d6/d6d/classcv_1_1ximgproc_1_1segmentation_1_1SelectiveSearchSegmentation.html

    Args:
        quality: `fast` (2 colour spaces, fewer merging strategies) or `quality` (several times as many boxes and
            as much time).
        resize_px: the image is first resized, up or down, to this longer side; None takes it as it is.

    Raises:
        ValueError: if an argument is outside its range.
    """

    quality: Literal["fast", "quality"] = "fast"
    resize_px: int | None = None

    def __post_init__(self) -> None:
        if self.quality not in ("fast", "quality"):
            raise ValueError(f"got {self.quality!r} for quality; expected fast or quality")
        if self.resize_px is not None and self.resize_px < 1:
            raise ValueError(f"got {self.resize_px} for resize_px; expected a positive number of pixels or None")

    @property
    def key(self) -> str:
        """Method, its version, OpenCV's version (other versions may segment differently), parameters."""
        return f"selective_search/1 opencv={_opencv_version()} quality={self.quality} resize_px={self.resize_px}"

    @property
    def worth_storing(self) -> bool:
        return True

    def propose(self, record: ImageRecord) -> Proposals:
        """See `ProposalSource`. Runs on one core.

        Raises:
            DataError: when the image cannot be read, or selective search fails on it.
        """
        image = read_image(record)
        height, width = image.shape[:2]
        small = _resize(image, self.resize_px)
        rectangles = _run_selective_search(small, self.quality, path=record.path)
        boxes = rectangles.astype(np.float64)  # (N, 4) x y width height
        boxes[:, 2:] += boxes[:, :2]
        boxes *= np.tile((width / small.shape[1], height / small.shape[0]), 2)
        whole = (0, 0, width, height)
        boxes = np.vstack([clip(np.rint(boxes), width=width, height=height), [whole]])
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        return Proposals(np.unique(boxes, axis=0).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class SlidingWindowGrid:
    """The same windows for every image, in fractions of its sides, and the whole image. No scores.

    A window of scale s and aspect ratio a has `s * sqrt(a)` of the image's width and `s / sqrt(a)` of its height,
    each at most 1. Windows of one shape are evenly spaced from border to border, at most `stride` of their side
    apart. The order is lexicographic.

    Args:
        scales: square root of the window's area over that of the image, each in (0, 1].
        aspect_ratios: width / height, relative to that of the image, each above 0.
        stride: step between windows, as a fraction of the window's side, in (0, 1].

    Raises:
        ValueError: if an argument is outside its range, or there were more than `MAX_WINDOWS` windows.
    """

    scales: tuple[float, ...]
    aspect_ratios: tuple[float, ...]
    stride: float

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"got {self.scales} for scales; expected one or more in (0, 1]")
        if not self.aspect_ratios or not all(0 < ratio < math.inf for ratio in self.aspect_ratios):
            raise ValueError(f"got {self.aspect_ratios} for aspect_ratios; expected one or more above 0")
        if not 0 < self.stride <= 1:
            raise ValueError(f"got {self.stride} for stride; expected a fraction in (0, 1]")
        shapes = [_window_sides(*shape) for shape in itertools.product(self.scales, self.aspect_ratios)]
        number = sum(_steps(width, self.stride) * _steps(height, self.stride) for width, height in shapes)
        if number > MAX_WINDOWS:
            raise ValueError(f"got a grid of {number} windows; expected at most {MAX_WINDOWS}: raise scales or stride")

    @property
    def key(self) -> str:
        """Method, its version, parameters."""
        return f"grid/1 scales={self.scales} aspect_ratios={self.aspect_ratios} stride={self.stride}"

    @property
    def worth_storing(self) -> bool:
        """False: a product of two arrays is faster than a file."""
        return False

    def propose(self, record: ImageRecord) -> Proposals:
        """See `ProposalSource`. Reads the image's header alone.

        Raises:
            DataError: when the image cannot be read.
        """
        width, height = image_size(record)
        fractions = _relative_windows(self.scales, self.aspect_ratios, self.stride)
        boxes = (fractions * np.tile((width, height), 2)).astype(np.float32)
        return Proposals(np.unique(boxes, axis=0))


@lru_cache(maxsize=1)
def _opencv_version() -> str:
    """`major.minor` of the installed OpenCV, without importing it: that takes time and memory."""
    for distribution in ("opencv-contrib-python-headless", "opencv-contrib-python"):
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return ".".join(version.split(".")[:2])
    import cv2  # built by a distribution or by hand

    return ".".join(cv2.__version__.split(".")[:2])


def _resize(image: npt.NDArray[np.uint8], longer_px: int | None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) with a longer side of `longer_px`; each side stays at least 1."""
    height, width = image.shape[:2]
    if longer_px is None or longer_px == max(height, width):
        return image
    scale = longer_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _run_selective_search(image: npt.NDArray[np.uint8], quality: str, *, path: Path) -> npt.NDArray[np.int32]:
    """Rectangles (N, 4), x y width height, of an RGB image; the order differs from call to call."""
    import cv2

    if not hasattr(cv2, "ximgproc"):
        raise ImportError("this OpenCV has no ximgproc; expected opencv-contrib-python-headless, without opencv-python")
    with _one_thread(cv2):
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))  # OpenCV wants BGR
        if quality == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        try:
            rectangles: npt.NDArray[np.int32] = np.reshape(search.process(), (-1, 4))
        except (cv2.error, MemoryError) as error:
            got = f"got {error} from selective search on {path}"
            raise DataError(f"{got}; expected boxes: a smaller proposals.resize_px may help") from error
    return rectangles


@contextmanager
def _one_thread(cv2: Any) -> Iterator[None]:
    """Several processes search at once: threads within each would only get in each other's way."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _window_sides(scale: float, aspect_ratio: float) -> tuple[float, float]:
    """(width, height) in fractions of the image's."""
    return min(1.0, scale * math.sqrt(aspect_ratio)), min(1.0, scale / math.sqrt(aspect_ratio))


def _steps(side: float, stride: float) -> int:
    """Windows along one axis. Less a billionth, so that rounding does not add one."""
    return math.ceil((1.0 - side) / (stride * side) - 1e-9) + 1


@lru_cache(maxsize=8)
def _relative_windows(
    scales: tuple[float, ...], aspect_ratios: tuple[float, ...], stride: float
) -> npt.NDArray[np.float64]:
    """float64 (N, 4) in [0, 1]; read-only, as it is shared."""
    windows = [(0.0, 0.0, 1.0, 1.0)]
    for scale, aspect_ratio in itertools.product(scales, aspect_ratios):
        width, height = _window_sides(scale, aspect_ratio)
        lefts = np.linspace(0.0, 1.0 - width, _steps(width, stride))
        tops = np.linspace(0.0, 1.0 - height, _steps(height, stride))
        windows += [(x, y, min(1.0, x + width), min(1.0, y + height)) for x, y in itertools.product(lefts, tops)]
    fractions = np.array(windows)
    fractions.flags.writeable = False
    return fractions
