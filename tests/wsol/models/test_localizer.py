"""The localizer: its layers, its loss, and where its points are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol.data.batch import ImageBatch, Sample, collate
from wsol.models.backbones import Backbone, build_backbone
from wsol.models.localizer import Localizer
from wsol.models.pooling import ImagePooling, build_pooling


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


def pixel_localizer(pooling: str = "max") -> Localizer:
    """Class scores are the colour channels: class 0 is red, 1 green, 2 blue."""
    backbone = Backbone(Pixels(), out_channels=3, stride=16, image_mean=(0, 0, 0), image_std=(1, 1, 1))
    model = Localizer(backbone=backbone, num_classes=3, hidden_channels=3, dropout=0.5, pooling=build_pooling(pooling))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
        hidden, score = model.head[0], model.head[3]
        assert isinstance(hidden, nn.Conv2d)
        assert isinstance(score, nn.Conv2d)
        hidden.weight[:, :, 1, 1] = torch.eye(3)
        score.weight[:, :, 0, 0] = torch.eye(3)
    return model.eval()


def test_points_are_centres_of_the_best_cells() -> None:
    image = torch.zeros(3, 96, 160)
    image[0, 32:48, 112:128] = 1.0  # red in row 2, column 7
    image[1, 0:16, 0:16] = 0.5  # green at the top left
    image[1, 80:96, 144:160] = 0.6  # and more so at the bottom right
    image[2, 80:96, 0:16] = 0.7  # blue at the bottom left

    prediction = pixel_localizer().predict(collate([sample(image, [1, 1, 1])]))[0]

    assert prediction.points.tolist() == [[120.0, 40.0], [152.0, 88.0], [8.0, 88.0]]
    assert prediction.class_scores.tolist() == pytest.approx([1.0, 0.6, 0.7], rel=1e-4)
    assert prediction.boxes.shape == (0, 4)
    assert prediction.box_scores.shape == (0, 3)


def test_the_first_of_tied_cells_wins() -> None:
    prediction = pixel_localizer().predict(collate([sample(torch.full((3, 64, 80), 0.5), [1, 1, 1])]))[0]
    assert prediction.points.tolist() == [[8.0, 8.0]] * 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (100, 66), (64, 70), (7, 200)])
def test_points_stay_inside_the_image(height: int, width: int) -> None:
    """The last cell of a row may hang over the edge; its centre counts as the edge."""
    image = torch.zeros(3, height, width)
    image[:, -1, -1] = 1.0
    prediction = pixel_localizer().predict(collate([sample(image, [1, 1, 1])]))[0]
    column, row = (width - 1) // 16, (height - 1) // 16
    expected = [min(16 * column + 8, width), min(16 * row + 8, height)]
    assert prediction.points.tolist() == [expected] * 3


def test_average_pooling_does_not_count_padding() -> None:
    """A red image of 32 x 32 is padded to 64 x 64: four of sixteen cells are valid."""
    model = pixel_localizer("average")
    image = torch.zeros(3, 32, 32)
    image[0] = 0.8
    prediction = model.predict(collate([sample(image, [1, 1, 1])]))[0]
    assert prediction.class_scores.tolist() == pytest.approx([0.8, 0.0, 0.0], rel=1e-4)


def test_max_pooling_does_not_see_padding() -> None:
    """Padding scores 0 here, more than any cell of the image; neither score nor point may come from there."""
    model = pixel_localizer()
    model.head[3].weight.data.neg_()  # type: ignore[operator, union-attr]
    image = torch.full((3, 40, 20), 0.5)
    prediction = model.predict(collate([sample(image, [1, 1, 1])]))[0]
    assert prediction.class_scores.max() < 0
    assert prediction.points.tolist() == [[20.0, 40.0]] * 3  # the last cell, mostly padding, is the least negative


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
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Size, torch.Size | None]] = []

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Tensor:
        self.seen.append((scores.shape, None if valid is None else valid.shape))
        return scores.mean(dim=(2, 3))


def test_any_pooling_fits_in() -> None:
    pooling = Recorder()
    backbone = build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)
    model = Localizer(backbone=backbone, num_classes=5, hidden_channels=8, dropout=0.0, pooling=pooling)
    batch = collate([sample(torch.rand(3, 64, 72), [1.0] * 5), sample(torch.rand(3, 16, 64), [1.0] * 5)])
    model.training_losses(batch)
    assert pooling.seen == [((1, 5, 8, 9), None), ((1, 5, 8, 8), (1, 1, 8, 8))]


def test_head_starts_near_zero_and_drops_out_in_training_only() -> None:
    backbone = build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)
    model = Localizer(
        backbone=backbone, num_classes=20, hidden_channels=64, dropout=0.5, pooling=build_pooling("average")
    )
    batch: ImageBatch = collate([sample(torch.rand(3, 64, 64), [1.0] * 20)])
    first, second = (model.training_losses(batch)["image"].item() for _ in range(2))
    assert first == pytest.approx(20 * 0.6931, rel=0.1)
    assert first != second
    model.eval()
    assert model.training_losses(batch)["image"] == model.training_losses(batch)["image"]


def test_the_localizer_frees_a_pretrained_fc() -> None:
    fc = nn.Sequential(nn.Linear(2, 2))
    backbone = Backbone(
        Pixels(), out_channels=3, stride=16, image_mean=(0, 0, 0), image_std=(1, 1, 1), pretrained_fc=fc
    )
    Localizer(backbone=backbone, num_classes=3, hidden_channels=3, dropout=0.5, pooling=build_pooling("max"))
    assert backbone.pretrained_fc is None
