"""WSDDN against a derivation from the paper with loops, and where its numbers must be finite."""

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
from wsol.models.refinement import Refinement
from wsol.models.regions import DEFAULT_FC_DIM, Regions, build_region_features
from wsol.models.wsddn import SpatialRegularizer, TwoStreamHead, Wsddn


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(num_classes: int = 3, backbone: Backbone | None = None, **changes: Any) -> Wsddn:
    options: dict[str, Any] = {"roi_op": "roi_pool", "roi_size": 2, "fc_dim": 16, "dropout": 0.0, "box_scores": "none"}
    model: dict[str, Any] = {"refinement": None, "spatial": None}
    head: dict[str, Any] = {"temperature": 1.0, "size_prior": 0.0, "contrastive": False}
    for name, value in changes.items():
        next(part for part in (model, head, options) if name in part)[name] = value
    if backbone is None:
        backbone = build_backbone(name="tiny", weights="none", freeze="none", freeze_batchnorm=None)
    regions = build_region_features(backbone=backbone, rings=head["contrastive"], **options)
    streams = TwoStreamHead(in_features=regions.out_features, num_classes=num_classes, **head)
    return Wsddn(backbone=backbone, num_classes=num_classes, regions=regions, head=streams, **model)


def two_streams(in_features: int = 6, num_classes: int = 4, **changes: Any) -> TwoStreamHead:
    options: dict[str, Any] = {"temperature": 1.0, "size_prior": 0.0, "contrastive": False}
    return TwoStreamHead(in_features=in_features, num_classes=num_classes, **(options | changes))


