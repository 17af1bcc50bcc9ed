"""Which configurations are not worth training on. Pure.

Decisions are over configurations, on the mean over their replicates, and depend on nothing but what was reported: not
on who asked before, on order or on chance. A sweep that is broken off and started again therefore decides alike.

The caller guarantees that every value is a finite number: training fails before it reports a NaN, and an epoch whose
objective is undefined has no place in a curve.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Curve = Mapping[int, float]
"""Epoch, from 1 -> value of the objective, in any order. Epochs that were not evaluated are missing."""

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: of those that reached a rung, the best go on.

    The rungs are the epochs `min_epochs * reduction_factor**k`, k = 0, 1, … A curve's value at a rung is that of its
    first evaluated epoch from there on. A configuration is judged when it reports that value, against all that have
    one by then, itself included: with n of them the best `max(1, n // reduction_factor)` go on, and whoever equals
    the last of these. So the first at a rung always goes on, and no one waits.

    Source: Li et al. 2018, arXiv 1810.05934, in the form that stops instead of pausing:
    optuna.pruners.SuccessiveHalvingPruner (5.0) with `min_early_stopping_rate=0`, `bootstrap_count=0`. Ours differs:

    - Where one report passes several rungs, the highest decides alone. Optuna lets each decide, the lowest first, so
      that the same value has to win several times; and who loses is missing from the rungs above. Both are the same
      where no two rungs lie between neighbouring evaluations (`evaluate.every <= min_epochs * (reduction_factor - 1)`).
    - A rung's values are read from the curves. Optuna keeps those of trials that asked, as they were when they asked.
    - Optuna stops on NaN; here there is none.

    Attributes:
        min_epochs: the first rung; 1 or more.
        reduction_factor: 2 or more.
    """

    min_epochs: int
    reduction_factor: int

    def __post_init__(self) -> None:
        _check_at_least(1, "min_epochs", self.min_epochs)
        _check_at_least(2, "reduction_factor", self.reduction_factor)


@dataclass(frozen=True)
class Median:
    """Stops what has never been as good as half of the complete configurations were at the same epoch.

    A decision is due at the epochs `warmup_epochs + 1 + k * interval_epochs`, k = 0, 1, …, and is taken at the first
    evaluated epoch from there on. It stops the configuration if its best value up to now is worse, not equal, than
    the median of the values that complete configurations have at this very epoch.

    Source: optuna.pruners.MedianPruner (5.0) with `n_min_trials=1`, Optuna's step being the epoch - 1. Ours differs:

    - The median of an even count is (a + b) / 2. Optuna's is numpy's percentile, which may round the last bit
      otherwise.
    - Optuna stops if all its values are NaN, and leaves them out of the median; here there is none.

    Attributes:
        startup_trials: so many configurations must be complete before any is stopped; 0 or more.
        warmup_epochs: no decision up to and including this epoch; 0 or more.
        interval_epochs: from one due decision to the next; 1 or more.
    """

    startup_trials: int = 5
    warmup_epochs: int = 0
    interval_epochs: int = 1

    def __post_init__(self) -> None:
        _check_at_least(0, "startup_trials", self.startup_trials)
        _check_at_least(0, "warmup_epochs", self.warmup_epochs)
        _check_at_least(1, "interval_epochs", self.interval_epochs)


Pruner = Asha | Median


