"""A sweep's folder with trials as attempts leave them, written by hand: nothing is trained, nothing is scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.metrics_file import append_metrics, read_metrics
from experiments.spec import SweepSpec, load_spec
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.trial import TrialState
from wsol.boxes import Detections
from wsol.data.digits import CLASSES, generate
from wsol.data.voc import read_evaluation_split
from wsol.detections import SplitDetections, save_detections

EPOCHS = 3
SPEC = """\
name: written
question: Which learning rate?
experiment:
  task: wsddn
  data: {root: ROOT, eval: val}
  proposals: {source: grid}
  model: {backbone: tiny, weights: none}
  train: {epochs: 3}
  evaluate: {pictures: 1}
search:
  - grid: {train.lr: [0.001, 0.01], proposals.count: [10, 20]}
TRACKING
"""


class WrittenSweep:
    """A spec in a folder of its own, and trials of it in whatever state a test wants.

    Args:
        root: see `write_data`.
        tracking: what the spec says of it.
    """

    def __init__(self, folder: Path, root: Path, *, tracking: str = "tracking: {wandb: {}}") -> None:
        self.folder = folder
        self.file = folder / "written.yaml"
        self.file.write_text(SPEC.replace("ROOT", str(root)).replace("TRACKING", tracking))
        self.results = folder / "results"
        self.spec: SweepSpec = load_spec(self.file)
        self.store = SweepStore(self.results / self.spec.name)
        self._split = read_evaluation_split(root, split="val", classes=tuple(CLASSES))

    def begin(self, number: int) -> StoredTrial:
        """The spec's trial of that number."""
        plan = self.spec.plans[number]
        return self.store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"), code="s-p-d")

    def train(self, trial: StoredTrial, *, epochs: int) -> None:
        """So many more epochs."""
        before = len(read_metrics(trial.paths))
        for epoch in range(before + 1, before + epochs + 1):
            append_metrics(trial.paths, row(trial.number, epoch))

    def end(self, trial: StoredTrial, state: TrialState = TrialState.COMPLETE, reason: str = "") -> TrialResult:
        """With what it has trained."""
        rows = read_metrics(trial.paths)
        if state is TrialState.COMPLETE:
            save_detections(trial.paths.detections, self._detections(trial.number))
        metrics = rows[-1]["metrics"] if rows else {}
        result = TrialResult(
            trial.signature, state, reason, attempts=1, metrics=metrics, epochs=len(rows), duration_s=1.5 * len(rows)
        )
        write_result(trial.paths, result)
        return result

    def complete(self, numbers: Sequence[int] = range(4)) -> list[StoredTrial]:
        """These trials, trained to their ends."""
        trials = [self.begin(number) for number in numbers]
        for trial in trials:
            self.train(trial, epochs=EPOCHS)
            self.end(trial)
        return trials

    def _detections(self, seed: int) -> SplitDetections:
        rng = np.random.default_rng(seed)
        images, classes = len(self._split.images), len(CLASSES)
        boxes = np.array([[2, 2, 30, 30], [10, 10, 60, 40]], np.float32)  # the second one sticks out
        found = Detections(boxes=boxes, scores=np.array([0.9, 0.1], np.float32), labels=np.array([0, 1]))
        return SplitDetections(
            image_ids=tuple(image.id for image in self._split.images),
            classes=tuple(CLASSES),
            detections=(found,) * images,
            class_scores=rng.random((images, classes)).astype(np.float32),
            points=np.full((images, classes, 2), 5.0, np.float32),
            top_boxes=np.broadcast_to(boxes[0], (images, classes, 4)).copy(),
        )


def write_data(root: Path) -> None:
    """A data set of a few small images."""
    generate(root, seed=0, train=2, val=4, test=1, image_px=48)


def row(number: int, epoch: int) -> dict[str, Any]:
    """As a worker writes it. The last class is defined in no split."""
    values = {f"ap50_11pt/{name}": 0.1 * number + 0.01 * epoch + 0.001 * i for i, name in enumerate(CLASSES)}
    values[f"ap50_11pt/{CLASSES[-1]}"] = None  # type: ignore[assignment]
    mean = 0.1 * number + 0.01 * epoch
    return {
        "epoch": epoch,
        "loss": 1.0 / epoch,
        "lr": 0.1,
        "duration_s": 1.5,
        "time": 1_700_000_000.0 + epoch,
        "usage": {"device_bytes": 0, "host_bytes": 2_000_000_000, "step_s": 0.01},
        "metrics": {**values, "ap50_11pt/mean": mean},
    }
