"""Average precision of detection, per class, as PASCAL VOC computes it. See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.boxes import Detections, GroundTruth, iou
from wsol.metrics.instances import check_labels, flatten, image_of_each
from wsol.metrics.ranking import descending_order

NO_INSTANCE = -1


@dataclass(frozen=True, eq=False)
class DetectionAP:
    """Average precision per class.

    Attributes:
        ap_11pt: float64 `(C,)` in [0, 1], VOC 2007's; NaN where `num_positives` is 0.
        ap_area: float64 `(C,)` in [0, 1], VOC 2010's and later; NaN where `num_positives` is 0.
        num_positives: int64 `(C,)`, objects that are not difficult.
    """

    ap_11pt: npt.NDArray[np.float64]
    ap_area: npt.NDArray[np.float64]
    num_positives: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is ranked of one class, best rank first.

    Attributes:
        true_positives: bool `(R,)`.
        false_positives: bool `(R,)`. A rank with neither flag is ignored.
        images: int64 `(R,)`, index of the image that each is in.
    """

    true_positives: npt.NDArray[np.bool_]
    false_positives: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JudgedRankings:
    """The rankings of a split.

    Attributes:
        rankings: by class, of those classes of which there is something to be found.
        positives: int64 `(I, C)`, how much there is to be found in each image.
    """

    rankings: dict[int, Ranking]
    positives: npt.NDArray[np.int64]


