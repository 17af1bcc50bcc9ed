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


@dataclass(frozen=True)
class Architecture:
    """A backbone cut out of a whole architecture.

    Attributes:
        body: What is kept; on the meta device where `initialize` is given.
        whole: Every tensor of the whole, by its key; those of `body` are the same objects.
        fc: fc6 and fc7 of the whole, on the meta device, as a `nn.Sequential` with ReLUs.
        initialize: Draws parameters for `body`, once it has memory.
    """

    body: nn.Module
    whole: Mapping[str, Tensor]
    out_channels: int
    stride: int = _STRIDE
    image_mean: Sequence[float] = _IMAGENET_MEAN
    image_std: Sequence[float] = _IMAGENET_STD
    roi_size: int = 7
    fc: nn.Sequential | None = None
    initialize: Callable[[nn.Module], None] | None = None

    def keys(self, part: nn.Module) -> dict[str, str]:
        """For each key of `part`, which shares its tensors with the architecture, the key there."""
        names = {id(tensor): key for key, tensor in self.whole.items()}
        return {key: names[id(tensor)] for key, tensor in part.state_dict(keep_vars=True).items()}


def plan_architecture(name: str, *, pretrained: bool) -> Architecture:
    """The architecture of a backbone.

    Args:
        name: A name that `check_backbone_name` accepts.
        pretrained: timm's models come with their ImageNet weights; for others it makes no difference.

    Raises:
        ValueError: for a timm model without a feature map of stride 16.
        WeightsError: when timm's weights cannot be had.
    """
    if name.startswith(TIMM_PREFIX):
        return _plan_timm(name, pretrained=pretrained)
    return _plan_tiny() if name == "tiny" else _plan_torchvision(name)


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
        out_channels=in_channels,
        stride=8,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.25, 0.25, 0.25),
    )


def _plan_torchvision(name: str) -> Architecture:
    """Built on the meta device: the classifiers cut off here hold up to 120 M parameters that nobody needs."""
    import torchvision

    with torch.device("meta"):
        whole: Any = getattr(torchvision.models, name)(weights=None)
    tensors = whole.state_dict(keep_vars=True)
    if name == "alexnet":
        stages = _stages(whole.features, conv1=(0, 3), conv2=(3, 6), conv3=(6, 8), conv4=(8, 10), conv5=(10, 12))
        fc = _fc6_fc7(whole.classifier[1], whole.classifier[4])
        return Architecture(stages, tensors, 256, roi_size=6, fc=fc, initialize=_reset_parameters)
    if name == "vgg16":
        stages = _stages(
            whole.features, block1=(0, 5), block2=(5, 10), block3=(10, 17), block4=(17, 24), block5=(24, 30)
        )
        fc = _fc6_fc7(whole.classifier[0], whole.classifier[3])
        return Architecture(stages, tensors, 512, fc=fc, initialize=_initialize_for_relu)
    stem = nn.Sequential(OrderedDict(conv1=whole.conv1, bn1=whole.bn1, relu=whole.relu, maxpool=whole.maxpool))
    stages = nn.Sequential(OrderedDict(stem=stem, layer1=whole.layer1, layer2=whole.layer2, layer3=whole.layer3))
    out_channels = {"resnet18": 256, "resnet50": 1024}[name]
    return Architecture(stages, tensors, out_channels, initialize=_initialize_for_relu)


def _stages(layers: nn.Sequential, **bounds: tuple[int, int]) -> nn.Sequential:
    """Cuts `layers` into named stages [start, end); what lies past the last end (the last pool) is dropped."""
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


def _plan_timm(name: str, *, pretrained: bool) -> Architecture:
    model = _create_timm_model(name, pretrained=pretrained)
    strides = [int(info["reduction"]) for info in getattr(model, "feature_info", [])]
    if _STRIDE not in strides or not hasattr(model, "prune_intermediate_layers"):
        raise ValueError(
            f"got {name} for model.backbone, which has feature maps of stride {sorted(set(strides)) or 'unknown'}; "
            f"expected a timm model with one of stride {_STRIDE}"
        )
    index = max(i for i, stride in enumerate(strides) if stride == _STRIDE)
    tensors = model.state_dict(keep_vars=True)  # before the cut
    return Architecture(
        body=_TimmBody(model, index=index),
        whole=tensors,
        out_channels=int(model.feature_info[index]["num_chs"]),
        image_mean=model.pretrained_cfg["mean"],
        image_std=model.pretrained_cfg["std"],
    )


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
