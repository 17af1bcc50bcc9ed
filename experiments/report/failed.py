"""The trials that failed, by what went wrong, with the end of what each wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.report.entries import Entry
from experiments.trial import TrialState
from experiments.view import cell_text

MAX_LOGS = 20
"""Of so many failures the end of the log is shown, those of different kinds first."""
LOG_LINES = 40
LOG_BYTES = 16_384
LINE_CHARACTERS = 500


@dataclass(frozen=True)
class FailedTrial:
    """A trial that failed.

    Attributes:
        kind: its stop reason.
        tail: the last lines of its log; empty where it has none, or others are shown.
    """

    number: int
    text: str
    kind: str
    attempts: int
    epochs: int
    tail: str


def failed_trials(entries: Sequence[Entry]) -> list[FailedTrial]:
    """All that failed, those with a log shown first, by kind and number."""
    failed = [entry for entry in entries if entry.state is TrialState.FAIL]
    with_log = {entry.plan.signature for entry in _spread(failed)[:MAX_LOGS]}
    found = []
    for entry in failed:
        assert entry.trial is not None
        assert entry.result is not None
        has_log = entry.plan.signature in with_log
        found.append(
            FailedTrial(
                number=entry.trial.number,
                text=cell_text(entry.plan),
                kind=entry.result.stop_reason,
                attempts=entry.result.attempts,
                epochs=entry.result.epochs,
                tail=log_tail(entry.trial.paths.log) if has_log else "",
            )
        )
    return sorted(found, key=lambda trial: (not trial.tail, trial.kind, trial.number))


def _spread(failed: Sequence[Entry]) -> list[Entry]:
    """The first of each kind, then the second of each, and so on."""
    seen: dict[str, int] = {}
    ranks = []
    for entry in failed:
        assert entry.result is not None
        kind = entry.result.stop_reason
        ranks.append(seen.setdefault(kind, 0))
        seen[kind] += 1
    return [entry for _, entry in sorted(zip(ranks, failed, strict=True), key=lambda pair: pair[0])]


def log_tail(path: Path) -> str:
    """The last lines of a log, long ones cut; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.splitlines()[-LOG_LINES:]
    return "\n".join(line if len(line) <= LINE_CHARACTERS else line[:LINE_CHARACTERS] + " …" for line in lines)
