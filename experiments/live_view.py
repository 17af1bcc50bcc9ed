"""The live terminal: an overall bar, one line a slot, the best so far. Lasting events scroll above it.

Where there are more slots than lines, as many as fit are shown, those that are busy first, and how many more there are.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from experiments.errors import printable
from experiments.slots import Slot
from experiments.trial import TrialPlan
from experiments.view import Best, Counts, cell_text, epoch_text, left_text

_OTHER_LINES = 3
"""Of the live part, besides those of slots: the bar, the best, and one at the bottom that stays empty."""


@dataclass
class _Running:
    """A trial on a slot. `newest`: what it did last, in words."""

    number: int
    plan: TrialPlan
    newest: str
    since: float


class LiveView:
    """A `View` for a terminal."""

    def __init__(self, *, console: Console, objective: str, slots: Callable[[], Sequence[Slot]]) -> None:
        self._objective = objective
        self._slots = slots
        self._console = console
        self._running: dict[int, _Running] = {}  # by the slot's index; another thread draws them
        self._slot_of: dict[int, int] = {}  # the trial's number -> the slot's index
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
        newest = "starting" if attempt == 1 else f"continuing, attempt {attempt}"
        self._running[slot.index] = _Running(number, plan, newest, since=time.monotonic())
        self._slot_of[number] = slot.index

    def epoch(self, number: int, plan: TrialPlan, row: Mapping[str, Any]) -> None:
        """The slot's line changes."""
        newest = f"epoch {row['epoch']}/{plan.config.train.epochs}, {epoch_text(row, self._objective)}"
        self._running[self._slot_of[number]].newest = newest

    def ended(self, number: int, plan: TrialPlan, text: str, *, failed: bool) -> None:
        """A line that stays."""
        slot = self._slot_of.pop(number, None)  # None for one that ends before it begins
        if slot is not None and (running := self._running.get(slot)) is not None and running.number == number:
            del self._running[slot]
        line = Text(f"trial {number} ", style="red" if failed else "")
        self._live.console.print(line.append(printable(f"{text} ({cell_text(plan)})")))

    def progress(self, counts: Counts, best: Best | None) -> None:
        """The bar and the best-so-far line change."""
        self._best = best
        parts = ["trials", f"{counts.failed} failed" if counts.failed else "", left_text(counts)]
        text = ", ".join(part for part in parts if part)
        self._bar.update(self._task, completed=counts.finished, total=counts.total, description=text)

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
        slots = self._slots()
        shown = self._that_fit(slots)
        for slot in shown:
            lines.add_row(Text(slot.label, style="dim"), self._slot_line(slot))
        if more := len(slots) - len(shown):
            busy = len(self._running) - sum(slot.index in self._running for slot in shown)
            lines.add_row(Text("...", style="dim"), Text(f"and {more} more, {busy} of them busy"))
        if self._best is not None:
            text = f"{self._objective} {self._best.value:.4f}, trial {self._best.number}: {cell_text(self._best.plan)}"
            lines.add_row(Text("best", style="bold green"), Text(text))
        return Group(self._bar, lines)

    def _that_fit(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """All of them, or as many as the terminal has lines for, the busy ones first, in their order."""
        room = self._console.height - _OTHER_LINES
        if len(slots) <= room:
            return slots
        room = max(1, room - 1)  # the line that says how many more there are
        busy = (slot for slot in slots if slot.index in self._running)
        idle = (slot for slot in slots if slot.index not in self._running)
        return list(itertools.islice(itertools.chain(busy, idle), room))

    def _slot_line(self, slot: Slot) -> Text:
        running = self._running.get(slot.index)
        if running is None:
            return Text("idle", style="dim")
        elapsed = time.monotonic() - running.since
        return Text(f"trial {running.number}: {running.newest}, {elapsed:.0f} s ({cell_text(running.plan)})")
