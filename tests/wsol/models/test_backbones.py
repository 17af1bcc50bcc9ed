"""Backbones: shapes, strides, normalization, freezing, and features equal to those of the whole classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsol.models.backbones import MIN_SIDE_PX, Backbone, build_backbone, normalize_and_pad

ALL_SMALL = ["tiny", "alexnet", "resnet18", "timm/test_resnet", "timm/test_vit"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(name: str = "tiny", weights: str = "none", freeze: str = "none", batchnorm: bool | None = None) -> Backbone:
    return build_backbone(name=name, weights=weights, freeze=freeze, freeze_batchnorm=batchnorm)


@pytest.mark.parametrize(
    ("name", "channels", "stride", "roi_size"),
    [
        ("tiny", 96, 8, 7),
        ("alexnet", 256, 16, 6),
        ("vgg16", 512, 16, 7),
        ("resnet18", 256, 16, 7),
        ("resnet50", 1024, 16, 7),
        ("timm/test_resnet", 192, 16, 7),
        ("timm/test_vit", 64, 16, 7),
        ("timm/tf_efficientnet_lite0", 112, 16, 7),
    ],
)
def test_shape_of_the_map(name: str, channels: int, stride: int, roi_size: int) -> None:
    backbone = build(name).eval()
    assert (backbone.out_channels, backbone.stride, backbone.roi_size) == (channels, stride, roi_size)
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 128, 96))
    expected = (7, 5) if name == "alexnet" else (128 // stride, 96 // stride)  # alexnet's convolutions eat the border
    assert maps.shape == (1, channels, *expected)
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("name", ["tiny", "alexnet", "resnet18", "timm/test_resnet"])
def test_a_shift_by_the_stride_shifts_the_map_by_a_cell(name: str) -> None:
    """Without normalization across the image, which no shift leaves alone."""
    backbone = build(name).eval()
    for path, module in list(backbone.body.named_modules()):
        if isinstance(module, nn.GroupNorm):
            backbone.body.set_submodule(path, nn.Identity())
    image = torch.rand(1, 3, 512, 512)  # the middle cell sees nothing of the border
    with torch.no_grad():
        maps = backbone(image)
        shifted = backbone(image.roll((backbone.stride, 2 * backbone.stride), dims=(2, 3)))
    middle = maps.shape[-1] // 2
    torch.testing.assert_close(shifted[:, :, middle, middle], maps[:, :, middle - 1, middle - 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL_SMALL)
def test_initialization_comes_from_the_callers_seed(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(name).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_random_initialization_is_torchvisions(name: str) -> None:
    """Ours is drawn without building the classifier: same distribution, layer by layer."""
    ours = dict(build(name).body.named_parameters())
    theirs = getattr(torchvision.models, name)(weights=None)
    kept = [parameter for key, parameter in theirs.named_parameters() if "classifier" not in key]
    for (key, mine), reference in zip(ours.items(), kept, strict=False):
        assert mine.shape == reference.shape, key
        if mine.numel() > 4000:
            assert mine.std().item() == pytest.approx(reference.std().item(), rel=0.05), key
        elif mine.numel() > 1 and name == "resnet18":
            torch.testing.assert_close(mine, reference, msg=key)  # BatchNorm: ones and zeros


def whole_torchvision(name: str) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    def cnn_features(model: nn.Module, images: Tensor) -> Tensor:
        layers = model.get_submodule("features")
        assert isinstance(layers, nn.Sequential)
        for layer in list(layers)[:-1]:
            images = layer(images)
        return images

    def resnet_features(model: nn.Module, images: Tensor) -> Tensor:
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            images = model.get_submodule(part)(images)
        return images

    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    return model, resnet_features if name.startswith("resnet") else cnn_features


def save_without_classifier(model: nn.Module, path: Path) -> None:
    torch.save({key: value for key, value in model.state_dict().items() if not key.startswith("classifier")}, path)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_features_are_those_of_torchvisions_classifier(name: str, tmp_path: Path) -> None:
    whole, features = whole_torchvision(name)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    save_without_classifier(whole, tmp_path / "weights.pth")
    backbone = build(name, weights=str(tmp_path / "weights.pth")).eval()

    images = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), features(whole.eval(), images))
    assert torch.equal(backbone.image_mean, torch.tensor([0.485, 0.456, 0.406]))
    assert torch.equal(backbone.image_std, torch.tensor([0.229, 0.224, 0.225]))


def test_features_of_vgg16_end_before_the_last_pool() -> None:
    backbone = build("vgg16")
    assert isinstance(backbone.body, nn.Sequential)
    assert list(backbone.body._modules) == ["block1", "block2", "block3", "block4", "block5"]
    layers = [layer for stage in backbone.body for layer in stage.children()]
    reference = list(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))
    assert [type(layer) for layer in layers] == [type(layer) for layer in reference[:-1]]
    assert isinstance(reference[-1], nn.MaxPool2d)


def test_features_are_those_of_timms_classifier_with_its_imagenet_weights(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path.name}")
    from safetensors.torch import load_file

    backbone = build("timm/tf_efficientnet_lite0", weights=str(path)).eval()
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(load_file(path))
    seen: dict[str, Tensor] = {}
    whole.blocks[4].register_forward_hook(lambda module, args, output: seen.update(features=output))

    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps = backbone(images)
        whole(images)
    assert maps.shape == (1, 112, 14, 14)
    torch.testing.assert_close(maps, seen["features"])
    assert maps.std() > 0.1
    assert backbone.image_mean.tolist() == [0.5, 0.5, 0.5]  # not ImageNet's: TensorFlow's convention
    assert not any("blocks.5" in key or "conv_head" in key for key in backbone.state_dict())


def test_timm_takes_the_last_map_of_stride_16() -> None:
    backbone = build("timm/test_vit")  # every block of a plain transformer has stride 16
    assert sum(".attn.qkv.weight" in key for key in backbone.state_dict()) == len(timm.create_model("test_vit").blocks)


def test_timm_model_without_stride_16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got timm/eva02_tiny_patch14_224 .* stride \[14\]; expected .* stride 16"):
        build("timm/eva02_tiny_patch14_224")


def test_timm_model_of_one_size_says_so() -> None:
    backbone = build("timm/swin_tiny_patch4_window7_224").eval()
    message = r"images of \(96, 64\) .* made for \(224, 224\).*resize: square"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        backbone(torch.rand(1, 3, 96, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnett", r"expected one of tiny, alexnet, .*; did you mean alexnet\?"),
        ("timm/test_resnett", r"did you mean timm/test_resnet\?"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name)


def test_unknown_freeze_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'some' for model.freeze; expected none or all"):
        build(freeze="some")


# --- normalization and padding


def test_normalize_and_pad() -> None:
    mean, std = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 0.25, 2.0])
    small, large = torch.rand(3, 5, 90), torch.rand(3, 70, 30)

    padded, sizes = normalize_and_pad([small, large], mean=mean, std=std)

    assert sizes == [(5, 90), (70, 30)]
    assert padded.shape == (2, 3, 70, 90)
    torch.testing.assert_close(padded[0, :, :5], torchvision.transforms.functional.normalize(small, mean, std))
    torch.testing.assert_close(padded[1, :, :, :30], torchvision.transforms.functional.normalize(large, mean, std))
    assert (padded[0, :, 5:] == 0).all()  # zero after normalization: the mean colour, not black
    assert (padded[1, :, :, 30:] == 0).all()


def test_tiny_images_are_padded_to_the_minimum() -> None:
    padded, sizes = normalize_and_pad([torch.ones(3, 1, 1)], mean=torch.zeros(3), std=torch.ones(3))
    assert padded.shape == (1, 3, MIN_SIDE_PX, MIN_SIDE_PX)
    assert sizes == [(1, 1)]
    assert padded.sum() == 3


@pytest.mark.parametrize("name", [*ALL_SMALL, "timm/mobilenetv3_small_050", "timm/inception_v3"])
def test_an_image_of_one_pixel_has_one_valid_cell(name: str) -> None:
    backbone = build(name).eval()
    with torch.no_grad():
        (group,) = backbone.feature_maps([torch.rand(3, 1, 1)])
    assert group.valid is not None
    assert group.valid.sum() == 1
    assert group.valid[0, 0, 0, 0]


def test_images_of_one_size_share_a_pass_and_others_do_not_touch_them() -> None:
    backbone = build().eval()
    images = [torch.rand(3, 80, 72), torch.rand(3, 64, 128), torch.rand(3, 80, 72), torch.rand(3, 80, 30)]

    with torch.no_grad():
        groups = backbone.feature_maps(images)
        alone = [backbone.feature_maps([image])[0].maps[0] for image in images]

    assert [group.indices for group in groups] == [[0, 2], [1], [3]]
    for group in groups:
        for row, index in enumerate(group.indices):
            torch.testing.assert_close(group.maps[row], alone[index])
    assert [group.valid is None for group in groups] == [True, True, False]
    padded = groups[2].valid
    assert padded is not None
    assert padded[0, 0].tolist() == [[True] * 4 + [False] * 4] * 10  # 30 px of 64: ceil(30 / 8) columns


# --- freezing


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


# --- the pretrained fc6 and fc7


def compact_classifier(name: str, sizes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    """The classifier's tensors, each one number in memory and on disk."""
    state = {}
    for index, (layer, (out_features, in_features)) in enumerate(sizes.items()):
        state[f"{layer}.weight"] = torch.tensor(index + 0.25).expand(out_features, in_features)
        state[f"{layer}.bias"] = torch.tensor(index + 0.5).expand(out_features)
    return state


