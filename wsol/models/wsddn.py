"""WSDDN: classifies proposals and ranks them, with two softmaxes that need no boxes to learn from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign, RoIPool

from wsol.data.batch import ImageBatch
from wsol.losses import multi_label_log_loss
from wsol.models.backbones import Backbone
from wsol.models.detector import ImagePrediction

DEFAULT_FC_DIM = 1024
"""Width of new fc6 and fc7 layers."""

ROI_OPS: dict[str, Callable[[int, float], nn.Module]] = {
    "roi_pool": lambda size, scale: RoIPool(size, scale),
    "roi_align": lambda size, scale: RoIAlign(size, scale, sampling_ratio=2, aligned=True),
}
"""By the name that a config gives: (cells a side, 1 / stride) -> a module from maps and boxes to RoI features."""


class RegionHead(Protocol):
    """Scores the regions of one image.

    Promises:
        - `forward(vectors)`: (N, D), one for each proposal of ONE image, N may be 0, to (N, C): the logarithms of
          scores in (0, 1) whose sum over the regions is a probability for each class.
        - Finite vectors of at most 1e4 in magnitude give finite logarithms.
    """

    def __call__(self, vectors: Tensor) -> Tensor:
        """See the class."""
        ...


class TwoStreamHead(nn.Module):
    """softmax over classes times softmax over regions, of two linear layers. A `RegionHead`.

    Source: Bilen & Vedaldi, Weakly supervised deep detection networks, CVPR 2016, section 3.3; weights N(0, 0.01)
    and bias 0 as in hbilen/WSDDN, core/wsddn_init.m.
    """

    def __init__(self, *, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.classification = _new_linear(in_features, num_classes)
        self.detection = _new_linear(in_features, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """See `RegionHead`."""
        log_class = torch.log_softmax(self.classification(vectors), dim=1)  # (N, C), over classes
        log_region = torch.log_softmax(self.detection(vectors), dim=0)  # (N, C), over regions
        return log_class + log_region


def _new_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class Wsddn(nn.Module):
    """Backbone -> RoI operation on the proposals -> fc6, fc7 -> two-stream head.

    A `WeaklySupervisedModel`. The score of a class for the image is the sum of its region scores.

    Args:
        backbone: Becomes part of the model. Where it has a pretrained fc6 and fc7, and `roi_size` and `fc_dim` are
            theirs, they become part of the model too and train on; else these layers are new, with LayerNorm.
        num_classes: C.
        roi_op: A key of `ROI_OPS`. `roi_pool` covers cells round(x1 / stride) to round(x2 / stride), both included.
        roi_size: Cells a side of a pooled RoI; None: what suits the backbone.
        fc_dim: Width of fc6 and fc7; None: that of the pretrained ones, else DEFAULT_FC_DIM.
        dropout: Probability, after each of fc6 and fc7.

    Raises:
        ValueError: for an unknown `roi_op`.

    Source: Bilen & Vedaldi, Weakly supervised deep detection networks, CVPR 2016.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        roi_op: str,
        roi_size: int | None,
        fc_dim: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        if roi_op not in ROI_OPS:
            raise ValueError(f"got {roi_op!r} for model.roi_op; expected one of {', '.join(ROI_OPS)}")
        roi_size = backbone.roi_size if roi_size is None else roi_size
        self.backbone = backbone
        self.num_classes = num_classes
        self.roi_op = ROI_OPS[roi_op](roi_size, 1 / backbone.stride)
        in_features = backbone.out_channels * roi_size**2
        pretrained = backbone.take_pretrained_fc()
        self.fc, width = _fc_layers(pretrained, in_features=in_features, fc_dim=fc_dim, dropout=dropout)
        self.head: RegionHead = TwoStreamHead(in_features=width, num_classes=num_classes)

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """`image`: the log loss summed over classes, mean over the images with proposals; 0 where none has any."""
        regions = self._log_region_scores(batch)
        scored = [index for index, log_scores in enumerate(regions) if len(log_scores) > 0]
        if not scored:
            return {"image": torch.cat(regions).sum()}  # 0, and the gradients are zeros
        log_y = torch.stack([torch.logsumexp(regions[index], dim=0) for index in scored])  # (B', C)
        return {"image": multi_label_log_loss(log_y, batch.labels[scored]).mean()}

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        """Region scores of the proposals; points are the centres of each class's best proposal (first of ties)."""
        predictions = []
        for boxes, log_scores in zip(batch.proposals, self._log_region_scores(batch), strict=True):
            scores = log_scores.exp()  # (N, C)
            predictions.append(
                ImagePrediction(
                    class_scores=scores.sum(dim=0), boxes=boxes, box_scores=scores, points=_centres(boxes, scores)
                )
            )
        return predictions

    def _log_region_scores(self, batch: ImageBatch) -> list[Tensor]:
        """For each image of the batch, (Ni, C)."""
        return [self.head(vectors) for vectors in self._region_vectors(batch)]

    def _region_vectors(self, batch: ImageBatch) -> list[Tensor]:
        """For each image of the batch, what fc7 gives for its proposals: (Ni, D)."""
        vectors: dict[int, Tensor] = {}
        for group in self.backbone.feature_maps(batch.images):
            boxes = [batch.proposals[index].to(group.maps.dtype) for index in group.indices]
            pooled = self.roi_op(group.maps, boxes)  # (sum of Ni, channels, roi_size, roi_size)
            parts = self.fc(pooled).split([len(some) for some in boxes])
            vectors.update(zip(group.indices, parts, strict=True))
        return [vectors[index] for index in range(len(batch))]


def _fc_layers(
    pretrained: nn.Sequential | None, *, in_features: int, fc_dim: int | None, dropout: float
) -> tuple[nn.Sequential, int]:
    """RoI features to the vectors that a head scores, and the length of those: fc6 and fc7, each with ReLU and dropout.

    New layers have a LayerNorm before each ReLU: without one, learning rates that suit the rest of a network that
    starts from noise kill their units. It looks at each region by itself, so images stay independent.
    """
    layers = _fitting(pretrained, in_features=in_features, fc_dim=fc_dim)
    is_new = layers is None
    fc6, fc7 = _new_fc(in_features, DEFAULT_FC_DIM if fc_dim is None else fc_dim) if layers is None else layers
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for name, layer in (("6", fc6), ("7", fc7)):
        modules[f"fc{name}"] = layer
        if is_new:
            modules[f"norm{name}"] = nn.LayerNorm(layer.out_features)
        modules[f"relu{name}"] = nn.ReLU()
        modules[f"dropout{name}"] = nn.Dropout(dropout)
    return nn.Sequential(modules), fc7.out_features


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


def _centres(boxes: Tensor, scores: Tensor) -> Tensor:
    """The centre of the best of boxes (N, 4) by scores (N, C): (C, 2) x y, NaN for no boxes."""
    if len(boxes) == 0:
        return boxes.new_full((scores.shape[1], 2), float("nan"))
    best = boxes[scores.argmax(dim=0)]  # (C, 4)
    return (best[:, :2] + best[:, 2:]) / 2
