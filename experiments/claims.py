"""What sweeps of one machine promise each other of its memory: a folder that all users share, a file a sweep.

Whoever holds the folder's lock may look and promise. Each file is locked by its owner for life: one whose lock can be
had is a dead sweep's, and counts no more. Both are locks of the system, which ends them with their process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from experiments.device_monitor import Claim, Claims

WAIT_S = 2.0
"""Longest wait for a lock that others hold for milliseconds. Its holder may be stopped (SIGSTOP, a debugger)."""
_POLL_S = 0.001
_PAUSE_S = 3 * _POLL_S
"""Between two turns of one sweep, so that whoever waits has its turn first."""
_MAX_FILES = 1000
_MAX_BYTES = 64 * 1024
_BLOCK = 4096
"""Files are padded to this, so that writing one anew needs no room on the disk."""
_SHARED = 0o1777
"""As /tmp: all may add files, and remove only their own."""
_README = "Memory that sweeps on this machine have promised to their trials; see experiments/claims.py.\n"

log = logging.getLogger(__name__)

_Bytes = Annotated[int, AfterValidator(lambda value: max(0, value))]


class _Promise(BaseModel):
    """As another sweep wrote it; what is less than nothing is nothing."""

    model_config = ConfigDict(strict=True)
    promised_bytes: _Bytes
    used_bytes: _Bytes


class _File(BaseModel):
    """One sweep's file."""

    model_config = ConfigDict(strict=True)
    devices: Annotated[dict[Annotated[str, Field(max_length=200)], _Promise], Field(max_length=200)]


class SharedClaims:
    """This sweep's share in what the machine's sweeps promise each other.

    Sweeps agree where they see the same folder: not across containers with a /tmp of their own, nor where TMPDIR
    differs. What they use shows in the devices' readings all the same. Where the folder cannot be used, one warning
    says so, and every sweep is as if alone. On Windows, which has no such locks, they always are.

    Args:
        folder: None: `wsol-sweeps` in the folder for temporary files.
        wait_s: longest wait for others.
    """

    def __init__(self, folder: Path | None = None, *, wait_s: float = WAIT_S) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / "wsol-sweeps"
        self._wait_s = wait_s
        self._was_busy = False
        self._last_turn = -math.inf
        self._warned = False
        self._name = f"sweep-{secrets.token_hex(8)}.json"
        self._file: int | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[Claims | None]:
        """While it lasts, no other sweep can look or promise. None: another one did not give way; try again later.

        Once it was in vain, it is tried without waiting, until it works.
        """
        time.sleep(max(0.0, self._last_turn + _PAUSE_S - time.monotonic()))
        with contextlib.ExitStack() as stack:
            stack.callback(self._note_turn)
            try:
                claims = self._claims(stack)
            except OSError as error:
                self._warn(error)
                claims = _alone()
            self._was_busy = claims is None
            yield claims

    def close(self) -> None:
        """This sweep promises nothing any more."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                (self._folder / self._name).unlink()
            os.close(self._file)
            self._file = None

    def _claims(self, stack: contextlib.ExitStack) -> _Taken | None:
        if os.name == "nt":
            return _alone()
        folder = self._locked(stack, wait_s=0.0 if self._was_busy else self._wait_s)
        return None if folder is None else _Taken(_living(folder, but=self._name), self._publisher(folder))

    def _note_turn(self) -> None:
        self._last_turn = time.monotonic()

    def _locked(self, stack: contextlib.ExitStack, *, wait_s: float) -> int | None:
        """The folder, open and locked; None where the lock could not be had.

        The lock is on what was opened: it counts only where the name still leads there.
        """
        deadline = time.monotonic() + wait_s
        while True:
            with contextlib.ExitStack() as held:
                folder = _opened(self._folder)
                held.callback(os.close, folder)  # which gives the lock back
                if not _lock(folder, until=deadline):
                    return None
                if _is_at(folder, self._folder):
                    stack.push(held.pop_all())
                    return folder

    def _publisher(self, folder: int) -> Callable[[Mapping[str, Claim]], None]:
        def publish(own: Mapping[str, Claim]) -> None:
            try:
                self._write(folder, own)
            except OSError as error:
                self._warn(error)

        return publish

    def _write(self, folder: int, own: Mapping[str, Claim]) -> None:
        """In place: whoever reads holds the folder's lock, and a file that a crash left torn is a dead sweep's."""
        if self._file is None or not _is_at(self._file, self._name, folder):
            self.close()
            self._file = _new_file(folder, self._name)
        devices = {device: vars(claim) for device, claim in own.items()}
        text = json.dumps({"devices": devices, "process": os.getpid()}).encode()
        padded = text.ljust(-(-len(text) // _BLOCK) * _BLOCK)
        os.pwrite(self._file, padded, 0)
        os.ftruncate(self._file, len(padded))

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning(
                "%s cannot be used (%s): other sweeps on this machine and this one do not know what they promised their"
                " trials of its memory",
                self._folder,
                error.strerror or error,
            )
        self._warned = True


class _Taken:
    """See `Claims`."""

    def __init__(self, others: Iterable[Mapping[str, Claim]], publish: Callable[[Mapping[str, Claim]], None]) -> None:
        self.of_others: Mapping[str, Claim] = _sums(others)
        self.publish = publish


def _alone() -> _Taken:
    return _Taken([], lambda own: None)


def _sums(sweeps: Iterable[Mapping[str, Claim]]) -> dict[str, Claim]:
    promised: dict[str, int] = defaultdict(int)
    used: dict[str, int] = defaultdict(int)
    for claims in sweeps:
        for device, claim in claims.items():
            promised[device] += claim.promised_bytes
            used[device] += claim.used_bytes
    return {device: Claim(promised_bytes=promised[device], used_bytes=used[device]) for device in promised}


def _opened(path: Path) -> int:
    """The shared folder, which is made where there is none.

    Raises:
        OSError: where there is something else, such as a link that another user has laid.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        folder = os.open(path, flags)
    except FileNotFoundError:
        _make(path)
        folder = os.open(path, flags)
    if os.fstat(folder).st_mode & _SHARED != _SHARED:
        os.close(folder)
        raise OSError(f"expected a folder that all users share, with mode {_SHARED:o}")
    return folder


