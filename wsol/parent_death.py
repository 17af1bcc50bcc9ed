"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

STOPPING_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
    if name in signal.Signals.__members__
)
"""A person's Ctrl-C, and what batch systems send before they take their node back; some send it to every process."""


def leave_stopping_to_parent() -> None:
    """Makes the calling process ignore what asks for an end: it works for its parent, which saves and ends it."""
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """Makes the calling process end at once when the process that started it has ended, however that came.

    A parent-death signal would not do: it is bound to the parent in the process table, which for `forkserver` is
    the server. What does is the pipe by which multiprocessing shows the end of the parent. On Linux the kernel
    watches it, and kills in the midst of anything; elsewhere a thread does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process that multiprocessing started"
    if sys.platform == "linux":
        _killed_by_kernel(parent.sentinel)
    else:
        thread = threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent-watch", daemon=True)
        thread.start()


def _killed_by_kernel(sentinel: int) -> None:
    """SIGKILL instead of the SIGIO that a pipe sends when its other end is closed. Source: fcntl(2), F_SETSIG."""
    import fcntl

    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if wait([sentinel], 0):  # it has ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
