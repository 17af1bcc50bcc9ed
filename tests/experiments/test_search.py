"""What one sampled block draws, asked for draw after draw without a sweep around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from experiments import search as search_module
from experiments.errors import SpecError
from experiments.knowledge import Outcome
from experiments.parameters import Point
from experiments.sampled_block import SampledBlock
from experiments.sampling import Observation, PointSampler
from experiments.search import MAX_REJECTED, BlockSearch, related_points
from experiments.spec import SweepSpec
from experiments.sweep_plan import Drawn
from experiments.trial import Draw, TrialPlan, TrialState

Load = Callable[[str], SweepSpec]

FINITE = """\
{EXPERIMENT}
search:
  - sample:
      model.refinement: {int: [0, 4]}
      proposals.count: {choice: [10, 20, null]}
    exclude: [{model.refinement: 2}, {model.refinement: 4, proposals.count: [10, null]}]
    sampler: random
    trials: 10
"""
"""3 x 3 + 1 configurations: refinement 0, 1, 3 with any count, and 4 with 20."""
ALLOWED = {(refinement, count) for refinement in (0, 1, 3) for count in (10, 20, None)} | {(4, 20)}
LINE = """\
{EXPERIMENT}
search:
  - sample: {train.lr: {float: [0.001, 1.0]}}
    sampler: %s
    trials: 30
