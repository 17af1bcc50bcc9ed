"""A trial's pictures are there before its result is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments import worker
from experiments.executors.base import AttemptRequest
from experiments.slots import cpu_slots
from experiments.store import TrialPaths
from experiments.trial import signature
from wsol.boxes import Detections
from wsol.config import ExperimentConfig
from wsol.data import digits
from wsol.data.voc import read_evaluation_split
from wsol.detections import SplitDetections

CLASSES = tuple(f"digit_{digit}" for digit in range(10))


def found_nothing(images: int) -> SplitDetections:
    nothing = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, int))
    return SplitDetections(
        image_ids=tuple(f"val_{index}" for index in range(images)),
        classes=CLASSES,
        detections=(nothing,) * images,
        class_scores=np.zeros((images, 10), np.float32),
        points=np.zeros((images, 10, 2), np.float32),
        top_boxes=np.full((images, 10, 4), np.nan, np.float32),
    )


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_the_order(pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits.generate(tmp_path / "data", seed=0, train=10, val=6, test=0, image_px=32)
    config = {
        "task": "wsddn",
        "data": {"root": str(tmp_path / "data"), "classes": list(CLASSES)},
        "model": {"backbone": "tiny", "weights": "none"},
        "evaluate": {"pictures": pictures},
    }
    paths = TrialPaths(tmp_path / "trial")
    paths.folder.mkdir()
    slot = cpu_slots(1, cores=1)[0]
    identity = signature(ExperimentConfig.model_validate(config))
    request = AttemptRequest(number=0, signature=identity, attempt=1, config=config, folder=paths.folder, slot=slot)
    split = read_evaluation_split(tmp_path / "data", split="val", classes=CLASSES)
    result = SimpleNamespace(detections=found_nothing(6), metrics={}, split=split)
    monkeypatch.setattr("wsol.training.fit", lambda *args, **options: result)
    there: list[int] = []
    monkeypatch.setattr(
        worker,
        "write_result",
        lambda paths, result: there.append(len(list(paths.images.iterdir())) if paths.images.exists() else 0),
    )
    connection: Any = None
    worker._train(request, paths, connection)
    assert there == [3 * pictures]
