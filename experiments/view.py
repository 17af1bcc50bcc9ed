"""What the scheduler tells people while it runs: the contract, and the plain lines for logs and pipes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from experiments.errors import printable
from experiments.slots import Slot
from experiments.trial import TrialPlan

CORRECTION, LEAST_CORRECTION_S = 0.1, 60.0
"""What is said of the end of a sweep is corrected when it is off by this share of what is left, and so much."""


@dataclass(frozen=True)
class Counts:
    """Where the sweep's trials are.

    Attributes:
        left_s: seconds until all are finished, about; None where nothing is known.
    """

    total: int
    finished: int
    failed: int
    running: int
    left_s: float | None = None

    @property
    def waiting(self) -> int:
        """Not started, or to be continued."""
        return self.total - self.finished - self.running


@dataclass(frozen=True)
class Best:
    """The best finished trial so far."""

    number: int
    value: float
    plan: TrialPlan


class View(Protocol):
    """Shows a running sweep. A view only shows: it never changes what the sweep does."""

    def start(self, *, name: str, counts: Counts, reused: int) -> None:
        """The sweep begins; `reused` trials were finished before."""

    def prepared(self, done: int, total: int, what: str) -> None:
        """Progress of what is made before the first trial."""

    def launched(self, number: int, plan: TrialPlan, slot: Slot, attempt: int) -> None:
        """An attempt starts."""

    def epoch(self, number: int, plan: TrialPlan, row: Mapping[str, Any]) -> None:
        """An epoch of a trial is done."""

    def ended(self, number: int, plan: TrialPlan, text: str, *, failed: bool) -> None:
        """An attempt is over; `text` says how, on one line."""

    def progress(self, counts: Counts, best: Best | None) -> None:
        """Counts or the best changed."""

    def message(self, text: str) -> None:
        """Something to know, on one line."""

    def stop(self) -> None:
        """The sweep is over; the terminal is given back as it was."""


def cell_text(plan: TrialPlan) -> str:
    """The swept values of a trial, short: `lr=0.001 count=100 seed=0`."""
    return f"{configuration_text(plan)} seed={plan.config.seed}".lstrip()


def configuration_text(plan: TrialPlan) -> str:
    """What makes a trial's configuration differ from others: its swept keys with their values."""
    return " ".join(f"{key.rpartition('.')[2]}={value_text(value)}" for key, value in plan.swept.items())


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or all of it where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def value_text(value: Any) -> str:
    """A swept value for people, in YAML's spelling: `null`, `true`, `[128, 256]`."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration_text(seconds: float) -> str:
    """For people, in one or two units: `45 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def left_text(counts: Counts) -> str:
    """`about 2 h 5 min left`; empty where that is not known, or nothing is left."""
    is_left = counts.left_s is not None and counts.finished < counts.total
    return f"about {duration_text(counts.left_s or 0.0)} left" if is_left else ""


class PlainView:
    """One line an event, for a log file or a pipe.

    Args:
        clock: in seconds.
    """

    def __init__(
        self, *, objective: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._objective = objective
        self._clock = clock
        self._end_at: float | None = None
        """When all will be over, as people were told last."""
        self._stream = stream or sys.stdout
        self._prepared_tenth = -1
        self._best: Best | None = None

    def start(self, *, name: str, counts: Counts, reused: int) -> None:
        """The sweep begins."""
        self.message(f"sweep {name}: {counts.total} trials, {reused} finished before, {counts.waiting} to run")

    def prepared(self, done: int, total: int, what: str) -> None:
        """A line every tenth."""
        tenth = 10 * done // max(total, 1)
        if tenth != self._prepared_tenth:
            self._prepared_tenth = tenth
            self.message(f"{what}: {done}/{total}")

    def launched(self, number: int, plan: TrialPlan, slot: Slot, attempt: int) -> None:
        """An attempt starts."""
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self.message(f"trial {number} starts on {slot.label}{again}: {cell_text(plan)}")

    def epoch(self, number: int, plan: TrialPlan, row: Mapping[str, Any]) -> None:
        """An epoch of a trial is done."""
        self.message(
            f"trial {number} epoch {row['epoch']}/{plan.config.train.epochs}: {epoch_text(row, self._objective)}"
        )

    def ended(self, number: int, plan: TrialPlan, text: str, *, failed: bool) -> None:
        """An attempt is over."""
        self.message(f"trial {number} {text}")

    def progress(self, counts: Counts, best: Best | None) -> None:
        """A line when the best changes, and when the end turns out to be elsewhere than was said."""
        if best is not None and best != self._best:
            self._best = best
            done = f"{counts.finished}/{counts.total} finished"
            self.message(
                f"{done}; best {self._objective} {best.value:.4f}, trial {best.number}: {cell_text(best.plan)}"
            )

        self._correct_the_end(counts)

    def _correct_the_end(self, counts: Counts) -> None:
        if counts.left_s is None or not (text := left_text(counts)):
            return
        end_at = self._clock() + counts.left_s
        said = self._end_at if self._end_at is not None else self._clock()
        if abs(end_at - said) > max(LEAST_CORRECTION_S, CORRECTION * counts.left_s):
            self._end_at = end_at
            self.message(f"{counts.finished}/{counts.total} finished; {text}")

    def message(self, text: str) -> None:
        """One line, at once."""
        print(printable(text), file=self._stream, flush=True)

    def stop(self) -> None:
        """Nothing to give back."""


def epoch_text(row: Mapping[str, Any], objective: str) -> str:
    """An epoch's figures: `loss 1.234, ap50_11pt/mean 0.4321`."""
    value = row["metrics"].get(objective)
    return f"loss {row['loss']:.4f}" + (f", {objective} {value:.4f}" if value is not None else "")
