"""What a metric counts in the detections of a split, image by image. Torch-free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsol.data.voc import EvaluationSplit
from wsol.detections import SplitDetections, check_same_split, present
from wsol.metrics.average_precision import judge_detections
from wsol.metrics.classification import judge_images
from wsol.metrics.corloc import located_and_shown
from wsol.metrics.matches import Curve, Matches, RankedMatches, Shares, ranked_matches
from wsol.metrics.names import Metric
from wsol.metrics.point_localization import judge_points
from wsol.metrics.pointing_game import hit_where_shown
from wsol.metrics.proposal_recall import covered_and_counted

UNSUPPORTED = {"maxboxacc_v2": "it would take drawing the boxes of every heat map again at every threshold"}
"""Metrics whose images cannot be weighted, and why."""


def matches(found: SplitDetections, split: EvaluationSplit, metric: Metric) -> Matches:
    """What a metric counts.

    Args:
        found: of the images of `split`, in its order.
        split: images and annotations.
        metric: none of UNSUPPORTED.

    Raises:
        ValueError: if `found` is of other images or classes than `split`, or does not hold what the metric needs.
    """
    check_same_split(found, split)
    truth, labels = split.ground_truth, split.labels
    if metric.family == "cls_ap":
        judged, together = judge_images(found.class_scores, labels)
        return ranked_matches(judged, curve="steps", together=together)
    if metric.family == "point_ap":
        return ranked_matches(judge_points(truth, found.points, found.class_scores, labels), curve="area")
    if metric.family == "pointing_game":
        return _shares(hit_where_shown(truth, found.points, labels), labels == 1)
    if metric.iou_threshold is None:
        raise ValueError(f"got {metric.name}, whose images cannot be weighted: {UNSUPPORTED[metric.family]}")
    return _at_an_iou(found, split, metric, iou_threshold=metric.iou_threshold)


def _at_an_iou(found: SplitDetections, split: EvaluationSplit, metric: Metric, *, iou_threshold: float) -> Matches:
    truth, count = split.ground_truth, len(found.classes)
    if metric.family == "proposal_recall":
        overlap = present(found.proposal_overlap, "overlaps of proposals", metric)
        return Shares(*covered_and_counted(truth, overlap, num_classes=count, iou_threshold=iou_threshold))
    boxes = present(found.top_boxes, "boxes", metric)
    if metric.family == "corloc":
        return _shares(*located_and_shown(truth, boxes, num_classes=count, iou_threshold=iou_threshold))
    curve: Curve = "11pt" if metric.family == "ap_11pt" else "area"
    return _detections(found, split, count=count, iou_threshold=iou_threshold, curve=curve)


def _detections(
    found: SplitDetections, split: EvaluationSplit, *, count: int, iou_threshold: float, curve: Curve
) -> RankedMatches:
    judged = judge_detections(split.ground_truth, found.detections, num_classes=count, iou_threshold=iou_threshold)
    return ranked_matches(judged, curve=curve)


def _shares(hits: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Shares:
    return Shares(hits=hits.astype(np.int64), counted=counted.astype(np.int64))
