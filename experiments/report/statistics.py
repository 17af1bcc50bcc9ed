"""What a sweep has found, with its uncertainty: the best configurations, those tied with them, the best per class.

Made from the results folder. docs/statistics.md says how each figure is computed and what it means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.report.answer import answer, beside_others, more_seeds
from experiments.report.class_choice import cross_fitted_gain
from experiments.report.comparison import (
    LEVEL,
    all_pairs,
    corrected_p_values,
    difference,
    holm,
    seeds_needed,
)
from experiments.report.entries import Entry
from experiments.report.figures import MEAN, Figures, ReadRecord, figures
from experiments.report.intervals import Estimates, Floats, Interval, intervals
from experiments.report.match_records import RecordReader
from experiments.report.resampling import Resampling
from experiments.seed_rounds import level_of_a_look
from experiments.spec import SweepSpec
from experiments.trial import TrialState
from experiments.view import configuration_text, counted

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
        p_value: corrected for all pairs of configurations that could have been the best and this one, and for all looks
            of a sweep whose seeds were added until it was decided.
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


def sweep_statistics(
    spec: SweepSpec, entries: Sequence[Entry], *, resampling: Resampling | None = None
) -> SweepStatistics:
    """The statistics of the search. The same files give the same figures.

    Args:
        entries: all trials of the spec; those of the final stage do not count.
        resampling: of the images.
    """
    resampling = resampling or Resampling()
    reader = RecordReader(spec.objective.metric.partition("/")[0], resampling)
    return statistics_of(spec, entries, read=reader.read, resampling=resampling)


def statistics_of(
    spec: SweepSpec, entries: Sequence[Entry], *, read: ReadRecord, resampling: Resampling
) -> SweepStatistics:
    """The same with the trials' records from anywhere."""
    objective = spec.objective
    groups, warnings = _complete(entries, metric=objective.metric)
    if not groups:
        return _nothing(spec, warnings)
    sign = -1.0 if objective.direction == "minimize" else 1.0
    order = sorted(groups, key=lambda group: -sign * float(np.mean(_values(group, objective.metric))))
    metric, _, name = objective.metric.partition("/")
    found, why_not = figures(order, metric, read=read, resampling=resampling)
    if why_not:
        warnings.append(f"the intervals cover seeds alone, not images: {why_not}")
    _, estimates = found.estimates(name)
    configurations = _configurations(found, name)
    looks = LEVEL / level_of_a_look(spec)
    comparisons = _comparisons(configurations, estimates, sign=sign, looks=looks)
    tied = (configurations[0].key, *(one.key for one in comparisons if one.tied))
    is_known = configurations[0].seeds > 1
    names = {group[0].plan.configuration: configuration_text(group[0].plan) for group in order}
    warnings += _about_seeds(configurations, comparisons, estimates, names)
    return SweepStatistics(
        metric=objective.metric,
        direction=objective.direction,
        split=_split(order),
        configurations=configurations,
        best=configurations[0],
        comparisons=comparisons,
        tied=tied,
        choice=_choice(found, configurations, sign=sign) if name == MEAN else None,
        warnings=tuple(warnings),
        sentence=answer(
            metric=objective.metric,
            split=_split(order),
            name=names[configurations[0].key],
            value=configurations[0].value,
            interval=configurations[0].objective,
            seeds=configurations[0].seeds,
        )
        + beside_others([names[key] for key in tied[1:]], worse=len(configurations) - len(tied), is_known=is_known),
    )


def _nothing(spec: SweepSpec, warnings: Sequence[str]) -> SweepStatistics:
    return SweepStatistics(
        metric=spec.objective.metric,
        direction=spec.objective.direction,
        split="",
        configurations=(),
        best=None,
        comparisons=(),
        tied=(),
        choice=None,
        warnings=tuple(warnings),
        sentence="No configuration is complete yet.",
    )


def _split(order: Sequence[Sequence[Entry]]) -> str:
    return " + ".join(dict.fromkeys(group[0].plan.config.data.eval for group in order))


