"""The fully convolutional localizer: a score map for each class, pooled to image scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol.data.batch import ImageBatch
from wsol.losses import multi_label_logistic_loss
from wsol.models.backbones import Backbone
from wsol.models.detector import ImagePrediction, ScoreMaps
from wsol.models.pooling import ImagePooling
from wsol.models.score_map_layers import ScoreMapLayers


@dataclass(frozen=True, eq=False)
class _MapsOfSize:
    """The score maps of those images of a batch that have one size: b of them."""

    indices: list[int]
    features: Tensor  # (b, D, h, w), what the scores are a linear function of
    scores: Tensor  # (b, C, h, w)
    valid: Tensor | None  # bool (b, 1, h, w); None: all cells are


class Localizer(nn.Module):
    """Backbone -> layers to a map for each class -> smoothing, map dropout -> image pooling.

    A `WeaklySupervisedModel` of score maps.

    Args:
        backbone: Becomes part of the model, like everything else here.
        num_classes: C.
        layers: From the backbone's maps to score maps; made for the backbone.
        pooling: From (B, C, h, w) score maps to (B, C) scores.
        smoothing: Side of an average filter on the score maps, odd; 1 is none.
        map_dropout: Probability that a class's whole map is 0 in a training step.

    Source: Oquab et al., Is object localization for free?, CVPR 2015. Smoothing and map dropout: the robust localizer
        of CMU's 16-824 course (Fall 2022, task 1.7), which keeps a map from being one small part.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        layers: ScoreMapLayers,
        pooling: ImagePooling,
        smoothing: int,
        map_dropout: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.fc = layers.fc
        self.head = layers.head
        self.stride = layers.stride
        self.pooling = pooling
        self.smoothing = smoothing
        self.map_dropout = map_dropout

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """`image`: the logistic loss summed over classes, mean over the images of the batch."""
        logits = torch.empty_like(batch.labels)  # (B, C)
        for group in self._score_maps(batch):
            logits[group.indices] = self.pooling(group.scores, group.valid, group.features).to(logits.dtype)
        return {"image": multi_label_logistic_loss(logits, batch.labels).mean()}

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        """Pooled scores and score maps, without the cells that show nothing but padding."""
        predictions: dict[int, ImagePrediction] = {}
        for group in self._score_maps(batch):
            class_scores = self.pooling(group.scores, group.valid, group.features)  # (b, C)
            for row, index in enumerate(group.indices):
                scores = group.scores[row]  # (C, h, w)
                if group.valid is not None:
                    rows, columns = group.valid[row, 0].any(dim=1).sum(), group.valid[row, 0].any(dim=0).sum()
                    scores = scores[:, :rows, :columns]
                predictions[index] = ImagePrediction(
                    class_scores=class_scores[row],
                    boxes=scores.new_zeros(0, 4),
                    box_scores=scores.new_zeros(0, self.num_classes),
                    score_maps=ScoreMaps(scores, stride=self.stride),
                )
        return [predictions[index] for index in range(len(batch))]

    def _score_maps(self, batch: ImageBatch) -> Iterator[_MapsOfSize]:
        for group in self.backbone.feature_maps(batch.images):
            features = self.head.features(self.fc(group.maps))  # (b, D, h, w)
            maps = self.head.score(features).unflatten(1, (self.num_classes, -1)).mean(dim=2)  # (b, C, h, w)
            valid = _at_stride(group.valid, maps, step=self.stride // self.backbone.stride)
            maps = smooth(maps, valid, side=self.smoothing)
            maps = F.dropout2d(maps, self.map_dropout, self.training)
            yield _MapsOfSize(group.indices, features, maps, valid)


def _at_stride(valid: Tensor | None, maps: Tensor, *, step: int) -> Tensor | None:
    """Which cells of `maps` (b, C, h, w) are valid, from those of the feature maps, which have `step` times as many.

    A cell is valid where the first of the cells that it stands for is.
    """
    height, width = maps.shape[2:]
    return None if valid is None else valid[:, :, ::step, ::step][:, :, :height, :width]


def smooth(maps: Tensor, valid: Tensor | None, *, side: int) -> Tensor:
    """The mean over the side x side cells around each cell, of those that are on the map and valid.

    Args:
        maps: (b, C, h, w).
        valid: bool (b, 1, h, w), or None when all cells are. What is not valid gets some value, and gives none.
        side: odd; 1 gives `maps`.
    """
    if side == 1:
        return maps
    weights = torch.ones_like(maps[:, :1]) if valid is None else valid.to(maps.dtype)
    sums = F.avg_pool2d(maps * weights, side, stride=1, padding=side // 2)
    counts = F.avg_pool2d(weights, side, stride=1, padding=side // 2)  # not 0 where valid: a cell is its own neighbour
    return sums / counts.clamp(min=0.5 / side**2)
