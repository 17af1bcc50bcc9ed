"""`python runner.py status SPEC`: how far a sweep has come, read from its folder while it runs or afterwards."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from experiments.errors import printable
from experiments.lock import Holder, holder
from experiments.metrics_file import read_metrics
from experiments.report.entries import Entry, entries
from experiments.report.failed import log_tail
from experiments.report.leaderboard import ranked
from experiments.spec import SweepSpec
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore
from experiments.time_estimate import estimate, footprints, history
from experiments.timeline import AttemptSpan, read_timeline
from experiments.trial import TrialState
from experiments.view import cell_text, counted, duration_text, epoch_text

MAX_FAILURES = 10
"""So many failed trials are named."""


@dataclass(frozen=True)
class StatusOptions:
    """The command line of `status`.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()


def status(file: Path, options: StatusOptions) -> int:
    """Prints where a sweep stands.

    Returns:
        The exit status: 0.

    Raises:
        UserError: for a fault in the spec or the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    spec = load_spec_of_sweep(file, options.settings, options.results)
    store = SweepStore(options.results / spec.name)
    console = Console(soft_wrap=not sys.stdout.isatty())
    for line in status_lines(spec, store, results=options.results, now=time.time):
        console.print(Text(printable(line)))
    return 0


def status_lines(spec: SweepSpec, store: SweepStore, *, results: Path, now: Callable[[], float]) -> list[str]:
    """What `status` prints, line by line.

    Args:
        results: folder of all sweeps, for what trials take.
        now: seconds since 1970.
    """
    found = entries(spec, store)
    runner = holder(store.lock)
    running = _running(found, store) if runner is not None else []
    return [
        f"sweep {spec.name} in {store.folder}: {_runner_text(runner)}",
        _counts_line(spec, found, running, results),
        *_best_lines(spec, found),
        *_running_lines(spec, running, now()),
        *_failure_lines(found),
    ]


def _runner_text(runner: Holder | None) -> str:
    if runner is None:
        return "nobody runs it now"
    return f"run by {runner.label}" + (
        "" if runner.is_alive() else ", if it has not ended: it cannot be seen from here"
    )


def _running(found: Sequence[Entry], store: SweepStore) -> list[tuple[Entry, AttemptSpan]]:
    """The trials on a slot, by slot."""
    unfinished = {entry.trial.number: entry for entry in found if entry.trial is not None and entry.result is None}
    newest: dict[int, AttemptSpan] = {span.trial: span for span in read_timeline(store.timeline)}
    on_a_slot = [span for span in newest.values() if span.ended is None and span.trial in unfinished]
    latest_of_slot = {span.slot: span for span in sorted(on_a_slot, key=lambda span: span.began)}
    return [(unfinished[span.trial], span) for _, span in sorted(latest_of_slot.items())]


def _counts_line(
    spec: SweepSpec, found: Sequence[Entry], running: Sequence[tuple[Entry, AttemptSpan]], results: Path
) -> str:
    counts = Counter(entry.state for entry in found)
    finished = sum(count for state, count in counts.items() if state.is_finished)
    states = [f"{counts[state]} {word}" for state, word in _WORDS.items() if counts[state]]
    waiting = spec.total - finished - len(running)
    parts = [f"{finished} of {counted(spec.total, 'trial')} finished" + (f" ({', '.join(states)})" if states else "")]
    parts += [f"{len(running)} running"] if running else []
    parts += [f"{waiting} waiting"] if waiting else []
    if running and (left := _left_text(spec, found, running, results)):
        parts.append(left)
    return ", ".join(parts)


_WORDS: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def _left_text(
    spec: SweepSpec, found: Sequence[Entry], running: Sequence[tuple[Entry, AttemptSpan]], results: Path
) -> str:
    left = [entry.plan for entry in found if entry.result is None]
    guess = estimate(
        left, footprints(history(found, results)), slots=len(running), unchosen=max(0, spec.total - len(found))
    )
    return f"about {duration_text(guess.total_s)} left" if guess.finished else ""


def _best_lines(spec: SweepSpec, found: Sequence[Entry]) -> list[str]:
    search = [entry for entry in found if entry.plan.stage == "search" and entry.state is TrialState.COMPLETE]
    order = ranked(search, metric=spec.objective.metric, direction=spec.objective.direction)
    if not order or (value := order[0].metric(spec.objective.metric)) is None:
        return []
    assert order[0].trial is not None
    number, text = order[0].trial.number, cell_text(order[0].plan)
    return [f"best so far: {spec.objective.metric} {value:.4f}, trial {number}: {text}"]


def _running_lines(spec: SweepSpec, running: Sequence[tuple[Entry, AttemptSpan]], now: float) -> list[str]:
    lines = []
    for entry, span in running:
        assert entry.trial is not None
        rows = read_metrics(entry.trial.paths)
        again = f", attempt {span.attempt}" if span.attempt > 1 else ""
        course = f"epoch {len(rows)}/{entry.plan.config.train.epochs}"
        figures = f", {epoch_text(rows[-1], spec.objective.metric)}" if rows else ""
        since = duration_text(max(0.0, now - span.began))
        lines.append(f"  {span.place}: trial {span.trial}{again}: {cell_text(entry.plan)}; {course}{figures}; {since}")
    return lines


def _failure_lines(found: Sequence[Entry]) -> list[str]:
    failed = [entry for entry in found if entry.state is TrialState.FAIL]
    lines = []
    for entry in failed[:MAX_FAILURES]:
        assert entry.trial is not None
        assert entry.result is not None
        last = log_tail(entry.trial.paths.log).strip().rpartition("\n")[2]
        reason = f": {last}" if last else ""
        lines.append(f"  failed: trial {entry.trial.number} ({entry.result.stop_reason}){reason}")
    if len(failed) > MAX_FAILURES:
        lines.append(f"  failed: {len(failed) - MAX_FAILURES} more, see runner.py report")
    if failed:
        lines.append("  --retry-failed runs failed trials again")
    return lines
