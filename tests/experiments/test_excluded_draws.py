"""What a block's rules forbid is never drawn, however much the results so far speak for it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from experiments.knowledge import Outcome
from experiments.sampled_block import SampledBlock
from experiments.sampling import Observation, PointSampler
from experiments.search import BlockSearch
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan, TrialState

SPEC = """\
experiment:
  task: localizer
  data: {root: digits}
  model: {backbone: tiny, weights: none}
search:
  - sample:
      model.pooling: {choice: [max, lse, topk, wildcat]}
      model.lse_r: {log_uniform: [0.5, 20.0], when: {model.pooling: lse}}
      model.topk: {int: [1, 12], when: {model.pooling: topk}}
      train.lr: {log_uniform: [1.0e-5, 1.0]}
      train.batch_size: {int: [1, 8]}
    exclude:
      - {model.pooling: lse, train.lr: {min: 0.01}}
      - {model.pooling: [max, topk], train.batch_size: {max: 2}}
      - {model.topk: [5, 6]}
      - {model.lse_r: {min: 1, max: 9}, train.batch_size: 8}
      - {train.batch_size: 7}
    only:
      - {train.lr: {min: 1.0e-3}}
      - {model.pooling: max, train.batch_size: [3, 8]}
    sampler: random
    trials: 1
"""
ASKS = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]


def forbidding(point: Mapping[str, Any]) -> list[str]:
    """The rules of SPEC that forbid a point, one after the other, written out by hand."""
    pooling, lr, batch_size = point["model.pooling"], point["train.lr"], point["train.batch_size"]
    rules = {
        "value and range": pooling == "lse" and lr >= 0.01,
        "list and range": pooling in ("max", "topk") and batch_size <= 2,
        "list of a key that is not always there": point.get("model.topk") in (5, 6),
        "range of a key that is not always there": 1 <= point.get("model.lse_r", 0) <= 9 and batch_size == 8,
        "value": batch_size == 7,
        "only": lr < 1e-3 and not (pooling == "max" and batch_size in (3, 8)),
    }
    return [name for name, forbids in rules.items() if forbids]


@pytest.fixture
def block(load: Callable[[str], SweepSpec]) -> SampledBlock:
    return load(SPEC).blocks[0]


class Outcomes:
    """Every configuration ends somehow. Complete ones are the better the nearer they are to what is forbidden."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._known: dict[str, Outcome] = {}

    def __call__(self, plans: Sequence[TrialPlan]) -> Outcome:
        key = plans[0].configuration
        if key not in self._known:
            self._known[key] = self._new(plans[0])
        return self._known[key]

    def _new(self, plan: TrialPlan) -> Outcome:
        train = plan.config.train
        value = (2.0 if plan.config.model.pooling == "lse" else 0.0) + min(train.lr, 0.01) * 100 + train.batch_size / 8
        state = self._rng.choices(
            [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING], weights=[7, 1, 1, 1]
        )[0]
        if state is TrialState.COMPLETE:
            return Outcome(state, value=value)
        return Outcome(state, curve={1: value} if state is TrialState.PRUNED else {})


@dataclass
class Draws:
    """What samplers asked for, and what the searches made of it."""

    asked: list[Mapping[str, Any]] = field(default_factory=list)
    found: list[Mapping[str, Any]] = field(default_factory=list)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    draws = Draws()
    ask = PointSampler.draw

    def noted(sampler: PointSampler, number: int, history: Sequence[Observation]) -> Mapping[str, Any]:
        draws.asked.append(ask(sampler, number, history))
        return draws.asked[-1]

    monkeypatch.setattr(PointSampler, "draw", noted)
    return draws


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_ask_leads_to_what_is_forbidden(
    block: SampledBlock, draws: Draws, sampler: Literal["tpe", "random"], asks: int
) -> None:
    """In many searches with a short history each: one long one would take hours."""
    for seed in itertools.count():
        draws.found += search_points(replace(block, sampler=sampler, sampler_seed=seed), seed)
        if len(draws.asked) >= asks:
            break
    assert [(point, rules) for point in draws.found if (rules := forbidding(point))] == []
    assert {point["model.pooling"] for point in draws.found} == {"max", "lse", "topk", "wildcat"}
    asked = Counter(rule for point in draws.asked for rule in forbidding(point))
    assert len(asked) == 6, "a rule that forbids nothing which the sampler would ask for shows nothing"
    assert min(asked.values()) > asks / 200


def search_points(block: SampledBlock, seed: int) -> list[Mapping[str, Any]]:
    """The points of a search, which has a model of its outcomes after the first ten."""
    search = BlockSearch(block, drawn=[], related=[], next_draw=0, direction="maximize")
    outcomes = Outcomes(seed)
    taken: set[str] = set()
    for _ in range(25):
        drawn = search.draw(lambda plan: plan.configuration in taken, outcomes)
        assert drawn is not None, "the space is infinite"
        taken.add(drawn.plans[0].configuration)
    return [one.point for one in search.drawn]