def _make(path: Path) -> None:
    """It appears with all rights set. Not empty, it cannot take the place of one that another sweep made."""
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (made / "README").write_text(_README)
        (made / "README").chmod(0o644)
        made.chmod(_SHARED)
        made.rename(path)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        if not path.is_dir():
            raise


def _lock(descriptor: int, *, until: float) -> bool:
    """Whether the lock was got before a time of the monotonic clock."""
    import fcntl  # not on Windows

    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_S)


def _is_at(descriptor: int, path: Path | str, folder: int | None = None) -> bool:
    """Whether a name leads to what is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _new_file(folder: int, name: str) -> int:
    """A file of this sweep, locked from before it says anything, readable by all."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
    try:
        _lock(descriptor, until=0.0)
        os.fchmod(descriptor, 0o644)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _living(folder: int, *, but: str) -> list[dict[str, Claim]]:
    """What the other sweeps that are alive have promised. Files of dead ones are removed."""
    with os.scandir(folder) as found:
        names = [entry.name for entry in itertools.islice(found, _MAX_FILES) if entry.name.startswith("sweep-")]
    claims = []
    for name in names:
        if name != but:
            with contextlib.suppress(OSError):  # it is gone, or nothing that a sweep makes
                claims.append(_claims_of(folder, name))
    return claims


def _claims_of(folder: int, name: str) -> dict[str, Claim]:
    """What one file promises: anybody may have written it, so it is believed where it is well-formed and no more."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        if _lock(descriptor, until=0.0):
            os.unlink(name, dir_fd=folder)
            return {}
        devices = _File.model_validate_json(os.read(descriptor, _MAX_BYTES)).devices
        return {device: Claim(**promise.model_dump()) for device, promise in devices.items()}
    except ValidationError:
        return {}
    finally:
        os.close(descriptor)
