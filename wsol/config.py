"""Every key a trial can have: typed, with default, range and unit. Imports no torch.

A config is what a trial *is*: two trials with equal configs give equal results, so a key that
cannot change a result (`RESULT_NEUTRAL_KEYS`) is left out of the trial's signature.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wsol.backbone_names import BACKBONE_STAGES, check_backbone_name
from wsol.key_reads import Except, ReadWhen
from wsol.metrics.names import parse_metric

RESULT_NEUTRAL_KEYS = frozenset({"data.workers", "evaluate.pictures", "checkpoint.every"})
"""Keys that cannot change a result, as dotted paths. They are no part of a signature."""


DIGITS_ROOT = "digits"
"""`data.root` of the generated data set."""


def _list_to_tuple(value: Any) -> Any:
    """YAML has lists, a frozen config has tuples; strict validation would refuse the former."""
    return tuple(value) if isinstance(value, list) else value


_FromList = BeforeValidator(_list_to_tuple)
Scale = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
CountOrFraction = PositiveInt | OpenFraction
"""A whole number of cells, or a fraction of them below 1. (1 is one cell; 1.0 is refused, since it looks like both.)"""


# Which trials read a key; one without such a marker is read by all. tests/wsol/test_key_reads.py proves each of them.
_WSDDN, _LOCALIZER = {"task": "wsddn"}, {"task": "localizer"}
_WSDDN_ONLY, _LOCALIZER_ONLY = ReadWhen(_WSDDN), ReadWhen(_LOCALIZER)
_SEARCH = ReadWhen({**_WSDDN, "proposals.source": "selective_search"})
_GRID = ReadWhen({**_WSDDN, "proposals.source": "grid"})
_FILE = ReadWhen({**_WSDDN, "proposals.source": "file"})
_REFINED = ReadWhen({**_WSDDN, "model.refinement": Except(0)})
_SPATIAL = ReadWhen({**_WSDDN, "train.spatial_weight": Except(0)})
_SEVERAL_VIEWS = ReadWhen({**_WSDDN, "evaluate.flip": True}, {**_WSDDN, "evaluate.scales_px": Except(None)})
_HIDDEN_LAYERS = {"model.head": Except("linear")}
_NEGATIVE_EVIDENCE = ReadWhen({**_LOCALIZER, "model.pooling": "wildcat", "model.wildcat_alpha": Except(0)})
_STEPPED = ReadWhen({"train.lr_schedule": "step"}, {"train.lr_milestones": Except(())})
# To freeze all stages of a backbone is to freeze all of it. What layers and stages a timm model has is not known here.
_FOUR_STAGES, _FIVE_STAGES = {"model.freeze": Except("all", 4)}, {"model.freeze": Except("all", 5)}
_OF_TIMM = {"model.backbone": Except(*BACKBONE_STAGES), "model.freeze": Except("all")}
_BATCHNORM_TRAINS = ReadWhen({"model.backbone": ("resnet18", "resnet50"), **_FOUR_STAGES}, _OF_TIMM)
_BACKBONE_TRAINS = ReadWhen(
    {"model.backbone": ("tiny", "resnet18", "resnet50"), **_FOUR_STAGES},
    {"model.backbone": ("alexnet", "vgg16"), **_FIVE_STAGES},
    _OF_TIMM,
)
# A wsddn's config is refused where it has another width than its pretrained fc6 and fc7; a localizer's passes by its.
_OQUAB = {"model.head": "oquab"}
_FC_LAYERS = ReadWhen(
    _WSDDN,
    {**_OQUAB, "model.backbone": Except("alexnet", "vgg16")},
    {**_OQUAB, "model.weights": Except("imagenet")},  # a file may lack them
)


def _pooling(name: str) -> ReadWhen:
    return ReadWhen({**_LOCALIZER, "model.pooling": name})


class _Section(BaseModel):
    """Strict (no "3" for 3, no 1 for true), closed (no unknown key), frozen, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Section):
    """The images, and which of them train and evaluate."""

    root: Annotated[str, Field(min_length=1)]
    """A folder in VOC layout (JPEGImages, Annotations, ImageSets/Main), or `digits` for the generated data set."""
    train: Annotated[str, Field(min_length=1)] = "train"
    """Split for training: a file name in ImageSets/Main, less `.txt`."""
    eval: Annotated[str, Field(min_length=1)] = "val"
    """Split for evaluation after every `evaluate.every` epochs."""
    classes: Literal["voc", "auto"] | Annotated[tuple[str, ...], _FromList, Field(min_length=1)] = "auto"
    """`voc` (the 20 of PASCAL VOC), `auto` (those of the training split, sorted) or a list."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Data-loader processes a trial; 0 loads in the trial's own process. Cannot change a result."""

    @field_validator("classes")
    @classmethod
    def _check_class_names(cls, classes: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(classes, tuple):
            check_class_names(classes)
        return classes


def check_class_names(classes: tuple[str, ...]) -> None:
    """Refuses class lists that could not be told apart in flat metric names (`<metric>/<class>`).

    Raises:
        ValueError: for a duplicate, an empty or unprintable name, or the reserved name `mean`.
    """
    for name in classes:
        if not name.strip() or not name.isprintable():
            raise ValueError(f"expected class names of printable characters that are not empty, got {name!r}")
        if name == "mean":
            raise ValueError("expected another name for class 'mean': <metric>/mean is the mean over classes")
        if classes.count(name) > 1:
            raise ValueError(f"expected each class once, class {name!r} is listed twice")


class ProposalsConfig(_Section):
    """Class-agnostic boxes. Used by `task: wsddn`."""

    source: Annotated[Literal["selective_search", "grid", "file"], _WSDDN_ONLY] = "selective_search"
    """`file`: the published MATLAB files or .npz, see `file`."""
    quality: Annotated[Literal["fast", "quality"], _SEARCH] = "fast"
    """Selective search's mode."""
    resize_px: Annotated[PositiveInt | None, _SEARCH] = None
    """Selective search runs on the image resized to this longer side (boxes are scaled back); null: as it is."""
    file: Annotated[Annotated[str, Field(min_length=1)] | None, _FILE] = None
    """.mat or .npz with the boxes of every image of both splits, for `source: file`."""
    count: Annotated[PositiveInt | None, _WSDDN_ONLY] = 2000
    """At most so many an image: the best where the source has scores, else a seeded random subset; null: all."""
    min_size_px: Annotated[float, Field(ge=0.0), _WSDDN_ONLY] = 20.0
    """Proposals with a shorter side below this are dropped, in pixels of the original image."""
    grid_scales: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], _FromList, Field(min_length=1), _GRID
    ] = (0.25, 0.5, 0.75)
    """Window sizes for `source: grid`: square root of the window's area over that of the image."""
    grid_aspect_ratios: Annotated[tuple[Scale, ...], _FromList, Field(min_length=1), _GRID] = (0.5, 1.0, 2.0)
    """Window width / height, relative to that of the image."""
    grid_stride: Annotated[float, Field(gt=0.0, le=1.0), _GRID] = 0.25
    """Step between windows, as a fraction of the window's side."""

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        if self.source == "file" and self.file is None:
            raise ValueError("expected proposals.file (a .mat or .npz) with proposals.source: file")
        if self.source != "file" and self.file is not None:
            raise ValueError(f"expected no proposals.file with proposals.source: {self.source}")
        return self


