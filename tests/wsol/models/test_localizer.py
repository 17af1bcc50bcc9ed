"""The localizer: its layers, its loss, and where its points are."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol.data.batch import ImageBatch, Sample, collate
from wsol.models.backbones import Backbone, build_backbone
from wsol.models.detector import ImagePrediction, ScoreMaps
from wsol.models.localizer import Localizer, smooth
from wsol.models.pooling import AveragePooling, ImagePooling, MaxPooling
from wsol.models.score_map_layers import build_score_map_layers


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sample(image: Tensor, labels: list[float]) -> Sample:
    return Sample(image, torch.tensor(labels), torch.zeros(0, 4), None, "image", (1.0, 1.0))


class Pixels(nn.Module):
    """A backbone body whose map is the mean colour of each 16 x 16 square (`ceil`: also of a part of one)."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 16, ceil_mode=True)


def pixel_backbone(**changes: Any) -> Backbone:
    options: dict[str, Any] = {"out_channels": 3, "stride": 16, "image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    return Backbone(Pixels(), **(options | changes))


def tiny() -> Backbone:
    return build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)


def build(
    backbone: Backbone,
    *,
    head: str = "classroom",
    num_classes: int = 3,
    maps_per_class: int = 1,
    hidden_channels: int | None = 3,
    dropout: float = 0.5,
    pooling: ImagePooling | None = None,
    **changes: Any,
) -> Localizer:
    layers = build_score_map_layers(
        head,
        backbone=backbone,
        maps=num_classes * maps_per_class,
        hidden_channels=hidden_channels,
        fc_dim=8,
        dropout=dropout,
    )
    options: dict[str, Any] = {"smoothing": 1, "map_dropout": 0.0} | changes
    return Localizer(
        backbone=backbone, num_classes=num_classes, layers=layers, pooling=pooling or MaxPooling(), **options
    )


def pixel_localizer(pooling: ImagePooling | None = None, **changes: Any) -> Localizer:
    """Class scores are the colour channels: class 0 is red, 1 green, 2 blue."""
    model = build(pixel_backbone(), head="linear", pooling=pooling, **changes)
    with torch.no_grad():
        model.head.score.weight[:, :, 0, 0] = torch.eye(3).repeat_interleave(changes.get("maps_per_class", 1), dim=0)
    return model.eval()


def maps_of(prediction: ImagePrediction) -> ScoreMaps:
    assert prediction.score_maps is not None
    return prediction.score_maps


def test_score_maps_are_where_the_pixels_are() -> None:
    image = torch.zeros(3, 96, 160)
    image[0, 32:48, 112:128] = 1.0  # red in row 2, column 7
    image[1, 80:96, 144:160] = 0.6  # green at the bottom right

    prediction = pixel_localizer().predict(collate([sample(image, [1, 1, 1])]))[0]

    maps = maps_of(prediction)
    assert maps.stride == 16
    assert maps.values.shape == (3, 6, 10)
    assert maps.values[0].nonzero().tolist() == [[2, 7]]
    assert maps.values[1].nonzero().tolist() == [[5, 9]]
    assert prediction.class_scores.tolist() == pytest.approx([1.0, 0.6, 0.0], rel=1e-4)
    assert prediction.boxes.shape == (0, 4)
    assert prediction.box_scores.shape == (0, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (100, 66), (64, 70), (7, 200)])
def test_score_maps_end_with_the_image(height: int, width: int) -> None:
    """The last cell of a row may hang over the edge; cells of nothing but padding are cut off."""
    prediction = pixel_localizer().predict(collate([sample(torch.rand(3, height, width), [1, 1, 1])]))[0]
    assert maps_of(prediction).values.shape == (3, math.ceil(height / 16), math.ceil(width / 16))


def test_the_maps_of_a_class_are_averaged() -> None:
    model = pixel_localizer(maps_per_class=4)
    model.head.score.weight.data[0] *= 3.0  # the first of red's four maps
    image = torch.zeros(3, 64, 64)
    image[0] = 0.5
    values = maps_of(model.predict(collate([sample(image, [1, 1, 1])]))[0]).values
    torch.testing.assert_close(values[0], torch.full((4, 4), 0.5 * (3 + 1 + 1 + 1) / 4))


