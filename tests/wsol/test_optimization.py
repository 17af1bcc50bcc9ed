"""Parameter groups, optimizers and learning rate schedules, the latter against torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, StepLR

from wsol.models.backbones import build_backbone
from wsol.optimization import build_groups, kept_of_each_weight, lr_factor, make_optimizer, make_schedule


class Parts(nn.Module):
    """Names as in the models: `backbone.`, `head.`, `refinement.`, and `regions.` for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.regions = nn.ModuleDict({"fc6": nn.Linear(4, 5), "headless": nn.Linear(5, 5, bias=False)})
        self.head = nn.Linear(5, 2)
        self.refinement = nn.ModuleList([nn.Linear(5, 3)])


def groups_of(model: nn.Module, **changed: float) -> list[dict[str, Any]]:
    values = {"backbone_factor": 1.0, "head_factor": 1.0, "refinement_factor": 1.0, "bias_factor": 1.0}
    return build_groups(model, lr=0.5, weight_decay=0.25, **(values | changed))


def by_name(model: nn.Module, groups: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each parameter; a parameter in two groups is an error."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        assert set(group) == {"params", "lr", "weight_decay"}
        assert group["params"]
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found
            found[name] = (group["lr"], group["weight_decay"])
    return found


# --- groups


def test_each_parameter_has_the_rate_of_its_part_and_the_decay_of_its_shape() -> None:
    model = Parts()
    groups = groups_of(model, backbone_factor=0.5, head_factor=4.0, refinement_factor=8.0, bias_factor=2.0)
    assert by_name(model, groups) == {
        "backbone.0.weight": (0.25, 0.25),
        "backbone.0.bias": (0.5, 0.0),
        "backbone.1.weight": (0.25, 0.0),  # the scale of a normalization: no bias, and no decay
        "backbone.1.bias": (0.5, 0.0),
        "regions.fc6.weight": (0.5, 0.25),
        "regions.fc6.bias": (1.0, 0.0),
        "regions.headless.weight": (0.5, 0.25),  # not of the head
        "head.weight": (2.0, 0.25),
        "head.bias": (4.0, 0.0),
        "refinement.0.weight": (4.0, 0.25),
        "refinement.0.bias": (8.0, 0.0),
    }


def test_without_factors_there_are_two_groups() -> None:
    groups = groups_of(Parts())
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.25), (0.5, 0.0)]


@pytest.mark.parametrize("name", ["tiny", "resnet18", "timm/test_vit"])
@pytest.mark.parametrize("freeze", ["none", 2, "all"])
def test_every_parameter_that_trains_is_in_one_group(name: str, freeze: Literal["none", "all"] | int) -> None:
    model = Parts()
    model.backbone = build_backbone(name=name, weights="none", freeze=freeze, freeze_batchnorm=None)  # type: ignore[assignment]
    found = by_name(model, groups_of(model, backbone_factor=0.1, bias_factor=2.0))
    training = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == training.keys()
    assert {name for name, (_, decay) in found.items() if decay} == {
        name for name, parameter in training.items() if parameter.ndim > 1
    }
    assert any(name.startswith("backbone.") for name in found) == (freeze != "all")


def test_no_group_is_empty() -> None:
    assert groups_of(nn.Identity()) == []
    model = nn.Linear(2, 2, bias=False)
    assert len(groups_of(model)) == 1
    assert groups_of(model.requires_grad_(False)) == []


# --- optimizers


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_optimizers_take_what_the_groups_say(name: Literal["sgd", "adam", "adamw"], kind: type[Optimizer]) -> None:
    groups = groups_of(Parts(), head_factor=3.0)
    optimizer = make_optimizer(name, groups, momentum=0.75)
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (group["lr"], group["weight_decay"]) for group in groups
    ]
    assert all(group.get("momentum") == (0.75 if name == "sgd" else None) for group in optimizer.param_groups)


def test_a_step_of_sgd_is_the_formula() -> None:
    """Two steps of v = momentum v + g + decay w, w = w - lr v, with each parameter's own lr and decay."""
    torch.manual_seed(0)
    model = Parts()
    groups = groups_of(model, backbone_factor=0.5, bias_factor=2.0)
    rates = by_name(model, groups)
    optimizer = make_optimizer("sgd", groups, momentum=0.9)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    velocity = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    for _ in range(2):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            rate, decay = rates[name]
            velocity[name] = 0.9 * velocity[name] + parameter.grad + decay * expected[name]
            expected[name] = expected[name] - rate * velocity[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], msg=name)


@pytest.mark.parametrize(
    ("name", "momentum", "kept"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adam", 0.9, 2), ("adamw", 0.0, 2)]
)
def test_what_is_kept_of_each_weight(name: Literal["sgd", "adam", "adamw"], momentum: float, kept: int) -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = make_optimizer(name, [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], momentum=momentum)
    assert kept_of_each_weight(optimizer) == kept
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight].values()
    assert sum(isinstance(value, torch.Tensor) and value.shape == weight.shape for value in state) == kept


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'lbfgs' for train.optimizer; expected one of sgd, adam, adamw"):
        make_optimizer("lbfgs", groups_of(Parts()), momentum=0.9)  # type: ignore[arg-type]


# --- schedules

