from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from wsol.metrics.classification import classification_average_precision


def one_class(scores: list[float], labels: list[int]) -> float:
    (ap,) = classification_average_precision(np.array(scores)[:, None], np.array(labels, np.int8)[:, None])
    return float(ap)


def test_worked_by_hand() -> None:
    # Positives at ranks 1 and 3: 1/2 * 1/1 + 1/2 * 2/3. No interpolation.
    assert one_class([0.9, 0.8, 0.7, 0.6], [1, -1, 1, -1]) == pytest.approx(5 / 6, abs=1e-15)
    # A later, better precision does not lift an earlier one: 1/2 * 1/2 + 1/2 * 2/3
    assert one_class([0.9, 0.8, 0.7], [-1, 1, 1]) == pytest.approx(7 / 12, abs=1e-15)


def test_tied_scores_are_one_threshold_whatever_their_order() -> None:
    # All four at once: precision 1/4 at recall 1.
    for labels in ([1, -1, -1, -1], [-1, -1, -1, 1]):
        assert one_class([0.5] * 4, labels) == 0.25
    # One above, then three at once: 1/2 * 1/1 + 1/2 * 2/4
    assert one_class([0.5, 0.9, 0.5, 0.5], [-1, 1, 1, -1]) == 0.75


def test_images_with_only_difficult_objects_are_out_of_the_ranking() -> None:
    assert one_class([0.9, 0.8, 0.7], [0, 1, -1]) == 1  # as a negative it would make this 1/2
    assert one_class([0.9, 0.8, 0.7], [1, 0, 1]) == 1


def test_without_positives_nan() -> None:
    scores, labels = np.array([[0.9, 0.9], [0.8, 0.8]]), np.array([[-1, 1], [0, -1]])
    np.testing.assert_array_equal(classification_average_precision(scores, labels), [np.nan, 1])
    assert np.isnan(classification_average_precision(np.zeros((0, 2)), np.zeros((0, 2), np.int8))).all()


def test_one_image() -> None:
    assert one_class([0.1], [1]) == 1
    assert np.isnan(one_class([0.1], [-1]))


def test_infinite_scores_rank_first_and_last() -> None:
    assert one_class([float("-inf"), float("inf"), 0.0], [1, -1, -1]) == pytest.approx(1 / 3, abs=1e-15)


def test_depends_on_the_order_of_the_scores_alone() -> None:
    rng = np.random.default_rng(2)
    logits = rng.integers(-9, 9, size=(60, 4)) / 3
    labels = rng.integers(-1, 2, size=(60, 4))
    expected = classification_average_precision(logits, labels)
    np.testing.assert_array_equal(classification_average_precision(1 / (1 + np.exp(-logits)), labels), expected)
    shuffled = rng.permutation(60)
    np.testing.assert_array_equal(classification_average_precision(logits[shuffled], labels[shuffled]), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distinct", [2, 5, 10**6])  # few distinct scores: nearly all are tied
def test_equals_scikit_learn(distinct: int, dtype: type) -> None:
    rng = np.random.default_rng(distinct)
    compared = dropped = 0
    for _ in range(60):
        shape = (int(rng.integers(1, 40)), 4)
        scores = (rng.integers(0, distinct, size=shape) / distinct).astype(dtype)
        labels = rng.choice([1, 0, -1], size=shape, p=[0.3, 0.2, 0.5])
        ap = classification_average_precision(scores, labels)
        assert ap.shape == (4,)
        for label in range(4):
            ranked = labels[:, label] != 0
            shown = labels[ranked, label] == 1
            if not shown.any():
                assert np.isnan(ap[label])
                continue
            assert ap[label] == pytest.approx(average_precision_score(shown, scores[ranked, label]), abs=1e-12)
            compared += 1
            dropped += int((~ranked).sum())
    assert compared > 150
    assert dropped > 500


def test_refusals() -> None:
    scores, labels = np.zeros((3, 2)), np.ones((3, 2), np.int8)
    with pytest.raises(
        ValueError, match=r"got shapes \(3, 2\) for scores and \(3, 1\) for labels; expected one \(I, C\)"
    ):
        classification_average_precision(scores, labels[:, :1])
    with pytest.raises(ValueError, match=r"got shapes \(3,\) for scores and \(3,\) for labels; expected one \(I, C\)"):
        classification_average_precision(scores[:, 0], labels[:, 0])
    with pytest.raises(ValueError, match=r"got labels \[2\]; expected 1, 0 or -1"):
        classification_average_precision(scores, labels * 2)
    scores[2, 1] = np.nan
    with pytest.raises(ValueError, match="got a score of NaN for class 1 of image 2; expected a number"):
        classification_average_precision(scores, labels)
