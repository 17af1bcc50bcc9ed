"""Trials that differ in their configs and not in their metrics: a swept key may not have reached the trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from experiments.report.entries import Entry
from experiments.trial import TrialState
from experiments.validation_messages import leaf_keys
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig

_KEYS = [key for key in leaf_keys(ExperimentConfig) if key not in RESULT_NEUTRAL_KEYS]


def equal_metrics(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Groups of two or more complete trials whose metrics are the same to the last bit, in the order given.

    Replicates are among them: another seed must show, too.
    """
    groups: dict[tuple[str, bytes], list[Entry]] = {}
    for entry in entries:
        if entry.trial is not None and entry.result is not None and entry.state is TrialState.COMPLETE:
            metrics = entry.result.metrics
            if any(value is not None for value in metrics.values()):
                groups.setdefault((entry.plan.config.data.eval, _digest(metrics)), []).append(entry)
    return [group for group in groups.values() if len(group) > 1]


def _digest(metrics: Mapping[str, float | None]) -> bytes:
    """Stands for them: 20,000 trials with hundreds of metrics each would fill the memory."""
    return hashlib.sha256(repr(sorted(metrics.items())).encode()).digest()


def differing_keys(group: Sequence[Entry]) -> list[str]:
    """The dotted config keys in which some trials of a group differ."""
    return [key for key in _KEYS if any(e.plan.value(key) != group[0].plan.value(key) for e in group[1:])]
