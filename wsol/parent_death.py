"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait


def die_with_parent(_worker: int = 0) -> None:
    """Makes the calling process end at once when the process that started it has ended, however that came.

    A parent-death signal would not do: it is bound to the parent in the process table, which for `forkserver` is
    the server.

    Args:
        _worker: what a DataLoader gives to its `worker_init_fn`.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process that multiprocessing started"

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