def regions_of(vectors: Tensor, **rings: Tensor) -> Regions:
    """Of boxes that all cover the whole image."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(len(vectors), 1)
    return Regions(boxes=boxes, log_area=torch.zeros(len(vectors)), vectors=vectors, **rings)


def random_boxes(count: int, *, width: int, height: int, min_side: float = 4.0) -> Tensor:
    corners = torch.rand(count, 2) * torch.tensor([width - min_side, height - min_side])
    sides = min_side + torch.rand(count, 2) * (torch.tensor([width, height]) - corners - min_side)
    return torch.cat([corners, corners + sides], dim=1)


def sample(labels: list[float], proposals: Tensor, *, width: int = 72, height: int = 80) -> Sample:
    return Sample(torch.rand(3, height, width), torch.tensor(labels), proposals, None, "image", (1.0, 1.0))


# --- the paper, with loops


def round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def roi_max_pool(features: Tensor, box: list[float], *, stride: int, size: int) -> Tensor:
    """Girshick, Fast R-CNN, 2015, section 2.1: the maximum over each cell of a size x size grid on the box."""
    channels, height, width = features.shape
    left, top, right, bottom = (round_half_up(coordinate / stride) for coordinate in box)
    cell_w, cell_h = max(right - left + 1, 1) / size, max(bottom - top + 1, 1) / size
    pooled = []
    for channel in range(channels):
        for row in range(size):
            for column in range(size):
                rows = range(max(top + math.floor(row * cell_h), 0), min(top + math.ceil((row + 1) * cell_h), height))
                columns = range(
                    max(left + math.floor(column * cell_w), 0), min(left + math.ceil((column + 1) * cell_w), width)
                )
                cells = [features[channel, y, x] for y in rows for x in columns]
                pooled.append(torch.stack(cells).max() if cells else features.new_zeros(()))
    return torch.stack(pooled)  # channel-major, like the flattened (channels, size, size)


def reference(model: Wsddn, batch: ImageBatch) -> tuple[Tensor, list[Tensor]]:
    """The loss of the batch and the region scores of each image, straight from the paper."""
    parameters = dict(model.named_parameters())
    losses, all_scores = [], []
    for image, boxes, labels in zip(batch.images, batch.proposals, batch.labels, strict=True):
        normalized = (image - model.backbone.image_mean[:, None, None]) / model.backbone.image_std[:, None, None]
        features = model.backbone.body(normalized[None])[0]
        class_logits, region_logits = [], []
        for box in boxes.tolist():
            vector = roi_max_pool(features, box, stride=model.backbone.stride, size=2)
            for number in (6, 7):
                vector = (
                    parameters[f"regions.layers.fc{number}.weight"] @ vector
                    + parameters[f"regions.layers.fc{number}.bias"]
                )
                vector = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
                vector = F.relu(
                    parameters[f"regions.layers.norm{number}.weight"] * vector
                    + parameters[f"regions.layers.norm{number}.bias"]
                )
            class_logits.append(parameters["head.classification.weight"] @ vector)
            region_logits.append(parameters["head.detection.weight"] @ vector)
            class_logits[-1] = class_logits[-1] + parameters["head.classification.bias"]
            region_logits[-1] = region_logits[-1] + parameters["head.detection.bias"]
        scores = []
        for r in range(len(boxes)):
            row = []
            for c in range(len(labels)):
                over_classes = class_logits[r][c].exp() / sum(class_logits[r][k].exp() for k in range(len(labels)))
                over_regions = region_logits[r][c].exp() / sum(region_logits[i][c].exp() for i in range(len(boxes)))
                row.append(over_classes * over_regions)
            scores.append(torch.stack(row))
        loss = features.new_zeros(())
        for c, label in enumerate(labels.tolist()):
            y = sum(scores[r][c] for r in range(len(boxes)))
            assert isinstance(y, Tensor)
            loss = loss - {1.0: y.log(), -1.0: (1 - y).log(), 0.0: y * 0}[label]
        losses.append(loss)
        all_scores.append(torch.stack(scores))
    return torch.stack(losses).mean(), all_scores


def test_forward_loss_and_gradients_equal_the_paper() -> None:
    model = build().double()
    for parameter in model.head.parameters():  # type: ignore[attr-defined]
        nn.init.normal_(parameter, std=0.5)  # far from the uniform start
    samples = [
        sample([1.0, -1.0, 0.0], random_boxes(5, width=72, height=80)),
        sample([-1.0, 1.0, 1.0], random_boxes(3, width=64, height=96), width=64, height=96),
    ]
    batch = collate(samples)
    batch = ImageBatch(
        images=[image.double() for image in batch.images],
        labels=batch.labels.double(),
        proposals=batch.proposals,
        proposal_scores=batch.proposal_scores,
        image_ids=batch.image_ids,
        scales=batch.scales,
    )

    expected_loss, expected_scores = reference(model, batch)
    expected_loss.backward()
    expected_gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    losses = model.training_losses(batch)
    losses["image"].backward()

    assert list(losses) == ["image"]
    assert losses["image"].item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-5, atol=1e-9, msg=name)
        assert parameter.grad.abs().max() > 0, name
    for prediction, scores in zip(model.predict(batch), expected_scores, strict=True):
        torch.testing.assert_close(prediction.box_scores, scores, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(prediction.class_scores, scores.sum(dim=0), rtol=1e-5, atol=1e-9)


def test_two_streams_sum_to_one_over_classes_and_over_regions() -> None:
    head = two_streams()
    vectors = torch.randn(9, 6) * 100
    nn.init.zeros_(head.detection.weight)
    torch.testing.assert_close(head(regions_of(vectors)).exp().sum(dim=1), torch.full((9,), 1 / 9))  # over classes
    nn.init.normal_(head.detection.weight)
    nn.init.zeros_(head.classification.weight)
    torch.testing.assert_close(head(regions_of(vectors)).exp().sum(dim=0), torch.full((4,), 1 / 4))  # over regions


def test_one_proposal_is_an_ordinary_classifier() -> None:
    """The softmax over one region is 1, whatever its logit."""
    head = two_streams()
    vector = torch.randn(1, 6)
    torch.testing.assert_close(head(regions_of(vector)), torch.log_softmax(head.classification(vector), dim=1))


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    """With 20 classes and VOC 2007's 1.458 classes an image: 1.458 ln 20 + 18.542 (-ln 0.95) = 5.32."""
    model = build(num_classes=20, fc_dim=64)
    boxes = random_boxes(40, width=72, height=80)
    one = sample([-1.0] * 20, boxes)
    losses = []
    for positives in (1, 2):
        labels = torch.full((20, 20), -1.0)
        for image in range(20):  # each class in its turn
            labels[image, [(image + offset) % 20 for offset in range(positives)]] = 1.0
        batch = collate([Sample(one.image, row, boxes, None, "image", (1.0, 1.0)) for row in labels])
        losses.append(model.training_losses(batch)["image"].item())
    assert 0.542 * losses[0] + 0.458 * losses[1] == pytest.approx(5.32, abs=0.02)


