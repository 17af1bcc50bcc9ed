"""What runs in the process of `runner.py predict`. A door to torch, like the worker."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.child_process import failure_kind, lead_a_session, one_line, send_warnings
from experiments.executors.base import AttemptError

if TYPE_CHECKING:
    from wsol.prediction import FoundInImage


@dataclass(frozen=True)
class PredictionRequest:
    """What a trial's model is to look at.

    Attributes:
        config: the resolved ExperimentConfig as plain values.
        checkpoint: folder of the trial's checkpoints.
        images: each with the .png file that its picture becomes.
        top: a heat map is drawn for so many classes an image.
        use_gpu: the first visible GPU instead of the CPU.
    """

    config: Mapping[str, Any]
    checkpoint: Path
    images: Sequence[tuple[Path, Path]]
    top: int
    use_gpu: bool


@dataclass(frozen=True)
class Predicted:
    """What was found in one image, as JSON values.

    Attributes:
        class_scores: class -> score; None for one that is infinite.
        detections: best first, each with class, score and box: x1 y1 x2 y2 in pixels, 0-based, to 2 decimals.
    """

    class_scores: Mapping[str, float | None]
    detections: Sequence[Mapping[str, Any]]


def run_prediction(request: PredictionRequest, connection: Connection) -> None:
    """The whole life of the process that predicts. It writes the pictures and nothing else.

    Args:
        connection: takes one `Predicted` an image, in the order of the request, once its picture is written; warnings
            as text, and at most one `AttemptError`.
    """
    lead_a_session()
    os.dup2(2, 1)  # the runner's output is one JSON document
    send_warnings("wsol", connection)
    try:
        _predict(request, connection)
    except Exception as error:
        connection.send(AttemptError(kind=failure_kind(error), message=one_line(error), details=traceback.format_exc()))


def _predict(request: PredictionRequest, connection: Connection) -> None:
    import torch

    from wsol.config import ExperimentConfig
    from wsol.data.images import ImageRecord, read_image
    from wsol.pictures import draw_prediction, save_picture
    from wsol.prediction import load_model, predict_images

    config = ExperimentConfig.model_validate(dict(request.config))
    device = torch.device("cuda:0" if request.use_gpu else "cpu")
    trained = load_model(config, request.checkpoint, device=device)
    records = [ImageRecord(id=image.stem, path=image) for image, _ in request.images]
    found_in_each = predict_images(trained, records, top=request.top)
    for record, (_, picture), found in zip(records, request.images, found_in_each, strict=True):
        drawn = draw_prediction(
            read_image(record),
            found.detections,
            trained.classes,
            heat_maps=found.heat_maps,
            class_scores=found.class_scores,
            caption=f"{record.path.name} - {request.checkpoint.parent.name}",
        )
        save_picture(picture, drawn)
        connection.send(_predicted(found, trained.classes))


def _predicted(found: FoundInImage, classes: Sequence[str]) -> Predicted:
    detections = found.detections
    values = zip(
        detections.labels.tolist(), detections.scores.tolist(), detections.boxes.astype(float).tolist(), strict=True
    )
    return Predicted(
        class_scores={
            name: score if math.isfinite(score) else None
            for name, score in zip(classes, found.class_scores.tolist(), strict=True)
        },
        detections=[
            {"class": classes[label], "score": score, "box": [round(corner, 2) for corner in box]}
            for label, score, box in values
        ],
    )
