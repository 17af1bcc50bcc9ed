"""What the model of a trained trial finds in images that belong to no split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsol import checkpoint
from wsol.boxes import Detections
from wsol.build import Model, build_model, build_post_processing, build_unseen_data, evaluation_views
from wsol.checkpoint import CheckpointError
from wsol.config import ExperimentConfig
from wsol.data.batch import NEGATIVE, collate
from wsol.data.images import ImageRecord
from wsol.data.loader import ImageData
from wsol.data.transforms import View
from wsol.evaluation import (
    ImageScores,
    NonFinitePredictionError,
    PostProcessing,
    detections_of,
    eval_mode,
    score_images,
)
from wsol.heat_maps import min_max_scaled
from wsol.visualize import region_heat_map


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with everything that its predictions depend on.

    Attributes:
        model: on `device`.
        classes: C names.
        data: how images become samples; it has none itself.
        views: in which the model sees an image.
        post_processing: of its scores.
        device: of the model.
    """

    model: Model
    classes: tuple[str, ...]
    data: ImageData
    views: Sequence[View]
    post_processing: PostProcessing
    device: torch.device


@dataclass(frozen=True, eq=False)
class FoundInImage:
    """What is found in one image, in its pixels, 0-based and continuous.

    Attributes:
        class_scores: float32 (C,).
        detections: after score cut and NMS, best first, whatever the class; of equal scores the lower label first.
        heat_maps: of the classes with the best scores, best first: label -> float32 (h, w) in [0, 1] over the whole
            image.
    """

    class_scores: NDArray[np.float32]
    detections: Detections
    heat_maps: Mapping[int, NDArray[np.float32]]


def load_model(config: ExperimentConfig, checkpoint_dir: Path, *, device: torch.device) -> TrainedModel:
    """The model of a trial with its newest weights, those of its last epoch once it is complete.

    Raises:
        CheckpointError: where there is none, or it is of another model.
        DataError: where the data set that names the classes cannot be read.
        WeightsError: when the initial weights, which the checkpoint's replace, cannot be had.
    """
    saved = checkpoint.load_latest(checkpoint_dir)
    if saved is None:
        raise CheckpointError(
            f"got no checkpoint in {checkpoint_dir}; expected a trial that trained for an epoch and keeps its weights"
        )
    classes, data = build_unseen_data(config)
    model = build_model(config, num_classes=len(classes))
    try:
        model.load_state_dict(saved["model"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"got a checkpoint in {checkpoint_dir} that does not fit the trial's config and its {len(classes)} classes:"
            f" {error}"
        ) from error
    return TrainedModel(
        model=model.to(device),
        classes=classes,
        data=data,
        views=evaluation_views(config),
        post_processing=build_post_processing(config),
        device=device,
    )


def predict_images(trained: TrainedModel, images: Iterable[ImageRecord], *, top: int) -> Iterator[FoundInImage]:
    """What is found in each image, in the order given: the same as in an evaluation of the trial.

    Args:
        trained: the model.
        images: read one after the other. Proposals from a file are looked up by the image's id.
        top: heat maps of so many classes are made.

    Raises:
        DataError: for an image that cannot be read, or that a file of proposals lacks.
        CheckpointError: for weights that give NaN.
    """
    for image in images:
        scores = _scores(trained, image)
        found = detections_of(scores, trained.post_processing)
        best = np.argsort(-found.class_scores, kind="stable")[:top].tolist()
        yield FoundInImage(
            class_scores=found.class_scores,
            detections=_best_first(found.detections),
            heat_maps={label: _heat_map(scores, label) for label in best},
        )


def _scores(trained: TrainedModel, image: ImageRecord) -> ImageScores:
    unknown = np.full((1, len(trained.classes)), NEGATIVE, np.int8)  # a sample has labels; no prediction looks at them
    data = replace(trained.data, images=(image,), labels=unknown)
    seen = [(view, collate([data.sample(0, view)])) for view in trained.views]
    try:
        with eval_mode(trained.model), torch.inference_mode():
            (scores,) = score_images(
                trained.model, seen, device=trained.device, combine=trained.post_processing.combine
            )
    except NonFinitePredictionError as error:
        raise CheckpointError(str(error)) from error
    return scores


def _best_first(detections: Detections) -> Detections:
    order = np.argsort(-detections.scores, kind="stable")
    return Detections(boxes=detections.boxes[order], scores=detections.scores[order], labels=detections.labels[order])


def _heat_map(scores: ImageScores, label: int) -> NDArray[np.float32]:
    """A score map scaled to [0, 1]; without one, the region scores painted over their boxes."""
    if scores.heat_maps is not None:
        return min_max_scaled(scores.heat_maps[label].cpu().numpy()).astype(np.float32)
    return region_heat_map(
        scores.boxes.cpu().numpy(),
        scores.box_scores[:, label].cpu().numpy(),
        width=scores.width,
        height=scores.height,
    )