@pytest.mark.parametrize("logit_scale", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("label", [1.0, 0.0, -1.0])
def test_extreme_logits_give_finite_losses_and_gradients(logit_scale: float, label: float) -> None:
    model = build()
    batch = collate([sample([label] * 3, random_boxes(7, width=72, height=80))])
    with torch.no_grad():
        for layer in (model.head.classification, model.head.detection):  # type: ignore[attr-defined]
            nn.init.zeros_(layer.weight)
            layer.bias.copy_(torch.tensor([1.0, -1.0, 0.0]) * logit_scale)
            layer.weight[:, 0] = torch.tensor([-1.0, 1.0, 0.5]) * logit_scale
    loss = model.training_losses(batch)["image"]
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    prediction = model.predict(batch)[0]
    assert torch.isfinite(prediction.box_scores).all()


# --- what goes beyond the paper's equations


def test_temperature_and_size_prior_shape_the_softmax_over_regions() -> None:
    head = two_streams(temperature=2.0, size_prior=1.5)
    vectors = torch.randn(5, 6)
    log_area = torch.log(torch.tensor([1.0, 0.5, 0.25, 0.04, 0.01]))
    got = head(Regions(boxes=torch.zeros(5, 4), log_area=log_area, vectors=vectors)).exp()
    over_classes = torch.softmax(head.classification(vectors), dim=1)
    shares = (head.detection(vectors) / 2).exp() * torch.tensor([1.0, 0.5, 0.25, 0.04, 0.01])[:, None] ** 1.5
    torch.testing.assert_close(got, over_classes * shares / shares.sum(dim=0))


def test_contrastive_detection_is_inner_less_outer_ring() -> None:
    head = two_streams(contrastive=True)
    vectors, inner, outer = torch.randn(3, 5, 6)
    got = head(regions_of(vectors, inner_ring=inner, outer_ring=outer))
    logits = (inner - outer) @ head.detection.weight.T
    expected = torch.log_softmax(head.classification(vectors), dim=1) + torch.log_softmax(logits, dim=0)
    torch.testing.assert_close(got, expected)


def test_the_size_prior_prefers_large_boxes_before_anything_is_learned() -> None:
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 72.0, 80.0], [10.0, 10.0, 50.0, 50.0]])
    order = []
    for prior in (3.0, -3.0):
        prediction = build(size_prior=prior).predict(collate([sample([1.0, -1.0, -1.0], boxes)]))[0]
        order.append(prediction.box_scores[:, 0].argsort(descending=True).tolist())
    assert order == [[1, 2, 0], [0, 2, 1]]


def test_spatial_regularizer_equals_loops() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6], [0, 0, 10, 5.9], [50, 50, 60, 60], [0, 0, 9, 9]]
    )
    vectors = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(6, 3, dtype=torch.float64)
    scores[0, :2] = 1.0  # the best of both classes
    regions = Regions(boxes=boxes.double(), log_area=torch.zeros(6), vectors=vectors)
    labels = torch.tensor([1.0, 1.0, -1.0])
    expected = 0.0
    for label in (0, 1):
        ranked = scores[:, label].argsort(descending=True).tolist()[:4]
        for r in ranked[1:]:
            inter = min(boxes[r, 2], 10) * min(boxes[r, 3], 10) if r != 4 else 0.0
            area = float((boxes[r, 2] - boxes[r, 0]) * (boxes[r, 3] - boxes[r, 1]))
            if inter / (100 + area - inter) > 0.6:
                expected += (0.5 * (scores[r, label] * (vectors[r] - vectors[0])).square().sum()).item()
    loss = SpatialRegularizer(weight=0.1, iou=0.6, top=4).loss(regions, scores, labels)
    assert loss.item() == pytest.approx(0.1 * expected, rel=1e-9)
    assert expected > 0
    loss.backward()
    assert vectors.grad is not None
    assert vectors.grad[0].any()


