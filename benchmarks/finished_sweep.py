"""Makes the folder of a sweep that is finished, of any size, without training: data, trials, detections, results.

Run: `python benchmarks/finished_sweep.py FOLDER [--configurations 125] [--seeds 4] [--images 400]`. It leaves
FOLDER/sweep.yaml and FOLDER/results, to be reported from inside FOLDER. A configuration has a quality, a seed adds to
it, and some images are hard for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.metrics_file import append_metrics
from experiments.spec import SweepSpec, load_spec
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.trial import TrialPlan, TrialState
from wsol.boxes import Detections, GroundTruth
from wsol.data.voc import VOC_CLASSES, EvaluationSplit, read_evaluation_split
from wsol.detections import SplitDetections, measure, save_detections
from wsol.metrics.names import metrics_of

SIDE_PX = 300
EPOCHS = 5
PROPOSALS = 300
SPEC = """\
name: sweep
question: Which learning rate suits?
experiment:
  task: wsddn
  data: {{root: {data}, train: train, eval: val, classes: [{classes}]}}
  proposals: {{source: grid}}
  model: {{backbone: tiny, weights: none}}
  train: {{epochs: {epochs}}}
search:
  - grid:
      train.lr: {{logspace: [1.0e-6, 1.0e-2, {rates}]}}
      train.weight_decay: [{decays}]
seeds: {seeds}
"""


@dataclass(frozen=True)
class Size:
    """How large a sweep is. There are `rates` times `decays` configurations."""

    rates: int = 25
    decays: int = 5
    seeds: int = 4
    images: int = 400
    classes: int = len(VOC_CLASSES)
    detections_per_image: int = 40


def make(folder: Path, size: Size) -> tuple[SweepSpec, SweepStore]:
    """Writes everything; the same arguments give the same files."""
    classes = VOC_CLASSES[: size.classes]
    write_data(folder / "data", np.random.default_rng(0), size, classes)
    file = folder / "sweep.yaml"
    decays = ", ".join(f"{(index + 1) * 1e-4:g}" for index in range(size.decays))
    text = SPEC.format(
        data=folder / "data",
        classes=", ".join(classes),
        epochs=EPOCHS,
        rates=size.rates,
        decays=decays,
        seeds=size.seeds,
    )
    file.write_text(text)
    spec = load_spec(file)
    store = SweepStore(folder / "results" / spec.name)
    split = read_evaluation_split(folder / "data", split="val", classes=classes)
    qualities = np.random.default_rng(1).normal(0, 0.5, size.rates * size.decays)
    hard = np.random.default_rng(2).normal(0, 1, len(split.images))
    for number, plan in enumerate(spec.plans):
        rng = np.random.default_rng([3, number])
        quality = qualities[number // size.seeds] + rng.normal(0, 0.1)
        trial = store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"))
        found = detections(rng, split, quality - hard, per_image=size.detections_per_image)
        write_trial(trial, plan, found, split)
    return spec, store


def write_trial(trial: StoredTrial, plan: TrialPlan, found: SplitDetections, split: EvaluationSplit) -> None:
    """A complete trial's detections, epochs and result."""
    save_detections(trial.paths.detections, found)
    metrics = measure(found, split, metrics=metrics_of("wsddn"))
    for epoch in range(1, EPOCHS + 1):
        known = {name: None if value is None else value * epoch / EPOCHS for name, value in metrics.items()}
        append_metrics(
            trial.paths,
            {
                "epoch": epoch,
                "loss": 3.0 / epoch,
                "lr": 0.001,
                "duration_s": 2.0,
                "time": 100.0 * epoch,
                "metrics": known,
            },
        )
    result = TrialResult(plan.signature, TrialState.COMPLETE, "", 1, metrics, EPOCHS, 2.0 * EPOCHS)
    write_result(trial.paths, replace(result, config=plan.config.model_dump(mode="json")))


def detections(
    rng: np.random.Generator, split: EvaluationSplit, quality: Sequence[float] | np.ndarray, *, per_image: int
) -> SplitDetections:
    """Of each object a box that fits the better, and scores the higher, the better the image's quality; and others."""
    images, classes = len(split.images), len(split.classes)
    scores = rng.normal(0, 1, (images, classes)).astype(np.float32) + (split.labels == 1) * np.float32(2)
    points = rng.uniform(0, SIDE_PX, (images, classes, 2)).astype(np.float32)
    top = random_boxes(rng, images * classes).reshape(images, classes, 4)
    found = []
    for index, truth in enumerate(split.ground_truth):
        near = truth.boxes + rng.normal(0, 12 * np.exp(-quality[index] / 2), truth.boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        top[index, truth.labels] = near
        points[index, truth.labels] = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
        far = random_boxes(rng, per_image - len(near))
        found.append(
            Detections(
                boxes=np.vstack([near, far]).astype(np.float32),
                scores=np.concatenate(
                    [rng.normal(1 + quality[index], 1, len(near)), rng.normal(0, 1, len(far))]
                ).astype(np.float32),
                labels=np.concatenate([truth.labels, rng.integers(0, classes, len(far))]),
            )
        )
    overlap = rng.uniform(0.3, 1, sum(len(truth.labels) for truth in split.ground_truth)).astype(np.float32)
    ids = tuple(record.id for record in split.images)
    return SplitDetections(ids, split.classes, tuple(found), scores, points, top, proposal_overlap=overlap)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 (count, 4)."""
    corners = rng.uniform(0, SIDE_PX, (count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).clip(0, SIDE_PX)


def write_data(folder: Path, rng: np.random.Generator, size: Size, classes: Sequence[str]) -> None:
    """A folder in VOC layout: every image is the same picture, with annotations of its own."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    Image.new("L", (SIDE_PX, SIDE_PX), 128).save(folder / "picture.jpg")
    picture = (folder / "picture.jpg").read_bytes()
    ids = [f"{index:06d}" for index in range(size.images)]
    for index, name in enumerate(ids):
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(picture)
        shown = [index % len(classes), *rng.choice(len(classes), int(rng.integers(0, 2)))]
        truth = GroundTruth(
            boxes=random_boxes(rng, len(shown)), labels=np.array(shown), difficult=np.zeros(len(shown), np.bool_)
        )
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(truth, classes))
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


def annotation(truth: GroundTruth, classes: Sequence[str]) -> str:
    """VOC's XML."""
    objects = []
    for (x1, y1, x2, y2), label in zip(truth.boxes.astype(int).tolist(), truth.labels.tolist(), strict=True):
        box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        objects.append(f"<object><name>{classes[label]}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    size = f"<size><width>{SIDE_PX}</width><height>{SIDE_PX}</height><depth>1</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>\n"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configurations", type=int, default=125, help="a multiple of 5")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    size = Size(rates=options.configurations // 5, seeds=options.seeds, images=options.images)
    spec, store = make(options.folder.absolute(), size)
    print(f"{len(spec.plans)} trials in {store.folder}")


if __name__ == "__main__":
    main()
