"""Weights: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from wsol.models.backbones import Backbone, build_backbone
from wsol.models.weights import WeightsError, read_weights


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def state() -> dict[str, Tensor]:
    """The whole of a small classifier."""
    return dict(timm.create_model("test_resnet").state_dict())


def load(path: Path, name: str = "timm/test_resnet") -> Backbone:
    return build_backbone(name=name, weights=str(path), freeze="none", freeze_batchnorm=None)


def assert_holds(backbone: Backbone, state: dict[str, Tensor]) -> None:
    own = {key.removeprefix("body.model."): value for key, value in backbone.state_dict().items() if "body" in key}
    assert len(own) > 10
    for key, value in own.items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"module." + key: value for key, value in state.items()},
        lambda state: {"state_dict": {"module." + key: value for key, value in state.items()}},
    ],
    ids=["plain", "state_dict", "model", "module", "state_dict of module"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_usual_wrappers(wrap: Callable[[Any], Any], suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / f"weights{suffix}")
    assert_holds(load(tmp_path / f"weights{suffix}"), state)


def test_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    assert_holds(load(tmp_path / "weights.safetensors"), state)


def test_half_precision_is_converted(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(half, tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


def test_another_number_of_classes_does_not_matter(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["fc.weight"], state["fc.bias"] = torch.zeros(7, 384), torch.zeros(7)
    torch.save(state, tmp_path / "weights.pth")
    assert_holds(load(tmp_path / "weights.pth"), state)


def test_cut_off_layers_may_be_absent(state: dict[str, Tensor], tmp_path: Path) -> None:
    kept = {key: value for key, value in state.items() if not key.startswith(("fc.", "layer4."))}
    assert len(kept) < len(state)
    torch.save(kept, tmp_path / "weights.pth")
    assert_holds(load(tmp_path / "weights.pth"), state)


def test_batch_counters_may_be_absent(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth")
    assert all(value == 0 for key, value in backbone.state_dict().items() if "num_batches" in key)


def test_our_own_backbone_from_a_file(tmp_path: Path) -> None:
    first = build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)
    torch.save(first.body.state_dict(), tmp_path / "tiny.pth")
    second = load(tmp_path / "tiny.pth", name="tiny")
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_missing_keys_are_counted_and_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    gone = [key for key in state if key.startswith("layer2.")]
    torch.save({key: value for key, value in state.items() if key not in gone}, tmp_path / "weights.pth")
    absent = [key for key in gone if "num_batches" not in key]
    message = rf"{len(absent)} \({absent[0]}, {absent[1]}, .*, \.\.\.\) missing"
    with pytest.raises(WeightsError, match=message) as caught:
        load(tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in str(caught.value)
    assert "timm/test_resnet" in str(caught.value)
    assert "unknown" not in str(caught.value)


def test_wrong_shapes_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["layer1.0.conv1.weight"] = torch.zeros(2, 3)
    expected = tuple(timm.create_model("test_resnet").state_dict()["layer1.0.conv1.weight"].shape)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"1 \(layer1.0.conv1.weight: got \(2, 3\), expected") as caught:
        load(tmp_path / "weights.pth")
    assert f"expected {expected}) of another shape" in str(caught.value)


def test_unknown_keys_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state | {"neck.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"with 1 \(neck.weight\) unknown"):
        load(tmp_path / "weights.pth")


def test_weights_of_another_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"10 \(features\.0\.weight, .*\) missing; .*\(conv1.*\) unknown"):
        load(tmp_path / "weights.pth", name="alexnet")


def test_a_misfit_changes_nothing(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A torchvision classifier whose fc6 is of another size: an error, not new layers in silence."""
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    whole = {f"features.{key}": value for key, value in features.items()}
    for layer in ("1", "4"):
        whole |= {f"classifier.{layer}.weight": torch.zeros(5, 5), f"classifier.{layer}.bias": torch.zeros(5)}
    torch.save(whole, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"4 \(classifier.1.weight: got \(5, 5\), expected \(4096, 9216\)"):
        load(tmp_path / "weights.pth", name="alexnet")


class _Mine:
    """A class that no checkpoint may bring to life."""


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("weights.bin", lambda path: path.write_bytes(b"x"), r"expected a file ending in .pth, .pt or .safetensors"),
        ("weights.pth", lambda path: None, "expected a file, and there is none"),
        ("weights.pth", lambda path: path.mkdir(), "expected a file, and there is none"),
        ("weights.pth", lambda path: path.write_bytes(b""), "cannot be read"),
        ("weights.pth", lambda path: path.write_bytes(b"PK\x03\x04 torn"), "cannot be read"),
        ("weights.pth", lambda path: path.write_bytes(pickle.dumps(_Mine(), protocol=2)), "code .* is refused"),
        ("weights.pth", lambda path: torch.save(_Mine(), path), "code .* is refused"),
        ("weights.safetensors", lambda path: path.write_bytes(b"torn"), "cannot be read"),
        ("weights.pth", lambda path: torch.save(torch.zeros(2), path), "holds no named tensors"),
        ("weights.pth", lambda path: torch.save({}, path), "holds no named tensors"),
        ("weights.pth", lambda path: torch.save({"a": torch.zeros(1), "epoch": 3}, path), r"1 \(epoch\) no tensors"),
    ],
)
def test_files_that_are_no_weights(name: str, write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_tiny_has_no_imagenet_weights() -> None:
    with pytest.raises(WeightsError, match="tiny has no ImageNet weights"):
        build_backbone(name="tiny", weights="imagenet", freeze="none", freeze_batchnorm=None)


def test_torchvision_without_network_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WeightsError, match="resnet18 cannot be loaded .*Name or service not known") as caught:
        build_backbone(name="resnet18", weights="imagenet", freeze="none", freeze_batchnorm=None)
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert str(cached) in str(caught.value)
    assert "model.weights" in str(caught.value)

    # and a file put there is used
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), cached)
    backbone = build_backbone(name="resnet18", weights="imagenet", freeze="none", freeze_batchnorm=None)
    assert torch.equal(backbone.state_dict()["body.stem.conv1.weight"], whole.conv1.weight)
    assert backbone.freeze_batchnorm


def test_a_damaged_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"torn")
    with pytest.raises(WeightsError, match="resnet18 cannot be loaded"):
        build_backbone(name="resnet18", weights="imagenet", freeze="none", freeze_batchnorm=None)


def test_timm_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, pretrained: bool) -> None:
        assert pretrained
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", create_model)
    message = r"timm/test_resnet cannot be loaded \(cannot reach the hub\).*model.weights"
    with pytest.raises(WeightsError, match=message) as caught:
        build_backbone(name="timm/test_resnet", weights="imagenet", freeze="none", freeze_batchnorm=None)
    assert "https://huggingface.co/timm/test_resnet.r160_in1k within reach" in str(caught.value)


def test_timm_is_asked_for_its_pretrained_model(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    asked = []

    def create_model(name: str, *, pretrained: bool) -> object:
        asked.append((name, pretrained))
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", create_model)
    for weights in ("imagenet", "none"):
        build_backbone(name="timm/test_resnet", weights=weights, freeze="none", freeze_batchnorm=None)
    assert asked == [("test_resnet", True), ("test_resnet", False)]
