"""Average precision of image classification, per class. See docs/protocol.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.metrics.average_precision import JudgedRankings, Ranking
from wsol.metrics.ranking import descending_order


def classification_average_precision(
    scores: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.signedinteger[Any]]
) -> npt.NDArray[np.float64]:
    """The sum, over the distinct scores from high to low, of (gain in recall) x (precision), per class.

    No interpolation. Images with equal scores enter together, so their order does not count.

    Args:
        scores: `(I, C)`, higher is more confident, any scale.
        labels: `(I, C)`: 1 shown, -1 not shown, 0 only as difficult objects: out of the ranking.

    Returns:
        float64 `(C,)` in [0, 1]; NaN for classes without an image of label 1.

    Raises:
        ValueError: for NaN scores, other labels, or shapes that differ.

    Source: scikit-learn, sklearn.metrics.average_precision_score.
    """
    check_image_scores(scores, labels)
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([_average_precision(score[label != 0], label[label != 0] > 0) for score, label in columns])


def judge_images(
    scores: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.signedinteger[Any]]
) -> tuple[JudgedRankings, dict[int, npt.NDArray[np.int64]]]:
    """The images in their order by the score of each class; see `classification_average_precision`.

    Returns:
        The rankings, and of each class int64 `(R,)`: ranks with the same number have the same score.
    """
    check_image_scores(scores, labels)
    shown = labels == 1
    rankings, together = {}, {}
    for label in np.flatnonzero(shown.any(axis=0)).tolist():
        ranked = np.flatnonzero(labels[:, label] != 0)
        ranked = ranked[descending_order(scores[ranked, label])]
        rankings[label] = Ranking(shown[ranked, label], ~shown[ranked, label], ranked)
        score = scores[ranked, label]
        together[label] = np.concatenate([[0], np.cumsum(score[1:] != score[:-1])])
    return JudgedRankings(rankings=rankings, positives=shown.astype(np.int64)), together


def check_image_scores(scores: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.signedinteger[Any]]) -> None:
    """Refuses what cannot be ranked.

    Raises:
        ValueError: for NaN scores, labels other than 1, 0 and -1, or shapes that are not one `(I, C)`.
    """
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"got shapes {scores.shape} for scores and {labels.shape} for labels; expected one (I, C)")
    if np.isnan(scores).any():
        image, label = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"got a score of NaN for class {label} of image {image}; expected a number")
    if not np.isin(labels, (1, 0, -1)).all():
        raise ValueError(f"got labels {np.unique(labels)[:10]}; expected 1, 0 or -1")


def _average_precision(scores: npt.NDArray[np.floating[Any]], shown: npt.NDArray[np.bool_]) -> float:
    if not shown.any():
        return float("nan")
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last rank of each distinct score
    true_count = np.cumsum(shown[order])[ends]
    precision = true_count / (ends + 1)
    recall_gain = np.diff(true_count, prepend=0) / np.count_nonzero(shown)
    return float(np.sum(recall_gain * precision))
