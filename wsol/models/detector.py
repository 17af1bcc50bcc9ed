"""What every weakly supervised detector is to training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wsol.data.batch import ImageBatch


@dataclass(frozen=True)
class ImagePrediction:
    """What a model says of one image. Coordinates are pixels of the image that the network saw.

    Attributes:
        class_scores: (C,) how sure the model is that the image shows each class; only their order means something.
        boxes: float32 (N, 4) x1 y1 x2 y2, in the order of the image's proposals; N is 0 for a model of score maps.
        box_scores: (N, C) score of each box for each class, higher is better.
        score_maps: for a model of score maps, of C classes; None for a model that scores proposals.
    """

    class_scores: Tensor
    boxes: Tensor
    box_scores: Tensor
    score_maps: ScoreMaps | None = None


@dataclass(frozen=True)
class ScoreMaps:
    """A map for each class of one image.

    Attributes:
        values: (C, h, w), higher where the class is.
        stride: pixels a cell. The cells cover the image; the last ones may stick out of it.
    """

    values: Tensor
    stride: int


class WeaklySupervisedModel(Protocol):
    """A model that learns to localize from image-level labels.

    Promises:
        - It is an `nn.Module`. The batch lies on the model's device; so does what is returned.
        - The result for an image does not depend on what else is in the batch (in eval mode; in training,
          BatchNorm that is not frozen and the dropout masks do depend on it).
        - Any image of at least 1 x 1 pixel and any number of proposals, 0 included, is fine.
        - Finite parameters give finite losses and finite gradients.
    """

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Named scalars, each a mean over images. Their sum is minimized; it always has a gradient."""
        ...

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        """One prediction an image, in the order of the batch. Called in eval mode, under `torch.inference_mode`."""
        ...
