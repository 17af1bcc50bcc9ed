"""What a sweep has found, with its uncertainty: the best configurations, those tied with them, the best per class.

Made from the results folder. docs/statistics.md says how each figure is computed and what it means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.report.answer import sentence_of
from experiments.report.entries import Entry
from experiments.report.intervals import Floats, Interval, estimate, intervals
from experiments.report.leaderboard import class_names
from experiments.spec import SweepSpec
from experiments.trial import TrialState

__all__ = ["ClassChoice", "Comparison", "Configuration", "Interval", "SweepStatistics", "sweep_statistics"]


@dataclass(frozen=True)
class Configuration:
    """A configuration of the search all of whose seeds are complete.

    Attributes:
        key: see `TrialPlan.configuration`.
        swept: the swept keys that it has, with its values.
        trials: numbers, by seed.
        seeds: how many.
        objective: of the objective, which the order is by. Equal to `mean` where that is the objective.
        mean: of the metric's mean over classes.
        per_class: of the metric's value of each class; None where it is undefined, or nothing tells how sure it is.
        values: of the objective, one a seed, in the order of `trials`.
    """

    key: str
    swept: Mapping[str, Any]
    trials: tuple[int, ...]
    seeds: int
    objective: Interval | None
    mean: Interval | None
    per_class: Mapping[str, Interval | None]
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """Of the objective: the mean over the seeds."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Comparison:
    """A configuration beside the best.

    Attributes:
        key: of the configuration.
        difference: by how much the best is better, on the same images; greater than 0 where it is, whatever the
            direction. The interval is of this pair alone: `p_value` takes account of all.
        p_value: corrected for all pairs of configurations that could have been the best and this one.
        tied: whether it may well be as good as the best.
    """

    key: str
    difference: Interval
    p_value: float
    tied: bool


@dataclass(frozen=True)
class ClassChoice:
    """What could be had by choosing a configuration for each class by itself.

    Attributes:
        best: of each class the keys of the configurations tied for the best, first the best.
        gain: of the mean over classes over that of the best configuration; None where it cannot be told.
        note: what the gain is worth, in words.
    """

    best: Mapping[str, tuple[str, ...]]
    gain: Interval | None
    note: str


@dataclass(frozen=True)
class SweepStatistics:
    """The answer of a sweep.

    Attributes:
        metric: the objective, such as `ap50_11pt/mean`.
        direction: maximize or minimize.
        split: the figures are of; several are joined by ` + `.
        configurations: those with all seeds complete, the best first.
        best: the first of them.
        comparisons: of all others with it, in their order; empty where none could be made.
        tied: keys of the configurations that may well be as good as the best, itself first.
        choice: None where there is one class or one configuration.
        warnings: what limits all this, a sentence each.
        sentence: the answer in one sentence, with its uncertainty.
    """

    metric: str
    direction: str
    split: str
    configurations: tuple[Configuration, ...]
    best: Configuration | None
    comparisons: tuple[Comparison, ...]
    tied: tuple[str, ...]
    choice: ClassChoice | None
    warnings: tuple[str, ...]
    sentence: str


def sweep_statistics(spec: SweepSpec, entries: Sequence[Entry]) -> SweepStatistics:
    """The statistics of the search.

    Args:
        entries: all trials of the spec; those of the final stage do not count.
    """
    metric = spec.objective.metric
    search = [entry for entry in entries if entry.plan.stage == "search"]
    complete, left_out = _complete(search, metric=metric)
    sign = -1.0 if spec.objective.direction == "minimize" else 1.0
    order = sorted(complete, key=lambda group: -sign * _mean(group, metric))
    configurations = _configurations(order, metric=metric)
    warnings = [*left_out, *_few_seeds(configurations)]
    if configurations:
        warnings.append("the intervals cover seeds alone: no images were resampled")
    best = configurations[0] if configurations else None
    return SweepStatistics(
        metric=metric,
        direction=spec.objective.direction,
        split=" + ".join(dict.fromkeys(group[0].plan.config.data.eval for group in order)),
        configurations=configurations,
        best=best,
        comparisons=(),
        tied=(best.key,) if best else (),
        choice=None,
        warnings=tuple(warnings),
        sentence=sentence_of(metric),
    )


def _complete(search: Sequence[Entry], *, metric: str) -> tuple[list[list[Entry]], list[str]]:
    """The entries of each configuration that is complete, and a warning for each reason why others are not."""
    groups: dict[str, list[Entry]] = {}
    for entry in search:
        groups.setdefault(entry.plan.configuration, []).append(entry)
    found, reasons = [], Counter[str]()
    for group in groups.values():
        reason = _why_left_out(group, metric=metric)
        reasons[reason] += 1
        if not reason:
            found.append(sorted(group, key=lambda entry: entry.plan.config.seed))
    return found, [
        f"{count} configuration{'s are' if count > 1 else ' is'} left out: {reason}"
        for reason, count in reasons.items()
        if reason
    ]


def _why_left_out(group: Sequence[Entry], *, metric: str) -> str:
    states = {entry.state for entry in group}
    if TrialState.FAIL in states:
        return "a trial failed"
    if TrialState.PRUNED in states:
        return "pruned"
    if states != {TrialState.COMPLETE}:
        return "not all seeds are complete"
    return f"{metric} is undefined" if any(entry.metric(metric) is None for entry in group) else ""


def _mean(group: Sequence[Entry], metric: str) -> float:
    return float(np.mean(_values(group, metric)))


def _values(group: Sequence[Entry], name: str) -> Floats:
    return np.array([entry.metric(name) for entry in group], np.float64)  # None becomes NaN


def _configurations(order: Sequence[Sequence[Entry]], *, metric: str) -> tuple[Configuration, ...]:
    base = metric.partition("/")[0]
    classes = class_names([entry for group in order for entry in group])
    names = dict.fromkeys([metric, f"{base}/mean", *(f"{base}/{name}" for name in classes)])
    found = {name: _intervals(order, name) for name in names}
    return tuple(
        Configuration(
            key=group[0].plan.configuration,
            swept=group[0].plan.swept,
            trials=tuple(entry.trial.number for entry in group if entry.trial is not None),
            seeds=len(group),
            objective=found[metric][index],
            mean=found[f"{base}/mean"][index],
            per_class={name: found[f"{base}/{name}"][index] for name in classes},
            values=tuple(_values(group, metric).tolist()),
        )
        for index, group in enumerate(order)
    )


def _intervals(order: Sequence[Sequence[Entry]], name: str) -> list[Interval | None]:
    """Of one figure, of each configuration that has it for every seed."""
    values = [_values(group, name) for group in order]
    defined = [index for index, one in enumerate(values) if not np.isnan(one).any()]
    found: list[Interval | None] = [None] * len(order)
    if defined:
        for index, interval in zip(
            defined, intervals(estimate([values[i] for i in defined], None, images=0)), strict=True
        ):
            found[index] = interval
    return found


def _few_seeds(configurations: Sequence[Configuration]) -> list[str]:
    single = sum(one.seeds == 1 for one in configurations)
    if not single:
        return []
    return [f"{single} configurations have one seed: too few to say how much of a difference is chance"]
