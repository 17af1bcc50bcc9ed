"""From a score map for each class to one score for the image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ImagePooling(nn.Module):
    """Pools the cells of score maps.

    Promises:
        - `forward(scores, valid)`: `scores` (B, C, h, w), `valid` bool (B, 1, h, w), at least one cell of an image
          being valid, or None when all are. Returns (B, C).
        - A cell that is not valid neither counts nor gets a gradient.
    """

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Tensor:
        """See the class."""
        raise NotImplementedError


class MaxPooling(ImagePooling):
    """max_i x_i. The gradient goes to one cell: the first of those that are tied.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, section 3.
    """

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Tensor:
        """See `ImagePooling`."""
        if valid is not None:
            scores = scores.masked_fill(~valid, float("-inf"))
        return scores.flatten(2).max(dim=2).values


class AveragePooling(ImagePooling):
    """(1/n) sum_i x_i over the n valid cells.

    Source: Zhou et al., Learning deep features for discriminative localization, CVPR 2016, section 2.
    """

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Tensor:
        """See `ImagePooling`."""
        if valid is None:
            return scores.mean(dim=(2, 3))
        return scores.masked_fill(~valid, 0.0).sum(dim=(2, 3)) / valid.sum(dim=(2, 3))


POOLINGS: dict[str, Callable[[], ImagePooling]] = {"max": MaxPooling, "average": AveragePooling}
"""By the name that a config gives."""


def build_pooling(name: str) -> ImagePooling:
    """The pooling called `name`.

    Raises:
        ValueError: for a name that is not in `POOLINGS`.
    """
    if name not in POOLINGS:
        raise ValueError(f"got {name!r} for pooling; expected one of {', '.join(POOLINGS)}")
    return POOLINGS[name]()
