"""The files of a checkpoint folder: their names, which of them are whole, which nobody needs. No torch.

A file is named `checkpoint-<number>-<sha256 of its bytes>.pt`, or `weights-...` when it holds a model's weights alone,
from which no training can go on. A checksum in the name cannot be torn from its file. Files may be hard links that
other folders share: they are replaced and removed, never written into.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wsol.atomic_file import sync_folder

PENDING = ".checkpoint.pending"
"""Temporary name of what is being written; a leftover once nobody trains in the folder."""

EXAMPLE = "checkpoint-000012-<sha256>.pt"

_NAME = re.compile(r"(?P<kind>checkpoint|weights)-(?P<number>\d{6,})-(?P<sha256>[0-9a-f]{64})\.pt")


@dataclass(frozen=True, order=True)
class CheckpointFile:
    """A file with the name of a checkpoint. They sort by age; of one number, weights alone come last.

    Attributes:
        number: grows with what the trial has done.
        weights_alone: no optimizer, no schedule.
        sha256: 64 hex digits that its bytes should have.
    """

    number: int
    weights_alone: bool
    path: Path
    sha256: str


def file_name(number: int, sha256: str, *, weights_alone: bool = False) -> str:
    """The name of a checkpoint with these bytes."""
    return f"{'weights' if weights_alone else 'checkpoint'}-{number:06d}-{sha256}.pt"


def parse(path: Path) -> CheckpointFile | None:
    """What a name says; None where it is not that of a checkpoint."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    return CheckpointFile(int(match["number"]), match["kind"] == "weights", path, match["sha256"])


def checkpoint_files(folder: Path) -> list[CheckpointFile]:
    """The checkpoints of a folder, whole or not, oldest first; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(file for path in folder.iterdir() if (file := parse(path)) is not None)


def is_whole(file: CheckpointFile) -> bool:
    """Whether the bytes are those that were saved. Reads the file."""
    try:
        with file.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def superfluous(folder: Path) -> list[Path]:
    """What a trial that ended and may be taken up again does not need: all but the newest whole checkpoint.

    None where no training could go on from any. Reads a file only where there are several.
    """
    files = checkpoint_files(folder)
    if len(files) < 2:
        return []
    newest = next((file for file in reversed(files) if not file.weights_alone and is_whole(file)), None)
    return [file.path for file in files if newest is not None and file != newest]


def remove_all(folder: Path) -> None:
    """Removes every checkpoint of a folder. See `remove`."""
    remove(folder, [file.path for file in checkpoint_files(folder)])


def remove(folder: Path, paths: Collection[Path]) -> None:
    """Removes checkpoints of a folder, and what a killed process left of one that it was writing.

    Raises:
        OSError: where the folder cannot be written.
    """
    leftover = folder / PENDING
    if not paths and not leftover.exists():
        return
    for path in [*paths, leftover]:
        path.unlink(missing_ok=True)
    sync_folder(folder)
