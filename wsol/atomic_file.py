"""Files that appear whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path


@dataclass(frozen=True)
class PendingFile:
    """A file that nobody looks for yet.

    Attributes:
        path: its temporary name.
        file: open for writing and reading, binary.
    """

    path: Path
    file: BufferedRandom

    def sha256(self) -> str:
        """64 hex digits, of what was written so far, read back from the file."""
        self.file.flush()
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()
        self.file.seek(0, os.SEEK_END)
        return digest

    def publish(self, name: str) -> Path:
        """Gives the file its name, in its folder, replacing what had it. On disk when this returns."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        target = self.path.with_name(name)
        os.replace(self.path, target)
        sync_folder(self.path.parent)
        return target


@contextmanager
def pending_file(path: Path) -> Iterator[PendingFile]:
    """Opens `path`, a temporary name, for a file to be published under another name in the same folder.

    A leftover of a killed process is written over; what is not published is removed. For one writer at a time.
    """
    file = path.open("w+b")
    try:
        yield PendingFile(path=path, file=file)
    finally:
        with suppress(OSError):  # a full disk says so once more on closing; the first time counts
            file.close()
        path.unlink(missing_ok=True)  # missing once it is published


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut. Does nothing where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