class ModelConfig(_Section):
    """Backbone and head."""

    backbone: str = "alexnet"
    """tiny, alexnet, vgg16, resnet18, resnet50 (torchvision), or timm/<model> with a feature map of stride 16."""
    weights: Annotated[str, Field(min_length=1)] = "imagenet"
    """`imagenet` (downloaded by torchvision or timm), `none` (random), or a .pth or .safetensors file."""
    freeze: Literal["none", "all"] | PositiveInt = "none"
    """So many of the backbone's stages, from the image up, do not train; `all`: all of them. The head always does."""
    freeze_batchnorm: Annotated[bool | None, _BATCHNORM_TRAINS] = None
    """BatchNorm keeps its running statistics; null: where weights were loaded."""
    stride: Annotated[Literal[8, 16] | None, ReadWhen({"model.backbone": Except("tiny")})] = None
    """Pixels a cell of the feature map. 8: the last downsampling is replaced by dilation. null: 16, for tiny 8."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0), ReadWhen(_WSDDN, _HIDDEN_LAYERS)] = 0.5
    """Probability after each of fc6 and fc7 (wsddn, oquab), or after each hidden convolution (classroom)."""
    roi_op: Annotated[Literal["roi_pool", "roi_align"], _WSDDN_ONLY] = "roi_pool"
    """wsddn: how a proposal's features are pooled."""
    roi_size: Annotated[PositiveInt | None, _WSDDN_ONLY] = None
    """Cells a side of a pooled RoI; null: what the backbone's fc6 was trained with (alexnet 6, else 7)."""
    fc_dim: Annotated[PositiveInt | None, _FC_LAYERS] = None
    """Width of fc6 and fc7; null: the pretrained 4096 for alexnet and vgg16, else 1024."""
    detection_temperature: Annotated[float, Field(gt=0.0), _WSDDN_ONLY] = 1.0
    """wsddn: the detection stream's logits are divided by it. The released WSDDN has 2."""
    box_scores: Annotated[Literal["none", "score", "one_plus_ten"], _FILE] = "none"
    """wsddn: RoI features times s or 1 + 10 s, s the proposal's score; for a `proposals.source: file` with scores."""
    size_prior: Annotated[float, _WSDDN_ONLY] = 0.0
    """wsddn: this times log(area of the proposal / area of the image) is added to the detection logits."""
    context: Annotated[Literal["none", "contrastive"], _WSDDN_ONLY] = "none"
    """wsddn: detection logits are those of the box's inner ring less those of its outer ring (ContextLocNet)."""
    refinement: Annotated[int, Field(ge=0, le=10), _WSDDN_ONLY] = 0
    """wsddn: K refinement classifiers (OICR; the paper has 3)."""
    refinement_foreground_iou: Annotated[OpenFraction, _REFINED] = 0.5
    """A proposal that overlaps a pseudo object by this or more is of its class, else background."""
    refinement_ignore_iou: Annotated[float, Field(ge=0.0, lt=1.0), _REFINED] = 0.1
    """Background proposals that overlap no pseudo object by this much cost nothing."""
    head: Annotated[Literal["classroom", "oquab", "linear"], _LOCALIZER_ONLY] = "classroom"
    """localizer: 3x3, 1x1 and 1x1 convolutions; fc6 and fc7 as convolutions, then two 1x1; or one 1x1 alone."""
    hidden_channels: Annotated[PositiveInt | None, ReadWhen({**_LOCALIZER, **_HIDDEN_LAYERS})] = None
    """localizer: channels of the hidden layers (oquab: of the adaptation layer); null: 256 (oquab 2048)."""
    maps_per_class: Annotated[PositiveInt, _LOCALIZER_ONLY] = 1
    """localizer: maps that are averaged to the score map of a class (WILDCAT has 8)."""
    map_smoothing: Annotated[PositiveInt, _LOCALIZER_ONLY] = 1
    """localizer: side of the average filter on the score maps, odd; 1 is none (the robust classroom model has 3)."""
    map_dropout: Annotated[float, Field(ge=0.0, lt=1.0), _LOCALIZER_ONLY] = 0.0
    """localizer: probability that a class's whole score map is dropped (the robust classroom model has 0.3)."""
    pooling: Annotated[
        Literal[
            "max",
            "average",
            "lse",
            "topk",
            "wildcat",
            "noisy_or",
            "generalized_mean",
            "linear_softmax",
            "gwrp",
            "attention",
        ],
        _LOCALIZER_ONLY,
    ] = "max"
    """localizer: from score maps to image scores."""
    lse_r: Annotated[float, Field(gt=0.0), _pooling("lse")] = 5.0
    """lse: towards 0 it is average, towards infinity max."""
    topk: Annotated[CountOrFraction, _pooling("topk")] = 0.2
    """topk: so many of the best cells (whole number), or this fraction of all cells (below 1)."""
    wildcat_k_max: Annotated[CountOrFraction, _pooling("wildcat")] = 0.2
    """wildcat: best cells, like `topk`."""
    wildcat_k_min: Annotated[CountOrFraction, _NEGATIVE_EVIDENCE] = 0.2
    """wildcat: worst cells, like `topk`."""
    wildcat_alpha: Annotated[float, Field(ge=0.0), _pooling("wildcat")] = 0.7
    """wildcat: weight of the worst cells; 0 leaves them out."""
    generalized_mean_r: Annotated[float, Field(gt=0.0), _pooling("generalized_mean")] = 3.0
    """generalized_mean: exponent; 1 is the mean of probabilities, towards infinity max."""
    gwrp_decay: Annotated[Fraction, _pooling("gwrp")] = 0.996
    """gwrp: weight of a cell relative to the next better one; 0 is max, 1 average."""
    attention_dim: Annotated[PositiveInt, _pooling("attention")] = 128
    """attention: width of its hidden layer."""
    attention_gated: Annotated[bool, _pooling("attention")] = False
    """attention: with the gate of Ilse et al."""

    @field_validator("backbone")
    @classmethod
    def _check_backbone(cls, name: str) -> str:
        return check_backbone_name(name)

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str) -> str:
        if weights not in ("imagenet", "none") and not weights.endswith((".pth", ".pt", ".safetensors")):
            raise ValueError("expected imagenet, none, or a file ending in .pth, .pt or .safetensors")
        return weights

    @field_validator("map_smoothing")
    @classmethod
    def _check_odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError("expected an odd number, so that a cell's neighbourhood has a middle")
        return side

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        stages = BACKBONE_STAGES.get(self.backbone)
        if stages is not None and isinstance(self.freeze, int) and self.freeze > len(stages):
            raise ValueError(
                f"expected model.freeze of at most {len(stages)} for model.backbone: {self.backbone}, whose stages are "
                f"{', '.join(stages)}"
            )
        if self.backbone == "tiny" and self.stride == 16:
            raise ValueError("expected model.stride: 8 with model.backbone: tiny, which has no other")
        return self

    @model_validator(mode="after")
    def _check_weights_exist(self) -> Self:
        if self.backbone == "tiny" and self.weights == "imagenet":
            raise ValueError(
                "expected model.weights: none (or a file) with model.backbone: tiny, which has no ImageNet weights"
            )
        return self