@dataclass(frozen=True)
class Reported:
    """What is known of a configuration.

    Attributes:
        curve: mean over its replicates, see `mean_curve`; empty before the first report.
        complete: every replicate is complete.
    """

    curve: Curve
    complete: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What another configuration has to say in a decision.

    Attributes:
        value: that it competes with; None: it does not compete.
        complete: as `Reported` has it.
    """

    value: float | None
    complete: bool


def mean_curve(replicates: Sequence[Curve]) -> dict[int, float]:
    """At each epoch the mean over the replicates that have reported it.

    Exact but for the last rounding, so the order of the replicates does not matter.

    Returns:
        Epochs in ascending order; empty where nothing was reported.
    """
    epochs = sorted({epoch for curve in replicates for epoch in curve})
    return {epoch: _mean([curve[epoch] for curve in replicates if epoch in curve]) for epoch in epochs}


def stop_reason(
    pruner: Pruner, *, epoch: int, own: Curve, others: Sequence[Reported], direction: Direction
) -> str | None:
    """Whether a configuration, one of whose replicates has just reported an epoch, is to be stopped.

    Args:
        epoch: the epoch just reported; `own` has a value there.
        own: mean over the replicates. Later epochs, of replicates that are ahead, do not count.
        others: all other configurations in any order, the stopped ones too: what they reported still stands.
        direction: of the objective.

    Returns:
        None to go on, else one line that says why.
    """
    at = decided_at(pruner, epoch=epoch, own=own)
    if at is None:
        return None
    standings = [standing(pruner, at=at, reported=other) for other in others]
    return decision(
        pruner,
        epoch=epoch,
        own=own,
        competing=sorted(one.value for one in standings if one.value is not None),
        complete=sum(one.complete for one in standings),
        direction=direction,
    )


def decided_at(pruner: Pruner, *, epoch: int, own: Curve) -> int | None:
    """At which epoch others are looked at, once a configuration has reported; None where no decision is due.

    Args:
        epoch: the one just reported; `own` has a value there. Later ones do not count.
    """
    assert epoch in own, f"no value at epoch {epoch}"
    if isinstance(pruner, Asha):
        rung = _highest_rung(pruner, epoch)
        return rung if rung is not None and _is_first_from(rung, epoch, own) else None
    since_first = epoch - (pruner.warmup_epochs + 1)
    if since_first < 0 or not _is_first_from(epoch - since_first % pruner.interval_epochs, epoch, own):
        return None
    return epoch


def standing(pruner: Pruner, *, at: int, reported: Reported) -> Standing:
    """What another configuration has to say in a decision at an epoch that `decided_at` gave."""
    if isinstance(pruner, Asha):
        return Standing(value=_value_from(at, reported.curve), complete=reported.complete)
    return Standing(value=reported.curve.get(at) if reported.complete else None, complete=reported.complete)


def decision(
    pruner: Pruner, *, epoch: int, own: Curve, competing: Sequence[float], complete: int, direction: Direction
) -> str | None:
    """The decision that is due at an epoch, as `stop_reason` returns it.

    Args:
        epoch: the one just reported.
        own: may have later epochs, which do not count.
        competing: the values of the standings of all others that have one, in ascending order.
        complete: how many of the others are complete.
    """
    if isinstance(pruner, Asha):
        return _asha(pruner, epoch, own[epoch], competing, direction)
    so_far = [value for reported, value in own.items() if reported <= epoch]
    return _median(pruner, epoch, so_far, competing, complete, direction)


def can_act(pruner: Pruner, *, epochs: int, every: int) -> bool:
    """Whether a pruner can ever stop a trial before its last epoch, given enough configurations.

    Args:
        epochs: of a trial; 1 or more.
        every: a trial is evaluated at the multiples of this and after its last epoch; 1 or more.
    """
    last_chance = (epochs - 1) // every * every
    first_due = pruner.min_epochs if isinstance(pruner, Asha) else pruner.warmup_epochs + 1
    return last_chance >= first_due


def _mean(values: list[float]) -> float:
    """Rounded once, so that equal values have that value as their mean and a tie stays one; `fmean` rounds twice.

    The exact sum takes some microseconds, which sweeps with one seed need not pay.
    """
    return values[0] if len(values) == 1 else statistics.mean(values)


def _asha(pruner: Asha, epoch: int, own: float, competing: Sequence[float], direction: Direction) -> str | None:
    count = len(competing) + 1
    kept = max(1, count // pruner.reduction_factor)
    with_own = [*competing]
    bisect.insort(with_own, own)
    if not _is_worse(own, with_own[-kept] if direction == "maximize" else with_own[kept - 1], direction):
        return None
    return f"asha: {own:.6g} at epoch {epoch} is not among the best {kept} of {count}"


def _highest_rung(pruner: Asha, epoch: int) -> int | None:
    """The last rung up to an epoch. By multiplication: the float log of 1000 to base 10 is below 3."""
    rung = pruner.min_epochs
    if epoch < rung:
        return None
    while rung * pruner.reduction_factor <= epoch:
        rung *= pruner.reduction_factor
    return rung


def _value_from(epoch: int, curve: Curve) -> float | None:
    """The value at the first evaluated epoch from this one on, if there is one yet."""
    first = min((reported for reported in curve if reported >= epoch), default=None)
    return None if first is None else curve[first]


def _median(
    pruner: Median, epoch: int, own: Sequence[float], competing: Sequence[float], complete: int, direction: Direction
) -> str | None:
    if complete < pruner.startup_trials or not competing:
        return None
    best = max(own) if direction == "maximize" else min(own)
    median = statistics.median(competing)
    if not _is_worse(best, median, direction):
        return None
    count = len(competing)
    return f"median: {best:.6g}, the best up to epoch {epoch}, is worse than {median:.6g}, the median of {count}"


def _is_first_from(first: int, epoch: int, curve: Curve) -> bool:
    """Whether an epoch of a curve is its only one from `first` up to itself."""
    return sum(first <= reported <= epoch for reported in curve) == 1


def _is_worse(value: float, than: float, direction: Direction) -> bool:
    return value < than if direction == "maximize" else value > than


def _check_at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ValueError(f"got {value} for {name}; expected {least} or more")
