"""How long trials will take, from how long others took that cost the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.placement import planned_slots
from experiments.report.entries import Entry
from experiments.store import TrialResult, read_result, sweep_folders
from experiments.trial import TrialPlan, TrialState

COST_KEYS = (
    "task",
    "data.root",
    "data.train",
    "data.eval",
    "proposals.source",
    "proposals.count",
    "model.backbone",
    "model.freeze",
    "model.stride",
    "model.roi_size",
    "model.fc_dim",
    "model.context",
    "model.refinement",
    "model.head",
    "model.hidden_channels",
    "train.batch_size",
    "train.resize",
    "train.scales_px",
    "train.max_side_px",
    "train.pad_square",
    "evaluate.every",
    "evaluate.scales_px",
    "evaluate.flip",
)
"""What the duration of an epoch depends on, as far as a config says it: trials alike in these should cost the same."""

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


def estimate(plans: Sequence[TrialPlan], history: Iterable[TrialResult], *, slots: int, unchosen: int = 0) -> Estimate:
    """How long `plans`, and so many trials that are not chosen yet, will take on so many slots.

    A trial unlike any that has run is taken to cost the mean of the others; where nothing is known, all cost the same
    and `total_s` means nothing.
    """
    epoch_s, finished = _epoch_durations(history)
    shapes = [_shape(plan.config.model_dump(mode="json")) if epoch_s else () for plan in plans]
    known = [
        epoch_s[shape] * plan.config.train.epochs for shape, plan in zip(shapes, plans, strict=True) if shape in epoch_s
    ]
    mean = statistics.fmean(known) if known else 1.0
    durations = [
        epoch_s[shape] * plan.config.train.epochs if shape in epoch_s else mean
        for shape, plan in zip(shapes, plans, strict=True)
    ]
    placed, total_s = planned_slots([*durations, *[mean] * unchosen], slots=slots)
    return Estimate(total_s=total_s, slots=placed[: len(plans)], known=len(known), finished=finished)


def history(entries: Iterable[Entry], results: Path) -> Iterator[TrialResult]:
    """Results of the sweep's own trials, then of other sweeps in the results folder; of equal trials the first."""
    own = [entry.result for entry in entries if entry.result is not None]
    yield from own
    seen = {result.signature for result in own}
    for store in sweep_folders(results):
        for name in store.trial_names()[:MAX_RESULTS_A_SWEEP]:
            trial = store.stored_trial(name)
            if trial is not None and trial.signature not in seen and (result := read_result(trial)) is not None:
                seen.add(result.signature)
                yield result


def _epoch_durations(history: Iterable[TrialResult]) -> tuple[dict[tuple[str, ...], float], int]:
    """The median seconds of an epoch by cost, and the number of trials behind it."""
    found: dict[tuple[str, ...], list[float]] = {}
    for result in history:
        if result.state is TrialState.COMPLETE and result.config and result.epochs:
            found.setdefault(_shape(result.config), []).append(result.duration_s / result.epochs)
    medians = {shape: statistics.median(seconds) for shape, seconds in found.items()}
    return medians, sum(map(len, found.values()))


def _shape(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(repr(_value(config, key)) for key in COST_KEYS)


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
