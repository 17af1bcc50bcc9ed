"""What a metric counts, image by image: so that it can be computed again with images weighted, without matching again.

Matching looks at one image at a time, and ranks do not change with the weights. A metric of weighted images counts
each true positive, false positive and object as often as its image weighs; with all weights 1 it is the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsol.metrics.average_precision import JudgedRankings

Curve = Literal["11pt", "area", "steps"]
"""How precision is averaged over recall: as in `average_precision`, or without interpolation as in `classification`."""


@dataclass(frozen=True, eq=False)
class Shares:
    """Of a metric that is a share: hits of all that count.

    Attributes:
        hits: int64 (I, C), of each image and class.
        counted: int64 (I, C), at least as many.
    """

    hits: NDArray[np.int64]
    counted: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RankedMatches:
    """Of a metric that is an average precision.

    A step is a rank at which recall rises, or all ranks of one score where these enter together; the steps of a class
    are consecutive. False positives below the last step of a class are left out: no precision there counts.

    Attributes:
        steps: int64 (C,), how many steps each class has.
        true_steps: int64 (T,), of each true positive the step, counted over all classes.
        true_images: int64 (T,), its image.
        false_steps: int64 (F,), of each false positive the first step that comes after it.
        false_images: int64 (F,), its image.
        positives: int64 (I, C), how much there is to be found.
        curve: how precision is averaged.
    """

    steps: NDArray[np.int64]
    true_steps: NDArray[np.int64]
    true_images: NDArray[np.int64]
    false_steps: NDArray[np.int64]
    false_images: NDArray[np.int64]
    positives: NDArray[np.int64]
    curve: Curve


Matches = Shares | RankedMatches


def ranked_matches(
    judged: JudgedRankings, *, curve: Curve, together: Mapping[int, NDArray[np.int64]] | None = None
) -> RankedMatches:
    """The matches of rankings.

    Args:
        curve: how precision is averaged.
        together: of each class int64 (R,), ascending: ranks with the same number enter together. None: each by itself.
    """
    steps = np.zeros(judged.positives.shape[1], np.int64)
    true: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]  # (2, ...) of step and image
    false: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
    first = 0
    for label, ranking in judged.rankings.items():
        blocks = np.arange(len(ranking.images)) if together is None else together[label]
        rises = np.zeros(int(blocks[-1]) + 1 if blocks.size else 0, np.int64)
        rises[blocks[ranking.true_positives]] = 1
        step = (np.cumsum(rises) - rises)[blocks]  # of each rank the first one at it or after it
        steps[label] = rises.sum()
        counted = ranking.false_positives & (step < steps[label])
        for found, which in ((true, ranking.true_positives), (false, counted)):
            found.append(np.stack([first + step[which], ranking.images[which]]))
        first += int(steps[label])
    (true_steps, true_images), (false_steps, false_images) = np.hstack(true), np.hstack(false)
    return RankedMatches(steps, true_steps, true_images, false_steps, false_images, judged.positives, curve)
