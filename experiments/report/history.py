"""What a trial's metrics.jsonl tells of its course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.metrics_file import read_metrics
from experiments.report.entries import Entry
from experiments.trial import TrialState


@dataclass(frozen=True)
class Curve:
    """A trial's metric at the epochs where it was evaluated.

    Attributes:
        epochs: from 1, ascending.
        values: of the metric, one for each; None where it is undefined.
        losses: likewise; None where there was none.
        last_epoch: that was trained.
        seen_at: when the last epoch ended, seconds since 1970; 0 where that is not known.
    """

    number: int
    state: TrialState
    epochs: tuple[int, ...]
    values: tuple[float | None, ...]
    losses: tuple[float | None, ...]
    last_epoch: int
    seen_at: float


def curves(entries: Sequence[Entry], *, metric: str) -> list[Curve]:
    """Of every trial that has trained an epoch."""
    found = []
    for entry in entries:
        if entry.trial is None:
            continue
        rows = read_metrics(entry.trial.paths)
        if not rows:
            continue
        evaluated = [row for row in rows if row.get("metrics")]
        found.append(
            Curve(
                number=entry.trial.number,
                state=entry.state,
                epochs=tuple(int(row["epoch"]) for row in evaluated),
                values=tuple(row["metrics"].get(metric) for row in evaluated),
                losses=tuple(row.get("loss") for row in evaluated),
                last_epoch=int(rows[-1]["epoch"]),
                seen_at=float(rows[-1].get("time", 0.0)),
            )
        )
    return found
