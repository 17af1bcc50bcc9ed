"""OICR's pseudo labels and losses, by hand and against loops."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from wsol.models.refinement import PseudoLabels, Refinement, pseudo_labels, weighted_log_loss
from wsol.models.regions import Regions

BOXES = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 10.0, 5.0],  # IoU exactly 0.5 with the first
        [0.0, 0.0, 10.0, 4.9],
        [0.0, 0.0, 10.0, 1.0],  # exactly 0.1
        [0.0, 0.0, 10.0, 0.9],
        [50.0, 50.0, 60.0, 60.0],
    ],
    dtype=torch.float64,
)
BACKGROUND = 2


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def labels_of(scores: Tensor, *classes: int) -> PseudoLabels:
    return pseudo_labels(BOXES, scores, classes=classes, foreground_iou=0.5, ignore_iou=0.1)


def scores_with(*best: tuple[int, int, float]) -> Tensor:
    scores = torch.full((6, 2), 0.01)
    for row, label, score in best:
        scores[row, label] = score
    return scores


def test_overlap_decides_between_class_background_and_nothing() -> None:
    goal = labels_of(scores_with((0, 1, 0.8)), 1)
    assert goal.labels.tolist() == [1, 1, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND]
    assert goal.weights.tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.0, 0.0])


def test_each_proposal_follows_the_object_it_overlaps_most() -> None:
    goal = labels_of(scores_with((0, 0, 0.8), (5, 1, 0.3)), 0, 1)
    assert goal.labels.tolist() == [0, 0, BACKGROUND, BACKGROUND, BACKGROUND, 1]
    assert goal.weights.tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.0, 0.3])


def test_one_proposal_is_no_object_of_two_classes() -> None:
    goal = labels_of(scores_with((0, 0, 0.8), (0, 1, 0.9), (5, 1, 0.2)), 0, 1)
    assert goal.labels.tolist()[0] == 0
    assert goal.labels.tolist()[5] == 1
    assert goal.weights.tolist()[5] == pytest.approx(0.2)


def test_no_class_and_fewer_proposals_than_classes() -> None:
    assert labels_of(scores_with()).weights.tolist() == [0.0] * 6
    goal = pseudo_labels(BOXES[:1], torch.rand(1, 2), classes=(0, 1), foreground_iou=0.5, ignore_iou=0.1)
    assert goal.labels.tolist() == [0]
    assert pseudo_labels(
        BOXES[:0], torch.rand(0, 2), classes=(0,), foreground_iou=0.5, ignore_iou=0.1
    ).labels.shape == (0,)


def test_a_box_without_area_is_no_nan() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0]])
    goal = pseudo_labels(boxes, torch.rand(2, 1), classes=(0,), foreground_iou=0.5, ignore_iou=0.1)
    assert goal.weights.tolist() == [0.0, 0.0]


def test_loss_is_the_weighted_mean_over_all_proposals() -> None:
    log_probability = torch.log_softmax(torch.randn(3, 4, dtype=torch.float64), dim=1)
    goal = PseudoLabels(labels=torch.tensor([3, 0, 2]), weights=torch.tensor([0.5, 0.0, 2.0]))
    expected = -(0.5 * log_probability[0, 3] + 2.0 * log_probability[2, 2]) / 3
    assert weighted_log_loss(log_probability, goal).item() == pytest.approx(expected.item(), rel=1e-12)


def test_each_classifier_learns_from_the_one_before() -> None:
    refinement = Refinement(in_features=4, num_classes=2, count=3, foreground_iou=0.5, ignore_iou=0.1).double()
    regions = Regions(boxes=BOXES, log_area=torch.zeros(6), vectors=torch.randn(6, 4, dtype=torch.float64))
    given = torch.rand(6, 2, dtype=torch.float64)
    expected, scores = [], given
    for classifier in refinement.classifiers:
        probability = torch.softmax(classifier(regions.vectors), dim=1).detach()
        best = int(scores[:, 1].argmax())
        loss = 0.0
        for row in range(6):
            a, b = BOXES[row].tolist(), BOXES[best].tolist()
            inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
            if inter / union >= 0.1:
                label = 1 if inter / union >= 0.5 else 2
                loss -= float(scores[best, 1]) * math.log(float(probability[row, label]))
        expected.append(loss / 6)
        scores = probability[:, :2]
    losses = refinement.losses(regions, given, torch.tensor([-1.0, 1.0]))
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-9)
    assert not given.requires_grad
    mean = sum(torch.softmax(c(regions.vectors), dim=1)[:, :2] for c in refinement.classifiers) / 3
    torch.testing.assert_close(refinement.scores(regions.vectors), mean)
