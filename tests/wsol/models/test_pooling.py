"""Image-level pooling against loops over cells in 50 digits or more, with and without padding."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from wsol.config import ModelConfig
from wsol.models.pooling import ImagePooling, build_pooling

NAMES: tuple[str, ...] = get_args(ModelConfig.model_fields["pooling"].annotation)
FORMULAS = [name for name in NAMES if name != "attention"]
PROBABILITIES = ["noisy_or", "generalized_mean", "linear_softmax"]
CHANNELS = 3
SETTINGS: dict[str, Any] = {
    "lse_r": 4.0,
    "topk": 0.3,
    "wildcat_k_max": 3,
    "wildcat_k_min": 0.4,
    "wildcat_alpha": 0.7,
    "generalized_mean_r": 3.0,
    "gwrp_decay": 0.8,
    "attention_dim": 4,
    "attention_gated": True,
    "in_channels": CHANNELS,
}


def pooling(name: str, **changes: Any) -> ImagePooling:
    """A pooling with `SETTINGS` but for `changes`, in float64; weights of `attention` are seeded."""
    built = build_pooling(name, **{**SETTINGS, **changes}).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return built


def features_for(scores: Tensor) -> Tensor:
    batch, _, height, width = scores.shape
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, CHANNELS, height, width, generator=generator, dtype=torch.float64)


def ragged_maps() -> tuple[Tensor, Tensor]:
    """Scores (3, 3, 4, 5) and which cells are valid: 20, 6 and 1 of them. Padded cells are very high and very low."""
    scores = 3 * torch.randn(3, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[:, 2] -= 10
    valid = torch.ones(3, 1, 4, 5, dtype=torch.bool)
    valid[1, :, 3:] = valid[1, :, :, 2:] = False
    valid[2, :, 1:] = valid[2, :, :, 1:] = False
    padding = torch.where(torch.arange(20).view(4, 5) % 2 == 0, 1e4, -1e4).double()
    return torch.where(valid, scores, padding), valid


MAPS = {
    "random": (ragged_maps()[0][:1], None),
    "padded": ragged_maps(),
    "one cell": (ragged_maps()[0][:1, :, :1, :1], None),
    "ties": (ragged_maps()[0][:1].round(decimals=-1), None),
    "all equal": (torch.full((2, 2, 3, 3), -1.5, dtype=torch.float64), None),
}


# --- the reference ---


def digits(count: int) -> AbstractContextManager[Context]:
    """In it, a Decimal has so many digits and no limit to its exponent."""
    return localcontext(prec=count, Emax=MAX_EMAX, Emin=MIN_EMIN)


def number_of_cells(k: float, n: int) -> int:
    return min(k, n) if isinstance(k, int) else max(1, round(k * n))


def expected(name: str, values: list[float], **changes: Any) -> float:
    """The formula, one cell after the other, in as many digits as the local decimal context has."""
    return float(exact(name, [Decimal(value) for value in values], **{**SETTINGS, **changes}))


def exact(name: str, x: list[Decimal], **settings: Any) -> Decimal:
    n = len(x)
    down = sorted(x, reverse=True)
    if name == "max":
        return max(x)
    if name == "average":
        return sum(x, Decimal(0)) / n
    if name == "lse":
        r = Decimal(settings["lse_r"])
        return (sum(((r * cell).exp() for cell in x), Decimal(0)) / n).ln() / r
    if name == "topk":
        k = number_of_cells(settings["topk"], n)
        return sum(down[:k], Decimal(0)) / k
    if name == "wildcat":
        best, worst = (number_of_cells(settings[key], n) for key in ("wildcat_k_max", "wildcat_k_min"))
        low = sum(down[n - worst :], Decimal(0)) / worst
        return sum(down[:best], Decimal(0)) / best + Decimal(settings["wildcat_alpha"]) * low
    if name == "gwrp":
        weights = [Decimal(1)]
        while len(weights) < n:
            weights.append(weights[-1] * Decimal(settings["gwrp_decay"]))
        return sum((w * cell for w, cell in zip(weights, down, strict=True)), Decimal(0)) / sum(weights)
    p = [1 / (1 + (-cell).exp()) for cell in x]
    return logit(pooled_probability(name, p, Decimal(settings["generalized_mean_r"])))


def pooled_probability(name: str, p: list[Decimal], r: Decimal) -> Decimal:
    if name == "noisy_or":
        absent = Decimal(1)
        for probability in p:
            absent *= 1 - probability
        return 1 - absent
    if name == "generalized_mean":
        return (sum((probability**r for probability in p), Decimal(0)) / len(p)) ** (1 / r)
    assert name == "linear_softmax"
    return sum((probability**2 for probability in p), Decimal(0)) / sum(p, Decimal(0))


def logit(p: Decimal) -> Decimal:
    return (p / (1 - p)).ln()


def expected_gradient(name: str, values: list[float], **changes: Any) -> list[float]:
    """Central differences, with a step far below what the digits of the local decimal context resolve."""
    step = Decimal("1e-30")
    gradient = []
    for index in range(len(values)):
        pooled = []
        for sign in (1, -1):
            x = [Decimal(value) for value in values]
            x[index] += sign * step
            pooled.append(exact(name, x, **{**SETTINGS, **changes}))
        gradient.append(float((pooled[0] - pooled[1]) / (2 * step)))
    return gradient


def valid_cells(scores: Tensor, valid: Tensor | None) -> list[float]:
    """The valid cells of one map (h, w), `valid` being (h, w) as well."""
    return [
        scores[row, column].item()
        for row in range(scores.shape[0])
        for column in range(scores.shape[1])
        if valid is None or valid[row, column]
    ]


def assert_pools(name: str, scores: Tensor, valid: Tensor | None, **changes: Any) -> None:
    pooled = pooling(name, **changes)(scores, valid)

    assert pooled.shape == scores.shape[:2]
    assert pooled.dtype == torch.float64
    with digits(50):
        for image in range(scores.shape[0]):
            for label in range(scores.shape[1]):
                values = valid_cells(scores[image, label], None if valid is None else valid[image, 0])
                assert pooled[image, label].item() == pytest.approx(expected(name, values, **changes), rel=1e-12)


# --- every pooling ---


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("name", FORMULAS)
def test_is_the_formula_over_the_valid_cells(name: str, maps: str) -> None:
    assert_pools(name, *MAPS[maps])


@pytest.mark.parametrize("gated", [False, True])
def test_attention_is_the_papers_formula_over_the_valid_cells(gated: bool) -> None:
    scores, valid = ragged_maps()
    features = features_for(scores)
    attention = pooling("attention", attention_gated=gated)
    weights = {name: value.flatten(1).tolist() for name, value in attention.state_dict().items()}

    pooled = attention(scores, valid, features)

    assert sorted(weights) == ["energy.weight", *["gate.weight"] * gated, "hidden.weight"]
    for image in range(3):
        energies = []
        for row, column in valid[image, 0].nonzero().tolist():
            h = features[image, :, row, column].tolist()
            energy = 0.0
            for unit in range(SETTINGS["attention_dim"]):
                value = math.tanh(sum(v * f for v, f in zip(weights["hidden.weight"][unit], h, strict=True)))
                if gated:
                    opened = sum(u * f for u, f in zip(weights["gate.weight"][unit], h, strict=True))
                    value /= 1 + math.exp(-opened)
                energy += weights["energy.weight"][0][unit] * value
            energies.append(math.exp(energy))
        for label in range(3):
            cells = valid_cells(scores[image, label], valid[image, 0])
            total = sum(e * cell for e, cell in zip(energies, cells, strict=True)) / sum(energies)
            assert pooled[image, label].item() == pytest.approx(total, rel=1e-12)


def test_attention_needs_features() -> None:
    with pytest.raises(ValueError, match="got None for features; expected the features"):
        pooling("attention")(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_no_mask_is_a_mask_of_ones(name: str) -> None:
    scores = ragged_maps()[0][:1]
    features = features_for(scores)
    ones = torch.ones_like(scores[:, :1], dtype=torch.bool)
    assert torch.equal(pooling(name)(scores, None, features), pooling(name)(scores, ones, features))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_pooled_as_if_it_were_alone(name: str) -> None:
    scores, valid = ragged_maps()
    features = features_for(scores)
    together = pooling(name)(scores, valid, features)
    for image, (height, width) in enumerate([(4, 5), (3, 2), (1, 1)]):
        own = (slice(image, image + 1), slice(None), slice(height), slice(width))
        alone = pooling(name)(scores[own], None, features[own])
        torch.testing.assert_close(together[image : image + 1], alone, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0.0, 6e4, -1e30, math.inf, -math.inf, math.nan])
def test_padding_neither_counts_nor_gets_a_gradient(name: str, padding: float) -> None:
    scores, valid = ragged_maps()
    features = features_for(scores)
    without = pooling(name)(scores, valid, features)
    scores = scores.masked_fill(~valid, padding).requires_grad_()
    features = features.masked_fill(~valid, padding).requires_grad_()
    module = pooling(name)

    pooled = module(scores, valid, features)
    pooled.sum().backward()

    assert torch.equal(pooled, without)
    assert scores.grad is not None
    assert (scores.grad[~valid.expand_as(scores)] == 0).all()
    assert scores.grad[valid.expand_as(scores)].isfinite().all()
    assert (scores.grad.flatten(2) != 0).any(dim=2).all()
    if name == "attention":
        assert features.grad is not None
        assert (features.grad[~valid.expand_as(features)] == 0).all()
        assert (features.grad[:2].flatten(1) != 0).any(dim=1).all()  # image 2 has one cell: nothing to attend to
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any()


@pytest.mark.parametrize("name", ["max", "average", "lse", "topk", "gwrp", "attention"])
def test_the_weights_of_an_images_cells_sum_to_one(name: str) -> None:
    scores, valid = ragged_maps()
    scores.requires_grad_()
    pooling(name)(scores, valid, features_for(scores)).sum().backward()
    assert scores.grad is not None
    assert (scores.grad.flatten(2).sum(dim=2) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str, masked: bool) -> None:
    scores, valid = ragged_maps()
    mask = valid if masked else None
    ramp = torch.linspace(0, 1, 20, dtype=torch.float64).view(4, 5)
    scores = (scores.masked_fill(~valid, 5.0) + ramp).requires_grad_()  # no ties: the maximum has no derivative there
    features = features_for(scores).requires_grad_()
    module = pooling(name)
    inputs = (scores, features, *module.parameters()) if name == "attention" else (scores,)
    assert torch.autograd.gradcheck(lambda x, *_: module(x, mask, features), inputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_cells_does_not_matter(name: str) -> None:
    scores, valid = ragged_maps()
    scores = scores.round()  # ties
    features = features_for(scores)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))

    def shuffled(maps: Tensor) -> Tensor:
        return maps.flatten(2)[:, :, order].view(maps.shape)

    torch.testing.assert_close(
        pooling(name)(shuffled(scores), shuffled(valid), shuffled(features)),
        pooling(name)(scores, valid, features),
        rtol=1e-13,
        atol=1e-13,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    values = [6e4, -6e4, 6e4, 0.5, -0.5, 0.0, 11.0, -3e4]
    scores = torch.tensor([values, [6e4] * 8, [-6e4] * 8]).view(1, 3, 2, 4).to(dtype).requires_grad_()
    features = (6e4 * features_for(scores).sign()).to(dtype)
    valid = torch.tensor([True, True, True, True, True, True, True, False]).view(1, 1, 2, 4)
    module = pooling(name).float()

    with torch.autocast("cpu", dtype=dtype):
        pooled = module(scores, valid, features)
    pooled.sum().backward()

    assert pooled.dtype == torch.float32
    assert pooled.isfinite().all()
    assert torch.equal(pooled, module(scores.float(), valid, features.float()))
    assert scores.grad is not None
    assert scores.grad.dtype == dtype
    assert scores.grad.isfinite().all()
    assert (scores.grad.flatten(2) != 0).any(dim=2).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_cell_is_its_own_pool(name: str) -> None:
    scores = torch.tensor([2.5, -1.0, 40.0, -40.0]).view(1, 4, 1, 1)
    pooled = pooling(name, wildcat_alpha=0.0).float()(scores, None, features_for(scores).float())
    assert pooled.flatten().tolist() == pytest.approx([2.5, -1.0, 40.0, -40.0], rel=1e-6)


# --- limits ---


def test_max_sends_the_gradient_to_the_first_of_tied_cells() -> None:
    for name in ("max", "topk"):
        scores = torch.zeros(1, 1, 2, 2, requires_grad=True)
        pooling(name, topk=1)(scores).sum().backward()
        assert scores.grad is not None
        assert scores.grad.flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "changes", "limit"),
    [
        ("topk", {"topk": 1}, "max"),
        ("topk", {"topk": 20}, "average"),
        ("topk", {"topk": 10**9}, "average"),
        ("topk", {"topk": 0.001}, "max"),
        ("gwrp", {"gwrp_decay": 0.0}, "max"),
        ("gwrp", {"gwrp_decay": 1.0}, "average"),
        ("wildcat", {"wildcat_alpha": 0.0, "wildcat_k_max": 0.3}, "topk"),
        ("wildcat", {"wildcat_alpha": 0.0, "wildcat_k_max": 1, "wildcat_k_min": 10**9}, "max"),
        ("lse", {"lse_r": 1e-12}, "average"),
        ("lse", {"lse_r": 1e13}, "max"),
    ],
)
def test_limits(name: str, changes: dict[str, Any], limit: str) -> None:
    scores, valid = ragged_maps()
    torch.testing.assert_close(
        pooling(name, **changes)(scores, valid), pooling(limit)(scores, valid), rtol=1e-9, atol=1e-11
    )


def test_generalized_mean_of_exponent_one_is_the_mean_probability() -> None:
    scores, valid = ragged_maps()
    mean = pooling("average")(scores.sigmoid(), valid)
    pooled = pooling("generalized_mean", generalized_mean_r=1.0)(scores, valid)
    torch.testing.assert_close(pooled, torch.logit(mean), rtol=1e-11, atol=0)


@pytest.mark.parametrize("k", [1, 2, 5, 100, 0.01, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_counts_and_fractions_of_cells(k: float) -> None:
    for size in (1, 2, 3, 4, 5, 6, 7, 10, 19):
        scores = torch.randn(1, 2, 1, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        assert_pools("topk", scores, None, topk=k)
        assert_pools("wildcat", scores, None, wildcat_k_max=k, wildcat_k_min=0.4)
        assert_pools("wildcat", scores, None, wildcat_k_max=2, wildcat_k_min=k)


# --- precision in float32 ---


@pytest.mark.parametrize("r", [1e-12, 1e-6, 1e-3, 0.1, 1.0, 5.0, 100.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, -3.0, 100.0])
def test_lse_holds_its_precision_for_every_r(r: float, offset: float) -> None:
    scores = offset + torch.randn(1, 4, 20, 20, generator=torch.Generator().manual_seed(5))
    scores[:, 1:3] *= 5
    scores[:, 3, 0, 0] += 1e3

    pooled = pooling("lse", lse_r=r)(scores)

    assert pooled.dtype == torch.float32
    with digits(50):
        reference = [expected("lse", scores[0, label].flatten().tolist(), lse_r=r) for label in range(4)]
    for value, exact_value, map_ in zip(pooled[0].tolist(), reference, scores[0], strict=True):
        assert value == pytest.approx(exact_value, abs=1e-6 * map_.abs().max().item())


@pytest.mark.parametrize("name", ["lse", "generalized_mean"])
@pytest.mark.parametrize("r", [5e-324, 1e-6, 1e6, 1e308])
def test_no_exponent_overflows(name: str, r: float) -> None:
    scores = torch.tensor([1e4, -1e4, 3.0, -3.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    scores[0, 1] /= 1e4
    scores.requires_grad_()
    pooled = pooling(name, lse_r=r, generalized_mean_r=r)(scores)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[0, 1] != 0).any()
    if (
        r > 1
    ):  # 1, the highest cell, less log(4) / r; the logit of a probability moves 1 / (1 - sigmoid(1)) times as far
        assert pooled[0, 1].item() == pytest.approx(1.0, abs=1e-6 * math.log(4) * (1 + math.e) + 1e-6)


@pytest.mark.parametrize(
    "values",
    [
        [200.0, -200.0, 0.0],
        [200.0, 199.0, 150.0],
        [-200.0, -199.0, -150.0],
        [-200.0, 3.0],
        [200.0, 3.0],
        [39.0, 40.0, 41.0],
        [-39.0, -40.0, -41.0],
        [-17.0, -16.0, -20.0, -18.0],
        [17.0, 16.0, 20.0, 18.0],
        [-0.5, 0.25, 1.0],
        [-90.0] * 5,
        [90.0] * 5,
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "r"),
    [("noisy_or", 1.0), ("linear_softmax", 1.0), *[("generalized_mean", r) for r in (0.1, 1.0, 3.0, 50.0)]],
)
def test_probabilities_that_round_to_0_or_1_are_pooled_exactly(
    name: str, r: float, values: list[float], dtype: torch.dtype
) -> None:
    """A float64 rounds sigmoid(37) to 1, a float32 sigmoid(17) to 1 and sigmoid(-104) to 0."""
    scores = torch.tensor(values, dtype=dtype).view(1, 1, 1, -1).requires_grad_()

    pooled = pooling(name, generalized_mean_r=r)(scores)
    pooled.sum().backward()

    with digits(400):
        value = expected(name, values, generalized_mean_r=r)
        gradient = expected_gradient(name, values, generalized_mean_r=r)
    resolution = 1e-6 if dtype == torch.float32 else 1e-14
    assert pooled.item() == pytest.approx(value, rel=resolution, abs=resolution)
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == pytest.approx(gradient, rel=100 * resolution, abs=resolution)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("score", [1e4, -1e4])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_certain_cells_keep_value_and_gradient(name: str, score: float, dtype: torch.dtype) -> None:
    """Four equal cells share the gradient; of a noisy-or that is certain each gets all of it."""
    scores = torch.full((1, 1, 2, 2), score, dtype=dtype, requires_grad=True)
    score = scores.detach().flatten()[0].item()  # a bfloat16 has no 1e4
    value, gradient = score, 0.25
    if name == "noisy_or":
        value, gradient = (4 * score, 1.0) if score > 0 else (score + math.log(4), 0.25)

    pooled = pooling(name)(scores)
    pooled.sum().backward()

    assert pooled.item() == pytest.approx(value, rel=1e-6)
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == pytest.approx([gradient] * 4, rel=1e-3)


# --- names ---


def test_an_unknown_name_is_refused_with_all_that_the_config_allows() -> None:
    with pytest.raises(ValueError, match=f"^got 'mean' for pooling; expected one of {', '.join(NAMES)}$"):
        build_pooling("mean", **SETTINGS)
