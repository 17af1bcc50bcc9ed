"""The order in which detections, images and points are ranked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def descending_order(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Indices that sort scores from high to low; equal scores keep the order in which they were given.

    Args:
        scores: `(N,)`, without NaN; infinities are fine.

    Returns:
        int64 `(N,)`.
    """
    if scores.dtype == np.float32 and len(scores) < 2**32:
        return _descending_order_of_float32(scores)
    return np.argsort(-scores, kind="stable")


def _descending_order_of_float32(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The same, five times as fast as numpy's stable sort: a vectorized sort of (score, index) in one integer."""
    bits = (np.float32(0) - scores).view(np.uint32)  # unlike -scores this has one zero, so that 0.0 and -0.0 tie
    # As unsigned integers, the bits of positive numbers ascend with the number; those of negative
    # ones descend, and lie above. So: flip all bits of negative numbers, the sign of the others.
    flips = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    keys = (bits ^ flips).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(scores), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