class TrainConfig(_Section):
    """Optimization, and what an image looks like in training."""

    epochs: PositiveInt = 20
    """Passes over the training split."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0.0)] = 1e-5
    """Learning rate at the start. The losses are sums over classes, means over images."""
    lr_schedule: Literal["multistep", "step", "cosine"] = "multistep"
    """`multistep`: see `lr_milestones`; `step`: see `lr_step_epochs`; `cosine`: falls to 0 over all epochs."""
    lr_milestones: Annotated[tuple[PositiveInt, ...], _FromList, ReadWhen({"train.lr_schedule": "multistep"})] = ()
    """multistep: epochs after which the learning rate is multiplied by `lr_gamma`; none: it is constant."""
    lr_step_epochs: Annotated[PositiveInt | None, ReadWhen({"train.lr_schedule": "step"})] = None
    """step: epochs between multiplications by `lr_gamma`."""
    lr_gamma: Annotated[float, Field(gt=0.0, le=1.0), _STEPPED] = 0.1
    """multistep, step: the factor."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of the optimizer over which the learning rate rises linearly to what the schedule says."""
    backbone_lr_factor: Annotated[float, Field(gt=0.0), _BACKBONE_TRAINS] = 1.0
    """Learning rate of the backbone, relative to `lr` (WILDCAT has 0.1)."""
    head_lr_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of the layers that no pretrained weights are for, relative to `lr`."""
    refinement_lr_factor: Annotated[float, Field(gt=0.0), _REFINED] = 1.0
    """Learning rate of the refinement classifiers, relative to `lr` (OICR has 10)."""
    bias_lr_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of biases, relative to that of their layer (OICR has 2)."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0), ReadWhen({"train.optimizer": "sgd"})] = 0.9
    """SGD only."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """Not applied to biases and normalization layers."""
    batch_size: PositiveInt = 1
    """Images at a time."""
    accumulate: PositiveInt = 1
    """Batches a step of the optimizer; the loss of a step is the mean over all their images."""
    resize: Literal["longer", "shorter", "square"] = "longer"
    """What a scale means: the longer side, the shorter side, or a square that the image is squashed to."""
    scales_px: Annotated[tuple[PositiveInt, ...], _FromList, Field(min_length=1)] = (480, 576, 688, 864, 1200)
    """One is drawn for each image in each epoch."""
    max_side_px: Annotated[PositiveInt, ReadWhen({"train.resize": "shorter"})] = 2000
    """Limit of the longer side, for `resize: shorter`."""
    pad_square: Annotated[bool, ReadWhen({"train.resize": Except("square")})] = False
    """Every image is padded to a square with the mean colour, so that images of one longer side go through together."""
    rescale: Annotated[tuple[Scale, Scale], _FromList] | None = None
    """Each batch's images are resized by one more factor, drawn uniformly from this range (Oquab: [0.7, 1.4])."""
    flip: bool = True
    """Mirror half of the training images, drawn anew in each epoch."""
    spatial_weight: Annotated[float, Field(ge=0.0), _WSDDN_ONLY] = 0.0
    """wsddn: weight of the spatial regulariser (the paper's code has 1e-4)."""
    spatial_iou: Annotated[OpenFraction, _SPATIAL] = 0.6
    """wsddn: proposals that overlap the best one by more than this are drawn to its features."""
    spatial_top: Annotated[int, Field(ge=2), _SPATIAL] = 10
    """wsddn: so many of the best proposals of a class are looked at."""

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if (self.lr_schedule == "step") != (self.lr_step_epochs is not None):
            raise ValueError("expected train.lr_step_epochs with train.lr_schedule: step, and with no other")
        if self.lr_schedule != "multistep" and self.lr_milestones:
            raise ValueError("expected no train.lr_milestones but with train.lr_schedule: multistep")
        return self

    @field_validator("rescale")
    @classmethod
    def _check_range(cls, rescale: tuple[float, float] | None) -> tuple[float, float] | None:
        if rescale is not None and rescale[0] > rescale[1]:
            raise ValueError("expected the smaller factor first")
        return rescale