def test_an_overlap_of_exactly_the_threshold_is_not_drawn() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]], dtype=torch.float64)  # IoU 0.6
    regions = Regions(boxes=boxes, log_area=torch.zeros(2), vectors=torch.randn(2, 3, dtype=torch.float64))
    scores = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    for iou, positive in ((0.6, False), (0.59, True)):
        loss = SpatialRegularizer(weight=1.0, iou=iou, top=10).loss(regions, scores, torch.ones(1))
        assert (loss > 0) == positive


def test_box_scores_multiply_the_pooled_features() -> None:
    boxes, scores = random_boxes(4, width=72, height=80), torch.tensor([0.0, 0.1, 0.5, 1.0])
    image = torch.rand(3, 80, 72)
    batch = collate([Sample(image, torch.tensor([1.0, -1.0, -1.0]), boxes, scores, "image", (1.0, 1.0))])
    for name, factors in (("score", scores), ("one_plus_ten", 1 + 10 * scores)):
        model = build(box_scores=name)
        seen: list[Tensor] = []
        model.regions.layers.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        model.predict(batch)
        pooled = model.regions.roi_op(model.backbone.feature_maps([image])[0].maps, [boxes])
        torch.testing.assert_close(seen[0], pooled * factors[:, None, None, None])


def test_proposals_without_scores_are_refused_where_scores_are_needed() -> None:
    with pytest.raises(ValueError, match="got proposals without scores; expected some, with model.box_scores"):
        build(box_scores="score").predict(collate([sample([1.0, -1.0, -1.0], random_boxes(3, width=72, height=80))]))


def test_unknown_box_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'log' for model.box_scores; expected one of none, score, one_plus_ten"):
        build(box_scores="log")


def test_refined_scores_are_the_classifiers_and_image_scores_the_heads() -> None:
    refinement = Refinement(in_features=16, num_classes=3, count=2, foreground_iou=0.5, ignore_iou=0.1)
    torch.manual_seed(5)
    model = build(refinement=refinement)
    batch = collate([sample([1.0, -1.0, 1.0], random_boxes(6, width=72, height=80))])
    losses = model.training_losses(batch)
    assert list(losses) == ["image", "refinement_1", "refinement_2"]
    prediction = model.predict(batch)[0]
    regions = model._regions(batch)[0]
    torch.testing.assert_close(prediction.class_scores, model.head(regions).exp().sum(dim=0))
    torch.testing.assert_close(prediction.box_scores, refinement.scores(regions.vectors))


# --- proposals and pixels


