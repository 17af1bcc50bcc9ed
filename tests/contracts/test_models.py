"""What every weakly supervised model promises, checked on each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from wsol.build import build_model
from wsol.config import ExperimentConfig, ModelConfig
from wsol.data.batch import ImageBatch, Sample, collate
from wsol.models.detector import ImagePrediction, WeaklySupervisedModel

NUM_CLASSES = 4


class Model(nn.Module, WeaklySupervisedModel):
    """For the type checker: what is under test is both."""


Build = Callable[..., Model]


def built(task: str, **model: Any) -> Build:
    def build(*, backbone: str = "tiny", freeze: str = "none", seed: int = 0) -> Model:
        options = {"roi_size": 3, "fc_dim": 32, "hidden_channels": 16, "attention_dim": 8} | model
        train = {"spatial_weight": 1e-2} if options.pop("spatial", False) else {}
        config = ExperimentConfig.model_validate(
            {
                "task": task,
                "seed": seed,
                "data": {"root": "none"},
                "proposals": {"source": "file", "file": "none.npz"},
                "model": {"backbone": backbone, "weights": "none", "freeze": freeze, "dropout": 0.5, **options},
                "train": train,
            }
        )
        network: nn.Module = build_model(config, num_classes=NUM_CLASSES)
        return network  # type: ignore[return-value]

    return build


POOLINGS = get_args(ModelConfig.model_fields["pooling"].annotation)
MODELS = {f"localizer, {pooling}": built("localizer", pooling=pooling) for pooling in POOLINGS} | {
    "localizer, gated attention": built("localizer", pooling="attention", attention_gated=True),
    "localizer, robust": built("localizer", pooling="average", map_smoothing=3, map_dropout=0.3),
    "localizer, linear, 3 maps a class": built("localizer", head="linear", maps_per_class=3, pooling="wildcat"),
    "localizer, oquab": built("localizer", head="oquab"),
    "wsddn, roi_pool": built("wsddn", roi_op="roi_pool"),
    "wsddn, roi_align": built("wsddn", roi_op="roi_align"),
    "wsddn, box scores": built("wsddn", box_scores="one_plus_ten"),
    "wsddn, size prior, temperature, spatial": built("wsddn", size_prior=1.5, detection_temperature=2.0, spatial=True),
    "wsddn, contrastive": built("wsddn", context="contrastive"),
    "wsddn, refinement": built("wsddn", refinement=3),
}


DIFFERENT = ["localizer, max", "localizer, robust", "localizer, oquab", "wsddn, roi_pool", "wsddn, contrastive"]
DIFFERENT += ["wsddn, refinement"]
"""For tests of what does not depend on how maps are pooled or scores are made, and that take seconds each."""


@pytest.fixture(params=DIFFERENT)
def build_different(request: pytest.FixtureRequest) -> Iterator[Build]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield MODELS[request.param]


@pytest.fixture(params=MODELS)
def build(request: pytest.FixtureRequest) -> Iterator[Build]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield MODELS[request.param]


def boxes(count: int, width: int, height: int) -> Tensor:
    corners = torch.rand(count, 2) * 0.6
    far = corners + 0.2 + torch.rand(count, 2) * 0.2
    return torch.cat([corners, far], dim=1) * torch.tensor([width, height, width, height])


def sample(
    labels: tuple[int, ...] = (1, -1, -1, -1), *, width: int = 72, height: int = 80, proposals: int = 6
) -> Sample:
    assert len(labels) == NUM_CLASSES
    return Sample(
        image=torch.rand(3, height, width),
        labels=torch.tensor(labels, dtype=torch.float32),
        proposals=boxes(proposals, width, height),
        proposal_scores=torch.rand(proposals),
        image_id=f"{width}x{height}",
        scale=(1.0, 1.0),
    )


def odd_samples() -> list[Sample]:
    """Sizes in mixed order, two alike, one smaller than any backbone takes, one without proposals."""
    return [
        sample(),
        sample((-1, 1, 0, 1), width=100, height=64),
        sample((1, 1, -1, -1)),
        sample((0, -1, -1, 1), width=33, height=20),
        sample((-1, -1, 1, -1), width=100, height=64, proposals=0),
        sample((-1, -1, -1, -1), width=1, height=1, proposals=1),
    ]


def total(model: Model, batch: ImageBatch) -> Tensor:
    return torch.stack(list(model.training_losses(batch).values())).sum()


def tensors(prediction: ImagePrediction) -> list[Tensor]:
    maps = [] if prediction.score_maps is None else [prediction.score_maps.values]
    return [prediction.class_scores, prediction.boxes, prediction.box_scores, *maps]


def assert_equal(got: ImagePrediction, expected: ImagePrediction, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    for one, other in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=rtol, atol=atol)


def test_a_prediction_for_each_image(build: Build) -> None:
    samples = odd_samples()
    with torch.inference_mode():
        predictions = build().eval().predict(collate(samples))
    assert len(predictions) == len(samples)
    for prediction, one in zip(predictions, samples, strict=True):
        count = len(prediction.boxes)
        assert prediction.class_scores.shape == (NUM_CLASSES,)
        assert prediction.boxes.shape == (count, 4)
        assert prediction.boxes.dtype == torch.float32
        assert prediction.box_scores.shape == (count, NUM_CLASSES)
        assert all(torch.isfinite(tensor).all() for tensor in tensors(prediction))
        if prediction.score_maps is None:
            assert torch.equal(prediction.boxes, one.proposals)
        else:
            classes, *cells = prediction.score_maps.values.shape
            assert classes == NUM_CLASSES
            for count, pixels in zip(cells, one.image.shape[1:], strict=True):  # a last part of a cell may be missing
                assert (
                    pixels // prediction.score_maps.stride <= count <= math.ceil(pixels / prediction.score_maps.stride)
                )


def test_a_prediction_does_not_depend_on_the_batch(build: Build) -> None:
    """Not on its order, not on the sizes of the other images."""
    model = build().eval()
    samples = odd_samples()
    with torch.inference_mode():
        together = model.predict(collate(samples))
        reverse = model.predict(collate(samples[::-1]))[::-1]
        for index, one in enumerate(samples):
            alone = model.predict(collate([one]))[0]
            assert_equal(together[index], alone)
            assert_equal(reverse[index], alone)
    assert len({tuple(prediction.class_scores.tolist()) for prediction in together}) == len(samples)


def test_a_loss_is_the_mean_over_images(build: Build) -> None:
    model = build().eval()  # no dropout
    samples = [sample(), sample((-1, 1, 0, 1), width=100, height=64)]
    together = model.training_losses(collate(samples))
    assert all(loss.shape == () and loss.requires_grad for loss in together.values())
    alone = [model.training_losses(collate([one])) for one in samples]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_gradients_are_the_mean_over_images(build: Build) -> None:
    model = build().eval()
    samples = [sample(), sample((-1, 1, 0, 1), width=100, height=64)]

    def gradients(*some: Sample) -> dict[str, Tensor]:
        model.zero_grad()
        total(model, collate(list(some))).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    together, first, second = gradients(*samples), gradients(samples[0]), gradients(samples[1])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-6, msg=name)


def test_every_parameter_gets_a_gradient(build: Build) -> None:
    check_gradients(build(), backbone="tiny")


@pytest.mark.parametrize("backbone", ["resnet18", "timm/test_resnet"])
def test_so_it_does_with_other_backbones(build_different: Build, backbone: str) -> None:
    check_gradients(build_different(backbone=backbone), backbone=backbone)


def check_gradients(model: Model, *, backbone: str) -> None:
    model.train()
    total(model, collate([sample(), sample((-1, 1, 0, 1))])).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []
    if backbone != "timm/test_resnet":  # its residual branches start at zero and hide what is behind them
        zero = {name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
        # A bias added to every region's logit alike cancels in the softmax over regions.
        assert zero <= {"head.detection.bias"}


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_a_frozen_backbone_does_not_change(build_different: Build, backbone: str) -> None:
    model = build_different(backbone=backbone, freeze="all").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        total(model, collate([sample(), sample((-1, 1, 0, 1))])).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains
    assert not any(name.startswith("backbone.") for name in changed | trains)
    assert trains - {"head.detection.bias"} <= changed  # see above


@pytest.mark.parametrize(
    "one",
    [
        lambda: sample(proposals=0),
        lambda: sample(proposals=1),
        lambda: sample(width=1, height=1, proposals=1),
        lambda: sample(width=1, height=1, proposals=0),
        lambda: sample((-1, -1, -1, -1)),
        lambda: sample((0, 0, 0, 0)),
        lambda: sample(width=400, height=8, proposals=300),
    ],
    ids=["no proposals", "one proposal", "one pixel", "nothing at all", "no positive", "all ignored", "long and thin"],
)
def test_edge_cases_give_finite_losses_and_gradients(build: Build, one: Callable[[], Sample]) -> None:
    model = build().train()
    loss = total(model, collate([one()]))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss >= 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_ignored_classes_teach_nothing(build: Build) -> None:
    model = build().train()
    loss = total(model, collate([sample((0, 0, 0, 0)), sample((0, 0, 0, 0), width=100, height=64)]))
    loss.backward()
    assert loss == 0
    assert not any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_huge_weights_do_not_make_nan(build: Build) -> None:
    model = build().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head."):
                parameter.mul_(1e5)
    loss = total(model, collate(odd_samples()))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    with torch.inference_mode():
        predictions = model.eval().predict(collate(odd_samples()))
    assert all(torch.isfinite(prediction.box_scores).all() for prediction in predictions)


def test_state_dict_round_trip(build_different: Build) -> None:
    model = build_different(backbone="resnet18").train()
    total(model, collate([sample(), sample()])).backward()  # moves the running statistics
    other = build_different(backbone="resnet18", seed=1)
    other.load_state_dict(model.state_dict())
    batch = collate(odd_samples())
    with torch.inference_mode():
        for got, expected in zip(other.eval().predict(batch), model.eval().predict(batch), strict=True):
            assert_equal(got, expected, rtol=0, atol=0)


def test_same_seed_same_model_and_same_losses(build: Build) -> None:
    results = []
    batch = collate(odd_samples())
    for seed in (3, 3, 4):
        model = build(seed=seed).train()
        torch.manual_seed(0)  # of dropout
        results.append(total(model, batch).item())
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_batch_can_be_learnt_by_heart(build_different: Build) -> None:
    """Without the dropout after fc layers, of which half of 32 units are a coin's toss."""
    model = build_different().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = collate([sample(), sample((-1, 1, -1, 1)), sample((-1, -1, 1, -1))])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = total(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(build_different: Build) -> None:
    model = build_different().eval()
    batch = collate(odd_samples())
    expected_loss = total(model, batch).item()
    with torch.inference_mode():
        expected = model.predict(batch)
    model.to("cuda")
    loss = total(model, batch.to("cuda"))
    loss.backward()
    assert loss.device.type == "cuda"
    assert loss.item() == pytest.approx(expected_loss, rel=1e-3)
    with torch.inference_mode():
        for got, reference in zip(model.predict(batch.to("cuda")), expected, strict=True):
            assert all(tensor.device.type == "cuda" for tensor in tensors(got))
            assert_equal(got, reference, rtol=1e-3, atol=1e-4)
