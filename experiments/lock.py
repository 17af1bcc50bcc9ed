"""One runner a sweep."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from experiments.disk_space import is_disk_full
from experiments.errors import UserError

_PROC = Path("/proc")
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """A process, told from every other one that has had or will have its number.

    Attributes:
        start_time: of the process, in the kernel's ticks since the machine started; -1 where that is not known.
        boot: the machine's present run; empty where that is not known.
    """

    pid: int
    start_time: int
    boot: str
    host: str

    @property
    def label(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}"

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where that cannot be known from here: it is another machine's."""
        here = this_process()
        if self.host != here.host or os.name == "nt":
            return None
        if self.boot != here.boot:
            return False
        return _exists(self.pid) and self.start_time in (-1, _start_time(self.pid))


_HOLDER = TypeAdapter(Holder)


def this_process() -> Holder:
    """The calling process."""
    return Holder(pid=os.getpid(), start_time=_start_time(os.getpid()), boot=_boot(), host=socket.gethostname())


@contextlib.contextmanager
def sweep_lock(path: Path, *, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Holds the sweep's lock; the system gives it back when this process ends, in whatever way.

    The file names the holder. Where the file system has no locks, that alone counts: the lock of a process that has
    ended, or that ran before the machine was started anew, is taken over.

    Args:
        say: takes a line for people when the lock of a runner that ended without giving it back is taken over.

    Raises:
        UserError: where another process holds it (the message says which), or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be used for results: {error.strerror}") from None
    with file:
        before = _holder(path)
        _take(file.fileno(), path, before)
        if before is not None:
            say(f"the run before ({before.label}) was ended before it could give the sweep back; going on from there")
        try:
            file.truncate(0)
            file.write(json.dumps(asdict(this_process())).encode() + b"\n")
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise UserError(
                f"{path}: the disk is full; nothing is lost: run the command again when it has room"
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


def holder(path: Path) -> Holder | None:
    """Who holds a sweep's lock now, or may hold it: a process of another machine cannot be seen. None: nobody."""
    found = _holder(path)
    return found if found is not None and found.is_alive() is not False else None


def _take(descriptor: int, path: Path, before: Holder | None) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        _refuse_unless_over(path, before)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(path, before) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        _refuse_unless_over(path, before)


def _refuse_unless_over(path: Path, before: Holder | None) -> None:
    alive = False if before is None else before.is_alive()
    if alive is None:
        raise UserError(
            f"{path.parent}: this sweep may still be run by {before.label if before else ''}, which cannot be seen from"
            f" here; if it has ended, remove {path}"
        )
    if alive:
        raise _refusal(path, before)


def _refusal(path: Path, before: Holder | None) -> UserError:
    holder = before.label if before is not None else "another process"
    return UserError(f"{path.parent}: this sweep is being run by {holder}; wait for it, or stop it first")


def _holder(path: Path) -> Holder | None:
    """Who took the lock and has not given it back; None where nobody did, or the file is damaged."""
    try:
        return _HOLDER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _start_time(pid: int) -> int:
    """Source: proc(5), field 22 of /proc/PID/stat. The name before it may hold anything but is in parentheses."""
    try:
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -1


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
