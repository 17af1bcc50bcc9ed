"""The layers of every backbone: ours (`tiny`), torchvision's, and any of timm's with a feature map of stride 16."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wsol.backbone_names import TIMM_PREFIX
from wsol.models.weights import WeightsError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STRIDE = 16
_DILATED_STRIDE = 8


@dataclass(frozen=True, eq=False)
class Stage:
    """Layers of a body that freeze together.

    Attributes:
        name: as the body calls it.
        modules: the layers, whole.
        partial: modules that go on in a later stage, like the model itself: only their own parameters, such as a
            position embedding, belong to this one.
    """

    name: str
    modules: tuple[nn.Module, ...]
    partial: tuple[nn.Module, ...] = ()

    def freeze(self) -> None:
        """No parameter of the stage trains from now on."""
        for module in self.modules:
            module.requires_grad_(False)
        for module in self.partial:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


@dataclass(frozen=True)
class Architecture:
    """A backbone cut out of a whole architecture.

    Attributes:
        body: What is kept; on the meta device where `initialize` is given.
        whole: Every tensor of the whole, by its key; those of `body` are the same objects.
        stages: Of `body`, from the image up. Together they have all of its parameters. Empty where they are not known.
        fc: fc6 and fc7 of the whole, on the meta device, as a `nn.Sequential` with ReLUs.
        initialize: Draws parameters for `body`, once it has memory.
    """

    body: nn.Module
    whole: Mapping[str, Tensor]
    stages: Sequence[Stage]
    out_channels: int
    stride: int
    image_mean: Sequence[float] = _IMAGENET_MEAN
    image_std: Sequence[float] = _IMAGENET_STD
    roi_size: int = 7
    last_pool_size: int = 2
    fc: nn.Sequential | None = None
    initialize: Callable[[nn.Module], None] | None = None

    def keys(self, part: nn.Module) -> dict[str, str]:
        """For each key of `part`, which shares its tensors with the architecture, the key there."""
        names = {id(tensor): key for key, tensor in self.whole.items()}
        return {key: names[id(tensor)] for key, tensor in part.state_dict(keep_vars=True).items()}


def plan_architecture(name: str, *, pretrained: bool, stride: int | None) -> Architecture:
    """The architecture of a backbone.

    Args:
        name: A name that `check_backbone_name` accepts.
        pretrained: timm's models come with their ImageNet weights; for others it makes no difference.
        stride: 8 or 16, pixels a cell of the map; None: what is usual for the backbone. At 8 the layers are those of
            16, with the same weights: the last downsampling is left out, and what follows it is dilated.

    Raises:
        ValueError: for a stride that the backbone cannot have, or a timm model without a feature map of stride 16.
        WeightsError: when timm's weights cannot be had.
    """
    if stride not in (None, _DILATED_STRIDE, _STRIDE):
        raise ValueError(f"got {stride} for model.stride; expected {_DILATED_STRIDE} or {_STRIDE}")
    if name == "tiny":
        if stride == _STRIDE:
            raise ValueError(f"got {stride} for model.stride; expected {_DILATED_STRIDE}, which tiny always has")
        return _plan_tiny()
    if name.startswith(TIMM_PREFIX):
        return _plan_timm(name, pretrained=pretrained, stride=stride or _STRIDE)
    return _plan_torchvision(name, stride=stride or _STRIDE)


def _children(body: nn.Sequential) -> list[Stage]:
    return [Stage(name, (child,)) for name, child in body.named_children()]


_TINY_CHANNELS = (24, 48, 64, 96)


def _plan_tiny() -> Architecture:
    """Four convolutions, stride 8, for images of about 128 px with objects of 16 px and more.

    The even kernels of the strided layers keep cells centred: cell i sees pixels around 8 i + 4. GroupNorm trains
    alike at every batch size and treats each image by itself. The last layer gives each channel a mean of zero over
    the image: what all regions have in common says nothing about any of them, but in a max-pooled map of positive
    numbers it is what new fc layers see first, and Adam drives most of their units dead within an epoch.
    """
    body = nn.Sequential()
    in_channels = 3
    for index, channels in enumerate(_TINY_CHANNELS):
        kernel, stride = (4, 2) if index < 3 else (3, 1)
        layer = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        is_last = index == len(_TINY_CHANNELS) - 1
        norm = nn.GroupNorm(channels if is_last else 8, channels)
        body.add_module(f"conv{index + 1}", nn.Sequential(layer, norm, nn.Identity() if is_last else nn.ReLU()))
        in_channels = channels
    return Architecture(
        body=body,
        whole=body.state_dict(keep_vars=True),
        stages=_children(body),
        out_channels=in_channels,
        stride=_DILATED_STRIDE,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.25, 0.25, 0.25),
    )


def _plan_torchvision(name: str, *, stride: int) -> Architecture:
    """Built on the meta device: the classifiers cut off here hold up to 120 M parameters that nobody needs."""
    import torchvision

    with torch.device("meta"):
        whole: Any = getattr(torchvision.models, name)(weights=None)
    tensors = whole.state_dict(keep_vars=True)
    if name == "alexnet":
        body = _alexnet_body(whole.features, stride=stride)
        fc = _fc6_fc7(whole.classifier[1], whole.classifier[4])
        return Architecture(
            body,
            tensors,
            _children(body),
            256,
            stride,
            roi_size=6,
            last_pool_size=3,
            fc=fc,
            initialize=_reset_parameters,
        )
    if name == "vgg16":
        body = _vgg16_body(whole.features, stride=stride)
        fc = _fc6_fc7(whole.classifier[0], whole.classifier[3])
        return Architecture(body, tensors, _children(body), 512, stride, fc=fc, initialize=_initialize_for_relu)
    body = _resnet_body(whole, stride=stride)
    out_channels = {"resnet18": 256, "resnet50": 1024}[name]
    return Architecture(body, tensors, _children(body), out_channels, stride, initialize=_initialize_for_relu)


def _alexnet_body(features: nn.Sequential, *, stride: int) -> nn.Sequential:
    """Cell (i, j) of stride 16 is cell (2 i + 1, 2 j + 1) of stride 8, less what either sees of the border."""
    body = _cut(features, conv1=(0, 3), conv2=(3, 6), conv3=(6, 8), conv4=(8, 10), conv5=(10, 12))
    if stride == _DILATED_STRIDE:
        pool = features[5]
        assert isinstance(pool, nn.MaxPool2d)
        pool.stride, pool.padding = 1, 1
        _trade_stride_for_dilation(features[6:12])
    return body


def _vgg16_body(features: nn.Sequential, *, stride: int) -> nn.Sequential:
    """At stride 8 without pool4, so that the map is not that of stride 16 at twice as many places.

    Source: ppengtang/oicr:models/VGG16/train.prototxt.
    """
    end = 23 if stride == _DILATED_STRIDE else 24
    body = _cut(features, block1=(0, 5), block2=(5, 10), block3=(10, 17), block4=(17, end), block5=(24, 30))
    if stride == _DILATED_STRIDE:
        _trade_stride_for_dilation(features[24:30])
    return body


def _resnet_body(whole: Any, *, stride: int) -> nn.Sequential:
    """Cell (i, j) of stride 16 is cell (2 i, 2 j) of stride 8."""
    stem = nn.Sequential(OrderedDict(conv1=whole.conv1, bn1=whole.bn1, relu=whole.relu, maxpool=whole.maxpool))
    if stride == _DILATED_STRIDE:  # not in the constructor, whose basic blocks (resnet18) refuse it
        _trade_stride_for_dilation(whole.layer3)
    return nn.Sequential(OrderedDict(stem=stem, layer1=whole.layer1, layer2=whole.layer2, layer3=whole.layer3))


def _trade_stride_for_dilation(layers: nn.Module) -> None:
    """Convolutions of stride 2 get stride 1; the other 3x3 ones a dilation of 2, so that each sees what it saw before.

    A strided convolution itself sees the finer map already, at which its own 3x3 stays dense.
    """
    for module in layers.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation, module.padding = (2, 2), (2, 2)


def _cut(layers: nn.Sequential, **bounds: tuple[int, int]) -> nn.Sequential:
    """Cuts `layers` into named stages [start, end); what lies past or between them (pools) is dropped."""
    return nn.Sequential(OrderedDict((name, layers[start:end]) for name, (start, end) in bounds.items()))


def _fc6_fc7(fc6: nn.Linear, fc7: nn.Linear) -> nn.Sequential:
    return nn.Sequential(OrderedDict(fc6=fc6, relu6=nn.ReLU(), fc7=fc7, relu7=nn.ReLU()))


def _reset_parameters(body: nn.Module) -> None:
    for module in body.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def _initialize_for_relu(body: nn.Module) -> None:
    """What torchvision's vgg and resnet do (their own code initializes whole classifiers only)."""
    _reset_parameters(body)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _TimmBody(nn.Module):
    """A timm model up to one of its feature maps. Unlike timm's `features_only`, keeps the model's own keys."""

    def __init__(self, model: Any, *, index: int) -> None:
        super().__init__()
        fixed = model.pretrained_cfg.get("fixed_input_size")
        self.fixed_size = tuple(model.pretrained_cfg["input_size"][1:]) if fixed else None
        self.indices = model.prune_intermediate_layers([index], prune_norm=True)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        try:
            maps: list[Tensor] = self.model.forward_intermediates(
                images, indices=self.indices, output_fmt="NCHW", intermediates_only=True
            )
        except AssertionError as error:  # timm's own check of the size
            if self.fixed_size is None:
                raise
            raise ValueError(
                f"got images of {tuple(images.shape[2:])} for a timm model made for {self.fixed_size}; "
                f"expected train.resize: square with that size, or another model.backbone ({error})"
            ) from error
        return maps[-1]


