"""What the optimizer does with which parameters, and how the learning rate goes over the steps of a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def build_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_factor: float,
    head_factor: float,
    refinement_factor: float,
    bias_factor: float,
) -> list[dict[str, Any]]:
    """The parameters that train, each in one group, with the learning rate and the weight decay of the group.

    Weight decay is for weights: neither for biases nor for the scales of normalization layers.

    Args:
        model: The attributes `backbone`, `head`, `pooling` and `refinement`, where it has them, tell its parts.
        lr: Learning rate, > 0.
        weight_decay: >= 0.
        backbone_factor: Of the learning rate of `backbone`; the other two are of `head` and `refinement`. What is in
            none of them (fc6 and fc7, which may be pretrained) learns at `lr`.
        head_factor: See `backbone_factor`; also that of `pooling`.
        refinement_factor: See `backbone_factor`.
        bias_factor: Of biases, times that of their part.

    Returns:
        Groups for an optimizer: `params`, `lr`, `weight_decay`. None is empty; parameters without gradient are in none.
    """
    factors = {
        "backbone": backbone_factor,
        "head": head_factor,
        "pooling": head_factor,
        "refinement": refinement_factor,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = factors.get(name.partition(".")[0], 1.0)
        if name.endswith("bias"):
            factor *= bias_factor
        # Weights are matrices and filters. Biases, and the scales of BatchNorm, LayerNorm and GroupNorm, are vectors.
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr * factor, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def make_optimizer(
    name: Literal["sgd", "adam", "adamw"], groups: Sequence[dict[str, Any]], *, momentum: float
) -> Optimizer:
    """An optimizer of groups that have their own learning rate and weight decay. `momentum` is for sgd alone.

    Raises:
        ValueError: for an unknown name, or no groups at all.
    """
    if name == "sgd":
        return SGD(groups, momentum=momentum)
    if name == "adam":
        return Adam(groups)
    if name == "adamw":
        return AdamW(groups)
    raise ValueError(f"got {name!r} for train.optimizer; expected one of sgd, adam, adamw")


def kept_of_each_weight(optimizer: Optimizer) -> int:
    """Tensors of a weight's size that an optimizer keeps of it from its first step on: a momentum, or Adam's two."""
    if isinstance(optimizer, SGD):
        return int(any(group["momentum"] != 0 for group in optimizer.param_groups))
    return 2


def lr_factor(
    step: int,
    *,
    steps_per_epoch: int,
    epochs: int,
    schedule: Literal["multistep", "step", "cosine"],
    milestones: Sequence[int],
    step_epochs: int | None,
    gamma: float,
    warmup_steps: int,
) -> float:
    """The learning rate of a step of the optimizer, relative to that of the config.

    Args:
        step: Steps done before, >= 0.
        steps_per_epoch: > 0.
        epochs: In all, > 0.
        schedule: `multistep`: times `gamma` after each of `milestones`; `step`: after every `step_epochs` epochs;
            `cosine`: (1 + cos(pi step / all steps)) / 2, 0 when all are done.
        milestones: Epochs; one that is listed twice counts twice.
        step_epochs: Epochs, > 0; None for other schedules.
        gamma: In (0, 1].
        warmup_steps: Over the first so many steps, step s is also multiplied by (s + 1) / warmup_steps.

    Returns:
        In [0, 1].

    Raises:
        ValueError: for an unknown schedule, or `step` without `step_epochs`.

    Source: cosine: Loshchilov & Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    epoch = step // steps_per_epoch
    if schedule == "multistep":
        factor = gamma ** sum(milestone <= epoch for milestone in milestones)
    elif schedule == "step":
        if step_epochs is None:
            raise ValueError("got null for train.lr_step_epochs; expected a number with train.lr_schedule: step")
        factor = gamma ** (epoch // step_epochs)
    elif schedule == "cosine":
        factor = (1 + math.cos(math.pi * min(1.0, step / (epochs * steps_per_epoch)))) / 2
    else:
        raise ValueError(f"got {schedule!r} for train.lr_schedule; expected one of multistep, step, cosine")
    return factor * (step + 1) / warmup_steps if step < warmup_steps else factor


def make_schedule(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    schedule: Literal["multistep", "step", "cosine"],
    milestones: Sequence[int],
    step_epochs: int | None,
    gamma: float,
    warmup_steps: int,
) -> LambdaLR:
    """The schedule of all groups, to be stepped after each step of the optimizer. See `lr_factor`."""

    def factor(step: int) -> float:
        return lr_factor(
            step,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            schedule=schedule,
            milestones=milestones,
            step_epochs=step_epochs,
            gamma=gamma,
            warmup_steps=warmup_steps,
        )

    return LambdaLR(optimizer, factor)
