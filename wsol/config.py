"""Every key a trial can have: typed, with default, range and unit. Imports no torch.

A config is what a trial *is*: two trials with equal configs give equal results, so a key that
cannot change a result (`RESULT_NEUTRAL_KEYS`) is left out of the trial's signature.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wsol.backbone_names import check_backbone_name

RESULT_NEUTRAL_KEYS = frozenset({"data.workers"})
"""Keys that cannot change a result, as dotted paths. They are no part of a signature."""


DIGITS_ROOT = "digits"
"""`data.root` of the generated data set."""


def _list_to_tuple(value: Any) -> Any:
    """YAML has lists, a frozen config has tuples; strict validation would refuse the former."""
    return tuple(value) if isinstance(value, list) else value


_FromList = BeforeValidator(_list_to_tuple)
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


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
        ValueError: for a duplicate, an empty name, or the reserved name `mean`.
    """
    for name in classes:
        if not name.strip():
            raise ValueError("expected class names that are not empty")
        if name == "mean":
            raise ValueError("expected another name for class 'mean': <metric>/mean is the mean over classes")
        if classes.count(name) > 1:
            raise ValueError(f"expected each class once, class {name!r} is listed twice")


class ProposalsConfig(_Section):
    """Class-agnostic boxes. Used by `task: wsddn`."""

    source: Literal["selective_search", "grid", "file"] = "selective_search"
    """`file`: the published MATLAB files or .npz, see `file`."""
    quality: Literal["fast", "quality"] = "fast"
    """Selective search's mode."""
    resize_px: PositiveInt | None = None
    """Selective search runs on the image resized to this longer side (boxes are scaled back); null: as it is."""
    file: Annotated[str, Field(min_length=1)] | None = None
    """.mat or .npz with the boxes of every image of both splits, for `source: file`."""
    count: PositiveInt | None = 2000
    """At most so many an image: the best where the source has scores, else a seeded random subset; null: all."""
    min_size_px: Annotated[float, Field(ge=0.0)] = 20.0
    """Proposals with a shorter side below this are dropped, in pixels of the original image."""
    grid_scales: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], _FromList, Field(min_length=1)] = (
        0.25,
        0.5,
        0.75,
    )
    """Window sizes for `source: grid`: square root of the window's area over that of the image."""
    grid_aspect_ratios: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], _FromList, Field(min_length=1)] = (
        0.5,
        1.0,
        2.0,
    )
    """Window width / height, relative to that of the image."""
    grid_stride: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
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
    freeze: Literal["none", "all"] = "none"
    """`all`: the backbone's convolutions do not train. The head always trains."""
    freeze_batchnorm: bool | None = None
    """BatchNorm keeps its running statistics; null: where weights were loaded."""
    roi_op: Literal["roi_pool", "roi_align"] = "roi_pool"
    roi_size: PositiveInt | None = None
    """Cells a side of a pooled RoI; null: what the backbone's fc6 was trained with (alexnet 6, else 7)."""
    fc_dim: PositiveInt | None = None
    """Width of fc6 and fc7; null: the pretrained 4096 for alexnet and vgg16, else 1024."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Probability after each of fc6 and fc7 (wsddn), or after the hidden convolution (localizer)."""
    pooling: Literal["max", "average"] = "max"
    """Image-level pooling of the localizer's score maps."""
    hidden_channels: PositiveInt = 256
    """Channels of the localizer's hidden 3x3 convolution."""

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
    lr_milestones: Annotated[tuple[PositiveInt, ...], _FromList] = ()
    """Epochs after which the learning rate is multiplied by `lr_gamma`."""
    lr_gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Factor at each of `lr_milestones`."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """SGD only."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """Not applied to biases and normalization layers."""
    batch_size: PositiveInt = 1
    """Images a step."""
    resize: Literal["longer", "shorter", "square"] = "longer"
    """What a scale means: the longer side, the shorter side, or a square that the image is squashed to."""
    scales_px: Annotated[tuple[PositiveInt, ...], _FromList, Field(min_length=1)] = (480, 576, 688, 864, 1200)
    """One is drawn for each image in each epoch."""
    max_side_px: PositiveInt = 2000
    """Limit of the longer side, for `resize: shorter`."""
    flip: bool = True
    """Mirror half of the training images, drawn anew in each epoch."""


class EvaluateConfig(_Section):
    """How the eval split is measured. See docs/protocol.md."""

    every: PositiveInt = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    scale_px: PositiveInt | None = None
    """Image scale in the meaning of `train.resize`; null: the median of `train.scales_px` (the upper one of two)."""
    batch_size: PositiveInt = 1
    """Images at a time. Cannot change a result by more than rounding."""
    nms_iou: Fraction = 0.4
    """A detection is dropped when it overlaps a better one of its class by more than this."""
    score_threshold: Annotated[float, Field(ge=0.0)] = 1e-4
    """Detections below it are dropped. Region scores sum to at most 1 over an image: keep it tiny."""


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

    def identity(self) -> dict[str, Any]:
        """The whole config as JSON values, less `RESULT_NEUTRAL_KEYS`. Configs of equal identity give equal results."""
        values = self.model_dump(mode="json")
        for key in RESULT_NEUTRAL_KEYS:
            *sections, leaf = key.split(".")
            section = values
            for name in sections:
                section = section[name]
            del section[leaf]
        return values

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