class EvaluateConfig(_Section):
    """How the eval split is measured. See docs/protocol.md."""

    every: PositiveInt = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    scales_px: Annotated[tuple[PositiveInt, ...], _FromList, Field(min_length=1)] | None = None
    """Each image is seen at these scales, in the meaning of `train.resize`; null: the median of `train.scales_px`."""
    flip: bool = False
    """Each image is also seen mirrored, at every scale."""
    combine: Annotated[Literal["mean", "sum"], _SEVERAL_VIEWS] = "mean"
    """What becomes of the region scores of all passes. Only `score_threshold` can tell (the released WSDDN sums)."""
    batch_size: PositiveInt = 1
    """Images at a time. Cannot change a result by more than rounding."""
    nms_iou: Annotated[Fraction, ReadWhen(_WSDDN, {"evaluate.box_components": "all"})] = 0.4
    """A detection is dropped when it overlaps a better one of its class by more than this."""
    score_threshold: Annotated[float, Field(ge=0.0)] = 1e-4
    """Detections below it are dropped. Region scores sum to at most 1 over an image: keep it tiny."""
    box_threshold: Annotated[OpenFraction, _LOCALIZER_ONLY] = 0.5
    """localizer: boxes are drawn around where a score map, scaled to [0, 1], is at least this."""
    box_components: Annotated[Literal["largest", "all"], _LOCALIZER_ONLY] = "largest"
    """localizer: one box around the largest connected component, or one around each."""
    metrics: Annotated[tuple[str, ...], _FromList] = ()
    """Metrics besides those that every trial has, such as ap30_area or corloc70. See docs/protocol.md."""
    pictures: Annotated[int, Field(ge=0)] = 4
    """So many of the best, of the worst and of random eval images are kept as pictures. Cannot change a result."""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            parse_metric(name)
            if metrics.count(name) > 1:
                raise ValueError(f"expected each metric once, {name} is listed twice")
        return metrics


