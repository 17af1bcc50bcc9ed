"""Heat maps of classes: how they are kept, and the boxes around their hot parts. Torch-free.

docs/protocol.md says how boxes are drawn from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

GRID = 64
"""Cells a side of a heat map that is kept: over the whole image, whatever its size and shape."""
BOX_GRID = 256
"""Cells a side of the map that boxes are drawn on."""


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """The heat maps of a split's (image, class) pairs whose image-level label is 1 or 0.

    Attributes:
        maps: float16 (M, GRID, GRID), finite, higher where the class is; any scale.
        images: int64 (M,), index of the image.
        labels: int64 (M,), index of the class. Pairs ascend by (image, label), each is there once.

    Raises:
        ValueError: if a shape is another, a value is not finite, or the pairs are in another order.
    """

    maps: NDArray[np.float16]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.maps)
        expected = {"maps": (count, GRID, GRID), "images": (count,), "labels": (count,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"got shape {getattr(self, name).shape} for HeatMaps.{name}; expected {shape}")
        if not np.isfinite(self.maps).all():
            raise ValueError("got HeatMaps.maps with NaN or infinity; expected finite numbers")
        images, labels = np.diff(self.images), np.diff(self.labels)
        if not np.all((images > 0) | ((images == 0) & (labels > 0))):
            raise ValueError("got HeatMaps of pairs in another order; expected them to ascend by (image, label)")


def on_box_grid(heat_map: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Resizes a map bilinearly, cell centres half a cell from the border, to float32 (BOX_GRID, BOX_GRID).

    Args:
        heat_map: (h, w), at least 1 x 1, finite.

    Raises:
        ValueError: for another shape, or a value that is not finite.
    """
    import cv2  # not for those who never draw a box

    if heat_map.ndim != 2 or not heat_map.size:
        raise ValueError(f"got shape {heat_map.shape} for a heat map; expected (h, w) of at least 1 x 1")
    if not np.isfinite(heat_map).all():
        raise ValueError("got a heat map with NaN or infinity; expected finite numbers")
    single = np.ascontiguousarray(heat_map, dtype=np.float32)
    return np.asarray(cv2.resize(single, (BOX_GRID, BOX_GRID), interpolation=cv2.INTER_LINEAR), np.float32)


def min_max_scaled(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scales a map to [0, 1], its lowest value to 0 and its highest to 1. A constant map becomes 1 everywhere.

    In float64, so that neither the range nor a comparison with a threshold overflows or rounds a value to its
    neighbour.
    """
    wide = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    return (wide - low) / (high - low) if high > low else np.ones_like(wide)


def component_boxes(
    heat_map: NDArray[np.floating[Any]], *, threshold: float, components: Literal["largest", "all"]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes around the connected parts of a map where it is high.

    The map is resized to BOX_GRID x BOX_GRID and scaled to [0, 1]; cells of at least the threshold are connected to
    their 8 neighbours. A constant map is one component, the whole image.

    Args:
        heat_map: (h, w) over the whole image, finite, any scale.
        threshold: in [0, 1], of the scaled map.
        components: `all`, or the `largest` one: that with the most cells, the higher peak where several have so many.

    Returns:
        boxes: float32 (N, 4), N >= 1, x1 y1 x2 y2 as fractions of the image's sides in [0, 1].
        peaks: float32 (N,), the highest value of the resized map in each, in the units of `heat_map`.
        Best peak first; ties by the box, from the top and left. N is 1 for `largest`.

    Raises:
        ValueError: for a threshold outside [0, 1], another shape, or a value that is not finite.

    Source: J. Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020 (there with
        OpenCV's contours); threshold and largest component as in B. Zhou et al., CVPR 2016 (recalled).
    """
    from scipy import ndimage  # OpenCV's components start threads, which no process that forks may have

    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"got {threshold} for threshold; expected 0 <= threshold <= 1")
    values = on_box_grid(heat_map)
    components_of_cells, count = ndimage.label(min_max_scaled(values) >= threshold, structure=np.ones((3, 3)))
    extents = ndimage.find_objects(components_of_cells)
    cells = [(x.start, y.start, x.stop, y.stop) for y, x in extents]
    boxes = np.array(cells, np.float32) / np.float32(BOX_GRID)  # (N, 4)
    peaks = np.full(count + 1, -np.inf, np.float32)  # 0 is the background
    np.maximum.at(peaks, components_of_cells.ravel(), values.ravel())
    order = np.lexsort((boxes[:, 0], boxes[:, 1], -peaks[1:]))  # the last key is the first criterion
    if components == "largest":
        sizes = np.bincount(components_of_cells.ravel())[1:]
        order = order[[sizes[order].argmax()]]  # argmax takes the first of several: the highest peak
    return boxes[order], peaks[1:][order]
