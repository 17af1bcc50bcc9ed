"""How much each swept key explains, against one-way analysis of variance done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from experiments.report.importance import LEAST_CONFIGURATIONS, MAX_GROUPS, importances


def epsilon_squared(values: list[float], groups: list[object]) -> float:
    """Slow and obvious: 1 - (within / (N - G)) / (total / (N - 1)), not below 0."""
    mean = sum(values) / len(values)
    total = sum((value - mean) ** 2 for value in values)
    within = 0.0
    for group in set(groups):
        own = [value for value, other in zip(values, groups, strict=True) if other == group]
        within += sum((value - sum(own) / len(own)) ** 2 for value in own)
    return max(0.0, 1 - (within / (len(values) - len(set(groups)))) / (total / (len(values) - 1)))


def grid(effects: list[float], noise: float, seed: int = 0) -> tuple[list[float], dict[str, list[object]]]:
    """A grid of 4 x 3 x 2; each key adds its effect times its value's position."""
    rng = np.random.default_rng(seed)
    cells = list(itertools.product(range(4), "abc", [True, False]))
    places = [(first, "abc".index(second), int(third)) for first, second, third in cells]
    values = [float(np.dot(place, effects) + noise * rng.normal()) for place in places]
    return values, {name: [cell[index] for cell in cells] for index, name in enumerate(["one", "two", "three"])}


@pytest.mark.parametrize("seed", range(5))
def test_the_share_is_that_of_an_analysis_of_variance(seed: int) -> None:
    values, swept = grid([0.3, 0.2, 0.1], noise=0.1, seed=seed)
    found = {one.key: one for one in importances(values, swept)}
    for key, own in swept.items():
        assert found[key].share == pytest.approx(epsilon_squared(values, own), abs=1e-12)
        assert 0 <= found[key].low <= found[key].share <= found[key].high <= 1


def test_the_key_that_matters_comes_first_and_one_without_effect_has_about_nothing() -> None:
    values, swept = grid([0.0, 0.5, 0.02], noise=0.01)
    found = importances(values, swept)
    assert [found[0].key, found[0].groups] == ["two", 3]
    assert found[0].share > 0.95
    assert next(one for one in found if one.key == "one").share < 0.1


def test_a_key_without_effect_has_no_share_on_average_however_many_values_it_has() -> None:
    """Eta squared, the plain share, would be 3/23 for four values among 24."""
    shares = []
    for seed in range(200):
        values, swept = grid([0, 0, 0], noise=1.0, seed=seed)
        shares.append(next(one for one in importances(values, swept) if one.key == "one").share)
    assert np.mean(shares) < 0.06


def test_too_few_configurations_tell_nothing() -> None:
    values = [float(value) for value in range(LEAST_CONFIGURATIONS)]
    swept = {"one": [0, 1] * (LEAST_CONFIGURATIONS // 2)}
    assert len(importances(values, swept)) == 1
    assert importances(values[:-1], {"one": swept["one"][:-1]}) == []
    assert importances([], {"one": []}) == []


def test_a_key_with_one_value_is_left_out() -> None:
    values, swept = grid([1, 1, 1], noise=0.0)
    assert [one.key for one in importances(values, {"same": [1] * 24, "one": swept["one"]})] == ["one"]


def test_equal_values_are_explained_by_nothing() -> None:
    _, swept = grid([0, 0, 0], noise=0.0)
    assert {one.share for one in importances([0.5] * 24, swept)} == {0.0}


def test_sampled_numbers_are_put_together_by_rank() -> None:
    rng = np.random.default_rng(0)
    rates = (10 ** rng.uniform(-6, -2, 60)).tolist()
    values = [-((np.log10(rate) + 4) ** 2) for rate in rates]
    found = importances(values, {"lr": rates})[0]
    assert MAX_GROUPS > found.groups == 4
    assert found.share > 0.5


def test_numbers_and_texts_of_the_same_look_are_told_apart() -> None:
    found = importances([0.0, 1.0] * 6, {"key": [1, "1"] * 6})[0]
    assert (found.groups, found.share) == (2, 1.0)


def test_the_same_each_time() -> None:
    values, swept = grid([0.3, 0.2, 0.1], noise=0.5)
    assert importances(values, swept) == importances(values, swept)
