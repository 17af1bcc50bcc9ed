"""A sweep's tables: a row a trial, and a row a trial and class. From files to rows; printing is elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report.csv_file import write_csv
from experiments.report.entries import Entry
from experiments.report.equal_metrics import equal_metrics
from experiments.spec import SweepSpec
from experiments.store import SweepStore, TrialResult
from experiments.trial import TrialState
from wsol.metrics.names import metrics_of

MEMORY_COLUMNS = ("gpu_memory_gb", "host_memory_gb")
"""Peaks. Like durations they differ a little each time."""


def ranked(entries: Sequence[Entry], *, metric: str, direction: str) -> list[Entry]:
    """The search before the final stage, whose figures are of another split; in each of them the best first.

    Without a value last. Equal values keep the order given.
    """
    sign = -1.0 if direction == "maximize" else 1.0

    def key(entry: Entry) -> tuple[bool, float]:
        value = entry.metric(metric)
        return entry.plan.stage == "final", math.inf if value is None else sign * value

    return sorted(entries, key=key)


def metric_names(spec: SweepSpec) -> list[str]:
    """What the spec's trials are measured by, the objective's metric first."""
    objective = spec.objective.metric.partition("/")[0]
    kinds = dict.fromkeys((plan.config.task, plan.config.evaluate.metrics) for plan in spec.corners)
    names = dict.fromkeys(name for task, _ in kinds for name in metrics_of(task))
    names |= dict.fromkeys(name for _, extra in kinds for name in extra)
    return sorted(names, key=lambda name: name != objective)


def class_names(entries: Sequence[Entry]) -> list[str]:
    """The classes that the results speak of, in their order."""
    names = {
        name.partition("/")[2]: None for entry in entries if entry.result is not None for name in entry.result.metrics
    }
    names.pop("mean", None)
    return list(names)


def write_tables(store: SweepStore, spec: SweepSpec, entries: Sequence[Entry]) -> None:
    """Writes leaderboard.csv and per_class_ap.csv, the best trial of the search first."""
    order = ranked(entries, metric=spec.objective.metric, direction=spec.objective.direction)
    metrics = metric_names(spec)
    same = _numbers_with_the_same_metrics(order)
    write_csv(
        store.leaderboard,
        ["trial", "signature", "stage", "split", "state", "stop_reason", "attempts", "seed", *spec.swept_keys]
        + [f"{metric}/mean" for metric in metrics]
        + ["duration_s", "reused_from", "same_metrics_as", *MEMORY_COLUMNS],
        [
            [
                *_leaderboard_row(entry, spec.swept_keys, metrics),
                same.get(entry.trial.number, ""),
                *_memory(entry.result),
            ]
            for entry in order
            if entry.trial is not None
        ],
    )
    write_per_class(store.per_class, order, metrics)


def write_per_class(path: Path, order: Sequence[Entry], metrics: Sequence[str]) -> None:
    """Writes a CSV file with a row for each complete trial and class, trials in the order given."""
    classes = class_names(order)
    write_csv(
        path,
        ["trial", "signature", "split", "class", *metrics],
        (
            [
                entry.trial.number,
                entry.trial.signature[:8],
                entry.plan.config.data.eval,
                name,
                *(entry.metric(f"{metric}/{name}") for metric in metrics),
            ]
            for entry in order
            if entry.trial is not None and entry.state is TrialState.COMPLETE
            for name in classes
        ),
    )


def _leaderboard_row(entry: Entry, swept_keys: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    assert entry.trial is not None
    result = entry.result
    return [
        entry.trial.number,
        entry.trial.signature[:8],
        entry.plan.stage,
        entry.plan.config.data.eval,
        entry.state.value,
        result.stop_reason if result else "",
        result.attempts if result else "",
        entry.plan.config.seed,
        *(csv_value(entry.plan.value(key)) if entry.plan.reads(key) else "" for key in swept_keys),
        *(entry.metric(f"{metric}/mean") for metric in metrics),
        result.duration_s if result else "",
        result.reused_from if result else "",
    ]


def _memory(result: TrialResult | None) -> list[str]:
    """The peaks in 10^9 bytes, each empty where it was not measured."""
    usage = result.usage if result else None
    peaks = [usage.device_bytes, usage.host_bytes] if usage else [0, 0]
    return [f"{peak / 1e9:.3f}" if peak else "" for peak in peaks]


def _numbers_with_the_same_metrics(entries: Sequence[Entry]) -> dict[int, str]:
    """For each trial that has such, the numbers of the others whose metrics are the same to the last bit."""
    groups = [sorted(entry.trial.number for entry in group if entry.trial) for group in equal_metrics(entries)]
    return {number: " ".join(str(other) for other in group if other != number) for group in groups for number in group}


def csv_value(value: Any) -> Any:
    """Lists and mappings as JSON, so that a cell can be read back; None as empty."""
    return json.dumps(value) if isinstance(value, (list, tuple, Mapping)) else value
