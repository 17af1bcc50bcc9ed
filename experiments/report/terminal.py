"""The leaderboard and the per-class AP table on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from experiments.report.entries import Entry
from experiments.report.equal_metrics import differing_keys, equal_metrics
from experiments.report.leaderboard import class_names, metric_names, ranked
from experiments.spec import SweepSpec
from experiments.trial import Stage, TrialState
from experiments.view import short_names, value_text

if TYPE_CHECKING:
    from experiments.report.statistics import SweepStatistics

MAX_ROWS = 20
BOUND = "proposal_recall50"
"""What every table of classes shows beside its metric."""
_FIGURE_WIDTH = len("0.0000")
MAX_WIDTH = 10_000
"""Columns of a terminal on which every table fits."""
MAX_METRICS = 4
MAX_TRIALS_PER_CLASS = 6
MAX_NUMBERS = 10
"""So many trials of a group are named in a warning."""


def print_report(
    console: Console, spec: SweepSpec, entries: Sequence[Entry], *, statistics: SweepStatistics | None = None
) -> None:
    """Both tables, then what they come to; `entries` are all trials of the spec."""
    order = ranked(entries, metric=spec.objective.metric, direction=spec.objective.direction)
    finished = [entry for entry in order if entry.result is not None]
    if not finished:
        console.print("No trial has finished yet.")
        return
    metrics = metric_names(spec)
    for stage, shown in _by_stage(finished):
        console.print(_title(spec, shown, "leaderboard" if stage == "search" else "final stage"))
        print_leaderboard(console, spec, shown, metrics=metrics[:MAX_METRICS], where="in leaderboard.csv")
        complete = [entry for entry in shown if entry.state is TrialState.COMPLETE]
        if complete:
            console.print(_title(spec, complete, f"{metrics[0]} per class"))
            console.print(per_class_table(complete, metric=metrics[0], where="in per_class_ap.csv"))
    for line in _equal_metrics_lines(finished):
        console.print(Text(line))
    if statistics is not None:
        print_statistics(console, statistics)


def print_statistics(console: Console, statistics: SweepStatistics) -> None:
    """The answer in one sentence, what choosing per class would gain, and what limits both."""
    if statistics.best is None:
        return
    console.print(Text(f"\n{statistics.sentence}", style="bold"))
    if statistics.choice is not None and statistics.choice.gain is not None:
        console.print(Text(f"per class: {statistics.choice.note}"))
    for warning in statistics.warnings:
        console.print(Text(f"warning: {warning}"))


def print_measured(console: Console, spec: SweepSpec, order: Sequence[Entry], *, metrics: Sequence[str]) -> None:
    """Both tables of complete trials, the best first, for these metrics; the second for the first of them."""
    for stage, shown in _by_stage(order):
        console.print(_title(spec, shown, "measured again" if stage == "search" else "final stage, measured again"))
        print_leaderboard(console, spec, shown, metrics=metrics, where="with --csv")
        console.print(_title(spec, shown, f"{metrics[0]} per class"))
        console.print(per_class_table(shown, metric=metrics[0], where="with --csv"))


def _by_stage(order: Sequence[Entry]) -> list[tuple[Stage, list[Entry]]]:
    """The search, then the final stage; what has no entry is left out."""
    stages: tuple[Stage, ...] = ("search", "final")
    found = [(stage, [entry for entry in order if entry.plan.stage == stage]) for stage in stages]
    return [(stage, shown) for stage, shown in found if shown]


def _equal_metrics_lines(finished: Sequence[Entry]) -> list[str]:
    """A warning for each group of trials whose metrics do not tell them apart."""
    lines = []
    for group in equal_metrics(finished):
        numbers = sorted(_number(entry) for entry in group)
        shown = ", ".join(map(str, numbers[:MAX_NUMBERS])) + (", ..." if len(numbers) > MAX_NUMBERS else "")
        lines.append(
            f"warning: trials {shown} have the same metrics to the last bit, though they differ in "
            f"{', '.join(differing_keys(group))}: did it reach the trainer?"
        )
    return lines


def print_leaderboard(
    console: Console, spec: SweepSpec, order: Sequence[Entry], *, metrics: Sequence[str], where: str
) -> None:
    """A row a finished trial in the order given, at most `MAX_ROWS`; the caption says where all are.

    A column for each swept key, or one for all of them where the console is too narrow for that.
    """
    table = leaderboard_table(spec, order, metrics=metrics, where=where, keys_apart=True)
    unbounded = console.options.update(width=MAX_WIDTH)
    foldable = sum(max(0, len(metric) - _FIGURE_WIDTH) for metric in metrics)  # headings of figures may fold
    if Measurement.get(console, unbounded, table).maximum - foldable > console.width:
        table = leaderboard_table(spec, order, metrics=metrics, where=where, keys_apart=False)
    console.print(table)


def leaderboard_table(
    spec: SweepSpec, order: Sequence[Entry], *, metrics: Sequence[str], where: str, keys_apart: bool
) -> Table:
    """See `print_leaderboard`. Not `keys_apart`: one column has the keys that each trial's own block sweeps."""
    names = short_names(spec.swept_keys)
    table = Table(caption_justify="left")
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names.values() if keys_apart else []:
        table.add_column(Text(name), justify="right", overflow="fold")
    if not keys_apart:
        table.add_column("configuration", overflow="fold", min_width=17)
    several_seeds = len({entry.plan.config.seed for entry in order}) > 1
    if several_seeds:
        table.add_column("seed", justify="right", min_width=4)
    for metric in metrics:
        table.add_column(Text(metric), justify="right", overflow="fold", min_width=_FIGURE_WIDTH)
    table.add_column("time", justify="right", no_wrap=True)
    for entry in order[:MAX_ROWS]:
        assert entry.trial is not None
        assert entry.result is not None
        if keys_apart:
            swept = [value_text(entry.plan.value(key)) if entry.plan.reads(key) else "" for key in names]
        else:
            swept = [" ".join(f"{names[key]}={value_text(value)}" for key, value in entry.plan.swept.items())]
        seed = [str(entry.plan.config.seed)] if several_seeds else []
        if entry.state is TrialState.COMPLETE:
            figures = [_figure(entry.metric(f"{metric}/mean")) for metric in metrics]
        else:
            figures = [f"{entry.state}: {entry.result.stop_reason.partition(':')[0]}", *[""] * (len(metrics) - 1)]
        cells = [str(entry.trial.number), *swept, *seed, *figures, f"{entry.result.duration_s:.0f} s"]
        table.add_row(*(Text(cell) for cell in cells), style="bold" if entry is order[0] else None)
    if len(order) > MAX_ROWS:
        table.caption = f"{len(order) - MAX_ROWS} more {where}"
    return table