_EPOCHS_OR_MINUTES = "[1-9][0-9]{0,5} (epoch|minute)s?"


class CheckpointConfig(_Section):
    """When the state of a training is saved."""

    every: Annotated[str, Field(json_schema_extra={"pattern": f"^{_EPOCHS_OR_MINUTES}$"})] = "1 epoch"
    """How much may be lost, as epochs (`2 epochs`) or as minutes (`10 minutes`). Cannot change a result."""

    @field_validator("every")
    @classmethod
    def _check_every(cls, every: str) -> str:
        if not re.fullmatch(_EPOCHS_OR_MINUTES, every):
            raise ValueError("expected a number of epochs or of minutes, such as 2 epochs or 10 minutes")
        return every


class ExperimentConfig(_Section):
    """One trial, fully resolved."""

    task: Literal["wsddn", "localizer"]
    """A detector that scores proposals, or a fully convolutional localizer."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of every random choice. In a sweep: `seeds`."""
    data: DataConfig
    proposals: ProposalsConfig = ProposalsConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    code: Annotated[str, Field(pattern=r"^([0-9a-f]{12})?$")] = ""
    """Fingerprint of a changed source with which a sweep went on, set by `--code new`. Empty: that of its beginning."""

    def identity(self) -> dict[str, Any]:
        """The config as JSON values, less `RESULT_NEUTRAL_KEYS` and an empty `code`. Equal identity, equal results."""
        values = self.model_dump(mode="json")
        for key in RESULT_NEUTRAL_KEYS:
            *sections, leaf = key.split(".")
            section = values
            for name in sections:
                section = section[name]
            del section[leaf]
        return {name: value for name, value in values.items() if value not in ({}, "")}

    @model_validator(mode="after")
    def _check_metrics_of_task(self) -> Self:
        for metric in map(parse_metric, self.evaluate.metrics):
            if metric.only_task not in (None, self.task):
                only = f"only task: {metric.only_task} has it"
                raise ValueError(f"expected no {metric.name} in evaluate.metrics with task: {self.task}; {only}")
        return self

    @model_validator(mode="after")
    def _check_box_scores(self) -> Self:
        if self.task == "wsddn" and self.model.box_scores != "none" and self.proposals.source != "file":
            raise ValueError(
                f"expected model.box_scores: none with proposals.source: {self.proposals.source}, which gives no scores"
            )
        return self

    @model_validator(mode="after")
    def _check_pretrained_fc(self) -> Self:
        native = {"alexnet": 6, "vgg16": 7}.get(self.model.backbone)
        if self.task == "wsddn" and native is not None and self.model.weights != "none":
            if self.model.roi_size not in (None, native):
                raise ValueError(
                    f"expected model.roi_size: {native}, which the pretrained fc6 of {self.model.backbone} needs"
                )
            if self.model.fc_dim not in (None, 4096):
                raise ValueError(
                    f"expected model.fc_dim: 4096, the width of the pretrained fc6 of {self.model.backbone}"
                )
        return self
