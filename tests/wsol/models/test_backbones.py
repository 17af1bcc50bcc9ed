"""Backbones: shapes, strides, normalization, freezing, and features equal to those of the whole classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from wsol.models.backbones import MIN_SIDE_PX, Backbone, build_backbone, normalize_and_pad

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
    stride: int | None = None,
    pad_square: bool = False,
) -> Backbone:
    return build_backbone(
        name=name,
        weights=weights,
        freeze=freeze,
        freeze_batchnorm=batchnorm,
        stride=stride,
        pad_square=pad_square,
    )


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


def whole_torchvision(name: str, *, classifier: bool = True) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
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

    model: nn.Module
    if classifier:
        model = getattr(torchvision.models, name)(weights=None)
    else:  # of vgg16: 120 M parameters
        model = nn.Module()
        model.add_module("features", torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))
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


# --- stride 8


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", (15, 11)),
        ("vgg16", (16, 12)),
        ("resnet18", (16, 12)),
        ("resnet50", (16, 12)),
        ("timm/test_resnet", (16, 12)),
        ("timm/efficientnet_lite0", (16, 12)),
        ("timm/convnext_atto", (16, 12)),
    ],
)
def test_stride_8_has_twice_the_cells_of_the_same_layers(name: str, size: tuple[int, int]) -> None:
    coarse, fine = build(name, stride=16).eval(), build(name, stride=8).eval()
    assert (coarse.stride, fine.stride) == (16, 8)
    assert (coarse.out_channels, coarse.roi_size) == (fine.out_channels, fine.roi_size)
    assert {key: value.shape for key, value in coarse.state_dict().items()} == {
        key: value.shape for key, value in fine.state_dict().items()
    }
    with torch.no_grad():
        maps = fine(torch.rand(1, 3, 128, 96))
    assert maps.shape == (1, fine.out_channels, *size)


@pytest.mark.parametrize(("name", "first"), [("alexnet", 1), ("resnet18", 0), ("resnet50", 0), ("timm/resnet18", 0)])
def test_every_other_cell_of_stride_8_is_one_of_stride_16(name: str, first: int) -> None:
    coarse, fine = build(name).eval().double(), build(name, stride=8).eval().double()
    fine.load_state_dict(coarse.state_dict())
    images = torch.rand(1, 3, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        expected, maps = coarse(images), fine(images)
    middle = slice(1, -1)  # at the border, the finer map of alexnet may see a row more of the image
    expected = expected[:, :, middle, middle]
    found = maps[:, :, first::2, first::2][:, :, middle, middle]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    others = maps[:, :, 1 - first :: 2, 1 - first :: 2][:, :, middle, middle]
    assert (
        others[..., : found.shape[2], : found.shape[3]] - found[..., : others.shape[2], : others.shape[3]]
    ).std() > 0


def test_vgg16_of_stride_8_is_the_whole_without_pool4() -> None:
    """Every other cell is what the undilated layers make of block 4 when pool4 takes one cell of four as it is."""
    whole, _ = whole_torchvision("vgg16", classifier=False)
    features = whole.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    backbone = build("vgg16", stride=8)
    for mine, theirs in zip(backbone.body.parameters(), features.parameters(), strict=True):
        mine.data.copy_(theirs.data)

    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        block4 = features[:23](images)
        maps = backbone(images)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            expected = features[24:30](block4[:, :, row::2, column::2])
            torch.testing.assert_close(maps[:, :, row::2, column::2], expected, rtol=1e-4, atol=1e-6)
    assert maps.shape == (1, 512, 12, 8)
    assert maps.std() > 0


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_a_file_of_weights_fits_stride_8(name: str, tmp_path: Path) -> None:
    whole, _ = whole_torchvision(name)
    save_without_classifier(whole, tmp_path / "weights.pth")
    fine = build(name, weights=str(tmp_path / "weights.pth"), stride=8)
    coarse = build(name, weights=str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, coarse.state_dict()[key]) for key, value in fine.state_dict().items())


def test_timms_own_weights_are_those_of_stride_8_too(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    made: list[nn.Module] = []

    def create_as_if_pretrained(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
        model = create(name, pretrained=False, **arguments)
        if pretrained:
            made.append(model)
        return model

    monkeypatch.setattr(timm, "create_model", create_as_if_pretrained)
    backbone = build("timm/test_resnet", weights="imagenet", stride=8)
    (pretrained,) = made
    state = backbone.state_dict()
    values = {f"body.model.{key}": value for key, value in pretrained.state_dict().items()}
    assert any("layer3" in key for key in state)
    assert all(torch.equal(value, values[key]) for key, value in state.items() if key.startswith("body."))


def test_timm_models_of_stride_8_end_with_the_layer_that_has_16() -> None:
    keys = build("timm/resnet10t", stride=8).state_dict().keys()
    assert any("layer3" in key for key in keys)
    assert not any("layer4" in key for key in keys)  # dilated, it has stride 8 as well


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/dla34", "timm/mobilenetv3_small_050"])
def test_timm_model_that_cannot_be_dilated_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"got 8 for model.stride, which {name} cannot have; expected 16, or a model"):
        build(name, stride=8)


def test_tiny_has_one_stride() -> None:
    assert build("tiny", stride=8).stride == 8
    with pytest.raises(ValueError, match="got 16 for model.stride; expected 8, which tiny always has"):
        build("tiny", stride=16)


@pytest.mark.parametrize("stride", [0, 4, 32])
def test_other_strides_are_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"got {stride} for model.stride; expected 8 or 16"):
        build("resnet18", stride=stride)


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


def test_square_padding_brings_images_of_one_longer_side_together() -> None:
    backbone = build("resnet18", pad_square=True).eval()
    sizes = [(96, 70), (64, 96), (96, 96), (80, 33), (10, 20)]
    images = [torch.rand(3, height, width) for height, width in sizes]

    with torch.no_grad():
        groups = backbone.feature_maps(images)

    assert [group.indices for group in groups] == [[0, 1, 2], [3], [4]]
    assert [tuple(group.maps.shape[2:]) for group in groups] == [(6, 6), (5, 5), (4, 4)]  # 96, 80 and 64 px
    valid = [group.valid for group in groups]
    assert all(some is not None for some in valid)
    assert [mask.any(dim=1).sum().item() for mask in valid[0][:, 0]] == [6, 4, 6]  # type: ignore[index]
    assert [mask.any(dim=0).sum().item() for mask in valid[0][:, 0]] == [5, 6, 6]  # type: ignore[index]
    assert valid[1][0, 0].tolist() == [[True] * 3 + [False] * 2] * 5  # type: ignore[index]
    assert valid[2][0, 0].sum() == 2  # type: ignore[index]
    with torch.no_grad():
        square = torch.zeros(1, 3, 96, 96)  # the mean colour
        square[0, :, :64] = (images[1] - backbone.image_mean[:, None, None]) / backbone.image_std[:, None, None]
        torch.testing.assert_close(groups[0].maps[1:2], backbone(square), rtol=1e-4, atol=1e-4)


def test_square_padding_of_an_image_does_not_depend_on_the_others() -> None:
    backbone = build(pad_square=True).eval()
    images = [torch.rand(3, 80, 72), torch.rand(3, 64, 128), torch.rand(3, 30, 80), torch.rand(3, 128, 1)]
    with torch.no_grad():
        groups = backbone.feature_maps(images)
        alone = [backbone.feature_maps([image])[0] for image in images]
    assert [group.indices for group in groups] == [[0, 2], [1, 3]]
    for group in groups:
        assert group.valid is not None
        for row, index in enumerate(group.indices):
            torch.testing.assert_close(group.maps[row], alone[index].maps[0])
            assert torch.equal(group.valid[row], alone[index].valid[0])  # type: ignore[index]


def test_square_images_have_no_padding_to_mark() -> None:
    (group,) = build(pad_square=True).feature_maps([torch.rand(3, 96, 96)])
    assert group.valid is None


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