def per_class_table(order: Sequence[Entry], *, metric: str, where: str) -> Table:
    """A row a class, a column for each of the best trials; each class's best is bold.

    The last column is the recall of the first trial's proposals, where it was measured: more objects cannot be found.
    """
    names = [*class_names(order), "mean"]
    with_bound = metric != BOUND and any(order[0].metric(f"{BOUND}/{name}") is not None for name in names)
    shown = order[: MAX_TRIALS_PER_CLASS - with_bound]
    table = Table(caption_justify="left")
    table.add_column("class")
    for entry in shown:
        table.add_column(f"trial {_number(entry)}", justify="right")
    if with_bound:
        table.add_column("proposals", justify="right", style="dim")
    for name in names:
        values = [entry.metric(f"{metric}/{name}") for entry in shown]
        best = max((value for value in values if value is not None), default=None)
        cells = [Text(_figure(value), style="bold" if value is not None and value == best else "") for value in values]
        bound = [Text(_figure(order[0].metric(f"{BOUND}/{name}")))] if with_bound else []
        table.add_row(Text(name), *cells, *bound)
    notes = [f"the best {len(shown)} of {len(order)} trials; all {where}"] if len(order) > len(shown) else []
    if with_bound:
        notes.append(f"proposals: {BOUND} of trial {_number(order[0])}, the share of objects that one of them fits")
    table.caption = "\n".join(notes) or None
    return table


def _number(entry: Entry) -> int:
    assert entry.trial is not None
    return entry.trial.number


def _title(spec: SweepSpec, shown: Sequence[Entry], what: str) -> Text:
    split = " + ".join(dict.fromkeys(entry.plan.config.data.eval for entry in shown))
    return Text(f"\n{spec.name}: {what} (on split {split})", style="bold")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
