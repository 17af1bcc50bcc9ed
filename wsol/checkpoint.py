"""Checkpoints: atomic, checksummed, the last two kept, read without running code from the file.

Names and removal are in `wsol/checkpoint_files.py`. When nobody trains a trial any further, `keep_weights` leaves its
model's weights alone.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from wsol.atomic_file import pending_file
from wsol.checkpoint_files import EXAMPLE, PENDING, CheckpointFile, checkpoint_files, file_name, parse, remove

_log = logging.getLogger("wsol.checkpoint")

_OF_WEIGHTS = ("model", "identity")
"""What of a checkpoint's state stays with the weights."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used. The message names the file."""


def save(folder: Path, state: Mapping[str, Any], *, number: int) -> Path:
    """Saves a checkpoint. Whatever stops the process, `load_latest` finds this one or the one before.

    Kept are this one and the newest one before it. Removed are older ones, and those numbered higher: they were
    there when `load_latest` went back to an earlier one, so training cannot go on from them.

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
    path = _write(folder, state, number=number, weights_alone=False)
    files = checkpoint_files(folder)
    before = [file.path for file in files if file.number < number and not file.weights_alone]
    keep = {path, *before[-1:]}
    remove(folder, [file.path for file in files if file.path not in keep])
    return path


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a folder that is whole, or what `keep_weights` left of it, on the CPU; None without any.

    A broken one is passed over with a warning: its steps are made again, with the same result.
    """
    found = _newest_whole(checkpoint_files(folder))
    return found[1] if found else None


def keep_weights(folder: Path) -> int:
    """Replaces the checkpoints of a folder by the weights of the newest one.

    Stopped at any instant it leaves a whole file with these weights; the next call does the rest. Files that other
    folders share through hard links stay as they are there.

    Args:
        folder: of a trial that is not trained any further. One writer at a time.

    Returns:
        The bytes of the file that is left; 0 for a folder without checkpoints.

    Raises:
        CheckpointError: where the newest one is not whole, or has no model. Older ones are of earlier steps and thus
            of another model: all stay, so that the trial can be trained again from there.
        OSError, RuntimeError: where the folder cannot be written; the newest one is still there.
    """
    files = checkpoint_files(folder)
    if not files:
        return 0
    newest, state = _newest(files)
    weights = _weights_of(state, newest.path)
    remove(folder, [file.path for file in files if file != newest])  # first: the disk may be full
    if newest.weights_alone:
        return newest.path.stat().st_size
    path = _write(folder, weights, number=newest.number, weights_alone=True)
    remove(folder, [newest.path])
    return path.stat().st_size


def weights_size(folder: Path) -> int:
    """The bytes that `keep_weights` would leave. Changes nothing.

    Raises:
        CheckpointError: as `keep_weights` does.
    """
    files = checkpoint_files(folder)
    if not files:
        return 0
    newest, state = _newest(files)
    if newest.weights_alone:
        return newest.path.stat().st_size
    counter = _Counter()
    torch.save(_weights_of(state, newest.path), counter)  # type: ignore[arg-type]  # it writes, and no more is needed
    return counter.size


def load(path: Path) -> dict[str, Any]:
    """Reads one checkpoint, its tensors onto the CPU.

    Raises:
        CheckpointError: if the bytes are not those that were saved, the file cannot be read, or its name or its
            content is not that of a checkpoint.
    """
    named = parse(path)
    if named is None:
        raise CheckpointError(f"got {path}; expected a name like {EXAMPLE}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != named.sha256:
                raise CheckpointError(f"got sha256 {digest} for {path}; expected the one in its name: it is damaged")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"got {type(error).__name__} for {path} ({error}); expected a checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"got a {type(state).__name__} in {path}; expected a checkpoint's dict")
    return state


def is_weights_alone(state: Mapping[str, Any]) -> bool:
    """Whether this is what `keep_weights` leaves: a model that is trained to its end."""
    return not state.keys() - set(_OF_WEIGHTS)


class _Counter:
    """A file that keeps nothing but its size."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return count

    def flush(self) -> None:
        pass


def _write(folder: Path, state: Mapping[str, Any], *, number: int, weights_alone: bool) -> Path:
    with pending_file(folder / PENDING) as pending:
        torch.save(dict(state), pending.file)
        return pending.publish(file_name(number, pending.sha256(), weights_alone=weights_alone))


def _newest_whole(files: Iterable[CheckpointFile]) -> tuple[CheckpointFile, dict[str, Any]] | None:
    """The last file that can be read, with its content. Each that cannot is named in a warning."""
    for file in reversed(list(files)):
        try:
            return file, load(file.path)
        except CheckpointError as error:
            _log.warning("%s; going back to the one before", error)
    return None


def _newest(files: list[CheckpointFile]) -> tuple[CheckpointFile, dict[str, Any]]:
    """The last file, with its content; where several have its number, the last of them that can be read."""
    found = _newest_whole(file for file in files if file.number == files[-1].number)
    if found is None:
        raise CheckpointError(
            f"got no whole file of the last step in {files[-1].path.parent}; expected one: all files stay as they are"
        )
    return found


def _weights_of(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "model" not in state:
        raise CheckpointError(f"got no model in {path}; expected a trial's checkpoint")
    return {name: state[name] for name in _OF_WEIGHTS if name in state}
