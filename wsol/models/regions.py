"""From a feature map and proposals to one vector for each proposal: RoI operation, fc6, fc7."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign, RoIPool

from wsol.models.backbones import Backbone

DEFAULT_FC_DIM = 1024
"""Width of new fc6 and fc7 layers."""

RING_RATIO = 1.8
"""Outer over inner side of the rings around a proposal.

Source: Kantorov et al., ContextLocNet, ECCV 2016; vadimkantorov/contextlocnet:model/roi_transforms.lua.
"""

ROI_OPS: dict[str, Callable[[int, float], nn.Module]] = {
    "roi_pool": lambda size, scale: RoIPool(size, scale),
    "roi_align": lambda size, scale: RoIAlign(size, scale, sampling_ratio=2, aligned=True),
}
"""By the name that a config gives: (cells a side, 1 / stride) -> a module from maps and boxes to RoI features."""

BOX_SCORE_FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "score": lambda scores: scores,
    "one_plus_ten": lambda scores: 1 + 10 * scores,
}
"""What RoI features are multiplied by, from the proposals' scores.

Source: `one_plus_ten`: hbilen/WSDDN, BiasSamples with scale 10; `score`: adursun/wsddn.pytorch.
"""


@dataclass(frozen=True, eq=False)
class Regions:
    """The N proposals of one image, N may be 0, as a head sees them.

    Attributes:
        boxes: float32 (N, 4) in pixels of the image that the network saw.
        log_area: (N,) logarithm of the proposal's area over that of the image, <= 0.
        vectors: (N, D), what fc7 gives for the proposal.
        inner_ring: (N, D), the same for the ring between box / RING_RATIO and box; None without context.
        outer_ring: (N, D), the same for the ring between box and box * RING_RATIO; None without context.
    """

    boxes: Tensor
    log_area: Tensor
    vectors: Tensor
    inner_ring: Tensor | None = None
    outer_ring: Tensor | None = None


class RegionFeatures(nn.Module):
    """RoI operation, fc6, fc7.

    Args:
        in_channels: Channels of the feature maps.
        stride: Pixels a cell.
        roi_op: A key of `ROI_OPS`. `roi_pool` covers cells round(x1 / stride) to round(x2 / stride), both included.
        roi_size: Cells a side of a pooled RoI.
        fc_dim: Width of new fc6 and fc7 layers.
        pretrained: fc6 and fc7 to go on with, for `roi_size` and `in_channels`; None: new ones, with LayerNorm.
        dropout: Probability, after each of fc6 and fc7.
        box_scores: `none`, or a key of `BOX_SCORE_FACTORS`.
        rings: Whether the rings around the proposals are pooled as well, through the same fc6 and fc7.

    Raises:
        ValueError: for an unknown `roi_op` or `box_scores`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stride: int,
        roi_op: str,
        roi_size: int,
        fc_dim: int,
        pretrained: tuple[nn.Linear, nn.Linear] | None,
        dropout: float,
        box_scores: str,
        rings: bool,
    ) -> None:
        super().__init__()
        if roi_op not in ROI_OPS:
            raise ValueError(f"got {roi_op!r} for model.roi_op; expected one of {', '.join(ROI_OPS)}")
        if box_scores != "none" and box_scores not in BOX_SCORE_FACTORS:
            raise ValueError(
                f"got {box_scores!r} for model.box_scores; expected one of none, {', '.join(BOX_SCORE_FACTORS)}"
            )
        self.roi_op = ROI_OPS[roi_op](roi_size, 1 / stride)
        self.box_factor = BOX_SCORE_FACTORS.get(box_scores)
        self.rings = rings
        self.layers = _fc_layers(
            pretrained or _new_fc(in_channels * roi_size**2, fc_dim), is_new=pretrained is None, dropout=dropout
        )
        fc7 = self.layers.get_submodule("fc7")
        assert isinstance(fc7, nn.Linear)
        self.out_features = fc7.out_features

    def forward(
        self,
        maps: Tensor,
        boxes: Sequence[Tensor],
        scores: Sequence[Tensor | None],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Regions]:
        """The regions of b images.

        Args:
            maps: (b, in_channels, h, w).
            boxes: b tensors (Ni, 4), in pixels of their image.
            scores: b tensors (Ni,), of the proposals; not looked at without `box_scores`.
            sizes: b pairs (height, width) of the images, in pixels.
        """
        boxes = [some.to(maps.dtype) for some in boxes]
        factors = self._factors(scores, maps)
        vectors = self._vectors(maps, boxes, factors)
        inner: Sequence[Tensor | None] = [None] * len(boxes)
        outer = inner
        if self.rings:
            inner = self._vectors(maps, boxes, factors, hollow=True)
            outer = self._vectors(maps, [enlarged(some, RING_RATIO) for some in boxes], factors, hollow=True)
        log_areas = [log_relative_area(some, height=h, width=w) for some, (h, w) in zip(boxes, sizes, strict=True)]
        return [Regions(*parts) for parts in zip(boxes, log_areas, vectors, inner, outer, strict=True)]

    def _factors(self, scores: Sequence[Tensor | None], maps: Tensor) -> Tensor | None:
        """(N, 1, 1, 1) of all images."""
        if self.box_factor is None:
            return None
        given = [some for some in scores if some is not None]
        if len(given) < len(scores):
            raise ValueError("got proposals without scores; expected some, with model.box_scores")
        return self.box_factor(torch.cat(given).to(maps.dtype))[:, None, None, None]

    def _vectors(
        self, maps: Tensor, boxes: list[Tensor], factors: Tensor | None, *, hollow: bool = False
    ) -> list[Tensor]:
        """For each image, what fc7 gives for its boxes: (Ni, D)."""
        pooled = self.roi_op(maps, boxes)  # (N, in_channels, roi_size, roi_size)
        if hollow:
            pooled = pooled * ring_mask(pooled.shape[-1]).to(pooled)
        if factors is not None:
            pooled = pooled * factors
        vectors: Tensor = self.layers(pooled)  # (N, D)
        return list(torch.split(vectors, [len(some) for some in boxes]))


