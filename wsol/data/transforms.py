"""What an image looks like to a network: resized, perhaps mirrored, its proposals with it.

Pure functions. What is random (`draw_view`) takes its generator, so that a view depends on nothing but the seed,
the epoch and the image: not on the number of loader processes, not on the order of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

ResizeMode = Literal["longer", "shorter", "square"]


@dataclass(frozen=True)
class View:
    """How one image is shown once.

    Attributes:
        scale_px: side in pixels, in the meaning of a `ResizeMode`; at least 1.
        flip: mirrored left to right.
    """

    scale_px: int
    flip: bool = False


def draw_view(rng: np.random.Generator, *, scales_px: Sequence[int], flip: bool) -> View:
    """Draws one of `scales_px`, each equally likely, and with `flip` a mirror image half of the time.

    Both are always drawn, in this order, so that turning `flip` on leaves every scale as it was.
    """
    scale_px = scales_px[int(rng.integers(len(scales_px)))]
    mirrored = bool(rng.random() < 0.5)
    return View(scale_px=scale_px, flip=flip and mirrored)


def resized_size(*, width: int, height: int, scale_px: int, mode: ResizeMode, max_side_px: int) -> tuple[int, int]:
    """The size an image is resized to.

    Args:
        width: of the original image, in pixels, at least 1.
        height: likewise.
        scale_px: length of the side that `mode` names, in pixels.
        mode: `longer` and `shorter` keep the aspect ratio up to rounding; `square` squashes to scale_px x scale_px.
        max_side_px: `shorter` alone: the longer side gets no longer than this, the shorter one then stays below
            scale_px.

    Returns:
        (width, height) in whole pixels, at least 1 each.
    """
    if mode == "square":
        return scale_px, scale_px
    if mode == "longer":
        factor = scale_px / max(width, height)
    else:
        factor = min(scale_px / min(width, height), max_side_px / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def resize_image(pixels: NDArray[np.uint8], *, size: tuple[int, int]) -> Tensor:
    """Resizes with an antialiased bilinear filter.

    Args:
        pixels: uint8 (H, W, 3).
        size: (width, height) of the result.

    Returns:
        float32 (3, height, width) in [0, 1], contiguous.
    """
    width, height = size
    image = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)  # (3, H, W)
    resized: Tensor = functional.resize(image, [height, width], antialias=True)  # bilinear is the default
    return (resized.float() / 255).contiguous()


def flip_image(image: Tensor) -> Tensor:
    """Mirrors (3, H, W) left to right."""
    return image.flip(-1)


def scale_boxes(boxes: NDArray[np.float32], *, scale: tuple[float, float]) -> NDArray[np.float32]:
    """Multiplies x by scale[0] and y by scale[1].

    The two differ, since the sides of a resized image are rounded to whole pixels one by one.

    Args:
        boxes: float32 (N, 4) x1 y1 x2 y2.
        scale: (x, y) factors.

    Returns:
        float32 (N, 4). Computed in float64, so that the box of the whole image stays exactly that.
    """
    factors = np.array([scale[0], scale[1], scale[0], scale[1]], dtype=np.float64)
    return (boxes.astype(np.float64) * factors).astype(np.float32)


def flip_boxes(boxes: NDArray[np.float32], *, width: int) -> NDArray[np.float32]:
    """Mirrors boxes left to right with their image: x1' = width - x2, x2' = width - x1. float32 (N, 4).

    There is no "- 1": coordinates are continuous, the image covers [0, width].
    """
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1).astype(np.float32)
