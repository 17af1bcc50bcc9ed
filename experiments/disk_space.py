"""What to do when the disk is full: wait, say so, and go on where there is room."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.failures import FailureKind, kind_of_error

ROOM_BYTES = 8 * 2**20
"""Room that there must be at least before anything goes on."""
LOOK_EVERY_S = 2.0
LONGEST_WAIT_S = 300.0


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or what it came of, says that no space or no quota is left."""
    return kind_of_error(error) is FailureKind.DISK_FULL


def has_room(folder: Path, size_bytes: int) -> bool:
    """Whether so much can be written to a folder. It is tried: a quota shows in no other way."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                file.write(b"\0" * size_bytes)
                file.flush()
    except OSError:
        return False
    return True


class FullDisk:
    """An `Obstacle` of the runner's writes.

    Args:
        folder: that must have room.
    """

    over_text = "there is room again: going on"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def look_every_s(self) -> float:
        """Between two looks for room."""
        return LOOK_EVERY_S

    def stopped(self, error: Exception) -> bool:
        """Whether a write failed for want of room."""
        return is_disk_full(error)

    def paused_text(self, error: Exception) -> str:
        """A line for people."""
        return paused_text(self._folder)

    def may_be_gone(self) -> bool:
        """Whether there is room again."""
        return has_room(self._folder, ROOM_BYTES)


class Pause:
    """Between an attempt that found the disk full and the next launch.

    Args:
        folder: that must have room.
        clock: in seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        self._folder, self._clock = folder, clock
        self._in_a_row = 0
        self._look_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether nothing may start."""
        return self._look_at is not None

    def begin(self) -> None:
        """An attempt found the disk full. The next look is the later, the oftener that came in a row."""
        self._in_a_row += 1
        self._look_at = self._clock() + min(LOOK_EVERY_S * 2 ** (self._in_a_row - 1), LONGEST_WAIT_S)

    def got_on(self) -> None:
        """A trial has got on since."""
        if not self.is_on:
            self._in_a_row = 0

    def may_end(self) -> bool:
        """Whether there is room again; the pause is over then."""
        if self._look_at is None or self._clock() < self._look_at:
            return False
        if has_room(self._folder, ROOM_BYTES):
            self._look_at = None
            return True
        self._look_at = self._clock() + LOOK_EVERY_S
        return False


def paused_text(folder: Path) -> str:
    """A line for people."""
    return (
        f"paused: the disk is full; nothing is lost, and the sweep goes on once {folder} has"
        f" {ROOM_BYTES // 2**20} MB of room (Ctrl-C stops it; runner.py gc SPEC.yaml frees some)"
    )
