"""From a config to the objects that it describes: the only place that unpacks an `ExperimentConfig`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from wsol.config import ExperimentConfig
from wsol.data.loader import Augmentation, BatchLoader, ImageData, ProposeBoxes, SelectedProposals, TwoSplits
from wsol.data.prepare import data_root, prepare, proposal_source, shared_proposals
from wsol.data.proposals import ProposalSource
from wsol.data.transforms import View
from wsol.data.voc import (
    EvaluationSplit,
    ImageLevelSplit,
    read_evaluation_split,
    read_image_level_split,
    resolve_classes,
)
from wsol.evaluation import PostProcessing
from wsol.metrics.names import metrics_of
from wsol.models.backbones import Backbone, build_backbone
from wsol.models.localizer import Localizer
from wsol.models.pooling import build_pooling
from wsol.models.refinement import Refinement
from wsol.models.regions import build_region_features
from wsol.models.score_map_layers import build_score_map_layers
from wsol.models.wsddn import SpatialRegularizer, TwoStreamHead, Wsddn
from wsol.optimization import build_groups, make_optimizer, make_schedule
from wsol.seeding import derive_seed

Model = Wsddn | Localizer


@dataclass(frozen=True)
class TrainingPlan:
    """What the training loop itself has to know of a trial.

    Attributes:
        seed: of everything random.
        epochs: in all.
        lr: learning rate at the start.
        accumulate: batches a step of the optimizer.
        checkpoint_every_epochs: a checkpoint is saved at the end of every so many; None where minutes say when.
        checkpoint_every_minutes: one is saved at the first step after so many; None where epochs say when.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        post_processing: of predictions.
        metrics: names of those that are measured.
        identity: the resolved config less what cannot change a result, as JSON values.
    """

    seed: int
    epochs: int
    lr: float
    accumulate: int
    checkpoint_every_epochs: int | None
    checkpoint_every_minutes: int | None
    evaluate_every: int
    post_processing: PostProcessing
    metrics: tuple[str, ...]
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
    number, unit = config.checkpoint.every.split()
    return TrainingPlan(
        seed=config.seed,
        epochs=config.train.epochs,
        lr=config.train.lr,
        accumulate=config.train.accumulate,
        checkpoint_every_epochs=int(number) if unit.startswith("epoch") else None,
        checkpoint_every_minutes=int(number) if unit.startswith("minute") else None,
        evaluate_every=config.evaluate.every,
        post_processing=build_post_processing(config),
        metrics=metrics_of(config.task, config.evaluate.metrics),
        identity=config.identity(),
    )


def build_post_processing(config: ExperimentConfig) -> PostProcessing:
    """What becomes of the scores of a trial's model."""
    evaluate = config.evaluate
    threshold = evaluate.score_threshold
    return PostProcessing(
        score_threshold=threshold if config.task == "wsddn" else _logit(threshold),
        nms_iou=evaluate.nms_iou,
        combine=evaluate.combine,
        box_threshold=evaluate.box_threshold,
        box_components=evaluate.box_components,
    )


def _logit(probability: float) -> float:
    """Where the scores are logits, a threshold for probabilities is one too."""
    if probability <= 0.0:
        return -math.inf
    return math.inf if probability >= 1.0 else math.log(probability / (1 - probability))


def build_data(config: ExperimentConfig, *, pin_memory: bool, images_at_a_time: int | None = None) -> TrialData:
    """Reads both splits and starts the loader processes.

    Args:
        config: of the trial.
        pin_memory: for training on a GPU, see `BatchLoader`.
        images_at_a_time: of evaluation, at most; None: as many as the config says.

    Raises:
        DataError: for a fault in the data; the message names the file.
    """
    root = data_root(config.data.root)
    classes = resolve_classes(root, config.data.classes, config.data.train)
    seen = read_image_level_split(root, split=config.data.train, classes=classes)
    measured = read_evaluation_split(root, split=config.data.eval, classes=classes)
    propose = _propose(config)
    train = config.train
    batches = BatchLoader(
        TwoSplits(
            training=_image_data(config, seen, propose),
            evaluation=_image_data(config, measured, propose),
        ),
        augmentation=Augmentation(scales_px=train.scales_px, flip=train.flip, rescale=train.rescale, seed=config.seed),
        evaluation_views=evaluation_views(config),
        batch_size=train.batch_size,
        evaluation_batch_size=min(config.evaluate.batch_size, images_at_a_time or config.evaluate.batch_size),
        seed=config.seed,
        workers=config.data.workers,
        pin_memory=pin_memory,
    )
    return TrialData(classes=classes, batches=batches, evaluation=measured)


