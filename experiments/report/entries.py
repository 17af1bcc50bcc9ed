"""A sweep's trials with what is on disk of each: what every table and every report begins with."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.final_stage import best_configuration, by_configuration, held_back_by
from experiments.knowledge import Knowledge
from experiments.sampled_block import SampledBlock
from experiments.seed_rounds import later_plans
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, SweepStore, TrialResult, read_result
from experiments.sweep_plan import drawn_before, search_plans
from experiments.trial import TrialPlan, TrialState


@dataclass(frozen=True)
class Entry:
    """A trial of the spec as the leaderboard has it; `trial` and `result` are None as far as it has not come."""

    plan: TrialPlan
    trial: StoredTrial | None
    result: TrialResult | None

    @property
    def state(self) -> TrialState:
        """Without a result a trial waits, or was begun and continues."""
        if self.result is not None:
            return self.result.state
        return TrialState.WAITING if self.trial is None else TrialState.RUNNING

    def metric(self, name: str) -> float | None:
        """A metric of the finished trial; None where it has none or it is undefined."""
        return self.result.metrics.get(name) if self.result is not None else None


def entries(spec: SweepSpec, store: SweepStore) -> list[Entry]:
    """Every trial of the spec that is known: those that it lists, those that were sampled, those of the final stage."""
    stored = store.trials()
    found = _with_files(search_plans(spec, drawn_before(spec, stored)), stored)
    found += _later_entries(spec, found, stored)
    more = _final_entries(spec, found, stored)
    return [entry for entry in [*found, *more] if entry.trial is not None or _is_known_beforehand(spec, entry)]


def has_work_left(spec: SweepSpec, store: SweepStore, *, again: Collection[TrialState] = ()) -> bool:
    """Whether a run of the sweep has a trial to run, or to take from another sweep. Only reads files.

    Args:
        again: trials that ended like this run again.
    """
    begun = {name.rpartition("-")[2] for name in store.trial_names()}
    if any(plan.signature[:8] not in begun for plan in spec.plans):
        return True  # nothing had to be read for that
    stored = store.trials()
    drawn = drawn_before(spec, stored)
    found = _with_files(search_plans(spec, drawn), stored)
    if any(entry.result is None or entry.state in again for entry in found):
        return True
    if any(entry.result is None or entry.state in again for entry in _later_entries(spec, found, stored)):
        return True
    taken = {entry.plan.configuration for entry in found}
    open_blocks = [block for block, before in zip(spec.blocks, drawn, strict=True) if len(before) < block.trials]
    if any(_has_free_point(block, taken) for block in open_blocks):
        return True
    found += _later_entries(spec, found, stored)
    return any(entry.result is None or entry.state in again for entry in _final_entries(spec, found, stored))


def _has_free_point(block: SampledBlock, taken: Collection[str]) -> bool:
    points = block.finite_points()
    return points is None or any(block.plans(point)[0].configuration not in taken for point in points)


def _final_entries(spec: SweepSpec, found: Sequence[Entry], stored: Sequence[StoredTrial]) -> list[Entry]:
    """The trials of the final stage, begun or not, once the search `found` is over and says which."""
    if spec.final is None or any(entry.result is None for entry in found):
        return []
    known = _knowledge(spec, found)
    plans = [entry.plan for entry in found]
    best = best_configuration(by_configuration(plans), known, direction=spec.objective.direction)
    if best is None or held_back_by(plans, known):
        return []
    return _with_files(spec.final_plans(best), stored)


def _later_entries(spec: SweepSpec, found: Sequence[Entry], stored: Sequence[StoredTrial]) -> list[Entry]:
    """The trials with later seeds that results ask for, begun or not, once all with a first seed are finished."""
    later: list[Entry] = []
    while spec.later_seeds and all(entry.result is not None for entry in [*found, *later]):
        known = _knowledge(spec, [*found, *later])
        due = later_plans(spec, by_configuration(entry.plan for entry in found), known)
        new = [plan for plan in due if plan.signature not in {entry.plan.signature for entry in later}]
        if not new:
            break
        later += _with_files(new, stored)
    return later


def _is_known_beforehand(spec: SweepSpec, entry: Entry) -> bool:
    """Not so of the final stage, and of seeds that results ask for: such a trial counts when it has begun."""
    return entry.plan.stage == "search" and entry.plan.config.seed not in spec.later_seeds


def _knowledge(spec: SweepSpec, found: Sequence[Entry]) -> Knowledge:
    """Of trials that all have results."""
    known = Knowledge(metric=spec.objective.metric, direction=spec.objective.direction)
    for entry in found:
        assert entry.result is not None
        known.finish(entry.plan.signature, entry.result)
    return known


def _with_files(plans: Sequence[TrialPlan], stored: Sequence[StoredTrial]) -> list[Entry]:
    by_signature = {trial.signature: trial for trial in stored}
    found = []
    for plan in plans:
        trial = by_signature.get(plan.signature)
        result = read_result(trial) if trial is not None else None
        found.append(Entry(plan=plan, trial=trial, result=_with_shared_names(result) if result is not None else None))
    return found


def _with_shared_names(result: TrialResult) -> TrialResult:
    """The same, the names in it once for all results: in each file there are the same hundreds of them."""
    return replace(result, metrics=_sharing(result.metrics), config=_sharing(result.config))


def _sharing(values: Mapping[str, Any]) -> dict[str, Any]:
    return {sys.intern(name): _sharing(value) if isinstance(value, dict) else value for name, value in values.items()}
