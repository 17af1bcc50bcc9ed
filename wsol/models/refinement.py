"""OICR: classifiers of single regions that learn from each other's best guesses, the first one from WSDDN's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from wsol.models.regions import Regions


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What a classifier is to learn of the N proposals of an image.

    Attributes:
        labels: int64 (N,), in [0, C); C is background.
        weights: (N,) of each proposal's loss, >= 0.
    """

    labels: Tensor
    weights: Tensor


class Refinement(nn.Module):
    """K linear classifiers over C classes and background.

    Args:
        in_features: D, of the vectors of the regions.
        num_classes: C.
        count: K, at least 1.
        foreground_iou: see `pseudo_labels`.
        ignore_iou: see `pseudo_labels`.

    Source: Tang et al., Multiple instance detection network with online instance classifier refinement, CVPR 2017;
        weights N(0, 0.01), bias 0: ppengtang/oicr:models/VGG16/train.prototxt.
    """

    def __init__(
        self, *, in_features: int, num_classes: int, count: int, foreground_iou: float, ignore_iou: float
    ) -> None:
        super().__init__()
        self.foreground_iou = foreground_iou
        self.ignore_iou = ignore_iou
        self.classifiers = nn.ModuleList(nn.Linear(in_features, num_classes + 1) for _ in range(count))
        for layer in self.classifiers:
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def losses(self, regions: Regions, scores: Tensor, labels: Tensor) -> list[Tensor]:
        """The loss of each classifier for one image: 0 where it has no proposals or shows no class.

        Args:
            regions: of the image.
            scores: (N, C) of WSDDN, which the first classifier learns from.
            labels: (C,) of 1, 0, -1.
        """
        losses = []
        for classifier in self.classifiers:
            log_probability = torch.log_softmax(classifier(regions.vectors), dim=1)  # (N, C + 1)
            with torch.no_grad():
                goal = pseudo_labels(
                    regions.boxes,
                    scores,
                    classes=torch.nonzero(labels == 1).flatten().tolist(),
                    foreground_iou=self.foreground_iou,
                    ignore_iou=self.ignore_iou,
                )
            losses.append(weighted_log_loss(log_probability, goal))
            scores = log_probability.detach().exp()[:, :-1]
        return losses

    def scores(self, vectors: Tensor) -> Tensor:
        """Region scores (N, C) of vectors (N, D): the mean of the classifiers' probabilities."""
        probabilities = [torch.softmax(classifier(vectors), dim=1)[:, :-1] for classifier in self.classifiers]
        return torch.stack(probabilities).mean(dim=0)


def pseudo_labels(
    boxes: Tensor, scores: Tensor, *, classes: Sequence[int], foreground_iou: float, ignore_iou: float
) -> PseudoLabels:
    """Labels of proposals, from the best proposal of each class that the image shows.

    That proposal is a pseudo object. A proposal gets the class of the pseudo object that it overlaps most (the first
    of several) if it does so by at least `foreground_iou`, else background, and the pseudo object's score as weight;
    no weight if it overlaps none by `ignore_iou`. One proposal is the pseudo object of one class only.

    Args:
        boxes: (N, 4).
        scores: (N, C), without gradient.
        classes: those with label 1, ascending; none gives no weight to anything.
        foreground_iou: in (0, 1).
        ignore_iou: in [0, 1); the part of the background that is far from everything may be a missed object.

    Source: ppengtang/oicr:lib/oicr_layer/layer.py; `ignore_iou` 0.1: ppengtang/pcl.pytorch, issue 59.
    """
    background = scores.shape[1]
    chosen: list[int] = []
    remaining = scores.clone()
    for label in classes[: len(boxes)]:
        best = int(remaining[:, label].argmax())
        chosen.append(best)
        remaining[best] = -torch.inf
    if not chosen:
        return PseudoLabels(
            labels=scores.new_full((len(boxes),), background).long(), weights=scores.new_zeros(len(boxes))
        )
    objects = torch.tensor(chosen, device=boxes.device)
    labels = torch.tensor(classes[: len(chosen)], device=boxes.device)
    overlap, nearest = box_iou(boxes, boxes[objects]).nan_to_num(0.0).max(dim=1)  # (N,)
    weights = scores[objects, labels][nearest] * (overlap >= ignore_iou)
    return PseudoLabels(labels=torch.where(overlap >= foreground_iou, labels[nearest], background), weights=weights)


def weighted_log_loss(log_probability: Tensor, goal: PseudoLabels) -> Tensor:
    """Mean over N regions of -weight * log p(label), from (N, C + 1); 0 for no regions."""
    if len(log_probability) == 0:
        return log_probability.sum()
    chosen = log_probability.gather(1, goal.labels[:, None])[:, 0]  # (N,)
    return -(goal.weights * chosen).mean()