def build_region_features(
    *,
    backbone: Backbone,
    roi_op: str,
    roi_size: int | None,
    fc_dim: int | None,
    dropout: float,
    box_scores: str,
    rings: bool,
) -> RegionFeatures:
    """What suits a backbone: its pretrained fc6 and fc7, which become part of the result, where the sizes are theirs.

    Args:
        backbone: hands over its pretrained layers.
        roi_size: None: what suits the backbone.
        fc_dim: None: that of the pretrained layers, else DEFAULT_FC_DIM.
        roi_op, dropout, box_scores, rings: see `RegionFeatures`.
    """
    roi_size = backbone.roi_size if roi_size is None else roi_size
    pretrained = backbone.take_pretrained_fc()
    return RegionFeatures(
        in_channels=backbone.out_channels,
        stride=backbone.stride,
        roi_op=roi_op,
        roi_size=roi_size,
        fc_dim=DEFAULT_FC_DIM if fc_dim is None else fc_dim,
        pretrained=_fitting(pretrained, in_features=backbone.out_channels * roi_size**2, fc_dim=fc_dim),
        dropout=dropout,
        box_scores=box_scores,
        rings=rings,
    )


def enlarged(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (N, 4) with sides `factor` times as long around the same centres; they may leave the image."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat([centres - halves, centres + halves], dim=1)


def ring_mask(size: int) -> Tensor:
    """(size, size): 0 for the cells of a pooled RoI whose centre lies within its middle 1 / RING_RATIO, else 1.

    A size of 1 has no ring: its one cell stays.
    """
    centres = (torch.arange(size) + 0.5) / size - 0.5  # in [-0.5, 0.5]
    inside = centres.abs() < 0.5 / RING_RATIO
    if size == 1:
        return torch.ones(1, 1)
    return 1.0 - (inside[:, None] & inside).float()


def log_relative_area(boxes: Tensor, *, height: int, width: int) -> Tensor:
    """log(area of a box / area of the image) of boxes (N, 4): (N,). A box counts as at least one pixel large."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area.clamp(min=1.0) / (height * width)).log()


def _fc_layers(layers: tuple[nn.Linear, nn.Linear], *, is_new: bool, dropout: float) -> nn.Sequential:
    """RoI features to the vectors that a head scores: fc6 and fc7, each with ReLU and dropout.

    New layers have a LayerNorm before each ReLU: without one, learning rates that suit the rest of a network that
    starts from noise kill their units. It looks at each region by itself, so images stay independent.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for name, layer in zip("67", layers, strict=True):
        modules[f"fc{name}"] = layer
        if is_new:
            modules[f"norm{name}"] = nn.LayerNorm(layer.out_features)
        modules[f"relu{name}"] = nn.ReLU()
        modules[f"dropout{name}"] = nn.Dropout(dropout)
    return nn.Sequential(modules)


def _fitting(
    pretrained: nn.Sequential | None, *, in_features: int, fc_dim: int | None
) -> tuple[nn.Linear, nn.Linear] | None:
    """The pretrained fc6 and fc7 where there are some of the sizes asked for."""
    if pretrained is None:
        return None
    fc6, fc7 = pretrained.get_submodule("fc6"), pretrained.get_submodule("fc7")
    assert isinstance(fc6, nn.Linear)
    assert isinstance(fc7, nn.Linear)
    return (fc6, fc7) if fc6.in_features == in_features and fc_dim in (None, fc7.out_features) else None


def _new_fc(in_features: int, width: int) -> tuple[nn.Linear, nn.Linear]:
    layers = nn.Linear(in_features, width), nn.Linear(width, width)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return layers
