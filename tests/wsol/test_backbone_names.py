from __future__ import annotations

import importlib.util

import pytest
import timm

from wsol.backbone_names import BUILT_IN_BACKBONES, check_backbone_name, timm_model_names


def test_are_those_that_timm_lists() -> None:
    assert timm_model_names() == frozenset(timm.list_models())


@pytest.mark.parametrize("name", [*BUILT_IN_BACKBONES, "timm/resnet50", "timm/tf_efficientnet_lite0"])
def test_known(name: str) -> None:
    assert check_backbone_name(name) == name


def test_a_name_may_say_which_weights() -> None:
    assert check_backbone_name("timm/resnet50.a1_in1k") == "timm/resnet50.a1_in1k"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("vgg19", "vgg16"),
        ("Alexnet", "alexnet"),
        ("resnet34", "resnet18|timm/resnet34|resnet50"),
        ("timm/resnet5O", "timm/resnet50"),
        ("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0"),
        ("convnext_tiny", "timm/convnext_tiny"),
    ],
)
def test_the_nearest_name(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"alexnet.* or timm/<model>; did you mean ({nearest})\?$"):
        check_backbone_name(name)


@pytest.mark.parametrize("name", ["", "timm/", "timm/.a1_in1k", "zzzzzz", "timm/zzzzzzzz", "TIMM/resnet50", "vgg16 "])
def test_unknown(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of tiny, alexnet, vgg16, resnet18, resnet50 or timm/<model>"):
        check_backbone_name(name)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    timm_model_names.cache_clear()
    try:
        assert timm_model_names() == frozenset()
        with pytest.raises(ValueError, match="expected one of tiny, alexnet"):
            check_backbone_name("timm/resnet50")
    finally:
        timm_model_names.cache_clear()
