"""What a mirror that was killed may have left: wandb-core, a process in a session of its own that sends what it has.

It ends by itself soon after, but until then it could send rows of a run that the next mirror goes on with.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "WSOL_MIRROR_OF"
WITHIN_S = 5.0
_PROC = Path("/proc")


def mark_descendants(folder: Path) -> None:
    """Has what this process starts from now on be found by `end_leftover_processes`."""
    os.environ[VARIABLE] = str(folder)


def has_descendants(folder: Path) -> bool:
    """Whether anything runs that this process has started since `mark_descendants`. True where there is no /proc."""
    return not _PROC.is_dir() or any(True for _ in _marked(folder))


def end_leftover_processes(folder: Path) -> None:
    """Kills what an earlier mirror of a sweep started and waits until it is gone. Does nothing where there is no /proc.

    Args:
        folder: as given to `mark_descendants`. Call it before that, and while no other mirror of it runs.
    """
    deadline = time.monotonic() + WITHIN_S
    for pid in list(_marked(folder)):
        with contextlib.suppress(OSError):  # it has gone, or this system has no such descriptors
            descriptor = os.pidfd_open(pid)
            try:
                os.kill(pid, signal.SIGKILL)
                select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(descriptor)


def _marked(folder: Path) -> Iterator[int]:
    marker = f"{VARIABLE}={folder}".encode()
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has gone, or is another user's
            if int(process.name) != os.getpid() and marker in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)