def detection_average_precision(
    ground_truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> DetectionAP:
    """Average precision per class.

    Each detection is matched with the object of its class in its image that it overlaps most (the
    first of several; found before or not). The detections of a class are ranked over all images by
    score; ties by image, then by the order given. In rank order a detection is
      - false, if that IoU is below the threshold;
      - ignored, neither true nor false, if the object is difficult;
      - true, if no detection of a higher rank was matched with the object;
      - false otherwise: a duplicate.

    Args:
        ground_truth: one for each image.
        detections: one for each image, in the same order. Any number for each; no cut is made here.
        num_classes: C.
        iou_threshold: in (0, 1]; an IoU equal to it is a match.

    Raises:
        ValueError: for NaN scores, labels outside [0, C), lengths that differ, or a threshold out of range.

    Source: the devkit's VOCevaldet, as in hbilen/WSDDN:pascal/wsddnVOCevaldet.m; M. Everingham et al.,
        The PASCAL Visual Object Classes Challenge, IJCV 2010.
    """
    judged = judge_detections(ground_truth, detections, num_classes=num_classes, iou_threshold=iou_threshold)
    num_positives = judged.positives.sum(axis=0)
    ap_11pt, ap_area = np.full((2, num_classes), np.nan)
    for label, ranking in judged.rankings.items():
        best = _best_precisions(ranking.true_positives, ranking.false_positives)
        ap_11pt[label] = _mean_at_11_recalls(best, int(num_positives[label]))
        ap_area[label] = _area(best, int(num_positives[label]))
    return DetectionAP(ap_11pt=ap_11pt, ap_area=ap_area, num_positives=num_positives)


def judge_detections(
    ground_truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
) -> JudgedRankings:
    """Which detections are true and which are false; see `detection_average_precision`, also for what is raised."""
    if len(ground_truth) != len(detections):
        raise ValueError(f"got detections of {len(detections)} images; expected {len(ground_truth)}, one each")
    check_iou_threshold(iou_threshold)
    instances = flatten(ground_truth, num_classes=num_classes)
    labels, scores = _flat_labels_and_scores(detections, num_classes=num_classes)
    images = image_of_each(detections)
    matched = _match(ground_truth, detections, num_classes=num_classes, iou_threshold=iou_threshold)
    counted = ~instances.difficult
    positives = np.zeros((len(ground_truth), num_classes), np.int64)
    np.add.at(positives, (instances.images[counted], instances.labels[counted]), 1)
    rankings = {}
    for label in np.flatnonzero(positives.any(axis=0)).tolist():
        of_class = np.flatnonzero(labels == label)
        of_class = of_class[descending_order(scores[of_class])]
        true_positives, false_positives = _judge(matched[of_class], instances.difficult)
        rankings[label] = Ranking(true_positives, false_positives, images[of_class])
    return JudgedRankings(rankings=rankings, positives=positives)


def average_precision_11pt(
    true_positives: npt.NDArray[np.bool_], false_positives: npt.NDArray[np.bool_], num_positives: int
) -> float:
    """The mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or a higher one.

    A recall of t / P reaches k / 10 if 10 t >= k P: in integers, since 0.3 and the other steps of a
    floating-point range lie above the recall of, say, 3 of 10.

    Args:
        true_positives: bool `(R,)`, one flag for each rank, best rank first; not cumulated.
        false_positives: bool `(R,)`, likewise. A rank with neither flag is ignored.
        num_positives: P, objects to be found.

    Returns:
        In [0, 1]; NaN if `num_positives` is 0.

    Raises:
        ValueError: for flags that are not bool `(R,)`, a rank with both, or more true positives than P.

    Source: M. Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010.
    """
    _check_flags(true_positives, false_positives, num_positives)
    if num_positives == 0:
        return float("nan")
    return _mean_at_11_recalls(_best_precisions(true_positives, false_positives), num_positives)


def average_precision_area(
    true_positives: npt.NDArray[np.bool_], false_positives: npt.NDArray[np.bool_], num_positives: int
) -> float:
    """The area under the precision-recall curve, after precision is made to fall with recall.

    Args, returns and raises as `average_precision_11pt`.

    Source: the devkit of VOC 2010 and later, VOCap, as in hbilen/WSDDN:pascal/wsddnVOCap.m.
    """
    _check_flags(true_positives, false_positives, num_positives)
    if num_positives == 0:
        return float("nan")
    return _area(_best_precisions(true_positives, false_positives), num_positives)


def check_iou_threshold(iou_threshold: float) -> None:
    """Refuses thresholds outside (0, 1]: at 0 a box would match what it does not touch."""
    if not 0.0 < iou_threshold <= 1.0:
        raise ValueError(f"got {iou_threshold} for iou_threshold; expected 0 < iou_threshold <= 1")


def _best_precisions(
    true_positives: npt.NDArray[np.bool_], false_positives: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """For each true positive the best precision at its rank or a later one: `(T,)`, best rank first."""
    true_count = np.arange(1, np.count_nonzero(true_positives) + 1)
    false_count = np.cumsum(false_positives)[true_positives]
    precision = true_count / (true_count + false_count)
    # Between two true positives precision only falls, so no other rank can be the best.
    return np.maximum.accumulate(precision[::-1])[::-1]


def _mean_at_11_recalls(best: npt.NDArray[np.float64], num_positives: int) -> float:
    # How many must be found for a recall of k / 10: the quotient rounded up. 0 is reached at any
    # rank; the best of all precisions is that at the first true positive or later.
    needed = [max(1, -(-k * num_positives // 10)) for k in range(11)]
    return sum(float(best[found - 1]) for found in needed if found <= len(best)) / 11


def _area(best: npt.NDArray[np.float64], num_positives: int) -> float:
    # Recall rises by 1 / P at each true positive and nowhere else.
    return float(best.sum() / num_positives)


def _check_flags(
    true_positives: npt.NDArray[np.bool_], false_positives: npt.NDArray[np.bool_], num_positives: int
) -> None:
    for name, flags in (("true_positives", true_positives), ("false_positives", false_positives)):
        if flags.dtype != np.bool_ or flags.shape != (len(true_positives),):
            raise ValueError(f"got {flags.dtype} {flags.shape} for {name}; expected bool ({len(true_positives)},)")
    if np.any(true_positives & false_positives):
        raise ValueError("got a rank that is a true and a false positive; expected one of them, or neither")
    if np.count_nonzero(true_positives) > num_positives:
        found = np.count_nonzero(true_positives)
        raise ValueError(f"got {found} true positives; expected at most num_positives, {num_positives}")


def _flat_labels_and_scores(
    detections: Sequence[Detections], *, num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    labels = np.concatenate([np.zeros(0, np.int64), *(found.labels for found in detections)])
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    images = image_of_each(detections)
    check_labels(labels, images, num_classes=num_classes, what="detections")
    undefined = np.flatnonzero(np.isnan(scores))
    if undefined.size:
        raise ValueError(f"got a score of NaN in the detections of image {images[undefined[0]]}; expected a number")
    return labels, scores


def _match(
    ground_truth: Sequence[GroundTruth], detections: Sequence[Detections], *, num_classes: int, iou_threshold: float
) -> npt.NDArray[np.int64]:
    """The object that each detection is matched with, as an index into all objects of the split, or NO_INSTANCE."""
    matched = np.full(sum(len(found.labels) for found in detections), NO_INSTANCE, np.int64)
    first_detection = first_instance = 0
    for truth, found in zip(ground_truth, detections, strict=True):
        # Most detections are of classes that the image does not show: those need no IoU.
        shown = np.zeros(num_classes, np.bool_)
        shown[truth.labels] = True
        candidates = np.flatnonzero(shown[found.labels])
        if candidates.size:
            overlap = iou(found.boxes[candidates], truth.boxes)  # (candidates, K)
            overlap[found.labels[candidates, None] != truth.labels] = 0.0
            best = overlap.argmax(axis=1)
            hit = overlap[np.arange(len(best)), best] >= iou_threshold
            matched[first_detection + candidates[hit]] = first_instance + best[hit]
        first_detection += len(found.labels)
        first_instance += len(truth.labels)
    return matched


def _judge(
    ranked: npt.NDArray[np.int64], difficult: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Flags of true and of false positives, from the objects matched in rank order."""
    true_positives = np.zeros(len(ranked), np.bool_)
    false_positives = np.ones(len(ranked), np.bool_)
    hits = np.flatnonzero(ranked != NO_INSTANCE)
    _, first = np.unique(ranked[hits], return_index=True)  # the first occurrence: the highest rank
    true_positives[hits[first]] = True
    ignored = hits[difficult[ranked[hits]]]
    true_positives[ignored] = False
    false_positives[true_positives] = False
    false_positives[ignored] = False
    return true_positives, false_positives
