"""How long trials will take, from how long others took that cost the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.footprint import Footprints, shape_of
from experiments.report.entries import Entry
from experiments.slots import planned_slots
from experiments.store import TrialResult, read_result, sweep_folders
from experiments.trial import TrialPlan, TrialState

MAX_RESULTS_A_SWEEP = 200
"""So many results of each other sweep are looked at."""


@dataclass(frozen=True)
class Estimate:
    """A guess.

    Attributes:
        total_s: until the last trial ends.
        slots: for each trial, in order, the position of the slot that it would run on.
        known: trials for which others like them have run.
        finished: trials that the guess rests on.
    """

    total_s: float
    slots: list[int]
    known: int
    finished: int


def estimate(plans: Sequence[TrialPlan], known: Footprints, *, slots: int, unchosen: int = 0) -> Estimate:
    """How long `plans`, and so many trials that are not chosen yet, will take on so many slots.

    A trial unlike any that has run is taken to cost the mean of the others; where nothing is known, all cost the same
    and `total_s` means nothing.
    """
    epochs_s = [known.epoch_s(shape_of(plan.config.model_dump(mode="json"))) for plan in plans]
    costs = [
        None if epoch_s is None else epoch_s * plan.config.train.epochs
        for epoch_s, plan in zip(epochs_s, plans, strict=True)
    ]
    of_known = [cost for cost in costs if cost is not None]
    mean = statistics.fmean(of_known) if of_known else 1.0
    durations = [mean if cost is None else cost for cost in costs]
    placed, total_s = planned_slots([*durations, *[mean] * unchosen], slots=slots)
    return Estimate(total_s=total_s, slots=placed[: len(plans)], known=len(of_known), finished=known.trials)


def footprints(history: Iterable[TrialResult]) -> Footprints:
    """What trials that have run tell of what others will take."""
    known = Footprints()
    for result in history:
        if result.state is TrialState.COMPLETE and result.config and result.epochs:
            shape = shape_of(result.config, result.images_at_a_time)
            known.note_trial(shape, epochs=result.epochs, duration_s=result.duration_s)
            if result.usage is not None:
                known.note_usage(shape, result.usage)
    return known


def history(entries: Iterable[Entry], results: Path, *, first: Path | None = None) -> Iterator[TrialResult]:
    """Results of the sweep's own trials, then of other sweeps in the results folder; of equal trials the first.

    Args:
        first: folder of the sweep that is looked into before the others.
    """
    own = [entry.result for entry in entries if entry.result is not None]
    yield from own
    seen = {result.signature for result in own}
    for store in sorted(sweep_folders(results), key=lambda store: store.folder != first):
        for name in store.trial_names()[:MAX_RESULTS_A_SWEEP]:
            trial = store.stored_trial(name)
            if trial is not None and trial.signature not in seen and (result := read_result(trial)) is not None:
                seen.add(result.signature)
                yield result
