"""What to do when the disk is full: wait, say so, and go on where there is room."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from experiments.failures import FailureKind, kind_of_error

T = TypeVar("T")

ROOM_BYTES = 8 * 2**20
"""Room that there must be at least before anything goes on."""
LOOK_EVERY_S = 2.0
LONGEST_WAIT_S = 300.0


class Patiently(Protocol):
    """Does a write that is whole or not at all, and may do it again."""

    def __call__(self, action: Callable[[], T], /) -> T:
        """What the write returned."""


def once(action: Callable[[], T], /) -> T:
    """Without patience."""
    return action()


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


class PatientWriter:
    """Writes of the runner, each repeated once there is room for it.

    Args:
        folder: that must have room.
        say: takes a line for people.
        must_stop: asked again and again while it waits.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        say: Callable[[str], None],
        must_stop: Callable[[], bool],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._folder, self._say, self._must_stop, self._sleep = folder, say, must_stop, sleep

    def write(self, action: Callable[[], T]) -> T:
        """Does what must be whole or not at all, so that it may be repeated.

        Raises:
            KeyboardInterrupt: when the run is to stop before there is room.
        """
        while True:
            try:
                return action()
            except Exception as error:
                if not is_disk_full(error):
                    raise
                self._wait()

    def _wait(self) -> None:
        self._say(paused_text(self._folder))
        while True:
            if self._must_stop():
                raise KeyboardInterrupt
            self._sleep(LOOK_EVERY_S)
            if has_room(self._folder, ROOM_BYTES):
                self._say("there is room again: going on")
                return


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