def test_smoothing_is_the_mean_of_valid_neighbours() -> None:
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    valid = torch.ones(2, 1, 5, 4, dtype=torch.bool)
    valid[1, :, 3:] = False
    valid[1, :, :, 2:] = False
    got = smooth(maps, valid, side=3)
    for image in range(2):
        for row in range(5):
            for column in range(4):
                if not valid[image, 0, row, column]:
                    continue
                cells = [
                    maps[image, :, r, c]
                    for r in range(max(0, row - 1), min(5, row + 2))
                    for c in range(max(0, column - 1), min(4, column + 2))
                    if valid[image, 0, r, c]
                ]
                torch.testing.assert_close(got[image, :, row, column], torch.stack(cells).mean(dim=0))
    torch.testing.assert_close(smooth(maps[:1], None, side=3), got[:1])
    assert smooth(maps, valid, side=1) is maps


def test_smoothing_and_map_dropout_are_of_the_whole_map() -> None:
    model = pixel_localizer(map_dropout=0.5, smoothing=3).train()
    image = torch.ones(3, 64, 64)
    seen = set()
    for _ in range(40):
        (group,) = model._score_maps(collate([sample(image, [1, 1, 1])]))
        for one_map in group.scores[0]:
            values = one_map.unique().tolist()
            assert len(values) == 1  # all of it or nothing
            seen.add(round(values[0], 5))
    assert seen == {0.0, 2.0}
    model.eval()
    (group,) = model._score_maps(collate([sample(image, [1, 1, 1])]))
    assert group.scores.unique().tolist() == [1.0]


def test_average_pooling_does_not_count_padding() -> None:
    """A red image of 32 x 32 is padded to 64 x 64: four of sixteen cells are valid."""
    model = pixel_localizer(AveragePooling())
    image = torch.zeros(3, 32, 32)
    image[0] = 0.8
    prediction = model.predict(collate([sample(image, [1, 1, 1])]))[0]
    assert prediction.class_scores.tolist() == pytest.approx([0.8, 0.0, 0.0], rel=1e-4)


def test_max_pooling_does_not_see_padding() -> None:
    """Padding scores 0 here, more than any cell of the image; neither score nor map may come from there."""
    model = pixel_localizer()
    model.head.score.weight.data.neg_()
    image = torch.full((3, 40, 20), 0.5)
    prediction = model.predict(collate([sample(image, [1, 1, 1])]))[0]
    assert prediction.class_scores.max() < 0
    assert maps_of(prediction).values.max() < 0


def test_loss_is_the_papers_formula_over_the_images() -> None:
    images = torch.rand(2, 3, 64, 64)
    labels = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]])
    batch = collate([sample(image, row.tolist()) for image, row in zip(images, labels, strict=True)])

    losses = pixel_localizer().training_losses(batch)

    assert list(losses) == ["image"]
    scores = F.avg_pool2d(images, 16).amax(dim=(2, 3))
    terms = torch.log(1 + torch.exp(-labels * scores)) * (labels != 0)
    assert losses["image"].item() == pytest.approx(terms.sum().item() / 2, rel=1e-6)