def _plan_timm(name: str, *, pretrained: bool, stride: int) -> Architecture:
    model = _create_timm_model(name, pretrained=pretrained)
    strides = [int(info["reduction"]) for info in getattr(model, "feature_info", [])]
    if _STRIDE not in strides or not hasattr(model, "prune_intermediate_layers"):
        raise ValueError(
            f"got {name} for model.backbone, which has feature maps of stride {sorted(set(strides)) or 'unknown'}; "
            f"expected a timm model with one of stride {_STRIDE}"
        )
    index = max(i for i, reduction in enumerate(strides) if reduction == _STRIDE)
    if stride == _DILATED_STRIDE:
        model = _dilated_timm_model(name, model, index=index, pretrained=pretrained)
    tensors = model.state_dict(keep_vars=True)
    body = _TimmBody(model, index=index)  # cuts the model
    return Architecture(
        body=body,
        whole=tensors,
        stages=_timm_stages(model, ends=[info["module"] for info in model.feature_info[: index + 1]]),
        out_channels=int(model.feature_info[index]["num_chs"]),
        stride=stride,
        image_mean=model.pretrained_cfg["mean"],
        image_std=model.pretrained_cfg["std"],
    )


def _dilated_timm_model(name: str, model: Any, *, index: int, pretrained: bool) -> Any:
    """The same model with stride 8 at feature map `index`, where `model` has 16; with its weights if pretrained."""
    import timm

    message = f"got {_DILATED_STRIDE} for model.stride, which {name} cannot have"
    dilated: Any
    try:
        dilated = timm.create_model(name.removeprefix(TIMM_PREFIX), pretrained=False, output_stride=_DILATED_STRIDE)
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:  # each model's own way to refuse
        raise ValueError(f"{message}; expected {_STRIDE}, or a model.backbone that timm can dilate") from error
    found = int(dilated.feature_info[index]["reduction"])
    if found != _DILATED_STRIDE:
        raise ValueError(f"{message} (its map has {found}); expected {_STRIDE}")
    if pretrained:
        dilated.load_state_dict(model.state_dict())
    return dilated


