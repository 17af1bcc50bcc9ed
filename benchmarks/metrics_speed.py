"""How fast detection is evaluated: 4,952 images x 20 classes x 100 detections, on one core.

Prints the seconds for the whole set and, on a part of it, the ratio to a loop of the kind that
py-faster-rcnn's lib/datasets/voc_eval.py made common. Seconds are those of the processor: what one
core needs, however busy the machine. Run: `python benchmarks/metrics_speed.py`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from wsol.boxes import Detections, GroundTruth
from wsol.metrics.average_precision import average_precision_11pt, average_precision_area, detection_average_precision

NUM_CLASSES = 20
IMAGE_SIDE_PX = 500
DETECTIONS_PER_CLASS = 100
REFERENCE_IMAGES = 500


def make_image(rng: np.random.Generator) -> tuple[GroundTruth, Detections]:
    """VOC 2007 test has 3 objects an image of 1.5 classes; a quarter of the detections of these lie near one."""
    shown = rng.choice(NUM_CLASSES, size=rng.integers(1, 3), replace=False)
    labels = rng.choice(shown, size=rng.integers(1, 6))
    truth = GroundTruth(boxes=random_boxes(rng, len(labels)), labels=labels, difficult=rng.random(len(labels)) < 0.2)
    found_labels = np.repeat(np.arange(NUM_CLASSES), DETECTIONS_PER_CLASS)
    boxes = random_boxes(rng, len(found_labels))
    for box, label in zip(truth.boxes, labels, strict=True):
        near = rng.choice(np.flatnonzero(found_labels == label), size=DETECTIONS_PER_CLASS // 4)
        boxes[near] = box + rng.normal(scale=20, size=(len(near), 4))
    scores = rng.random(len(found_labels), dtype=np.float32)
    return truth, Detections(boxes=boxes, scores=scores, labels=found_labels)


def random_boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    corners = rng.uniform(0, IMAGE_SIDE_PX, size=(count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def loop_over_detections(
    ground_truth: Sequence[GroundTruth], detections: Sequence[Detections]
) -> npt.NDArray[np.float64]:
    """Both APs per class `(2, C)`, one class and one detection at a time."""
    result = np.full((2, NUM_CLASSES), np.nan)
    for label in range(NUM_CLASSES):
        truth_boxes = [truth.boxes[truth.labels == label].astype(float) for truth in ground_truth]
        difficult = [truth.difficult[truth.labels == label] for truth in ground_truth]
        used = [np.zeros(len(boxes), bool) for boxes in truth_boxes]
        images = np.concatenate([[i] * int((d.labels == label).sum()) for i, d in enumerate(detections)]).astype(int)
        scores = np.concatenate([d.scores[d.labels == label] for d in detections])
        boxes = np.concatenate([d.boxes[d.labels == label] for d in detections]).astype(float)
        order = np.argsort(-scores, kind="stable")
        flags = np.zeros((2, len(order)), bool)
        for rank, index in enumerate(order):
            image = images[index]
            verdict = judge_detection(boxes[index], truth_boxes[image], difficult[image], used[image])
            if verdict is not None:
                flags[0 if verdict else 1, rank] = True
        positives = sum(int((~flag).sum()) for flag in difficult)
        if positives:
            result[0, label] = average_precision_11pt(flags[0], flags[1], positives)
            result[1, label] = average_precision_area(flags[0], flags[1], positives)
    return result


def judge_detection(
    box: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float64],
    difficult: npt.NDArray[np.bool_],
    used: npt.NDArray[np.bool_],
) -> bool | None:
    """True positive, false positive, or None for ignored; marks the object as used."""
    if not len(truth):
        return False
    width = np.maximum(np.minimum(truth[:, 2], box[2]) - np.maximum(truth[:, 0], box[0]), 0.0)
    height = np.maximum(np.minimum(truth[:, 3], box[3]) - np.maximum(truth[:, 1], box[1]), 0.0)
    areas = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
    area = max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
    overlaps = width * height / (areas + area - width * height)
    best = int(np.argmax(overlaps))
    if overlaps[best] < 0.5:
        return False
    if difficult[best]:
        return None
    found_before = bool(used[best])
    used[best] = True
    return not found_before


def cpu_seconds(function: Callable[[], object], *, repeats: int) -> float:
    """The shortest of some repeats: the one that other processes disturbed least."""
    durations = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        durations.append(time.process_time() - start)
    return min(durations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4952, help="default: %(default)s, as in VOC 2007 test")
    images = parser.parse_args().images
    rng = np.random.default_rng(0)
    made = [make_image(rng) for _ in range(images)]
    truth, found = [image[0] for image in made], [image[1] for image in made]
    total = sum(len(one.labels) for one in found)
    print(f"{images} images, {NUM_CLASSES} classes, {total / 1e6:.1f} M detections")
    whole_s = cpu_seconds(lambda: detection_average_precision(truth, found, num_classes=NUM_CLASSES), repeats=3)
    print(f"evaluated in {whole_s:.2f} s")

    truth, found = truth[:REFERENCE_IMAGES], found[:REFERENCE_IMAGES]
    fast_s = cpu_seconds(lambda: detection_average_precision(truth, found, num_classes=NUM_CLASSES), repeats=3)
    start = time.process_time()
    expected = loop_over_detections(truth, found)
    loop_s = time.process_time() - start
    ap = detection_average_precision(truth, found, num_classes=NUM_CLASSES)
    difference = np.nanmax(np.abs(np.stack([ap.ap_11pt, ap.ap_area]) - expected))
    print(f"on {len(found)} of the images: {fast_s:.2f} s, loop over detections {loop_s:.2f} s")
    print(f"ratio {loop_s / fast_s:.1f}, largest difference of an AP {difference:.1e}")


if __name__ == "__main__":
    main()
