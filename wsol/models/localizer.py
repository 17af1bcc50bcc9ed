"""The fully convolutional localizer: a score map for each class, pooled to image scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wsol.data.batch import ImageBatch
from wsol.losses import multi_label_logistic_loss
from wsol.models.backbones import Backbone, FeatureMaps
from wsol.models.detector import ImagePrediction
from wsol.models.pooling import ImagePooling


class Localizer(nn.Module):
    """Backbone -> convolution 3 x 3, ReLU, dropout -> convolution 1 x 1 to a map for each class -> image pooling.

    A `WeaklySupervisedModel`. It gives a point for each class, no boxes.

    Args:
        backbone: Becomes part of the model. Its pretrained fc6 and fc7 are dropped: this head has no use for them.
        num_classes: C.
        hidden_channels: Channels between the two convolutions.
        dropout: Probability, after the hidden convolution.
        pooling: From (B, C, h, w) score maps to (B, C) scores.

    Source: Oquab et al., Is object localization for free?, CVPR 2015, with the smaller head that is usual today.
    """

    def __init__(
        self, *, backbone: Backbone, num_classes: int, hidden_channels: int, dropout: float, pooling: ImagePooling
    ) -> None:
        super().__init__()
        backbone.take_pretrained_fc()
        self.backbone = backbone
        self.num_classes = num_classes
        self.pooling = pooling
        hidden = nn.Conv2d(backbone.out_channels, hidden_channels, kernel_size=3, padding=1)
        nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
        nn.init.zeros_(hidden.bias)  # type: ignore[arg-type]
        score = nn.Conv2d(hidden_channels, num_classes, kernel_size=1)
        nn.init.normal_(score.weight, std=0.01)
        nn.init.zeros_(score.bias)  # type: ignore[arg-type]
        self.head = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(dropout), score)

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """`image`: the logistic loss summed over classes, mean over the images of the batch."""
        logits = torch.empty_like(batch.labels)  # (B, C)
        for group, scores in self._score_maps(batch):
            logits[group.indices] = self.pooling(scores, group.valid)
        return {"image": multi_label_logistic_loss(logits, batch.labels).mean()}

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        """Pooled scores, and the centre of the best cell for each class (the first of those that are tied)."""
        predictions: dict[int, ImagePrediction] = {}
        for group, scores in self._score_maps(batch):
            class_scores = self.pooling(scores, group.valid)  # (b, C)
            for row, index in enumerate(group.indices):
                valid = None if group.valid is None else group.valid[row]
                height, width = batch.images[index].shape[1:]
                predictions[index] = ImagePrediction(
                    class_scores=class_scores[row],
                    boxes=scores.new_zeros(0, 4),
                    box_scores=scores.new_zeros(0, self.num_classes),
                    points=_peaks(scores[row], valid, stride=self.backbone.stride, width=width, height=height),
                )
        return [predictions[index] for index in range(len(batch))]

    def _score_maps(self, batch: ImageBatch) -> Iterator[tuple[FeatureMaps, Tensor]]:
        """The images of each size, with their score maps (b, C, h, w)."""
        for group in self.backbone.feature_maps(batch.images):
            yield group, self.head(group.maps)


def _peaks(scores: Tensor, valid: Tensor | None, *, stride: int, width: int, height: int) -> Tensor:
    """Centres of the best cells of maps (C, h, w), among those where `valid` (1, h, w): (C, 2) x y in pixels."""
    if valid is not None:
        scores = scores.masked_fill(~valid, float("-inf"))
    best = scores.flatten(1).argmax(dim=1)  # (C,)
    columns = best % scores.shape[2]
    rows = best // scores.shape[2]
    x = ((columns + 0.5) * stride).clamp(max=width)
    y = ((rows + 0.5) * stride).clamp(max=height)
    return torch.stack([x, y], dim=1)
