"""Proposals: class-agnostic boxes of one image, what makes them, and which of them a trial keeps. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsol.data.images import ImageRecord

BoxArray = npt.NDArray[np.float32]
ScoreArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Class-agnostic boxes of one image.

    Attributes:
        boxes: float32 `(N, 4)`, x1 y1 x2 y2 in pixels of the original image, 0-based and continuous. N may be 0.
        scores: float32 `(N,)`, higher is more object-like, any scale; None where the source does not rank.

    Raises:
        ValueError: if a shape or a dtype is another.
    """

    boxes: BoxArray
    scores: ScoreArray | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or self.boxes.dtype != np.float32:
            raise ValueError(f"got boxes of {self.boxes.dtype} {self.boxes.shape}; expected float32 (N, 4)")
        scores = self.scores
        if scores is not None and (scores.shape != (len(self.boxes),) or scores.dtype != np.float32):
            raise ValueError(f"got scores of {scores.dtype} {scores.shape}; expected float32 ({len(self.boxes)},)")


class ProposalSource(Protocol):
    """Makes the proposals of an image.

    Promises:
        - `propose` gives finite boxes inside the image as `read_image` returns it, with a width and a height above
          0 and without exact duplicates. Where there are scores, the rows are ordered best first.
        - The same image file, `apply_exif` and `key` give the same boxes in the same order, in any process, as often
          as asked. Nothing is drawn at random.
        - Sources that look at the image give at least one box, the whole image among them, for any image of at least
          1 x 1 px. Files give what they hold, which may be nothing.
        - `propose` raises `DataError`, naming the file, for a fault in the image or in the file of proposals.
        - `key` names the method, its version and every parameter that shapes the boxes, and reading it is cheap
          after the first time. Sources with equal keys give equal boxes.
        - `worth_storing` is False where asking again costs no more than reading a stored answer.
        - A source pickles, small, and works in the process that unpickles it. It may not be shared by threads.
    """

    @property
    def key(self) -> str: ...

    @property
    def worth_storing(self) -> bool: ...

    def propose(self, record: ImageRecord) -> Proposals: ...


def select(proposals: Proposals, *, count: int | None, min_size_px: float, rng: np.random.Generator) -> Proposals:
    """The proposals that a trial uses: not too small, each once, and not too many.

    In this order: boxes with a side below `min_size_px` are dropped (a side equal to it is kept); of equal boxes
    one is kept, with the best score; then at most `count` are kept. Where there are scores these are the best
    (of equal scores, the first), and the result is ordered best first. Where there are none, they are a random
    subset in the order of `proposals`. For one state of `rng` the subset for a smaller `count` is contained in that
    for a larger one, so that sweeping `count` adds proposals and exchanges none.

    Args:
        proposals: of one image.
        count: at most so many, > 0; None keeps all.
        min_size_px: in pixels of the original image, >= 0.
        rng: made for this image from (seed, "proposals", image id). At most one draw, the same for every `count`.

    Returns:
        A subset of the rows; `(0, 4)` where nothing is large enough.

    Raises:
        ValueError: if `count` is not positive or `min_size_px` negative.
    """
    if (count is not None and count < 1) or not min_size_px >= 0:
        raise ValueError(f"got count={count}, min_size_px={min_size_px}; expected count > 0 or None, min_size_px >= 0")
    boxes, scores = proposals.boxes, proposals.scores
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    sides = boxes[order, 2:] - boxes[order, :2]  # (N, 2)
    order = order[sides.min(axis=1, initial=np.inf) >= min_size_px]
    order = order[first_of_equal(boxes[order])]
    order = order[np.sort(rng.permutation(len(order))[:count])] if scores is None else order[:count]
    return Proposals(boxes[order], None if scores is None else scores[order])


def first_of_equal(boxes: BoxArray) -> npt.NDArray[np.intp]:
    """Rows `(M,)`, ascending, of the first of each set of equal boxes `(N, 4)`."""
    return np.sort(np.unique(boxes, axis=0, return_index=True)[1])
