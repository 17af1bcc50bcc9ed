"""Which parameters and statistics of a backbone train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
import torchvision
from torch.nn.modules.batchnorm import _BatchNorm

from wsol.backbone_names import BACKBONE_STAGES
from wsol.models.backbones import Backbone, build_backbone

ALL_SMALL = ["tiny", "alexnet", "resnet18", "timm/test_resnet", "timm/test_vit"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(
    name: str = "tiny",
    weights: str = "none",
    freeze: Literal["none", "all"] | int = "none",
    batchnorm: bool | None = None,
) -> Backbone:
    return build_backbone(name=name, weights=weights, freeze=freeze, freeze_batchnorm=batchnorm)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "timm/test_resnet"])
def test_freeze_all(name: str) -> None:
    backbone = build(name, freeze="all")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    maps = backbone(torch.randn(2, 3, 64, 64, requires_grad=True))

    assert not maps.requires_grad  # nothing is kept for a backward pass
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.body.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", BACKBONE_STAGES)
def test_stages_are_the_children_of_the_body(name: str) -> None:
    assert tuple(child for child, _ in build(name).body.named_children()) == BACKBONE_STAGES[name]


def trains(backbone: Backbone) -> set[str]:
    return {key for key, parameter in backbone.body.named_parameters() if parameter.requires_grad}


FROZEN_STAGES = [
    *((name, count, stages[:count]) for name, stages in BACKBONE_STAGES.items() for count in range(1, len(stages) + 1)),
    ("timm/resnet10t", 1, ["model.conv1", "model.bn1"]),
    ("timm/resnet10t", 3, ["model.conv1", "model.bn1", "model.layer1", "model.layer2"]),
    ("timm/resnet10t", 4, ["model"]),
    ("timm/efficientnet_lite0", 1, ["model.conv_stem", "model.bn1", "model.blocks.0"]),
    ("timm/efficientnet_lite0", 3, ["model.conv_stem", "model.bn1", *(f"model.blocks.{i}" for i in range(3))]),
    ("timm/efficientnet_lite0", 4, ["model"]),
    ("timm/convnext_atto", 1, ["model.stem", "model.stages.0"]),
    ("timm/convnext_atto", 3, ["model"]),
    (
        "timm/vit_tiny_patch16_224",
        2,
        ["model.cls_token", "model.pos_embed", "model.patch_embed", "model.blocks.0", "model.blocks.1"],
    ),
    ("timm/vit_tiny_patch16_224", 12, ["model"]),
    ("timm/mobilenetv3_small_050", 1, ["model.conv_stem", "model.bn1"]),
]


@pytest.mark.parametrize(("name", "count", "frozen"), FROZEN_STAGES)
def test_freeze_by_stage(name: str, count: int, frozen: list[str]) -> None:
    backbone = build(name, freeze=count)
    every = [key for key, _ in backbone.body.named_parameters()]
    expected = {key for key in every if any(key.startswith(f"{part}.") or key == part for part in frozen)}
    assert expected
    assert all(any(key.startswith(part) for key in every) for part in frozen)
    assert set(every) - trains(backbone) == expected
    assert backbone.frozen == (len(expected) == len(every))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tiny", 2),
        ("alexnet", 2),
        ("resnet18", 2),
        ("resnet18", 4),
        ("timm/resnet10t", 2),
        ("timm/efficientnet_lite0", 2),
        ("timm/convnext_atto", 1),
        ("timm/vit_tiny_patch16_224", 3),
    ],
)
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(name: str, count: int) -> None:
    backbone = build(name, freeze=count, batchnorm=False).eval().train()
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    maps = backbone(torch.randn(2, 3, 64, 64))
    if maps.requires_grad:
        maps.square().mean().backward()

    free = trains(backbone)
    parameters = dict(backbone.body.named_parameters())
    assert {key for key, parameter in parameters.items() if parameter.grad is not None} == free
    assert maps.requires_grad == bool(free)
    statistics = [key for key in before if key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    moved = {key for key in statistics if not torch.equal(before[key], backbone.body.state_dict()[key])}
    assert moved == {key for key in statistics if f"{key.rpartition('.')[0]}.weight" in free}
    for path, module in backbone.body.named_modules():
        own = {f"{path}.{key}" for key, _ in module.named_parameters()}
        if path and own:  # dropout, for one, rests with what is frozen and works in the rest
            assert module.training == bool(own & free), path


def test_first_stages_of_a_model_that_registers_them_elsewhere_are_not_guessed() -> None:
    assert build("timm/hrnet_w18_small", freeze="all").frozen
    with pytest.raises(
        ValueError, match="got 2 for model.freeze; expected none or all for timm/hrnet_w18_small, whose"
    ):
        build("timm/hrnet_w18_small", freeze=2)


@pytest.mark.parametrize(
    ("name", "freeze", "message"),
    [
        ("tiny", 5, "1 to 4 for tiny, whose stages are conv1, conv2, conv3, conv4"),
        ("tiny", 0, "1 to 4 for tiny"),
        ("alexnet", 6, "1 to 5 for alexnet, whose stages are conv1, conv2, conv3, conv4, conv5"),
        ("timm/resnet10t", 5, "1 to 4 for timm/resnet10t, whose stages are act1, layer1, layer2, layer3"),
    ],
)
def test_more_stages_than_there_are_cannot_freeze(name: str, freeze: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"got {freeze} for model.freeze; expected none, all or {message}"):
        build(name, freeze=freeze)


def test_unknown_freeze_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'some' for model.freeze; expected none, all or a number of stages \(c"):
        build(freeze="some")  # type: ignore[arg-type]


def test_stages_of_weights_from_a_file_freeze_with_their_values(tmp_path: Path) -> None:
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    backbone = build("resnet18", weights=str(tmp_path / "resnet18.pth"), freeze=2, batchnorm=False)
    assert torch.equal(backbone.state_dict()["body.stem.conv1.weight"], whole.state_dict()["conv1.weight"])
    assert {key.partition(".")[0] for key in trains(backbone)} == {"layer2", "layer3"}


def test_freeze_none_trains_every_parameter_and_statistic() -> None:
    backbone = build("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64)).square().mean().backward()
    missing = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert missing == []
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if "running" in key or "num_batches" in key}


def test_frozen_batchnorm_keeps_its_statistics_but_its_weights_train() -> None:
    backbone = build("resnet18", batchnorm=True)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert backbone.train() is backbone
    assert backbone.training
    backbone(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("freeze_batchnorm", [None, True, False])
def test_batchnorm_is_frozen_where_weights_were_loaded(
    loaded: bool, freeze_batchnorm: bool | None, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    backbone = build("timm/test_resnet", weights=str(path) if loaded else "none", batchnorm=freeze_batchnorm).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    expected = loaded if freeze_batchnorm is None else freeze_batchnorm
    assert norms
    assert {module.training for module in norms} == {not expected}


def test_eval_mode_is_not_lost() -> None:
    backbone = build("resnet18").eval()
    assert not any(module.training for module in backbone.modules())
    assert all(module.training for module in backbone.train().modules())
