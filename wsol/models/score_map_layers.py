"""The layers between a backbone's feature map and score maps: three ways to build a localizer."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from wsol.models.backbones import Backbone
from wsol.models.regions import DEFAULT_FC_DIM

CLASSROOM_CHANNELS = 256
"""Source: CMU 16-824 (Fall 2022), task 1: convolutions 3x3 and 1x1 of 256 channels, then 1x1 to the classes."""
OQUAB_CHANNELS = 2048
"""Source: Oquab et al., CVPR 2015 (recalled); RomainBUAA/weakcnn:example/cnn_weakly_label.m."""


class ScoreMapHead(nn.Module):
    """New layers: `features` to the vectors of cells, `score` from those, linearly, to the maps.

    Args:
        features: (b, in, h, w) to (b, D, h, w).
        score: a convolution 1 x 1 from D to C * M channels, the M maps of a class side by side.
    """

    def __init__(self, *, features: nn.Sequential, score: nn.Conv2d) -> None:
        super().__init__()
        self.features = features
        self.score = score


@dataclass(frozen=True, eq=False)
class ScoreMapLayers:
    """What a localizer has after its backbone.

    Attributes:
        fc: fc6 and fc7 as convolutions, or nothing.
        head: see `ScoreMapHead`.
        stride: pixels a cell of the score maps.
        feature_channels: D, of the maps that the scores are a linear function of.
    """

    fc: nn.Sequential
    head: ScoreMapHead
    stride: int
    feature_channels: int


def build_score_map_layers(
    name: str, *, backbone: Backbone, maps: int, hidden_channels: int | None, fc_dim: int | None, dropout: float
) -> ScoreMapLayers:
    """The layers called `name`. Takes the backbone's pretrained fc6 and fc7, and drops them where it has no use.

    - `classroom`: 3x3 and 1x1, each with ReLU and dropout, then 1x1 to the maps. The 3x3 is padded, so that cells stay
      where they are. Xavier initialization.
    - `oquab`: the last pool, fc6 and fc7 as convolutions with ReLU and dropout, an adaptation layer 1x1 with ReLU, then
      1x1 to the maps. Twice the backbone's stride.
    - `linear`: 1x1 to the maps, as in CAM and WILDCAT.

    Args:
        name: one of the three.
        backbone: what the layers are for.
        maps: C * M, channels of the result.
        hidden_channels: of classroom's hidden layers, or oquab's adaptation layer; None: as published.
        fc_dim: width of new fc6 and fc7 (oquab, where no pretrained ones fit); None: DEFAULT_FC_DIM.
        dropout: probability.

    Raises:
        ValueError: for another name.

    Source: Oquab et al., CVPR 2015; CMU 16-824, task 1; Zhou et al., CVPR 2016.
    """
    pretrained = backbone.take_pretrained_fc()
    if name == "classroom":
        width = hidden_channels or CLASSROOM_CHANNELS
        features = _classroom(backbone.out_channels, width, dropout=dropout)
        return ScoreMapLayers(nn.Sequential(), _head(features, width, maps, xavier=True), backbone.stride, width)
    if name == "oquab":
        fc, fc_width = _fully_convolutional(pretrained, backbone=backbone, fc_dim=fc_dim, dropout=dropout)
        width = hidden_channels or OQUAB_CHANNELS
        features = nn.Sequential(OrderedDict(adaptation=_new_conv(fc_width, width, 1), relu=nn.ReLU()))
        return ScoreMapLayers(fc, _head(features, width, maps), 2 * backbone.stride, width)
    if name == "linear":
        width = backbone.out_channels
        return ScoreMapLayers(nn.Sequential(), _head(nn.Sequential(), width, maps), backbone.stride, width)
    raise ValueError(f"got {name!r} for model.head; expected one of classroom, oquab, linear")


def _classroom(in_channels: int, width: int, *, dropout: float) -> nn.Sequential:
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (channels, kernel) in enumerate([(in_channels, 3), (width, 1)], start=1):
        layer = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(layer.weight)
        _zero_bias(layer)
        modules |= {f"conv{index}": layer, f"relu{index}": nn.ReLU(), f"dropout{index}": nn.Dropout(dropout)}
    return nn.Sequential(modules)


def _head(features: nn.Sequential, width: int, maps: int, *, xavier: bool = False) -> ScoreMapHead:
    score = nn.Conv2d(width, maps, 1)
    if xavier:
        nn.init.xavier_uniform_(score.weight)
    else:
        nn.init.normal_(score.weight, std=0.01)
    _zero_bias(score)
    return ScoreMapHead(features=features, score=score)


def _fully_convolutional(
    pretrained: nn.Sequential | None, *, backbone: Backbone, fc_dim: int | None, dropout: float
) -> tuple[nn.Sequential, int]:
    """Last pool, fc6, fc7 on every position of a map, and the width of fc7.

    fc6 sees a square of `roi_size` cells around each cell. Where that is an even number the one more lies before the
    cell: the centres of alexnet's cells lie half a cell further on, and the two make up for each other.
    """
    size = backbone.roi_size
    fc6, fc7 = _convolutions(pretrained, in_channels=backbone.out_channels, size=size, fc_dim=fc_dim)
    before, after = size // 2, (size - 1) // 2
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        pool=nn.MaxPool2d(backbone.last_pool_size, stride=2),
        pad=nn.ZeroPad2d((before, after, before, after)),
        fc6=fc6,
        relu6=nn.ReLU(),
        dropout6=nn.Dropout(dropout),
        fc7=fc7,
        relu7=nn.ReLU(),
        dropout7=nn.Dropout(dropout),
    )
    return nn.Sequential(modules), fc7.out_channels


def _convolutions(
    pretrained: nn.Sequential | None, *, in_channels: int, size: int, fc_dim: int | None
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """fc6 and fc7 with the same weights as linear layers, in the order channel, row, column; or new ones."""
    if pretrained is None:
        width = fc_dim or DEFAULT_FC_DIM
        return _new_conv(in_channels, width, size), _new_conv(width, width, 1)
    layers = []
    for name, channels, kernel in (("fc6", in_channels, size), ("fc7", -1, 1)):
        linear = pretrained.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        weight = torch.unflatten(linear.weight.detach(), 1, (channels, kernel, kernel))
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, device="meta")  # memory is that of the linear layer
        layer.weight, layer.bias = nn.Parameter(weight), linear.bias
        layers.append(layer)
    return layers[0], layers[1]


def _new_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    _zero_bias(layer)
    return layer


def _zero_bias(layer: nn.Conv2d) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
