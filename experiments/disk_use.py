"""What a sweep weighs on the disk: the sum over its files, by what they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.store import TrialPaths

FileKind = Literal["checkpoints", "other"]


@dataclass(frozen=True)
class FileOnDisk:
    """One name of a file.

    Attributes:
        size: bytes.
        inode: device and number of the file itself, which may have several names (hard links).
        is_shared: it has another name, perhaps in another sweep.
    """

    kind: FileKind
    size: int
    inode: tuple[int, int]
    is_shared: bool = False


def weigh(folder: Path) -> dict[FileKind, int]:
    """The bytes of a sweep's folder, by kind. See `bytes_by_kind`."""
    return bytes_by_kind(files_in(folder))


def bytes_by_kind(files: Iterable[FileOnDisk]) -> dict[FileKind, int]:
    """Sums of sizes; a file with several names counts once, where it comes first."""
    sums: dict[FileKind, int] = {}
    seen = set()
    for file in files:
        if file.inode not in seen:
            seen.add(file.inode)
            sums[file.kind] = sums.get(file.kind, 0) + file.size
    return sums


def files_in(folder: Path) -> Iterator[FileOnDisk]:
    """Every file of a sweep's folder, in no order. One that vanishes meanwhile is left out; links are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                yield file_on_disk(path, file_kind(path.relative_to(folder)))


def file_on_disk(path: Path, kind: FileKind = "other") -> FileOnDisk:
    """One file; a link is itself.

    Raises:
        FileNotFoundError: where it is gone.
    """
    status = path.lstat()
    return FileOnDisk(
        kind=kind, size=status.st_size, inode=(status.st_dev, status.st_ino), is_shared=status.st_nlink > 1
    )


def file_kind(path: Path) -> FileKind:
    """What a file is, told from its path in the sweep's folder."""
    is_of_a_trial = len(path.parts) == 4 and path.parts[0] == "trials"
    return "checkpoints" if is_of_a_trial and path.parent.name == TrialPaths(Path()).checkpoint.name else "other"


def weight_text(weights: dict[FileKind, int]) -> str:
    """Such as `1.2 GB, of which checkpoints 1.1 GB`."""
    total = bytes_text(sum(weights.values()))
    return f"{total}, of which checkpoints {bytes_text(weights.get('checkpoints', 0))}"


def bytes_text(size: int) -> str:
    """Such as `999 B`, `1.2 kB`, `34 MB`: two digits or three, powers of 1000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    digits = 1 if units[0] != "B" and value < 9.95 else 0
    return f"{value:.{digits}f} {units[0]}"