def test_pretrained_fc_of_alexnet(tmp_path: Path) -> None:
    features = build("alexnet").state_dict()
    state = {f"features.{key.split('.', 2)[2]}": value for key, value in features.items() if key.startswith("body.")}
    sizes = {"classifier.1": (4096, 9216), "classifier.4": (4096, 4096), "classifier.6": (20, 4096)}
    torch.save(state | compact_classifier("alexnet", sizes), tmp_path / "alexnet.pth")

    backbone = build("alexnet", weights=str(tmp_path / "alexnet.pth"), freeze="all")

    fc = backbone.pretrained_fc
    assert fc is not None
    assert list(fc._modules) == ["fc6", "relu6", "fc7", "relu7"]
    fc6, fc7 = fc.get_submodule("fc6"), fc.get_submodule("fc7")
    assert isinstance(fc6, nn.Linear)
    assert isinstance(fc7, nn.Linear)
    assert fc6.weight.shape == (4096, 9216)
    assert (fc6.weight == 0.25).all()
    assert (fc7.bias == 1.5).all()
    assert all(parameter.requires_grad for parameter in fc.parameters())  # they belong to the head, which trains
    assert not any("fc" in key for key in backbone.state_dict())
    assert backbone.take_pretrained_fc() is fc
    assert backbone.pretrained_fc is None
    assert backbone.take_pretrained_fc() is None


@pytest.mark.parametrize("name", ALL_SMALL)
def test_no_pretrained_fc_without_weights(name: str) -> None:
    assert build(name).pretrained_fc is None


def test_no_pretrained_fc_in_a_file_of_features(tmp_path: Path) -> None:
    whole, _ = whole_torchvision("alexnet")
    save_without_classifier(whole, tmp_path / "features.pth")
    assert build("alexnet", weights=str(tmp_path / "features.pth")).pretrained_fc is None