class Pixels(nn.Module):
    """A backbone body whose map is the mean colour of each 16 x 16 square."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 16)


def pixel_backbone(pretrained_fc: nn.Sequential | None = None, roi_size: int = 7) -> Backbone:
    return Backbone(
        Pixels(),
        out_channels=3,
        stride=16,
        image_mean=(0, 0, 0),
        image_std=(1, 1, 1),
        roi_size=roi_size,
        pretrained_fc=pretrained_fc,
    )


@pytest.mark.parametrize("roi_op", ["roi_pool", "roi_align"])
def test_a_proposal_in_pixels_picks_its_cells(roi_op: str) -> None:
    """One white square at row 2, column 7 of a wide image. Only the box on it, not on (7, 2), sees white."""
    model = build(backbone=pixel_backbone(), roi_op=roi_op, roi_size=1)
    image = torch.zeros(3, 160, 192)
    image[:, 32:48, 112:128] = 1.0
    boxes = torch.tensor(
        [
            [112.0, 32.0, 127.0, 47.0],  # on it
            [32.0, 112.0, 47.0, 127.0],  # x and y swapped
            [144.0, 32.0, 159.0, 47.0],  # two columns to the right
            [112.0, 64.0, 127.0, 79.0],  # two rows down
            [64.0, 0.0, 79.0, 15.0],
        ]
    )
    maps = model.backbone.feature_maps([image])[0].maps
    cells = model.regions.roi_op(maps, [boxes])[:, :, 0, 0]  # (5, 3)
    assert (cells[0] > 0.3).all()
    assert cells[1:].abs().max() == 0


def test_roi_pool_covers_rounded_cells_both_ends_included() -> None:
    model = build(backbone=pixel_backbone(), roi_size=1)
    maps = torch.arange(100.0).reshape(1, 1, 10, 10).repeat(1, 3, 1, 1)  # grows to the right and downwards
    box = torch.tensor([[15.0, 9.0, 70.0, 55.0]])  # cells 1 to 4 across (70 / 16 = 4.4), 1 to 3 down
    assert model.regions.roi_op(maps, [box]).flatten().tolist() == [34.0] * 3
    assert model.regions.roi_op(-maps, [box]).flatten().tolist() == [-11.0] * 3


def test_roi_align_averages_the_pixels_of_the_box() -> None:
    """Cell i covers the pixels [16 i, 16 i + 16]: a box on cells 2 and 3 across, 1 down, averages just these."""
    model = build(backbone=pixel_backbone(), roi_op="roi_align", roi_size=1)
    maps = torch.arange(100.0).reshape(1, 1, 10, 10).repeat(1, 3, 1, 1)
    box = torch.tensor([[32.0, 16.0, 64.0, 32.0]])
    assert model.regions.roi_op(maps, [box]).flatten().tolist() == pytest.approx([12.5] * 3)


def test_scores_of_the_best_regions() -> None:
    """fc6 and fc7 pass on the colours; class c's detection logit is colour c."""
    model = build(backbone=pixel_backbone(), roi_size=1, fc_dim=3)
    with torch.no_grad():
        for layer in (model.regions.layers.get_submodule("fc6"), model.regions.layers.get_submodule("fc7")):
            layer.weight.copy_(torch.eye(3))  # type: ignore[operator, union-attr]
        model.head.detection.weight.copy_(torch.eye(3) * 100)  # type: ignore[attr-defined]
        model.head.classification.weight.zero_()  # type: ignore[attr-defined]
    image = torch.zeros(3, 160, 192)
    image[0, 32:48, 112:128] = 1.0
    image[1, 96:112, 16:32] = 1.0
    boxes = torch.tensor([[16.0, 96.0, 31.0, 111.0], [112.0, 32.0, 127.0, 47.0], [160.0, 128.0, 191.0, 159.0]])
    batch = collate([Sample(image, torch.ones(3), boxes, torch.ones(3), "image", (1.0, 1.0))])

    prediction = model.predict(batch)[0]

    assert torch.equal(prediction.boxes, boxes)
    assert prediction.box_scores.argmax(dim=0).tolist()[:2] == [1, 0]
    assert prediction.score_maps is None


def test_no_proposals_no_scores() -> None:
    prediction = build().eval().predict(collate([sample([1.0, 1.0, -1.0], torch.zeros(0, 4))]))[0]
    assert prediction.boxes.shape == (0, 4)
    assert prediction.box_scores.shape == (0, 3)
    assert prediction.class_scores.tolist() == [0.0, 0.0, 0.0]


def test_an_image_without_proposals_is_left_out_of_the_mean() -> None:
    model = build()
    good = sample([1.0, -1.0, -1.0], random_boxes(6, width=72, height=80))
    empty = sample([1.0, 1.0, 1.0], torch.zeros(0, 4))
    alone = model.training_losses(collate([good]))["image"]
    torch.testing.assert_close(model.training_losses(collate([empty, good]))["image"], alone)
    torch.testing.assert_close(model.training_losses(collate([good, empty]))["image"], alone)


