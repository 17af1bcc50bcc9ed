"""Losses against the formulas, at both ends of their range, and with ignored labels."""

from __future__ import annotations

import math

import pytest
import torch

from wsol.losses import CERTAINTY, multi_label_log_loss, multi_label_logistic_loss


def test_logistic_loss_is_the_papers_formula() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0], [0.0, 4.0, -0.5]], dtype=torch.float64)
    labels = torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)

    loss = multi_label_logistic_loss(logits, labels)

    expected = [
        math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-1.2)),
        math.log(2) + math.log(1 + math.exp(4.0)) + math.log(1 + math.exp(0.5)),
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_log_loss_is_the_papers_formula() -> None:
    p = torch.tensor([[0.3, 0.9, 0.5], [1e-3, 0.2, 0.7]], dtype=torch.float64)
    labels = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]], dtype=torch.float64)

    loss = multi_label_log_loss(p.log(), labels)

    expected = [-math.log(0.3) - math.log(0.1), -math.log(0.999) - math.log(0.2) - math.log(0.7)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [multi_label_logistic_loss, multi_label_log_loss])
def test_an_ignored_class_costs_nothing_and_gets_no_gradient(loss: object) -> None:
    assert callable(loss)
    scores = torch.tensor([[-2.0, -0.5, -3.0]], requires_grad=True)
    result = loss(scores, torch.tensor([[1.0, 0.0, -1.0]]))
    result.sum().backward()

    without = loss(scores.detach()[:, [0, 2]], torch.tensor([[1.0, -1.0]]))
    assert result.item() == pytest.approx(without.item())
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert (scores.grad[0, [0, 2]] != 0).all()


@pytest.mark.parametrize("loss", [multi_label_logistic_loss, multi_label_log_loss])
def test_gradients_agree_with_finite_differences(loss: object) -> None:
    assert callable(loss)
    scores = torch.tensor([[-2.0, -0.1, -0.7, -12.0], [-1e-3, -0.69, -0.70, -5.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (scores.requires_grad_(),))


@pytest.mark.parametrize("log_p", [0.0, 1e-6, -1e-9, -1e-6, -0.5, -100.0, -1e4, -1e30])
@pytest.mark.parametrize("label", [1.0, 0.0, -1.0])
def test_log_loss_is_finite_in_float32_everywhere(log_p: float, label: float) -> None:
    scores = torch.tensor([[log_p]], requires_grad=True)
    loss = multi_label_log_loss(scores, torch.tensor([[label]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert loss.item() >= 0
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_the_clamp_is_real_in_float32() -> None:
    """1 - 1e-10 is 1.0 in float32: a clamp there would let log(0) through."""
    loss = multi_label_log_loss(torch.zeros(1, 1), torch.tensor([[-1.0]]))
    assert loss.item() == pytest.approx(-math.log(CERTAINTY), rel=0.05)


@pytest.mark.parametrize("log_p", [-2e-6, -1e-3, -0.1, -0.69, -0.70, -3.0, -20.0, -60.0])
def test_an_absent_class_costs_the_exact_amount_in_float32(log_p: float) -> None:
    """-log(1 - p), to float32's precision both where p is near 1 and where 1 - p is near 1."""
    loss = multi_label_log_loss(torch.tensor([[log_p]]), torch.tensor([[-1.0]]))
    p = math.exp(log_p)
    exact = -math.log1p(-p) if p < 0.5 else -math.log(-math.expm1(log_p))
    assert loss.item() == pytest.approx(exact, rel=2e-6)


def test_log_loss_of_a_tiny_probability_is_not_lost() -> None:
    """In probabilities, 1e-300 would be 0 in float32, and the gradient with it."""
    log_p = torch.tensor([[-690.0]], requires_grad=True)
    loss = multi_label_log_loss(log_p, torch.tensor([[1.0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(690.0)
    assert log_p.grad is not None
    assert log_p.grad.item() == -1.0


@pytest.mark.parametrize("logit", [0.0, 1e4, -1e4, 1e38, -1e38])
@pytest.mark.parametrize("label", [1.0, -1.0])
def test_logistic_loss_is_finite_in_float32_everywhere(logit: float, label: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = multi_label_logistic_loss(logits, torch.tensor([[label]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(max(0.0, -label * logit), abs=0.7, rel=1e-6)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
