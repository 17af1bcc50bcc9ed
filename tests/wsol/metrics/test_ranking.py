from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsol.metrics.ranking import descending_order

FEW = [0.0, -0.0, 1.0, -1.0, 1e-42, -1e-42, 3.5, float("inf"), float("-inf")]


def slow_order(scores: np.ndarray) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: (-float(scores[index]), index))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, derandomize=True, max_examples=300)
@given(scores=st.lists(st.sampled_from(FEW) | st.floats(width=32, allow_nan=False), max_size=60))
def test_high_to_low_and_ties_as_given(scores: list[float], dtype: type) -> None:
    array = np.array(scores, dtype)
    order = descending_order(array)
    assert order.tolist() == slow_order(array)
    assert order.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_many_scores_with_ties(dtype: type) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-50, 50, size=20_000).astype(dtype) / 64
    assert descending_order(scores).tolist() == slow_order(scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbouring_floats_are_told_apart(dtype: type) -> None:
    one = dtype(1)
    scores = np.array([np.nextafter(one, dtype(0)), one, np.nextafter(one, dtype(2))], dtype)
    assert descending_order(scores).tolist() == [2, 1, 0]
    assert descending_order(-scores).tolist() == [0, 1, 2]


def test_input_is_left_alone() -> None:
    scores = np.array([0.25, 0.5], np.float32)
    descending_order(scores)
    assert scores.tolist() == [0.25, 0.5]
