"""The box convention, and box arithmetic in numpy (on tensors: torchvision.ops).

A box is `x1 y1 x2 y2` in absolute pixels of the original image, 0-based and continuous: pixel
column `i` covers `[i, i + 1]`, so a box that covers the whole image is `0 0 width height` and its
width is `x2 - x1`. VOC files are 1-based and inclusive; `from_voc` converts them, once, on
reading. In these coordinates the plain IoU *is* the devkit's IoU with its "+ 1" pixels, so nothing
else in the project adds or subtracts a pixel. Arrays are `float32 (N, 4)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The objects of one image, in the order of its annotation file.

    Attributes:
        boxes: float32 `(K, 4)`, see the module's docstring.
        labels: int64 `(K,)`, index of each object's class.
        difficult: bool `(K,)`, True for objects that VOC's annotators marked `difficult`.

    Raises:
        ValueError: if a shape is another, or a dtype is of another kind.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        _check_array("GroundTruth.boxes", self.boxes, shape=(len(self.boxes), 4), kinds="f")
        _check_array("GroundTruth.labels", self.labels, shape=(len(self.boxes),), kinds="i")
        _check_array("GroundTruth.difficult", self.difficult, shape=(len(self.boxes),), kinds="b")


@dataclass(frozen=True, eq=False)
class Detections:
    """What a model found in one image. The order counts only where scores tie: the first ranks first.

    Attributes:
        boxes: float32 `(M, 4)`, see the module's docstring.
        scores: float32 or float64 `(M,)`, higher is more confident, any scale.
        labels: int64 `(M,)`, index of each detection's class.

    Raises:
        ValueError: if a shape is another, or a dtype is of another kind.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.floating[Any]]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_array("Detections.boxes", self.boxes, shape=(len(self.boxes), 4), kinds="f")
        _check_array("Detections.scores", self.scores, shape=(len(self.boxes),), kinds="f")
        _check_array("Detections.labels", self.labels, shape=(len(self.boxes),), kinds="i")


def from_voc(boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Converts boxes of a VOC annotation file to the project's convention.

    Args:
        boxes: `(N, 4)`, `xmin ymin xmax ymax`, 1-based, both corners inclusive; fractions are allowed.

    Returns:
        float32 `(N, 4)`: `xmin - 1, ymin - 1, xmax, ymax`, in the order given.

    Raises:
        ValueError: if the shape is another. An empty list is `(0, 4)`.
    """
    inclusive = np.asarray(boxes, dtype=np.float64)
    if inclusive.shape == (0,):
        inclusive = inclusive.reshape(0, 4)
    _check_boxes("boxes", inclusive)
    return (inclusive - (1.0, 1.0, 0.0, 0.0)).astype(np.float32)


def iou(a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Intersection over union of every box of `a` with every box of `b`.

    Computed in float64. Boxes with integer corners, like those of VOC, therefore give the double
    nearest to the true ratio, and `iou(a, b) >= 0.5` is exact for them.

    Args:
        a: `(N, 4)`.
        b: `(M, 4)`.

    Returns:
        float64 `(N, M)` in [0, 1]. Never NaN: a box without area (or with x1 > x2, or with a
        coordinate that is not finite) overlaps nothing, itself included.

    Raises:
        ValueError: if a shape is another.
    """
    _check_boxes("a", a)
    _check_boxes("b", b)
    return _overlap(a[:, None, :], b[None, :, :])


def paired_iou(a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Intersection over union of `a[i]` with `b[i]`; otherwise as `iou`.

    Args:
        a: `(N, 4)`.
        b: `(N, 4)`.

    Returns:
        float64 `(N,)` in [0, 1].

    Raises:
        ValueError: if a shape is another, or the lengths differ.
    """
    _check_boxes("a", a)
    _check_boxes("b", b)
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} boxes; expected as many in a as in b")
    return _overlap(a, b)


def clip(boxes: npt.NDArray[np.floating[Any]], *, width: float, height: float) -> npt.NDArray[np.floating[Any]]:
    """Moves corners that lie outside an image onto its border.

    Args:
        boxes: `(N, 4)`.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        A new array, dtype and order of `boxes`. A box wholly outside the image is left without area.

    Raises:
        ValueError: if the shape is another.
    """
    _check_boxes("boxes", boxes)
    clipped = boxes.copy()
    clipped[:, 0::2] = clipped[:, 0::2].clip(0, width)
    clipped[:, 1::2] = clipped[:, 1::2].clip(0, height)
    return clipped


def _overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """IoU along the last axis of two arrays that broadcast to `(..., 4)`."""
    ax1, ay1, ax2, ay2 = np.moveaxis(a.astype(np.float64), -1, 0)
    bx1, by1, bx2, by2 = np.moveaxis(b.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore"):  # of infinite boxes: inf - inf and 0 * inf give NaN, which is not > 0 below
        intersection = _area(np.maximum(ax1, bx1), np.maximum(ay1, by1), np.minimum(ax2, bx2), np.minimum(ay2, by2))
        union = _area(ax1, ay1, ax2, ay2) + _area(bx1, by1, bx2, by2) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _area(
    x1: npt.NDArray[np.float64], y1: npt.NDArray[np.float64], x2: npt.NDArray[np.float64], y2: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    # Each side on its own: with x1 > x2 and y1 > y2 the product would be positive.
    return np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0)


def _check_boxes(name: str, boxes: npt.NDArray[Any]) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"got shape {boxes.shape} for {name}; expected (N, 4)")


def _check_array(name: str, array: npt.NDArray[Any], *, shape: tuple[int, ...], kinds: str) -> None:
    if array.shape != shape:
        raise ValueError(f"got shape {array.shape} for {name}; expected {shape}")
    if array.dtype.kind not in kinds:
        raise ValueError(f"got dtype {array.dtype} for {name}; expected a {_KIND_NAMES[kinds]} dtype")


_KIND_NAMES = {"f": "floating-point", "i": "signed integer", "b": "bool"}