seeds: 2
"""
RUNNING = Outcome(TrialState.RUNNING)


def running(plans: Sequence[TrialPlan]) -> Outcome:
    return RUNNING


def nothing(plan: TrialPlan) -> bool:
    return False


def search_of(
    block: SampledBlock,
    *,
    drawn: Sequence[Drawn] = (),
    related: Sequence[tuple[Point, Sequence[TrialPlan]]] = (),
    next_draw: int = 0,
) -> BlockSearch:
    return BlockSearch(block, drawn=drawn, related=related, next_draw=next_draw, direction="maximize")


def take(search: BlockSearch, count: int, outcome_of: Any = running) -> list[Drawn]:
    """So many draws; each is taken from then on."""
    taken = {one.plans[0].configuration for one in search.drawn}
    found = []
    for _ in range(count):
        drawn = search.draw(lambda plan: plan.configuration in taken, outcome_of)
        assert drawn is not None
        taken.add(drawn.plans[0].configuration)
        found.append(drawn)
    return found


def pair(drawn: Drawn) -> tuple[int, int | None]:
    return drawn.point["model.refinement"], drawn.point["proposals.count"]


@pytest.fixture
def finite(load: Load) -> SampledBlock:
    return load(FINITE).blocks[0]


@pytest.fixture
def line(load: Load) -> SampledBlock:
    return load(LINE % "random").blocks[0]


class StuckSampler:
    """In place of `PointSampler`: draws one point for ever. Keeps what it was asked."""

    point: Point
    asked: list[tuple[int, list[Observation]]]

    def draw(self, number: int, history: Sequence[Observation]) -> Point:
        self.asked.append((number, list(history)))
        return dict(self.point)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> StuckSampler:
    sampler = StuckSampler()
    sampler.asked = []
    monkeypatch.setattr(BlockSearch, "_point_sampler", lambda self: sampler)
    return sampler


class TestDraws:
    @pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "cmaes"])
    def test_every_configuration_once_and_no_other(self, finite: SampledBlock, sampler: Any) -> None:
        """Also the last ones, which a sampler alone would hardly come to."""
        found = take(search_of(replace(finite, sampler=sampler)), len(ALLOWED))
        assert {pair(one) for one in found} == ALLOWED
        assert len(found) == len(ALLOWED)

    def test_then_the_space_is_exhausted(self, finite: SampledBlock) -> None:
        search = search_of(replace(finite, trials=99))
        drawn = take(search, len(ALLOWED))
        assert search.open_budget == 99 - len(ALLOWED)
        assert not search.is_exhausted
        taken = {one.plans[0].configuration for one in drawn}
        assert search.draw(lambda plan: plan.configuration in taken, running) is None
        assert search.is_exhausted
        assert search.open_budget == 0
        assert search.drawn == drawn

    def test_what_the_sweep_has_elsewhere_is_taken(self, finite: SampledBlock) -> None:
        search = search_of(finite)
        drawn = search.draw(lambda plan: plan.value("model.refinement") != 4, running)
        assert drawn is not None
        assert pair(drawn) == (4, 20)
        assert search.draw(lambda plan: True, running) is None

    def test_the_plans_are_its_replicates(self, line: SampledBlock) -> None:
        (drawn,) = take(search_of(line), 1)
        assert [plan.config.seed for plan in drawn.plans] == [0, 1]
        assert {plan.config.train.lr for plan in drawn.plans} == {drawn.point["train.lr"]}
        assert len({plan.configuration for plan in drawn.plans}) == 1
        assert {plan.draw for plan in drawn.plans} == {drawn.draw} == {Draw(block=line.key, number=0)}

    def test_numbers_go_on_where_they_were(self, line: SampledBlock) -> None:
        whole = take(search_of(line), 6)
        again = search_of(line, drawn=whole[:3], next_draw=whole[2].draw.number + 1)
        assert take(again, 3) == whole[3:]
        assert [one.draw.number for one in whole] == list(range(6))

    def test_the_budget_counts_what_was_drawn_before(self, line: SampledBlock) -> None:
        whole = take(search_of(line), 4)
        assert search_of(replace(line, trials=5), drawn=whole).open_budget == 1
        assert search_of(replace(line, trials=4), drawn=whole).open_budget == 0
        assert search_of(replace(line, trials=3), drawn=whole).open_budget == 0

    def test_another_seed_draws_others(self, line: SampledBlock) -> None:
        first, second = (take(search_of(replace(line, sampler_seed=seed)), 1)[0].point for seed in (0, 1))
        assert first != second

    @pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "cmaes"])
    def test_the_same_history_draws_the_same(self, line: SampledBlock, sampler: Any) -> None:
        block = replace(line, sampler=sampler)
        assert take(search_of(block), 14, best_at_a_half) == take(search_of(block), 14, best_at_a_half)


def best_at_a_half(plans: Sequence[TrialPlan]) -> Outcome:
    return Outcome(TrialState.COMPLETE, value=-abs(plans[0].config.train.lr - 0.5))


class TestStuckSampler:
    def test_is_asked_so_often_and_then_another_point_is_found(self, finite: SampledBlock, stuck: StuckSampler) -> None:
        stuck.point = {"model.refinement": 0, "proposals.count": 10}
        search = search_of(finite)
        found = take(search, len(ALLOWED))
        assert {pair(one) for one in found} == ALLOWED
        assert [number for number, _ in stuck.asked] == list(range(1 + 9 * MAX_REJECTED))
        assert [one.draw.number for one in found] == [0, *(MAX_REJECTED * time for time in range(1, 10))]

    def test_the_others_come_in_an_order_that_a_restart_repeats(
        self, finite: SampledBlock, stuck: StuckSampler
    ) -> None:
        stuck.point = {"model.refinement": 0, "proposals.count": 10}
        whole = take(search_of(finite), len(ALLOWED))
        again = search_of(finite, drawn=whole[:5], next_draw=whole[4].draw.number + 1)
        assert take(again, len(ALLOWED) - 5) == whole[5:]
        enumerated = [pair_of(point) for point in finite.finite_points() or ()]
        assert [pair(one) for one in whole[1:]] != [one for one in enumerated if one != (0, 10)]  # at random

    def test_in_a_space_without_end_the_others_are_random(self, line: SampledBlock, stuck: StuckSampler) -> None:
        stuck.point = {"train.lr": 0.5}
        rates = [one.point["train.lr"] for one in take(search_of(line), 6)]
        assert rates[0] == 0.5
        assert len(set(rates)) == 6
        assert min(rates) < 0.4
        assert max(rates) > 0.6

    def test_a_random_block_is_helped_with_other_draws_than_its_own(
        self, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it has drawn from 0 to 9,999 is no help."""
        numbers: list[int] = []
        draw = PointSampler.draw

        def noted(sampler: PointSampler, number: int, history: Sequence[Observation]) -> Point:
            numbers.append(number)
            return draw(sampler, number, history)

        monkeypatch.setattr(PointSampler, "draw", noted)
        block = load(LINE % "random").blocks[0]
        refused = iter([True] * MAX_REJECTED)
        assert search_of(block).draw(lambda plan: next(refused, False), running) is not None
        assert numbers[:MAX_REJECTED] == list(range(MAX_REJECTED))
        assert min(numbers[MAX_REJECTED:]) > 400_000

    def test_rules_that_allow_no_random_point_are_a_fault_of_the_spec(
        self, load: Load, stuck: StuckSampler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search_module, "MAX_RANDOM_DRAWS", 50)
        spec = LINE % "tpe" + "\n"
        block = load(spec.replace("    sampler", "    only: [{train.lr: {max: 0.001}}]\n    sampler")).blocks[0]
        stuck.point = {"train.lr": 0.5}
        with pytest.raises(SpecError, match=r"allow none of 50 random points; expected weaker rules"):
            search_of(block).draw(nothing, running)

    def test_does_not_get_what_a_rule_forbids(self, finite: SampledBlock, stuck: StuckSampler) -> None:
        stuck.point = {"model.refinement": 2, "proposals.count": 10}
        assert pair(take(search_of(finite), 1)[0]) in ALLOWED


def pair_of(point: Point) -> tuple[int, int | None]:
    return point["model.refinement"], point["proposals.count"]


