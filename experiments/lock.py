"""One runner a sweep."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import UserError


@contextlib.contextmanager
def sweep_lock(path: Path) -> Iterator[None]:
    """Holds the sweep's lock; the system gives it back when this process ends, in whatever way.

    Raises:
        UserError: where another process holds it (the message says which), or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be used for results: {error.strerror}") from None
    with file:
        _take(file.fileno(), path)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _take(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nothing to hold
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text("utf-8").strip() or "another process"
        raise UserError(f"{path.parent}: this sweep is being run by {holder}; wait for it, or stop it first") from None