# --- fc6 and fc7


def pretrained_fc(in_features: int, width: int) -> nn.Sequential:
    fc6, fc7 = nn.Linear(in_features, width), nn.Linear(width, width)
    return nn.Sequential(OrderedDict(fc6=fc6, relu6=nn.ReLU(), fc7=fc7, relu7=nn.ReLU()))


@pytest.mark.parametrize(("roi_size", "fc_dim"), [(None, None), (6, None), (None, 10), (6, 10)])
def test_pretrained_fc_is_taken_where_it_fits(roi_size: int | None, fc_dim: int | None) -> None:
    pretrained = pretrained_fc(3 * 6 * 6, 10)
    backbone = pixel_backbone(pretrained, roi_size=6)
    model = build(backbone=backbone, roi_size=roi_size, fc_dim=fc_dim)
    assert model.regions.layers.get_submodule("fc6") is pretrained.get_submodule("fc6")
    assert model.regions.layers.get_submodule("fc7") is pretrained.get_submodule("fc7")
    assert backbone.pretrained_fc is None
    assert {"regions.layers.fc6.weight", "regions.layers.fc7.bias"} <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("roi_size", "fc_dim", "shape"), [(7, None, (DEFAULT_FC_DIM, 3 * 49)), (None, 12, (12, 3 * 36)), (2, 10, (10, 12))]
)
def test_new_fc_where_it_does_not(roi_size: int | None, fc_dim: int | None, shape: tuple[int, int]) -> None:
    model = build(backbone=pixel_backbone(pretrained_fc(3 * 36, 10), roi_size=6), roi_size=roi_size, fc_dim=fc_dim)
    fc6 = model.regions.layers.get_submodule("fc6")
    assert isinstance(fc6, nn.Linear)
    assert fc6.weight.shape == shape
    assert fc6.weight.std().item() == pytest.approx(math.sqrt(2 / shape[1]), rel=0.2)  # He et al., 2015
    assert (fc6.bias == 0).all()


def test_roi_size_defaults_to_the_backbones() -> None:
    model = build(backbone=pixel_backbone(roi_size=5), roi_size=None, fc_dim=None)
    assert model.regions.layers.get_submodule("fc6").in_features == 3 * 25  # type: ignore[comparison-overlap]


def test_dropout_after_each_fc_layer() -> None:
    model = build(dropout=0.25)
    layers = dict(model.regions.layers.named_children())
    assert list(layers) == ["flatten", "fc6", "norm6", "relu6", "dropout6", "fc7", "norm7", "relu7", "dropout7"]
    assert [layers[name].p for name in ("dropout6", "dropout7")] == [0.25, 0.25]
    batch = collate([sample([1.0, -1.0, 1.0], random_boxes(6, width=72, height=80))])
    assert model.training_losses(batch)["image"] != model.training_losses(batch)["image"]
    model.eval()
    assert model.training_losses(batch)["image"] == model.training_losses(batch)["image"]


def test_new_heads_are_the_releases() -> None:
    head = two_streams(4096, 20)
    for layer in (head.classification, head.detection):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert (layer.bias == 0).all()


def test_unknown_roi_op_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'crop' for model.roi_op; expected one of roi_pool, roi_align"):
        build(roi_op="crop")


@pytest.mark.parametrize("roi_op", ["roi_pool", "roi_align"])
def test_many_proposals_at_once(roi_op: str) -> None:
    """4,000 boxes an image, some of them hanging over its edge or without area."""
    model = build(roi_op=roi_op).eval()
    boxes = random_boxes(4000, width=72, height=80)
    boxes[0] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    boxes[1] = torch.tensor([10.0, 10.0, 10.0, 10.0])
    with torch.inference_mode():
        prediction = model.predict(collate([sample([1.0, -1.0, -1.0], boxes)]))[0]
    assert prediction.box_scores.shape == (4000, 3)
    assert torch.isfinite(prediction.box_scores).all()
    assert (prediction.class_scores <= 1 + 1e-5).all()
