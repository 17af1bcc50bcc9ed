"""The leaderboard and the per-class AP table on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.report.leaderboard import Entry, class_names, metric_names, ranked
from experiments.spec import SweepSpec
from experiments.trial import TrialState
from experiments.view import value_text

MAX_ROWS = 20
MAX_METRICS = 4
MAX_TRIALS_PER_CLASS = 6


def print_report(console: Console, spec: SweepSpec, entries: Sequence[Entry]) -> None:
    """Both tables; `entries` are all trials of the spec."""
    order = ranked(entries, metric=spec.objective.metric, direction=spec.objective.direction)
    finished = [entry for entry in order if entry.result is not None]
    if not finished:
        console.print("No trial has finished yet.")
        return
    console.print(_title(spec, "leaderboard"))
    metrics = metric_names(spec)
    console.print(leaderboard_table(spec, finished, metrics=metrics[:MAX_METRICS], where="in leaderboard.csv"))
    complete = [entry for entry in finished if entry.state is TrialState.COMPLETE]
    if complete:
        console.print(_title(spec, f"{metrics[0]} per class"))
        console.print(per_class_table(complete, metric=metrics[0], where="in per_class_ap.csv"))


def print_measured(console: Console, spec: SweepSpec, order: Sequence[Entry], *, metrics: Sequence[str]) -> None:
    """Both tables of complete trials, the best first, for these metrics; the second for the first of them."""
    console.print(_title(spec, "measured again"))
    console.print(leaderboard_table(spec, order, metrics=metrics, where="with --csv"))
    console.print(_title(spec, f"{metrics[0]} per class"))
    console.print(per_class_table(order, metric=metrics[0], where="with --csv"))


def leaderboard_table(spec: SweepSpec, order: Sequence[Entry], *, metrics: Sequence[str], where: str) -> Table:
    """A row a finished trial in the order given, at most `MAX_ROWS`; the caption says where all are."""
    table = Table(caption_justify="left")
    table.add_column("trial", justify="right")
    short = [key.rpartition(".")[2] for key in spec.swept_keys]
    for key, name in zip(spec.swept_keys, short, strict=True):
        table.add_column(Text(name if short.count(name) == 1 else key), justify="right", overflow="fold")
    several_seeds = len({entry.plan.config.seed for entry in order}) > 1
    if several_seeds:
        table.add_column("seed", justify="right")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("time", justify="right")
    for entry in order[:MAX_ROWS]:
        assert entry.trial is not None
        assert entry.result is not None
        swept = [value_text(entry.plan.value(key)) for key in spec.swept_keys]
        seed = [str(entry.plan.config.seed)] if several_seeds else []
        if entry.state is TrialState.COMPLETE:
            figures = [_figure(entry.metric(f"{metric}/mean")) for metric in metrics]
        else:
            figures = [f"{entry.state}: {entry.result.stop_reason}", *[""] * (len(metrics) - 1)]
        cells = [str(entry.trial.number), *swept, *seed, *figures, f"{entry.result.duration_s:.0f} s"]
        table.add_row(*(Text(cell) for cell in cells), style="bold" if entry is order[0] else None)
    if len(order) > MAX_ROWS:
        table.caption = f"{len(order) - MAX_ROWS} more {where}"
    return table


def per_class_table(order: Sequence[Entry], *, metric: str, where: str) -> Table:
    """A row a class, a column for each of the best trials; each class's best is bold."""
    shown = order[:MAX_TRIALS_PER_CLASS]
    table = Table(caption_justify="left")
    table.add_column("class")
    for entry in shown:
        assert entry.trial is not None
        table.add_column(f"trial {entry.trial.number}", justify="right")
    for name in [*class_names(order), "mean"]:
        values = [entry.metric(f"{metric}/{name}") for entry in shown]
        best = max((value for value in values if value is not None), default=None)
        cells = [Text(_figure(value), style="bold" if value is not None and value == best else "") for value in values]
        table.add_row(Text(name), *cells, end_section=False)
    if len(order) > len(shown):
        table.caption = f"the best {len(shown)} of {len(order)} trials; all {where}"
    return table


def _title(spec: SweepSpec, what: str) -> Text:
    split = " + ".join(dict.fromkeys(plan.config.data.eval for plan in spec.plans))
    return Text(f"\n{spec.name}: {what} (on split {split})", style="bold")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
