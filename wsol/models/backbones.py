"""Backbones: from images to feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsol.backbone_names import TIMM_PREFIX, check_backbone_name
from wsol.models.architectures import Architecture, Stage, plan_architecture
from wsol.models.weights import WeightsError, load_strictly, read_weights, torchvision_imagenet_weights

MIN_SIDE_PX = 64
"""Smaller images are padded to it: the convolutions and pools of every backbone then leave at least one cell."""


def normalize_and_pad(
    images: Sequence[Tensor], *, mean: Tensor, std: Tensor, square: bool = False
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Makes one tensor of images.

    Args:
        images: B tensors (3, Hi, Wi), RGB in [0, 1], on one device.
        mean: (3,) subtracted.
        std: (3,) divided by.
        square: H and W are the larger of both.

    Returns:
        (B, 3, H, W), H and W the largest among the images and at least MIN_SIDE_PX, each image at the top left
        and 0 around it, which is the mean colour; and the true (height, width) of each.
    """
    sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
    height = max(MIN_SIDE_PX, *(size[0] for size in sizes))
    width = max(MIN_SIDE_PX, *(size[1] for size in sizes))
    if square:
        height = width = max(height, width)
    padded = images[0].new_zeros(len(images), 3, height, width)
    for target, image, (h, w) in zip(padded, images, sizes, strict=True):
        target[:, :h, :w] = (image - mean[:, None, None]) / std[:, None, None]
    return padded, sizes


@dataclass(frozen=True)
class FeatureMaps:
    """The feature maps of those images of a batch that have one size, padding included.

    Attributes:
        indices: Which images of the batch, b of them.
        maps: (b, D, h, w).
        valid: bool (b, 1, h, w), False where a cell shows nothing but padding; None when all cells are valid.
    """

    indices: list[int]
    maps: Tensor
    valid: Tensor | None


class Backbone(nn.Module):
    """A convolutional feature extractor with its own normalization.

    Cell (row, column) of a map stands for the pixels [column * stride, (column + 1) * stride] x [row * stride,
    (row + 1) * stride]: the convention of RoI pooling with a spatial scale of 1 / stride. (The centres of the
    receptive fields of alexnet and resnet lie up to half a cell off it.)

    Attributes:
        out_channels: Channels D of the map.
        stride: Pixels a cell.
        roi_size: Cells a side of a pooled RoI that suit the backbone: what its fc6 was trained with, else 7.
        last_pool_size: Side of the window of the last pool, of stride 2, which is left out here and lies before fc6.
        image_mean: (3,) buffer, RGB in [0, 1].
        image_std: (3,) buffer.
        body: The layers.
        frozen: No parameter trains and no statistic changes; nothing is kept for a backward pass.
        frozen_stages: The parts of the body of which the same holds.
        freeze_batchnorm: BatchNorm layers keep their running statistics and use them, also in training mode.
        pad_square: Every image is padded to a square, so that images of one longer side go through together.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        out_channels: int,
        stride: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        roi_size: int = 7,
        last_pool_size: int = 2,
        pretrained_fc: nn.Sequential | None = None,
        frozen: bool = False,
        frozen_stages: Sequence[Stage] = (),
        freeze_batchnorm: bool = False,
        pad_square: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.stride = stride
        self.roi_size = roi_size
        self.last_pool_size = last_pool_size
        self.frozen = frozen
        self.frozen_stages = tuple(frozen_stages)
        self.freeze_batchnorm = freeze_batchnorm
        self.pad_square = pad_square
        self.register_buffer("image_mean", torch.tensor(image_mean, dtype=torch.float32))
        self.register_buffer("image_std", torch.tensor(image_std, dtype=torch.float32))
        # In a tuple, where nn.Module does not look: these are no parameters of the backbone.
        self._pretrained_fc = () if pretrained_fc is None else (pretrained_fc,)
        if frozen:
            body.requires_grad_(False)
        for stage in self.frozen_stages:
            stage.freeze()
        self.train()

    @property
    def pretrained_fc(self) -> nn.Sequential | None:
        """`fc6`, ReLU, `fc7`, ReLU of the pretrained classifier, or None. Not part of the backbone's state."""
        return self._pretrained_fc[0] if self._pretrained_fc else None

    def take_pretrained_fc(self) -> nn.Sequential | None:
        """Hands `pretrained_fc` over to its one owner; the backbone then has none (they can be 500 MB)."""
        taken = self.pretrained_fc
        self._pretrained_fc = ()
        return taken

    def train(self, mode: bool = True) -> Backbone:
        """Like `nn.Module.train`, but what is frozen stays in eval mode."""
        super().train(mode)
        frozen = [self.body] if self.frozen else [module for stage in self.frozen_stages for module in stage.modules]
        if self.freeze_batchnorm:
            frozen += [module for module in self.body.modules() if isinstance(module, _BatchNorm)]
        for module in frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W), sides of at least MIN_SIDE_PX, to maps (B, out_channels, h, w)."""
        context: AbstractContextManager[object] = torch.no_grad() if self.frozen else nullcontext()
        with context:
            maps: Tensor = self.body(images)
        return maps

    def feature_maps(self, images: Sequence[Tensor]) -> list[FeatureMaps]:
        """The maps of images of any sizes, (3, Hi, Wi) in [0, 1], not normalized.

        Images of one size go through together, others apart. Padding them to a common size would be faster, but
        layers see the padding from inside the image, so that a result would depend on the rest of the batch. A square
        depends on the image alone.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._padded_size(image), []).append(index)
        result = []
        for indices in groups.values():
            padded, sizes = normalize_and_pad(
                [images[index] for index in indices],
                mean=self.image_mean,
                std=self.image_std,
                square=self.pad_square,
            )
            maps = self(padded)
            result.append(FeatureMaps(indices, maps, _valid_cells(maps, sizes, self.stride)))
        return result

    def _padded_size(self, image: Tensor) -> tuple[int, int]:
        """(height, width) of an image as it goes through."""
        height, width = (max(MIN_SIDE_PX, int(side)) for side in image.shape[1:])
        return (max(height, width),) * 2 if self.pad_square else (height, width)


