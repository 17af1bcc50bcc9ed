"""Checkpoints: atomic, checksummed, the last two kept, read without running code from the file.

A file is named `checkpoint-<number>-<sha256 of its bytes>.pt`: a checksum in the name cannot be torn from its file.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsol.atomic_file import pending_file, sync_folder

_log = logging.getLogger("wsol.checkpoint")

_NAME = re.compile(r"checkpoint-(?P<number>\d{6,})-(?P<sha256>[0-9a-f]{64})\.pt")
_PENDING = ".checkpoint.pending"


class CheckpointError(Exception):
    """A checkpoint that cannot be used. The message names the file."""


@dataclass(frozen=True, order=True)
class _Entry:
    number: int
    path: Path
    sha256: str


def save(folder: Path, state: Mapping[str, Any], *, number: int) -> Path:
    """Saves a checkpoint. Whatever stops the process, `load_latest` finds this one or the one before.

    Kept are this one and the newest one before it. Removed are older ones, and those numbered higher: they were
    there when `load_latest` went back to an earlier one, so they are broken.

    Args:
        folder: made where it is missing. One writer at a time.
        state: what `torch.load(weights_only=True)` reads: tensors, numbers, strings, None, and dicts, lists and
            tuples of them.
        number: >= 0; grows with what the trial has done.

    Returns:
        The file.

    Raises:
        OSError: where the folder cannot be written; what was there is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with pending_file(folder / _PENDING) as pending:
        torch.save(dict(state), pending.file)
        path = pending.publish(f"checkpoint-{number:06d}-{pending.sha256()}.pt")
    _remove_all_but(folder, newest=path, number=number)
    return path


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a folder that is whole, on the CPU; None where there is none.

    A broken one is passed over with a warning: its steps are made again, with the same result.
    """
    for entry in sorted(_entries(folder), reverse=True):
        try:
            return load(entry.path)
        except CheckpointError as error:
            _log.warning("%s; going back to the one before", error)
    return None


def load(path: Path) -> dict[str, Any]:
    """Reads one checkpoint, its tensors onto the CPU.

    Raises:
        CheckpointError: if the bytes are not those that were saved, the file cannot be read, or its name or its
            content is not that of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"got {path}; expected a name like checkpoint-000012-<sha256>.pt")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != match["sha256"]:
                raise CheckpointError(f"got sha256 {digest} for {path}; expected the one in its name: it is damaged")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"got {type(error).__name__} for {path} ({error}); expected a checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"got a {type(state).__name__} in {path}; expected a checkpoint's dict")
    return state


def _entries(folder: Path) -> list[_Entry]:
    if not folder.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return [_Entry(int(match["number"]), path, match["sha256"]) for path, match in matches if match]


def _remove_all_but(folder: Path, *, newest: Path, number: int) -> None:
    before = [entry for entry in sorted(_entries(folder)) if entry.number < number]
    keep = {newest} | {entry.path for entry in before[-1:]}
    for entry in _entries(folder):
        if entry.path not in keep:
            entry.path.unlink(missing_ok=True)
    sync_folder(folder)
