"""What a sweep's samplers choose next: never a configuration that the sweep has, never one that a rule forbids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from experiments.knowledge import Outcome
from experiments.parameters import Point
from experiments.sampled_block import SampledBlock
from experiments.sweep_plan import Drawn
from experiments.trial import Draw, TrialPlan, TrialState
from wsol.seeding import generator

if TYPE_CHECKING:
    from experiments.sampling import Observation, PointSampler

MAX_REJECTED = 50
"""Draws in a row that lead nowhere, until the sampler is helped: it may insist on a point that it knows already."""
MAX_RANDOM_DRAWS = 10_000

OutcomeOf = Callable[[Sequence[TrialPlan]], Outcome]


class BlockSearch:
    """What one sampled block has drawn, and what it draws next.

    What is next depends on the block, on what was drawn before with its outcomes, and on `next_draw`: on nothing that a
    restart would forget.

    Args:
        drawn: in the order of the draws.
        related: configurations of other blocks that lie in this one's space; the sampler learns from them, too.
        next_draw: number of the next draw.
        direction: of the objective.
    """

    def __init__(
        self,
        block: SampledBlock,
        *,
        drawn: Sequence[Drawn],
        related: Sequence[tuple[Point, Sequence[TrialPlan]]],
        next_draw: int,
        direction: Literal["maximize", "minimize"],
    ) -> None:
        self.block = block
        self.drawn = list(drawn)
        self.is_exhausted = False
        self._related = related
        self._next_draw = next_draw
        self._direction: Literal["maximize", "minimize"] = direction
        self._sampler: PointSampler | None = None

    @property
    def open_budget(self) -> int:
        """Configurations that are still to be drawn."""
        return 0 if self.is_exhausted else max(0, self.block.trials - len(self.drawn))

    def draw(self, is_taken: Callable[[TrialPlan], bool], outcome_of: OutcomeOf) -> Drawn | None:
        """The next configuration; None where the space has no other (`is_exhausted` then).

        Args:
            is_taken: whether the sweep has a trial's configuration already.
            outcome_of: what has come of a configuration, given its replicates.
        """
        sampler, history = self._point_sampler(), self._history(outcome_of)
        for _ in range(MAX_REJECTED):
            number = self._next_draw
            self._next_draw += 1
            if found := self._accepted(sampler.draw(number, history), number, is_taken):
                return found
        for point in self._left_over(self._next_draw - 1):
            if found := self._accepted(point, self._next_draw - 1, is_taken):
                return found
        self.is_exhausted = True
        return None

    def _accepted(self, point: Point, number: int, is_taken: Callable[[TrialPlan], bool]) -> Drawn | None:
        if not self.block.allows(point):
            return None
        draw = Draw(block=self.block.key, number=number)
        plans = tuple(self.block.plans(point, draw))
        if is_taken(plans[0]):
            return None
        self.drawn.append(Drawn(point=point, draw=draw, plans=plans))
        return self.drawn[-1]

    def _left_over(self, number: int) -> Iterator[Point]:
        """Where the sampler is stuck: every point of a finite space in random order, or many random ones."""
        finite = self.block.finite_points()
        if finite is not None:
            points = list(finite)
            order = generator(self.block.sampler_seed, "left over", number).permutation(len(points))
            yield from (points[index] for index in order)
            return
        helper = self._make_sampler("random")
        first = number * MAX_RANDOM_DRAWS  # other draws than those of a block that samples at random itself
        yield from (helper.draw(index, ()) for index in range(first, first + MAX_RANDOM_DRAWS))
        raise self.block.error(
            f"got exclude and only that allow none of {MAX_RANDOM_DRAWS:,} random points; expected weaker rules"
        )

    def _history(self, outcome_of: OutcomeOf) -> list[Observation]:
        from experiments.sampling import Observation

        finished = (TrialState.COMPLETE, TrialState.PRUNED)
        related = [(point, outcome_of(plans)) for point, plans in self._related]
        own = [(one.point, outcome_of(one.plans)) for one in self.drawn]
        return [
            Observation(point=point, state=outcome.state, value=outcome.value, curve=outcome.curve)
            for point, outcome in itertools.chain((pair for pair in related if pair[1].state in finished), own)
        ]

    def _point_sampler(self) -> PointSampler:
        if self._sampler is None:
            self._sampler = self._make_sampler(self.block.sampler)
        return self._sampler

    def _make_sampler(self, name: Literal["tpe", "random", "gp", "qmc", "cmaes"]) -> PointSampler:
        from experiments.sampling import PointSampler  # Optuna, which only sampled blocks need

        return PointSampler(
            name=name,
            seed=self.block.sampler_seed,
            direction=self._direction,
            parameters=self.block.parameters,
            fixed=self.block.fixed,
        )


def related_points(
    block: SampledBlock, configurations: Iterable[Sequence[TrialPlan]]
) -> list[tuple[Point, Sequence[TrialPlan]]]:
    """The configurations of other blocks that lie in this block's space."""
    found = []
    for plans in configurations:
        if plans[0].swept.keys() <= set(block.keys) and (point := block.point_of(plans[0].config)) is not None:
            found.append((point, plans))
    return found