def build_unseen_data(config: ExperimentConfig) -> tuple[tuple[str, ...], ImageData]:
    """The classes of a trial, and how images that belong to no split become samples for it; it has none itself.

    Raises:
        DataError: where the data set that names the classes cannot be read.
    """
    classes = resolve_classes(data_root(config.data.root), config.data.classes, config.data.train)
    nothing = ImageLevelSplit(name="", classes=classes, images=(), labels=np.zeros((0, len(classes)), np.int8))
    return classes, _image_data(config, nothing, _propose(config))


def build_model(config: ExperimentConfig, *, num_classes: int) -> Model:
    """A model with its initial weights, on the CPU. Random ones depend on the seed alone.

    Raises:
        ValueError: for a backbone that cannot be used.
        WeightsError: when weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, "weights"))
        return _localizer(config, num_classes) if config.task == "localizer" else _wsddn(config, num_classes)


def _backbone(config: ExperimentConfig) -> Backbone:
    model = config.model
    return build_backbone(
        name=model.backbone,
        weights=model.weights,
        freeze=model.freeze,
        freeze_batchnorm=model.freeze_batchnorm,
        stride=model.stride,
        pad_square=config.train.pad_square,
    )


def _localizer(config: ExperimentConfig, num_classes: int) -> Localizer:
    model = config.model
    backbone = _backbone(config)
    layers = build_score_map_layers(
        model.head,
        backbone=backbone,
        maps=num_classes * model.maps_per_class,
        hidden_channels=model.hidden_channels,
        fc_dim=model.fc_dim,
        dropout=model.dropout,
    )
    pooling = build_pooling(
        model.pooling,
        lse_r=model.lse_r,
        topk=model.topk,
        wildcat_k_max=model.wildcat_k_max,
        wildcat_k_min=model.wildcat_k_min,
        wildcat_alpha=model.wildcat_alpha,
        generalized_mean_r=model.generalized_mean_r,
        gwrp_decay=model.gwrp_decay,
        attention_dim=model.attention_dim,
        attention_gated=model.attention_gated,
        in_channels=layers.feature_channels,
    )
    return Localizer(
        backbone=backbone,
        num_classes=num_classes,
        layers=layers,
        pooling=pooling,
        smoothing=model.map_smoothing,
        map_dropout=model.map_dropout,
    )


def _wsddn(config: ExperimentConfig, num_classes: int) -> Wsddn:
    model, train = config.model, config.train
    backbone = _backbone(config)
    regions = build_region_features(
        backbone=backbone,
        roi_op=model.roi_op,
        roi_size=model.roi_size,
        fc_dim=model.fc_dim,
        dropout=model.dropout,
        box_scores=model.box_scores,
        rings=model.context == "contrastive",
    )
    head = TwoStreamHead(
        in_features=regions.out_features,
        num_classes=num_classes,
        temperature=model.detection_temperature,
        size_prior=model.size_prior,
        contrastive=model.context == "contrastive",
    )
    refinement = Refinement(
        in_features=regions.out_features,
        num_classes=num_classes,
        count=model.refinement,
        foreground_iou=model.refinement_foreground_iou,
        ignore_iou=model.refinement_ignore_iou,
    )
    spatial = SpatialRegularizer(weight=train.spatial_weight, iou=train.spatial_iou, top=train.spatial_top)
    return Wsddn(
        backbone=backbone,
        num_classes=num_classes,
        regions=regions,
        head=head,
        refinement=refinement if model.refinement else None,
        spatial=spatial if train.spatial_weight else None,
    )


def build_optimizer(
    config: ExperimentConfig, model: nn.Module, *, batches_per_epoch: int
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer of what trains in `model`, and its schedule, to be stepped after each step of the optimizer."""
    train = config.train
    groups = build_groups(
        model,
        lr=train.lr,
        weight_decay=train.weight_decay,
        backbone_factor=train.backbone_lr_factor,
        head_factor=train.head_lr_factor,
        refinement_factor=train.refinement_lr_factor,
        bias_factor=train.bias_lr_factor,
    )
    optimizer = make_optimizer(train.optimizer, groups, momentum=train.momentum)
    schedule = make_schedule(
        optimizer,
        steps_per_epoch=math.ceil(batches_per_epoch / train.accumulate),
        epochs=train.epochs,
        schedule=train.lr_schedule,
        milestones=train.lr_milestones,
        step_epochs=train.lr_step_epochs,
        gamma=train.lr_gamma,
        warmup_steps=train.warmup_steps,
    )
    return optimizer, schedule


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
        needs_scores=config.model.box_scores != "none",
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


def evaluation_views(config: ExperimentConfig) -> list[View]:
    """How each evaluation image is shown: at every scale, and mirrored too with `evaluate.flip`.

    Without scales of its own, at the median of the training scales (of an even number the upper one).
    """
    scales = config.evaluate.scales_px or (statistics.median_high(config.train.scales_px),)
    flips = (False, True) if config.evaluate.flip else (False,)
    return [View(scale_px=scale, flip=flip) for flip in flips for scale in scales]