def _complete(entries: Sequence[Entry], *, metric: str) -> tuple[list[list[Entry]], list[str]]:
    """The entries of each configuration that is complete, and a warning for each reason why others are not."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.plan.stage == "search":
            groups.setdefault(entry.plan.configuration, []).append(entry)
    found, reasons = [], Counter[str]()
    for group in groups.values():
        reason = _why_left_out(group, metric=metric)
        reasons[reason] += 1
        if not reason:
            found.append(sorted(group, key=lambda entry: entry.plan.config.seed))
    del reasons[""]
    return found, [f"left out: {counted(count, 'configuration')} {reason}" for reason, count in reasons.items()]


def _why_left_out(group: Sequence[Entry], *, metric: str) -> str:
    states = {entry.state for entry in group}
    if TrialState.FAIL in states:
        return "with a failed trial"
    if TrialState.PRUNED in states:
        return "that was pruned"
    if states != {TrialState.COMPLETE}:
        return "of which not all seeds are complete"
    return f"without {metric}" if any(entry.metric(metric) is None for entry in group) else ""


def _values(group: Sequence[Entry], name: str) -> Floats:
    return np.array([entry.metric(name) for entry in group], np.float64)


def _configurations(found: Figures, name: str) -> tuple[Configuration, ...]:
    known = {figure: _intervals(found, figure) for figure in dict.fromkeys([name, MEAN, *found.classes])}
    return tuple(
        Configuration(
            key=group[0].plan.configuration,
            swept=group[0].plan.swept,
            trials=tuple(entry.trial.number for entry in group if entry.trial is not None),
            seeds=len(group),
            objective=known[name][index],
            mean=known[MEAN][index],
            per_class={label: known[label][index] for label in found.classes},
            values=tuple(_values(group, f"{found.metric}/{name}").tolist()),
        )
        for index, group in enumerate(found.groups)
    )


def _intervals(found: Figures, name: str) -> list[Interval | None]:
    """Of one figure, of each configuration."""
    result: list[Interval | None] = [None] * len(found.groups)
    defined, estimates = found.estimates(name)
    for index, interval in zip(defined, intervals(estimates), strict=True):
        result[index] = interval
    return result


def _comparisons(
    configurations: Sequence[Configuration], estimates: Estimates, *, sign: float, looks: float
) -> tuple[Comparison, ...]:
    """Of all with the first.

    Args:
        looks: what p-values are multiplied by, since seeds were added until the results were clear.
    """
    p_values = corrected_p_values(estimates, 0, generator=np.random.default_rng(0))
    compared = []
    for index, one in enumerate(configurations[1:], start=1):
        apart = difference(estimates, 0, index)
        if sign < 0:
            apart = Interval(-apart.estimate, -apart.high, -apart.low)
        p_value = min(1.0, looks * float(p_values[index]))
        compared.append(Comparison(key=one.key, difference=apart, p_value=p_value, tied=p_value > LEVEL))
    return tuple(compared)


def _about_seeds(
    configurations: Sequence[Configuration],
    comparisons: Sequence[Comparison],
    estimates: Estimates,
    names: Mapping[str, str],
) -> list[str]:
    """Where there are too few to say."""
    single = sum(one.seeds == 1 for one in configurations)
    if single:
        have = f"{counted(single, 'configuration')} {'has' if single == 1 else 'have'} one seed"
        return [f"too few seeds to say how much of a difference is chance: {have} (seeds: 3, or more)"]
    first = next((index for index, one in enumerate(comparisons, start=1) if one.tied), None)
    if first is None:
        return []
    seeds = seeds_needed(estimates, 0, first)
    first_name, second_name = names[configurations[0].key], names[configurations[first].key]
    return [more_seeds(first=first_name, second=second_name, seeds=seeds, now=configurations[0].seeds)]


def _choice(found: Figures, configurations: Sequence[Configuration], *, sign: float) -> ClassChoice | None:
    if len(found.classes) < 2 or len(configurations) < 2:
        return None
    best = {name: _best_of(found, name, configurations, sign=sign) for name in found.classes}
    by_class = found.by_class()
    gain = None
    if by_class is not None and by_class.values.shape[1]:
        gain = cross_fitted_gain(by_class, sign=sign, generator=np.random.default_rng(1))
    return ClassChoice(best=best, gain=gain, note=_note(gain, configurations))


def _best_of(found: Figures, name: str, configurations: Sequence[Configuration], *, sign: float) -> tuple[str, ...]:
    """The configurations that may be the best of a class, that with the best mean first; none where it is undefined."""
    defined, estimates = found.estimates(name)
    if not defined:
        return ()
    order = np.argsort(-sign * estimates.means, kind="stable")
    best = int(order[0])
    pairs = all_pairs(estimates)
    corrected = holm(pairs.p_values)
    worse: set[int] = set()
    for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        worse |= set(other[(one == best) & (corrected <= LEVEL)].tolist())
    return tuple(configurations[defined[index]].key for index in order.tolist() if index not in worse)


def _note(gain: Interval | None, configurations: Sequence[Configuration]) -> str:
    if gain is None:
        return "what choosing per class would gain is not known: images were not resampled"
    once = "" if all(one.seeds > 1 for one in configurations) else "; with one seed some of it is chance of the seed"
    if gain.low > 0:
        return f"choosing per class would gain {gain.estimate:.4f} (95 % {gain.low:.4f} to {gain.high:.4f}){once}"
    return f"choosing per class gains nothing that shows ({gain.estimate:+.4f}, 95 % {gain.low:.4f} to {gain.high:.4f})"