def _valid_cells(maps: Tensor, sizes: Sequence[tuple[int, int]], stride: int) -> Tensor | None:
    height, width = maps.shape[2:]
    rows = torch.tensor([math.ceil(h / stride) for h, _ in sizes])  # (b,)
    columns = torch.tensor([math.ceil(w / stride) for _, w in sizes])
    if bool((rows >= height).all() and (columns >= width).all()):
        return None
    inside_height = torch.arange(height) < rows[:, None]  # (b, h)
    inside_width = torch.arange(width) < columns[:, None]  # (b, w)
    return (inside_height[:, None, :, None] & inside_width[:, None, None, :]).to(maps.device)


def build_backbone(
    *,
    name: str,
    weights: str,
    freeze: Literal["none", "all"] | int,
    freeze_batchnorm: bool | None,
    stride: int | None = None,
    pad_square: bool = False,
) -> Backbone:
    """Builds a backbone, initialized from torch's global generator or from weights.

    Args:
        name: `tiny`, `alexnet`, `vgg16`, `resnet18`, `resnet50` (torchvision) or `timm/<model>`.
        weights: `none`, `imagenet` (torch hub or Hugging Face hub, cached there), or a file with the weights of the
            architecture: the whole classifier, or its feature layers.
        freeze: `none`; N: the N stages next to the image do not train (see `BACKBONE_STAGES`; those of a timm model
            are what it lists in `feature_info`, up to the map that is used); `all`: nothing in the backbone trains.
        freeze_batchnorm: BatchNorm keeps its running statistics; None: where weights are loaded.
        stride: 8 or 16; None: 16, for tiny 8. See `plan_architecture`.
        pad_square: see `Backbone`.

    Raises:
        ValueError: for an unknown name, a freeze or a stride that the backbone cannot have, or a timm model without a
            feature map of stride 16.
        WeightsError: when weights cannot be had or do not fit; names the keys.
    """
    check_backbone_name(name)
    plan = plan_architecture(name, pretrained=weights == "imagenet", stride=stride)
    frozen_stages = _frozen_stages(plan, freeze, name=name)
    fc = _fill(plan, name=name, weights=weights)
    return Backbone(
        plan.body,
        out_channels=plan.out_channels,
        stride=plan.stride,
        image_mean=plan.image_mean,
        image_std=plan.image_std,
        roi_size=plan.roi_size,
        last_pool_size=plan.last_pool_size,
        pretrained_fc=fc,
        frozen=freeze == "all" or 0 < len(plan.stages) == len(frozen_stages),
        frozen_stages=frozen_stages,
        freeze_batchnorm=weights != "none" if freeze_batchnorm is None else freeze_batchnorm,
        pad_square=pad_square,
    )


def _frozen_stages(plan: Architecture, freeze: str | int, *, name: str) -> Sequence[Stage]:
    """The stages that `freeze` names: none for `none`, and for `all`, which is more than stages."""
    if freeze in ("none", "all"):
        return ()
    stages = ", ".join(stage.name for stage in plan.stages)
    if not isinstance(freeze, int):
        raise ValueError(f"got {freeze!r} for model.freeze; expected none, all or a number of stages ({stages})")
    if not plan.stages:
        raise ValueError(f"got {freeze} for model.freeze; expected none or all for {name}, whose stages are not known")
    if not 1 <= freeze <= len(plan.stages):
        raise ValueError(
            f"got {freeze} for model.freeze; expected none, all or 1 to {len(plan.stages)} for {name}, whose stages "
            f"are {stages}"
        )
    return plan.stages[:freeze]


def _fill(plan: Architecture, *, name: str, weights: str) -> nn.Sequential | None:
    """Gives the body its values, in place. Returns the pretrained fc6 and fc7 where there are some."""
    keys = plan.keys(plan.body)
    if plan.initialize is not None:
        plan.body.to_empty(device="cpu")
        if weights == "none":
            plan.initialize(plan.body)
    if weights == "none" or (weights == "imagenet" and name.startswith(TIMM_PREFIX)):
        return None
    if weights == "imagenet" and name == "tiny":
        raise WeightsError("got imagenet for model.weights; expected none or a file, as tiny has no ImageNet weights")
    state = torchvision_imagenet_weights(name) if weights == "imagenet" else read_weights(Path(weights))
    source = f"{weights}, for {name},"
    load_strictly(plan.body, state, keys=keys, known=plan.whole.keys(), source=source)
    if plan.fc is None:
        return None
    fc_keys = plan.keys(plan.fc)
    if not all(key in state for key in fc_keys.values()):
        return None  # a file of the feature layers alone
    plan.fc.to_empty(device="cpu")
    load_strictly(plan.fc, state, keys=fc_keys, known=plan.whole.keys(), source=source)
    return plan.fc
