"""WSDDN: classifies proposals and ranks them, with two softmaxes that need no boxes to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from wsol.data.batch import ImageBatch
from wsol.losses import multi_label_log_loss
from wsol.models.backbones import Backbone
from wsol.models.detector import ImagePrediction
from wsol.models.refinement import Refinement
from wsol.models.regions import RegionFeatures, Regions


class RegionHead(Protocol):
    """Scores the regions of one image.

    Promises:
        - `forward(regions)` gives (N, C), N may be 0: the logarithms of scores in (0, 1) whose sum over the regions
          is a probability for each class.
        - Finite vectors of at most 1e4 in magnitude give finite logarithms.
    """

    def __call__(self, regions: Regions) -> Tensor:
        """See the class."""
        ...


class TwoStreamHead(nn.Module):
    """softmax over classes times softmax over regions, of two linear layers. A `RegionHead`.

    Args:
        in_features: D, of the vectors of the regions.
        num_classes: C.
        temperature: the detection logits are divided by it.
        size_prior: w: w log(relative area) is added to the detection logits, so that of two regions alike in all else
            the larger one has the (area ratio)^w-fold share of a class.
        contrastive: the detection logits are those of the inner ring less those of the outer ring, of one layer.

    Source: Bilen & Vedaldi, Weakly supervised deep detection networks, CVPR 2016, section 3.3; weights N(0, 0.01),
        bias 0 and a temperature of 2 as in hbilen/WSDDN, core/wsddn_init.m (the paper, as recalled, has none).
        Contrastive: Kantorov et al., ContextLocNet, ECCV 2016; vadimkantorov/contextlocnet:model/contrastive_s.lua.
        That model has no softmax over classes, and a hinge loss; here both are WSDDN's.
    """

    def __init__(
        self, *, in_features: int, num_classes: int, temperature: float, size_prior: float, contrastive: bool
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.size_prior = size_prior
        self.contrastive = contrastive
        self.classification = _new_linear(in_features, num_classes)
        self.detection = _new_linear(in_features, num_classes)

    def forward(self, regions: Regions) -> Tensor:
        """See `RegionHead`."""
        log_class = torch.log_softmax(self.classification(regions.vectors), dim=1)  # (N, C), over classes
        log_region = torch.log_softmax(self._detection_logits(regions), dim=0)  # (N, C), over regions
        return log_class + log_region

    def _detection_logits(self, regions: Regions) -> Tensor:
        if self.contrastive:
            assert regions.inner_ring is not None, "RegionFeatures are built with rings"
            assert regions.outer_ring is not None, "RegionFeatures are built with rings"
            logits = self.detection(regions.inner_ring) - self.detection(regions.outer_ring)
        else:
            logits = self.detection(regions.vectors)
        scaled: Tensor = logits / self.temperature + self.size_prior * regions.log_area[:, None]
        return scaled


def _new_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class SpatialRegularizer:
    """Draws the features of good proposals to those of the best one that they overlap.

    For each class that the image shows, with p the region scores, f the vectors and * the best region:
    0.5 sum_r ||p_r (f_r - f_*)||^2 over those of the `top` best regions that overlap the best one by more than `iou`.
    p is a constant here.

    Attributes:
        weight: of the loss; 0 switches it off.
        iou: in (0, 1).
        top: at least 2, the best one included.

    Source: hbilen/WSDDN:matlab/+dagnn/LossTopBoxSmoothProb.m, weight 1e-4. Its backward pass has p where the gradient
        of its forward pass has p^2 (issue 1 there); here the gradient is that of the formula.
    """

    weight: float
    iou: float
    top: int

    def loss(self, regions: Regions, scores: Tensor, labels: Tensor) -> Tensor:
        """The weighted loss of one image, a scalar: 0 where it has no proposals or shows no class.

        Args:
            regions: of the image.
            scores: (N, C), region scores.
            labels: (C,) of 1, 0, -1.
        """
        total = regions.vectors.sum() * 0.0  # a gradient of zero, whatever follows
        if len(regions.boxes) == 0:
            return total
        scores = scores.detach()
        for label in torch.nonzero(labels == 1).flatten().tolist():
            p, best = scores[:, label].topk(min(self.top, len(scores)))
            close = box_iou(regions.boxes[best[:1]], regions.boxes[best])[0] > self.iou  # (top,), the best one too
            difference = regions.vectors[best] - regions.vectors[best[0]]  # (top, D)
            total = total + 0.5 * ((p * close)[:, None] * difference).square().sum()
        return self.weight * total


class Wsddn(nn.Module):
    """Backbone -> RoI operation on the proposals -> fc6, fc7 -> two-stream head, perhaps refinement.

    A `WeaklySupervisedModel`. The score of a class for the image is the sum of its region scores.

    Args:
        backbone: Becomes part of the model, like everything else here.
        num_classes: C.
        regions: Made for the backbone.
        head: Made for the regions.
        refinement: None: region scores are the head's. Else they are the refinement's, and the image's the head's.
        spatial: Of a weight above 0, or None.

    Source: Bilen & Vedaldi, Weakly supervised deep detection networks, CVPR 2016.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        regions: RegionFeatures,
        head: RegionHead,
        refinement: Refinement | None,
        spatial: SpatialRegularizer | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.regions = regions
        self.head = head
        self.refinement = refinement
        self.spatial = spatial

    def training_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Means over the images with proposals; 0 where none has any.

        `image`: the log loss summed over classes; `spatial`: see `SpatialRegularizer`; `refinement_1` and so on: see
        `Refinement`.
        """
        per_image = [
            self._image_losses(regions, labels)
            for regions, labels in zip(self._regions(batch), batch.labels, strict=True)
            if len(regions.boxes) > 0
        ]
        if not per_image:
            return {"image": self._no_loss()}
        return {name: torch.stack([losses[name] for losses in per_image]).mean() for name in per_image[0]}

    def predict(self, batch: ImageBatch) -> list[ImagePrediction]:
        """Region scores of the proposals."""
        predictions = []
        for regions in self._regions(batch):
            image_scores = self.head(regions).exp()  # (N, C)
            scores = image_scores if self.refinement is None else self.refinement.scores(regions.vectors)
            predictions.append(
                ImagePrediction(class_scores=image_scores.sum(dim=0), boxes=regions.boxes, box_scores=scores)
            )
        return predictions

    def _image_losses(self, regions: Regions, labels: Tensor) -> dict[str, Tensor]:
        log_scores = self.head(regions)  # (N, C)
        log_y = torch.logsumexp(log_scores, dim=0)  # (C,)
        losses = {"image": multi_label_log_loss(log_y[None], labels[None])[0]}
        scores = log_scores.detach().exp()
        if self.spatial is not None:
            losses["spatial"] = self.spatial.loss(regions, scores, labels)
        if self.refinement is not None:
            refined = self.refinement.losses(regions, scores, labels)
            losses |= {f"refinement_{index}": loss for index, loss in enumerate(refined, start=1)}
        return losses

    def _no_loss(self) -> Tensor:
        """0, whose gradients are zeros."""
        return torch.stack([parameter.sum() * 0.0 for parameter in self.parameters() if parameter.requires_grad]).sum()

    def _regions(self, batch: ImageBatch) -> list[Regions]:
        """For each image of the batch."""
        found: dict[int, Regions] = {}
        for group in self.backbone.feature_maps(batch.images):
            regions = self.regions(
                group.maps,
                [batch.proposals[index] for index in group.indices],
                [batch.proposal_scores[index] for index in group.indices],
                [(int(batch.images[index].shape[1]), int(batch.images[index].shape[2])) for index in group.indices],
            )
            found.update(zip(group.indices, regions, strict=True))
        return [found[index] for index in range(len(batch))]
