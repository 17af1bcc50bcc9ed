"""From a config to the objects that it describes: the only place that unpacks an `ExperimentConfig`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from wsol.config import ExperimentConfig
from wsol.data.loader import Augmentation, BatchLoader, ImageData, ProposeBoxes, SelectedProposals, TwoSplits
from wsol.data.prepare import data_root, prepare, proposal_source, shared_proposals
from wsol.data.proposals import ProposalSource
from wsol.data.voc import (
    EvaluationSplit,
    ImageLevelSplit,
    read_evaluation_split,
    read_image_level_split,
    resolve_classes,
)
from wsol.evaluation import PostProcessing
from wsol.models.backbones import build_backbone
from wsol.models.localizer import Localizer
from wsol.models.pooling import build_pooling
from wsol.models.wsddn import Wsddn
from wsol.seeding import derive_seed

Model = Wsddn | Localizer


@dataclass(frozen=True)
class TrainingPlan:
    """What the training loop itself has to know of a trial.

    Attributes:
        seed: of everything random.
        epochs: in all.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        post_processing: of predictions.
        identity: the resolved config less what cannot change a result, as JSON values.
    """

    seed: int
    epochs: int
    evaluate_every: int
    post_processing: PostProcessing
    identity: dict[str, Any]


@dataclass(frozen=True)
class TrialData:
    """The data of a trial.

    Attributes:
        classes: in label order.
        batches: of both splits. It holds no ground truth.
        evaluation: the split that is measured.
    """

    classes: tuple[str, ...]
    batches: BatchLoader
    evaluation: EvaluationSplit


def prepare_data(
    configs: Iterable[ExperimentConfig], *, workers: int, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Makes and checks what trials of these configs share, once for all that share it.

    See `wsol.data.prepare.prepare`.
    """
    done = set()
    for config in configs:
        source = _proposal_source(config)
        data = config.data
        shared = (data.root, data.train, data.eval, data.classes, source.key if source is not None else None)
        if shared in done:
            continue
        done.add(shared)
        prepare(
            root=data.root,
            train=data.train,
            evaluate=data.eval,
            classes=data.classes,
            source=source,
            workers=workers,
            on_progress=on_progress,
        )


def build_plan(config: ExperimentConfig) -> TrainingPlan:
    """The plan of a trial."""
    return TrainingPlan(
        seed=config.seed,
        epochs=config.train.epochs,
        evaluate_every=config.evaluate.every,
        post_processing=PostProcessing(
            score_threshold=config.evaluate.score_threshold,
            nms_iou=config.evaluate.nms_iou,
            gives_boxes=config.task == "wsddn",
        ),
        identity=config.identity(),
    )


def build_data(config: ExperimentConfig, *, pin_memory: bool) -> TrialData:
    """Reads both splits and starts the loader processes.

    Args:
        config: of the trial.
        pin_memory: for training on a GPU, see `BatchLoader`.

    Raises:
        DataError: for a fault in the data; the message names the file.
    """
    root = data_root(config.data.root)
    classes = resolve_classes(root, config.data.classes, config.data.train)
    seen = read_image_level_split(root, split=config.data.train, classes=classes)
    measured = read_evaluation_split(root, split=config.data.eval, classes=classes)
    propose = _propose(config)
    batches = BatchLoader(
        TwoSplits(
            training=_image_data(config, seen, propose),
            evaluation=_image_data(config, measured, propose),
            augmentation=Augmentation(scales_px=config.train.scales_px, flip=config.train.flip, seed=config.seed),
            evaluation_scale_px=_evaluation_scale_px(config),
        ),
        batch_size=config.train.batch_size,
        evaluation_batch_size=config.evaluate.batch_size,
        seed=config.seed,
        workers=config.data.workers,
        pin_memory=pin_memory,
    )
    return TrialData(classes=classes, batches=batches, evaluation=measured)


def build_model(config: ExperimentConfig, *, num_classes: int) -> Model:
    """A model with its initial weights, on the CPU. Random ones depend on the seed alone.

    Raises:
        ValueError: for a backbone that cannot be used.
        WeightsError: when weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, "weights"))
        backbone = build_backbone(
            name=config.model.backbone,
            weights=config.model.weights,
            freeze=config.model.freeze,
            freeze_batchnorm=config.model.freeze_batchnorm,
        )
        if config.task == "localizer":
            return Localizer(
                backbone=backbone,
                num_classes=num_classes,
                hidden_channels=config.model.hidden_channels,
                dropout=config.model.dropout,
                pooling=build_pooling(config.model.pooling),
            )
        return Wsddn(
            backbone=backbone,
            num_classes=num_classes,
            roi_op=config.model.roi_op,
            roi_size=config.model.roi_size,
            fc_dim=config.model.fc_dim,
            dropout=config.model.dropout,
        )


def build_optimizer(config: ExperimentConfig, model: nn.Module) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of what trains in `model`, and its schedule, to be stepped after each epoch.

    Weight decay is for weights: neither for biases nor for the scales of normalization layers.
    """
    train = config.train
    optimizer = _optimizer(
        train.optimizer, _parameter_groups(model, weight_decay=train.weight_decay), lr=train.lr, momentum=train.momentum
    )
    return optimizer, MultiStepLR(optimizer, milestones=list(train.lr_milestones), gamma=train.lr_gamma)


def _optimizer(
    name: Literal["sgd", "adam", "adamw"], groups: list[dict[str, Any]], *, lr: float, momentum: float
) -> Optimizer:
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum)
    return (Adam if name == "adam" else AdamW)(groups, lr=lr)


def _parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that train: those that decay, and those that do not. Empty groups are left out."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Weights are matrices and filters. Biases, and the scales of BatchNorm, LayerNorm and GroupNorm, are vectors.
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _proposal_source(config: ExperimentConfig) -> ProposalSource | None:
    if config.task == "localizer":
        return None
    proposals = config.proposals
    return proposal_source(
        source=proposals.source,
        quality=proposals.quality,
        resize_px=proposals.resize_px,
        file=proposals.file,
        grid_scales=proposals.grid_scales,
        grid_aspect_ratios=proposals.grid_aspect_ratios,
        grid_stride=proposals.grid_stride,
    )


def _propose(config: ExperimentConfig) -> ProposeBoxes | None:
    source = _proposal_source(config)
    if source is None:
        return None
    return SelectedProposals(
        propose=shared_proposals(source).get,
        count=config.proposals.count,
        min_size_px=config.proposals.min_size_px,
        seed=config.seed,
    )


def _image_data(
    config: ExperimentConfig, split: ImageLevelSplit | EvaluationSplit, propose: ProposeBoxes | None
) -> ImageData:
    """Only what both kinds of split have: of an evaluation split, not its boxes."""
    return ImageData(
        images=split.images,
        labels=split.labels,
        propose=propose,
        resize=config.train.resize,
        max_side_px=config.train.max_side_px,
    )


def _evaluation_scale_px(config: ExperimentConfig) -> int:
    """The median of the training scales (of an even number the upper one), unless the config says otherwise."""
    return config.evaluate.scale_px or statistics.median_high(config.train.scales_px)
