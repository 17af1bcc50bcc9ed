"""Image-level pooling against loops over cells, with and without padding."""

from __future__ import annotations

import pytest
import torch

from wsol.models.pooling import POOLINGS, AveragePooling, MaxPooling, build_pooling


def ragged_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (2, 3, 4, 5) and which cells are valid. Padded cells are the highest and the lowest."""
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    valid[1, :, 3:, :] = False
    valid[1, :, :, 2:] = False
    scores[:, 2] -= 10
    scores[1, :, 3, 0] = 1e6
    scores[1, :, 0, 4] = -1e6
    return scores, valid


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_pools_the_valid_cells_alone(name: str) -> None:
    scores, valid = ragged_maps()

    pooled = build_pooling(name)(scores, valid)

    assert pooled.shape == (2, 3)
    for image in range(2):
        for label in range(3):
            cells = [
                scores[image, label, row, column].item()
                for row in range(4)
                for column in range(5)
                if valid[image, 0, row, column]
            ]
            expected = {"max": max(cells), "average": sum(cells) / len(cells)}[name]
            assert pooled[image, label].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_no_mask_is_a_mask_of_ones(name: str) -> None:
    scores, valid = ragged_maps()
    pooling = build_pooling(name)
    torch.testing.assert_close(pooling(scores), pooling(scores, torch.ones_like(valid)))


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_padding_gets_no_gradient(name: str) -> None:
    scores, valid = ragged_maps()
    scores.requires_grad_()
    build_pooling(name)(scores, valid).sum().backward()
    assert scores.grad is not None
    assert (scores.grad[~valid.expand_as(scores)] == 0).all()
    assert (scores.grad.flatten(2).sum(dim=2) - 1).abs().max() < 1e-12  # the weights of an image's cells sum to 1


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    scores, valid = ragged_maps()
    assert torch.autograd.gradcheck(lambda x: build_pooling(name)(x, valid), (scores.clamp(-20, 20).requires_grad_(),))


def test_max_sends_the_gradient_to_one_of_tied_cells() -> None:
    scores = torch.zeros(1, 1, 2, 2, requires_grad=True)
    MaxPooling()(scores).sum().backward()
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == [1, 0, 0, 0]


def test_one_cell_is_its_own_pool() -> None:
    scores = torch.tensor([[[[2.5]], [[-1.0]]]])
    for pooling in (MaxPooling(), AveragePooling()):
        assert pooling(scores).tolist() == [[2.5, -1.0]]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'mean' for pooling; expected one of max, average"):
        build_pooling("mean")
