"""Which proposals a trial keeps, against a slow and obvious reference."""

from __future__ import annotations

import numpy as np
import pytest

from wsol.data.proposals import Proposals, select


def make(rows: list[list[float]], scores: list[float] | None = None) -> Proposals:
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 4)
    return Proposals(boxes, None if scores is None else np.array(scores, dtype=np.float32))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_set(proposals: Proposals) -> set[tuple[float, ...]]:
    return {tuple(box) for box in proposals.boxes.tolist()}


def slow_filter(proposals: Proposals, min_size_px: float) -> list[tuple[tuple[float, ...], float]]:
    """(box, score) of large enough boxes, each once with its best score, best first, the first of equals first."""
    rows: list[tuple[tuple[float, ...], float]] = []
    scores = [0.0] * len(proposals.boxes) if proposals.scores is None else proposals.scores.tolist()
    for box, score in zip(proposals.boxes.tolist(), scores, strict=True):
        if box[2] - box[0] >= min_size_px and box[3] - box[1] >= min_size_px:
            rows.append((tuple(box), score))
    rows.sort(key=lambda row: -row[1])
    kept: list[tuple[tuple[float, ...], float]] = []
    for row in rows:
        if row[0] not in [box for box, _ in kept]:
            kept.append(row)
    return kept


def random_proposals(seed: int, *, scored: bool) -> Proposals:
    """Small corners and few score values: full of duplicates and ties."""
    generator = rng(seed)
    corners = generator.integers(0, 4, size=(40, 2))
    boxes = np.hstack([corners, corners + generator.integers(1, 4, size=(40, 2))]).astype(np.float32)
    return Proposals(boxes, generator.integers(0, 5, size=40).astype(np.float32) if scored else None)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [None, 1, 7, 1000])
def test_scored_proposals_against_the_reference(seed: int, count: int | None) -> None:
    proposals = random_proposals(seed, scored=True)
    kept = select(proposals, count=count, min_size_px=2, rng=rng())
    expected = slow_filter(proposals, 2)[:count]
    assert kept.scores is not None
    assert list(zip(map(tuple, kept.boxes.tolist()), kept.scores.tolist(), strict=True)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_unscored_proposals_against_the_reference(seed: int) -> None:
    proposals = random_proposals(seed, scored=False)
    expected = [box for box, _ in slow_filter(proposals, 2)]
    everything = select(proposals, count=None, min_size_px=2, rng=rng())
    assert everything.scores is None
    assert [tuple(box) for box in everything.boxes.tolist()] == expected
    some = [tuple(box) for box in select(proposals, count=5, min_size_px=2, rng=rng()).boxes.tolist()]
    assert len(some) == len(set(some)) == min(5, len(expected))
    assert some == [box for box in expected if box in some], "the order of the source is kept"


def test_a_side_of_exactly_the_minimum_is_kept() -> None:
    proposals = make([[0, 0, 20, 20], [0, 0, 19, 30], [0, 0, 30, 19], [5, 5, 25, 30]])
    assert as_set(select(proposals, count=None, min_size_px=20, rng=rng())) == {(0, 0, 20, 20), (5, 5, 25, 30)}


def test_of_equal_boxes_the_best_score_is_kept() -> None:
    proposals = make([[0, 0, 9, 9], [1, 1, 9, 9], [0, 0, 9, 9]], [0.1, 0.5, 0.9])
    kept = select(proposals, count=1, min_size_px=0, rng=rng())
    np.testing.assert_array_equal(kept.boxes, [[0, 0, 9, 9]])
    np.testing.assert_array_equal(kept.scores, np.float32([0.9]))


def test_of_equal_scores_the_first_are_kept() -> None:
    proposals = make([[3, 0, 9, 9], [1, 0, 9, 9], [2, 0, 9, 9], [0, 0, 9, 9]], [0.5, 0.5, 0.5, 0.6])
    kept = select(proposals, count=3, min_size_px=0, rng=rng())
    np.testing.assert_array_equal(kept.boxes[:, 0], [0, 3, 1])


def test_the_minimum_comes_before_the_count() -> None:
    proposals = make([[0, 0, 2, 2], [0, 0, 50, 50]], [0.9, 0.1])
    assert as_set(select(proposals, count=1, min_size_px=10, rng=rng())) == {(0, 0, 50, 50)}


@pytest.mark.parametrize("scores", [None, [0.5, 0.4]])
def test_nothing_large_enough_gives_no_rows(scores: list[float] | None) -> None:
    kept = select(make([[0, 0, 5, 50], [0, 0, 50, 5]], scores), count=10, min_size_px=6, rng=rng())
    assert kept.boxes.shape == (0, 4)
    assert kept.boxes.dtype == np.float32
    assert (kept.scores is None) == (scores is None)


@pytest.mark.parametrize("scores", [None, []])
def test_an_image_without_proposals(scores: list[float] | None) -> None:
    assert select(make([], scores), count=10, min_size_px=0, rng=rng()).boxes.shape == (0, 4)


def grid_of(number: int) -> Proposals:
    return make([[x, y, x + 10, y + 10] for x in range(number) for y in range(number)])


def test_a_smaller_subset_is_contained_in_a_larger_one() -> None:
    subsets = [as_set(select(grid_of(20), count=n, min_size_px=0, rng=rng(5))) for n in (10, 50, 51, 300, 1000)]
    for small, large in zip(subsets, subsets[1:], strict=False):
        assert small < large


def test_the_subset_follows_the_seed_alone() -> None:
    first = select(grid_of(20), count=50, min_size_px=0, rng=rng(1))
    np.testing.assert_array_equal(select(grid_of(20), count=50, min_size_px=0, rng=rng(1)).boxes, first.boxes)
    assert as_set(select(grid_of(20), count=50, min_size_px=0, rng=rng(2))) != as_set(first)


def test_every_proposal_has_the_same_chance() -> None:
    times_kept = np.zeros(36)
    for seed in range(400):
        kept = select(grid_of(6), count=9, min_size_px=0, rng=rng(seed)).boxes
        times_kept[(kept[:, 0] * 6 + kept[:, 1]).astype(int)] += 1
    # Binomial(400, 1/4): mean 100, standard deviation 8.7
    assert times_kept.min() > 60
    assert times_kept.max() < 140


@pytest.mark.parametrize(("count", "min_size_px"), [(0, 0.0), (-1, 0.0), (5, -0.1), (5, float("nan"))])
def test_impossible_limits_are_refused(count: int, min_size_px: float) -> None:
    with pytest.raises(ValueError, match="expected count > 0 or None, min_size_px >= 0"):
        select(grid_of(2), count=count, min_size_px=min_size_px, rng=rng())


@pytest.mark.parametrize("boxes", [np.zeros((3, 5), np.float32), np.zeros(4, np.float32), np.zeros((3, 4))])
def test_boxes_of_another_shape_or_dtype_are_refused(boxes: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \(N, 4\)"):
        Proposals(boxes)


@pytest.mark.parametrize("scores", [np.zeros(2, np.float32), np.zeros((3, 1), np.float32), np.zeros(3)])
def test_scores_of_another_shape_or_dtype_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \(3,\)"):
        Proposals(np.zeros((3, 4), np.float32), scores)
