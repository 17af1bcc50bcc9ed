"""Samples are checked at the door; a batch keeps every image as it is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from wsol.data.batch import Sample, collate


def make_sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "image": torch.rand(3, 6, 8),
        "labels": torch.tensor([1.0, 0.0, -1.0]),
        "proposals": torch.tensor([[0.0, 0.0, 4.0, 5.0], [1.0, 2.0, 8.0, 6.0]]),
        "proposal_scores": torch.tensor([0.5, 0.25]),
        "image_id": "000005",
        "scale": (2.0, 1.5),
    }
    return Sample(**(fields | changes))


def test_collate_keeps_order_and_sizes() -> None:
    first = make_sample()
    second = make_sample(
        image=torch.rand(3, 5, 4),
        labels=torch.tensor([-1, 1, 0], dtype=torch.int8),
        proposals=torch.zeros(0, 4),
        proposal_scores=None,
        image_id="000007",
        scale=(1.0, 1.0),
    )

    batch = collate([first, second])

    assert len(batch) == 2
    assert batch.images[0] is first.image
    assert batch.images[1].shape == (3, 5, 4)
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [[1, 0, -1], [-1, 1, 0]]
    assert [len(boxes) for boxes in batch.proposals] == [2, 0]
    assert batch.proposal_scores[1] is None
    assert batch.image_ids == ["000005", "000007"]
    assert batch.scales == [(2.0, 1.5), (1.0, 1.0)]


def test_to_moves_every_tensor_and_nothing_else() -> None:
    batch = collate([make_sample(), make_sample(proposal_scores=None)])

    moved = batch.to("meta")

    tensors = [*moved.images, moved.labels, *moved.proposals, moved.proposal_scores[0]]
    assert all(isinstance(tensor, torch.Tensor) and tensor.device.type == "meta" for tensor in tensors)
    assert moved.proposal_scores[1] is None
    assert (moved.image_ids, moved.scales) == (batch.image_ids, batch.scales)
    assert batch.labels.device.type == "cpu"


def test_a_sample_crosses_processes() -> None:
    copy = pickle.loads(pickle.dumps(make_sample()))
    assert copy.image_id == "000005"
    assert copy.labels.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(6, 8)}, r"image of shape \(6, 8\) for 000005"),
        ({"image": torch.rand(1, 6, 8)}, r"image of shape \(1, 6, 8\)"),
        ({"image": torch.rand(3, 0, 8)}, r"image of shape \(3, 0, 8\)"),
        ({"labels": torch.tensor([1.0, 0.5])}, r"labels \[1.0, 0.5\] for 000005; expected \(C,\) of 1, 0 or -1"),
        ({"labels": torch.tensor([[1.0]])}, r"labels \[\[1.0\]\]"),
        ({"proposals": torch.zeros(2, 5)}, r"proposals of shape \(2, 5\) for 000005"),
        ({"proposal_scores": torch.zeros(3)}, r"proposal_scores of shape \(3,\) for 000005; expected \(2,\)"),
        (
            {"proposals": torch.tensor([[0.0, 0.0, 4.0, 5.0], [3.0, 0.0, 2.0, 5.0]])},
            r"proposal 1 \[3.0, 0.0, 2.0, 5.0\] for 000005",
        ),
        ({"proposals": torch.tensor([[0.0, 7.0, 4.0, 5.0], [0.0, 0.0, 2.0, 5.0]])}, "proposal 0 "),
        ({"proposals": torch.tensor([[0.0, 0.0, 4.0, 5.0], [0.0, 0.0, float("nan"), 5.0]])}, "proposal 1 .*finite"),
        ({"proposals": torch.tensor([[0.0, 0.0, float("inf"), 5.0], [0.0, 0.0, 2.0, 5.0]])}, "proposal 0 .*finite"),
    ],
)
def test_a_bad_sample_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sample(**changes)


def test_a_box_without_area_is_no_error() -> None:
    boxes = torch.tensor([[2.0, 3.0, 2.0, 3.0]])
    assert make_sample(proposals=boxes, proposal_scores=None).proposals is boxes


def test_collate_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="got no samples"):
        collate([])


def test_collate_refuses_different_class_counts() -> None:
    other = make_sample(labels=torch.tensor([1.0, -1.0]), image_id="000009")
    with pytest.raises(ValueError, match="got 2 labels for 000009; expected 3"):
        collate([make_sample(), other])


def test_pin_memory_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locked memory needs a GPU; which tensors are asked for it does not."""
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(id(tensor)), tensor)[1])
    scored = Sample(torch.rand(3, 4, 5), torch.tensor([1.0]), torch.zeros(2, 4), torch.zeros(2), "a", (1.0, 1.0))
    unscored = Sample(torch.rand(3, 6, 7), torch.tensor([-1.0]), torch.zeros(0, 4), None, "b", (1.0, 1.0))
    batch = collate([scored, unscored])
    same = batch.pin_memory()
    tensors = [*batch.images, batch.labels, *batch.proposals, batch.proposal_scores[0]]
    assert sorted(pinned) == sorted(map(id, tensors))
    assert same.proposal_scores[1] is None
