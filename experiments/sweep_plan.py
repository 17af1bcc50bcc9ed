"""The trials of a sweep as far as they are known: what the spec lists, and what samplers have drawn before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from experiments.parameters import Point
from experiments.sampled_block import SampledBlock
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, read_config
from experiments.trial import Draw, TrialPlan, configuration
from wsol.config import ExperimentConfig


@dataclass(frozen=True)
class Drawn:
    """A sampled configuration.

    Attributes:
        point: of its block's space.
        draw: that led to it.
        plans: its replicates.
    """

    point: Point
    draw: Draw
    plans: tuple[TrialPlan, ...]


def search_plans(spec: SweepSpec, drawn: Sequence[Sequence[Drawn]]) -> list[TrialPlan]:
    """The trials of the search that are known, in the order in which they run."""
    return [*spec.plans, *(plan for of_block in drawn for one in of_block for plan in one.plans)]


def drawn_before(spec: SweepSpec, stored: Iterable[StoredTrial]) -> list[list[Drawn]]:
    """For each sampled block what was drawn for it and still counts, in the order of the draws.

    A configuration belongs to the block that drew it; where the spec has no such block any more, to the first one whose
    space has it, so that a block whose range was changed keeps the points that lie in the new one. Blocks that differ
    in nothing but their rules and budgets have one key: of them it belongs to the first that may have it. It counts
    once, not where a grid or zip has it already, and not beyond the block's budget.
    """
    found: list[list[Drawn]] = [[] for _ in spec.blocks]
    if not spec.blocks:
        return found
    taken = {plan.configuration for plan in spec.plans}
    keys = [block.key for block in spec.blocks]
    sampled = [(trial, trial.draw) for trial in stored if trial.draw is not None and trial.stage == "search"]
    for trial, draw in sorted(sampled, key=lambda pair: (pair[1].number, pair[0].number)):
        config = _config(trial)
        if config is None or (identity := configuration(config)) in taken:
            continue
        own = [index for index, key in enumerate(keys) if key == draw.block]
        for index in own or range(len(keys)):
            block = spec.blocks[index]
            point = block.point_of(config)
            if point is not None and len(found[index]) < block.trials:
                found[index].append(Drawn(point=point, draw=draw, plans=tuple(block.plans(point, draw))))
                taken.add(identity)
                break
    return found


def next_draw(block: SampledBlock, stored: Iterable[StoredTrial]) -> int:
    """The number of the next draw of a block: all that led to a trial before, in the spec now or not, are used up."""
    return 1 + max((t.draw.number for t in stored if t.draw is not None and t.draw.block == block.key), default=-1)


def stored_configuration(trial: StoredTrial) -> str | None:
    """Which configuration a trial is of, see `TrialPlan.configuration`; None for one of another version."""
    config = _config(trial)
    return configuration(config) if config is not None else None


def _config(trial: StoredTrial) -> ExperimentConfig | None:
    """None for the config of another version, whose trials are not this sweep's any more."""
    try:
        return ExperimentConfig.model_validate(read_config(trial))
    except ValidationError:
        return None
