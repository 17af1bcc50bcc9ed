"""The live terminal: an overall bar, one line a slot, the best so far. Lasting events scroll above it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from experiments.errors import printable
from experiments.slots import Slot
from experiments.trial import TrialPlan
from experiments.view import Best, Counts, cell_text, epoch_text


class LiveView:
    """A `View` for a terminal."""

    def __init__(self, *, console: Console, objective: str, slots: Sequence[Slot]) -> None:
        self._objective = objective
        self._slots = slots
        self._running: dict[int, tuple[int, TrialPlan]] = {}  # slot index -> trial
        self._last_epoch: dict[int, str] = {}  # trial -> its newest epoch, in words
        self._started: dict[int, float] = {}
        self._best: Best | None = None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("preparing", total=None)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)
        self._live.start()

    def start(self, *, name: str, counts: Counts, reused: int) -> None:
        """The sweep begins."""
        self.message(f"sweep {name}: {counts.total} trials, {reused} finished before, {counts.waiting} to run")
        self._bar.reset(self._task, total=counts.total, completed=counts.finished, description="trials")

    def prepared(self, done: int, total: int, what: str) -> None:
        """The bar shows what is made before the first trial."""
        self._bar.update(self._task, description=what, completed=done, total=total)

    def launched(self, number: int, plan: TrialPlan, slot: Slot, attempt: int) -> None:
        """The slot's line changes."""
        self._running[slot.index] = (number, plan)
        self._last_epoch[number] = "starting" if attempt == 1 else f"continuing, attempt {attempt}"
        self._started[number] = time.monotonic()

    def epoch(self, number: int, plan: TrialPlan, row: Mapping[str, Any]) -> None:
        """The slot's line changes."""
        self._last_epoch[number] = (
            f"epoch {row['epoch']}/{plan.config.train.epochs}, {epoch_text(row, self._objective)}"
        )

    def ended(self, number: int, plan: TrialPlan, text: str, *, failed: bool) -> None:
        """A line that stays."""
        self._running = {slot: trial for slot, trial in self._running.items() if trial[0] != number}
        line = Text(f"trial {number} ", style="red" if failed else "")
        self._live.console.print(line.append(printable(f"{text} ({cell_text(plan)})")))

    def progress(self, counts: Counts, best: Best | None) -> None:
        """The bar and the best-so-far line change."""
        self._best = best
        failed = f", {counts.failed} failed" if counts.failed else ""
        self._bar.update(self._task, completed=counts.finished, total=counts.total, description=f"trials{failed}")

    def message(self, text: str) -> None:
        """A line that stays."""
        self._live.console.print(Text(printable(text)))

    def stop(self) -> None:
        """The live part goes away, the lines stay."""
        self._live.stop()

    def _render(self) -> RenderableType:
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for slot in self._slots:
            lines.add_row(Text(slot.label, style="dim"), self._slot_line(slot))
        if self._best is not None:
            text = f"{self._objective} {self._best.value:.4f}, trial {self._best.number}: {cell_text(self._best.plan)}"
            lines.add_row(Text("best", style="bold green"), Text(text))
        return Group(self._bar, lines)

    def _slot_line(self, slot: Slot) -> Text:
        if slot.index not in self._running:
            return Text("idle", style="dim")
        number, plan = self._running[slot.index]
        elapsed = time.monotonic() - self._started[number]
        return Text(f"trial {number}: {self._last_epoch[number]}, {elapsed:.0f} s ({cell_text(plan)})")