def _timm_stages(model: nn.Module, *, ends: Sequence[str]) -> list[Stage]:
    """The stages of a model that end with the modules `ends`, in the order in which the model registered its layers.

    Each holds what was registered after the one before: the stem, for the first. What comes after the last end (what
    a cut left over) belongs to the last stage. None where a model cut off one of `ends` or registers in another order.
    """
    order = list(model.named_modules())
    last = {name: max(i for i, (other, _) in enumerate(order) if _is_within(other, name)) for name, _ in order}
    bounds = [last.get(end, -1) for end in ends[:-1]] + [len(order) - 1]
    stages, start = [], 0
    for end, bound in zip(ends, bounds, strict=True):
        if bound < start:
            return []
        inside = order[start : bound + 1]
        whole = tuple(module for name, module in inside if last[name] <= bound)
        partial = tuple(module for name, module in inside if last[name] > bound)
        stages.append(Stage(end, whole, partial))
        start = bound + 1
    return stages


def _is_within(name: str, ancestor: str) -> bool:
    return not ancestor or name == ancestor or name.startswith(f"{ancestor}.")


def _create_timm_model(name: str, *, pretrained: bool) -> Any:
    architecture = name.removeprefix(TIMM_PREFIX)
    try:
        return _create_for_any_size(architecture, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"got imagenet for model.weights, but those of {name} cannot be loaded ({text}); expected "
            f"{_hub_page(architecture)} within reach, or its model.safetensors anywhere, with its path as model.weights"
        ) from error


def _hub_page(architecture: str) -> str:
    import timm

    repository = timm.get_pretrained_cfg_value(architecture, "hf_hub_id")
    return f"https://huggingface.co/{repository}" if repository else "the Hugging Face hub"


def _create_for_any_size(architecture: str, *, pretrained: bool) -> Any:
    import timm

    if timm.get_pretrained_cfg_value(architecture, "fixed_input_size"):
        try:  # transformers that can resample their position embeddings
            return timm.create_model(architecture, pretrained=pretrained, dynamic_img_size=True, dynamic_img_pad=True)
        except TypeError:  # no such arguments: square images of the model's size have to do
            pass
    return timm.create_model(architecture, pretrained=pretrained)
