"""When which attempt ran on which slot: a line at its start, a line at its end. History: no result depends on it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.slots import Slot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptSpan:
    """An attempt on its slot.

    Attributes:
        trial: its number.
        attempt: from 1.
        slot: index of the slot.
        place: the slot's label for people.
        began: seconds since the epoch.
        ended: likewise; None where the runner did not see it end: it still runs, or the runner was killed.
    """

    trial: int
    attempt: int
    slot: int
    place: str
    began: float
    ended: float | None = None


class Timeline:
    """Writes the lines of one run of the command behind those of earlier runs.

    A line that cannot be written is lost, which is said once: the sweep does not wait for history.

    Args:
        path: of the file, in a folder that exists by the time of the first attempt.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._has_failed = False
        self._start = b"\n"  # a killed runner may have left half a line; readers skip the empty one

    def began(self, trial: int, attempt: int, slot: Slot) -> None:
        """An attempt is launched."""
        self._append(
            {"trial": trial, "attempt": attempt, "slot": slot.index, "place": slot.label, "began": self._now()}
        )

    def ended(self, trial: int, attempt: int) -> None:
        """It is over, however."""
        self._append({"trial": trial, "attempt": attempt, "ended": self._now()})

    def _now(self) -> float:
        return round(self._clock(), 3)

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(self._start + json.dumps(line).encode() + b"\n")
            self._start = b""
        except OSError as error:
            self._start = b"\n"
            if not self._has_failed:
                log.warning("%s: not all attempts will be in it (%s)", self._path, error)
            self._has_failed = True


def read_timeline(path: Path) -> list[AttemptSpan]:
    """Every attempt, in the order of their starts; none where there is no file. Damaged lines are left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    spans: dict[tuple[int, int], AttemptSpan] = {}
    for line in lines:
        row = _row(line)
        if row is None:
            continue
        at = row["trial"], row["attempt"]
        if "began" in row:
            spans[at] = AttemptSpan(**row)
        elif at in spans and spans[at].ended is None:
            spans[at] = replace(spans[at], ended=row["ended"])
    return sorted(spans.values(), key=lambda span: (span.began, span.slot, span.trial))


_KINDS: dict[str, type | tuple[type, ...]] = {
    "trial": int,
    "attempt": int,
    "slot": int,
    "place": str,
    "began": (int, float),
    "ended": (int, float),
}
_BEGINS, _ENDS = {"trial", "attempt", "slot", "place", "began"}, {"trial", "attempt", "ended"}


def _row(line: bytes) -> dict[str, Any] | None:
    """A line's values, if it is one of the two kinds."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.keys() not in (_BEGINS, _ENDS):
        return None
    return row if all(isinstance(row[name], _KINDS[name]) for name in row) else None
