"""Main memory of a process and of all that came of it. Linux tells; elsewhere nothing is known."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

EVERY_S = 2.0
"""Between two looks, at least."""
COST = 0.005
"""The share of the time that looking may take: the kernel walks through all pages of a process for it."""

_PSS = re.compile(rb"^Pss:\s*(\d+) kB$", re.M)  # Source: proc(5), /proc/pid/smaps_rollup


def tree_bytes(process: int, proc: Path = Path("/proc")) -> int:
    """Main memory of a process and its descendants; pages that processes share count by their share.

    The resident size would not do: an attempt shares torch's hundreds of megabytes with the process that it was
    forked from.

    Returns:
        0 where the system does not tell.
    """
    return sum(_own_bytes(proc / str(one)) for one in _tree(process, proc))


def _tree(process: int, proc: Path) -> Iterator[int]:
    yield process
    for listed in proc.glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):  # it has ended
            for child in listed.read_text().split():
                yield from _tree(int(child), proc)


def _own_bytes(folder: Path) -> int:
    with contextlib.suppress(OSError):  # it has ended, or the system has no such file
        if found := _PSS.search((folder / "smaps_rollup").read_bytes()):
            return 1024 * int(found[1])
    return 0


class PeakMemory:
    """The most main memory that this process and its descendants were seen to have. It looks now and then.

    Args:
        read: what is looked at, in bytes.
        clock: in seconds.
    """

    def __init__(
        self, *, read: Callable[[], int] = lambda: tree_bytes(os.getpid()), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._cheap_from = clock()
        self._next = self._cheap_from + EVERY_S
        self.peak_bytes = 0

    def look_now_and_then(self) -> None:
        """Looks if it has not for a while. To be called in each step."""
        if self._clock() >= self._next:
            self.look()

    def look(self, *, whatever_it_costs: bool = False) -> None:
        """Looks, unless that would take too much of the time. To be called where the memory may be at a peak."""
        began = self._clock()
        if began < self._cheap_from and not whatever_it_costs:
            return
        self.peak_bytes = max(self.peak_bytes, self._read())
        ended = self._clock()
        self._cheap_from = ended + (ended - began) / COST
        self._next = max(self._cheap_from, ended + EVERY_S)