class Recorder(ImagePooling):
    """Keeps the shapes of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, scores: Tensor, valid: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        assert features is not None
        self.seen.append((scores.shape, None if valid is None else valid.shape, features.shape))
        return scores.mean(dim=(2, 3))


def test_any_pooling_fits_in() -> None:
    pooling = Recorder()
    model = build(tiny(), num_classes=5, hidden_channels=7, pooling=pooling)
    batch = collate([sample(torch.rand(3, 64, 72), [1.0] * 5), sample(torch.rand(3, 16, 64), [1.0] * 5)])
    model.training_losses(batch)
    assert pooling.seen == [((1, 5, 8, 9), None, (1, 7, 8, 9)), ((1, 5, 8, 8), (1, 1, 8, 8), (1, 7, 8, 8))]


@pytest.mark.parametrize("head", ["classroom", "oquab"])
def test_dropout_in_training_only(head: str) -> None:
    model = build(tiny(), head=head, hidden_channels=64)
    batch: ImageBatch = collate([sample(torch.rand(3, 64, 64), [1.0, -1.0, 1.0])])
    assert model.training_losses(batch)["image"] != model.training_losses(batch)["image"]
    model.eval()
    assert model.training_losses(batch)["image"] == model.training_losses(batch)["image"]


def test_the_classroom_head_is_the_handouts() -> None:
    layers = build_score_map_layers(
        "classroom", backbone=tiny(), maps=20, hidden_channels=None, fc_dim=None, dropout=0.0
    ).head
    convolutions = [module for module in layers.modules() if isinstance(module, nn.Conv2d)]
    assert [(layer.kernel_size, layer.out_channels) for layer in convolutions] == [
        ((3, 3), 256),
        ((1, 1), 256),
        ((1, 1), 20),
    ]
    for layer in convolutions:
        fan_in = layer.weight[0].numel()
        fan_out = layer.out_channels * layer.kernel_size[0] ** 2
        assert layer.weight.abs().max().item() <= math.sqrt(6 / (fan_in + fan_out))  # Xavier
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (fan_in + fan_out)), rel=0.05)


def fc_of(in_features: int, width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(fc6=nn.Linear(in_features, width), fc7=nn.Linear(width, width)))


@pytest.mark.parametrize(("size", "pool"), [(6, 3), (7, 2)])
def test_oquabs_fc_is_the_classifier_at_every_position(size: int, pool: int) -> None:
    """In the middle of a map, each cell is what the linear layers say of the size x size cells around it."""
    fc = fc_of(3 * size**2, 10)
    linear6, linear7 = fc.get_submodule("fc6"), fc.get_submodule("fc7")
    backbone = pixel_backbone(roi_size=size, pretrained_fc=fc, last_pool_size=pool)
    layers = build_score_map_layers("oquab", backbone=backbone, maps=5, hidden_channels=9, fc_dim=None, dropout=0.0)
    maps = torch.rand(1, 3, 24, 26)
    got = layers.fc(maps)
    pooled = F.max_pool2d(maps, pool, 2)
    assert got.shape[2:] == pooled.shape[2:]
    for row in range(size // 2, pooled.shape[2] - size + size // 2 + 1):
        for column in range(size // 2, pooled.shape[3] - size + size // 2 + 1):
            top, left = row - size // 2, column - size // 2
            window = pooled[:, :, top : top + size, left : left + size]
            expected = F.relu(linear7(F.relu(linear6(window.flatten(1)))))
            torch.testing.assert_close(got[:, :, row, column], expected, rtol=1e-4, atol=1e-5)
    assert layers.stride == 32
    assert layers.feature_channels == 9
    assert linear6.weight.data_ptr() == layers.fc.get_submodule("fc6").weight.data_ptr()  # type: ignore[union-attr, operator]


def test_oquab_without_pretrained_layers_has_new_ones() -> None:
    model = build(tiny(), head="oquab", hidden_channels=6)
    assert model.stride == 16
    prediction = model.predict(collate([sample(torch.rand(3, 70, 100), [1, 1, 1])]))[0]
    assert maps_of(prediction).values.shape == (3, 4, 6)


def test_oquab_on_a_padded_image_keeps_valid_cells() -> None:
    """40 x 20 pixels are padded to 64 x 64: of 4 x 4 cells of 16 px, 3 x 2 show something."""
    model = build(tiny(), head="oquab", hidden_channels=6)
    prediction = model.predict(collate([sample(torch.rand(3, 40, 20), [1, 1, 1])]))[0]
    assert maps_of(prediction).values.shape == (3, 3, 2)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'fcn' for model.head; expected one of classroom, oquab, linear"):
        build(tiny(), head="fcn")


@pytest.mark.parametrize("head", ["classroom", "linear", "oquab"])
def test_the_localizer_frees_a_pretrained_fc(head: str) -> None:
    backbone = pixel_backbone(pretrained_fc=fc_of(3 * 49, 4), last_pool_size=2)
    build(backbone, head=head)
    assert backbone.pretrained_fc is None