STEPS, EPOCHS = 7, 12
CONSTANT: dict[str, Any] = {
    "steps_per_epoch": STEPS,
    "epochs": EPOCHS,
    "schedule": "multistep",
    "milestones": (),
    "step_epochs": None,
    "gamma": 0.1,
    "warmup_steps": 0,
}


def factors(**changed: Any) -> list[float]:
    """Of every step, and of the one after the last."""
    return [lr_factor(step, **(CONSTANT | changed)) for step in range(STEPS * EPOCHS + 1)]


def rates_of_torch(schedule: Callable[[Optimizer], LRScheduler], *, every: int) -> list[float]:
    """The same from one of torch's schedules, stepped after `every` steps of the optimizer."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer)
    found = []
    for step in range(STEPS * EPOCHS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return found


def test_a_learning_rate_without_milestones_is_constant() -> None:
    assert set(factors()) == {1.0}


@pytest.mark.parametrize("milestones", [(3,), (1, 2, 10), (4, 4), (12,), (50,), (9, 2)])
def test_multistep_is_torchs(milestones: tuple[int, ...]) -> None:
    expected = rates_of_torch(lambda optimizer: MultiStepLR(optimizer, sorted(milestones), gamma=0.3), every=STEPS)
    assert factors(milestones=milestones, gamma=0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("step_epochs", [1, 3, 5, 12, 40])
def test_step_is_torchs(step_epochs: int) -> None:
    expected = rates_of_torch(lambda optimizer: StepLR(optimizer, step_epochs, gamma=0.5), every=STEPS)
    assert factors(schedule="step", step_epochs=step_epochs, gamma=0.5) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_torchs_and_ends_at_zero() -> None:
    expected = rates_of_torch(lambda optimizer: CosineAnnealingLR(optimizer, STEPS * EPOCHS), every=1)
    found = factors(schedule="cosine")
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (found[0], found[STEPS * EPOCHS]) == (1.0, 0.0)
    assert found[STEPS * EPOCHS // 2] == pytest.approx(0.5, abs=1e-15)
    assert lr_factor(10_000, **(CONSTANT | {"schedule": "cosine"})) == 0.0


@pytest.mark.parametrize("warmup_steps", [2, 5, STEPS * EPOCHS])
def test_warm_up_is_torchs(warmup_steps: int) -> None:
    def linear(optimizer: Optimizer) -> LRScheduler:
        return LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps - 1)

    assert factors(warmup_steps=warmup_steps) == pytest.approx(rates_of_torch(linear, every=1), rel=1e-9)


def test_changes_fall_on_the_first_step_of_an_epoch() -> None:
    found = factors(milestones=(2, 3), gamma=0.5)
    assert found[2 * STEPS - 1 : 2 * STEPS + 1] == [1.0, 0.5]
    assert found[3 * STEPS - 1 : 3 * STEPS + 1] == [0.5, 0.25]
    found = factors(schedule="step", step_epochs=2, gamma=0.5)
    assert found[2 * STEPS - 1 : 2 * STEPS + 1] == [1.0, 0.5]
    assert found[4 * STEPS - 1 : 4 * STEPS + 1] == [0.5, 0.25]


def test_warm_up_multiplies_what_the_schedule_says() -> None:
    warm = factors(schedule="cosine", warmup_steps=4)
    cold = factors(schedule="cosine")
    assert warm[:4] == pytest.approx([cold[0] / 4, cold[1] / 2, cold[2] * 3 / 4, cold[3]], rel=1e-12)
    assert warm[3:] == cold[3:]
    assert factors(warmup_steps=1) == factors()
    long = factors(milestones=(1,), gamma=0.5, warmup_steps=2 * STEPS)
    assert long[STEPS - 1 : STEPS + 1] == [STEPS / (2 * STEPS), 0.5 * (STEPS + 1) / (2 * STEPS)]


def test_a_schedule_that_lacks_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="got null for train.lr_step_epochs; expected a number with .*: step"):
        factors(schedule="step")
    with pytest.raises(ValueError, match="got 'poly' for train.lr_schedule; expected one of multistep, step, cosine"):
        factors(schedule="poly")


def test_the_schedule_is_stepped_after_each_step_and_scales_every_group() -> None:
    model = Parts()
    groups = groups_of(model, head_factor=4.0)
    rates = [group["lr"] for group in groups]
    optimizer = make_optimizer("sgd", groups, momentum=0.9)
    schedule = make_schedule(optimizer, **(CONSTANT | {"milestones": (1,), "warmup_steps": 2}))
    expected = factors(milestones=(1,), warmup_steps=2)
    for step in range(STEPS + 2):
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([rate * expected[step] for rate in rates], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_a_schedule_goes_on_from_its_state() -> None:
    arguments = CONSTANT | {"schedule": "cosine", "warmup_steps": 3}

    def make() -> tuple[Optimizer, LRScheduler]:
        optimizer = make_optimizer("sgd", [{"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0}], momentum=0.0)
        return optimizer, make_schedule(optimizer, **arguments)

    straight, schedule = make()
    for _ in range(10):
        straight.step()
        schedule.step()
    resumed, other = make()
    resumed.load_state_dict(straight.state_dict())
    other.load_state_dict(schedule.state_dict())
    for _ in range(3):
        assert resumed.param_groups[0]["lr"] == straight.param_groups[0]["lr"]
        for stepped in (straight, schedule, resumed, other):
            stepped.step()
