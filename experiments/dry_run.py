"""What a sweep would run, without starting anything, opening the study or importing torch."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.report.leaderboard import Entry
from experiments.spec import SweepSpec
from experiments.view import value_text

MAX_ROWS = 50


def print_dry_run(console: Console, spec: SweepSpec, entries: list[Entry], *, folder: str) -> None:
    """The number of trials, where they stand, and the table of them in the order they would run."""
    counts = Counter(entry.state.value for entry in entries)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(Text(f"sweep {spec.name}: {len(entries)} trials ({states}) in {folder}"))
    if spec.question:
        console.print(Text(spec.question.strip()))
    if spec.merged:
        console.print(Text(f"{spec.merged} cells ask for a trial that another cell asks for already; they run once"))
    table = Table()
    for heading in ("trial", "state", *spec.swept_keys, "seed"):
        table.add_column(Text(heading), overflow="fold")
    for entry in entries[:MAX_ROWS]:
        number = str(entry.trial.number) if entry.trial is not None else "-"
        swept = [value_text(entry.plan.value(key)) for key in spec.swept_keys]
        table.add_row(*(Text(cell) for cell in (number, entry.state.value, *swept, str(entry.plan.config.seed))))
    console.print(table)
    if len(entries) > MAX_ROWS:
        console.print(Text(f"... and {len(entries) - MAX_ROWS} more"))
    console.print(Text("dry run: nothing was started"))