class TestHistory:
    def test_is_what_was_drawn_with_its_outcomes(self, line: SampledBlock, stuck: StuckSampler) -> None:
        drawn = take_at(line, 0.1, 0.2, 0.3, 0.4)
        outcomes = iter(
            [
                Outcome(TrialState.COMPLETE, value=0.5),
                Outcome(TrialState.PRUNED, curve={1: 0.25}),
                Outcome(TrialState.FAIL),
                Outcome(TrialState.RUNNING),
            ]
        )
        stuck.point = {"train.lr": 0.9}
        search_of(line, drawn=drawn, next_draw=4).draw(nothing, lambda plans: next(outcomes))
        assert stuck.asked == [
            (
                4,
                [
                    Observation({"train.lr": 0.1}, TrialState.COMPLETE, 0.5, {}),
                    Observation({"train.lr": 0.2}, TrialState.PRUNED, None, {1: 0.25}),
                    Observation({"train.lr": 0.3}, TrialState.FAIL, None, {}),
                    Observation({"train.lr": 0.4}, TrialState.RUNNING, None, {}),
                ],
            )
        ]

    def test_begins_with_what_other_blocks_have_finished(self, line: SampledBlock, stuck: StuckSampler) -> None:
        others = take_at(line, 0.1, 0.2, 0.3, 0.4)
        states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
        outcomes = {one.plans[0].configuration: Outcome(state) for one, state in zip(others, states, strict=True)}
        (own,) = take_at(line, 0.5)
        outcomes[own.plans[0].configuration] = RUNNING
        stuck.point = {"train.lr": 0.9}
        search = search_of(line, drawn=[own], related=[(one.point, one.plans) for one in others], next_draw=1)
        search.draw(nothing, lambda plans: outcomes[plans[0].configuration])
        ((_, history),) = stuck.asked
        assert [(one.point["train.lr"], one.state) for one in history] == [
            (0.1, TrialState.COMPLETE),
            (0.2, TrialState.PRUNED),
            (0.5, TrialState.RUNNING),
        ]

    def test_a_sampler_learns_from_other_blocks(self, line: SampledBlock) -> None:
        """A grid that is best around 0.8 draws the first points of `tpe` there; without it they are all over."""
        block = replace(line, sampler="tpe")
        grid = take_at(block, *(index / 20 for index in range(1, 21)))

        def best_at_08(plans: Sequence[TrialPlan]) -> Outcome:
            return Outcome(TrialState.COMPLETE, value=-abs(plans[0].config.train.lr - 0.8))

        learned = search_of(block, related=[(one.point, one.plans) for one in grid])
        far = [abs(one.point["train.lr"] - 0.8) for one in take(learned, 8, best_at_08)]
        ignorant = [abs(one.point["train.lr"] - 0.8) for one in take(search_of(block), 8, best_at_08)]
        assert sum(far) < sum(ignorant) / 2


def take_at(block: SampledBlock, *rates: float) -> list[Drawn]:
    """Draws that led to these learning rates."""
    found = []
    for number, rate in enumerate(rates):
        draw = Draw(block=block.key, number=number)
        found.append(Drawn({"train.lr": rate}, draw, tuple(block.plans({"train.lr": rate}, draw))))
    return found


class TestRelatedPoints:
    BLOCKS = """\
{EXPERIMENT}
search:
  - grid: {train.lr: [0.1, 0.2], proposals.count: [10, 30]}
  - grid: {train.lr: [0.1, 0.9]}
  - grid: {train.momentum: [0.5]}
  - sample:
      train.lr: {float: [0.001, 0.5]}
      proposals.count: {int: [5, 20]}
    exclude: [{train.lr: {max: 0.15}, proposals.count: 10}]
    trials: 1
"""

    def related(self, spec: SweepSpec) -> list[dict[str, Any]]:
        return [point for point, _ in related_points(spec.blocks[0], [[plan] for plan in spec.plans])]

    def test_are_those_of_the_space_that_no_rule_forbids(self, load: Load) -> None:
        """Of the grids: 30 proposals and a learning rate of 0.9 are outside, momentum is not sampled, 0.1 with 10 is
        forbidden. The second grid leaves the default of 2000 proposals."""
        assert self.related(load(self.BLOCKS)) == [{"train.lr": 0.2, "proposals.count": 10}]

    def test_a_key_that_another_block_leaves_out_has_its_default(self, load: Load) -> None:
        spec = load(self.BLOCKS.replace("int: [5, 20]", "int: [5, 2000]"))
        assert self.related(spec) == [
            {"train.lr": 0.1, "proposals.count": 30},
            {"train.lr": 0.2, "proposals.count": 10},
            {"train.lr": 0.2, "proposals.count": 30},
            {"train.lr": 0.1, "proposals.count": 2000},
        ]

    def test_none(self, load: Load) -> None:
        assert related_points(load(self.BLOCKS).blocks[0], []) == []

    def test_with_all_of_their_replicates(self, load: Load) -> None:
        spec = load(self.BLOCKS + "seeds: 2\n")
        replicates = [plan for plan in spec.plans if plan.swept == {"train.lr": 0.2, "proposals.count": 10}]
        assert related_points(spec.blocks[0], [replicates]) == [({"train.lr": 0.2, "proposals.count": 10}, replicates)]
        assert len(replicates) == 2
