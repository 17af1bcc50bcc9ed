"""What runs in the process that makes weights of checkpoints. A door to torch, like the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.child_process import lead_a_session, one_line, send_warnings


@dataclass(frozen=True)
class Shrunk:
    """A folder of checkpoints in which a file of weights is left, of `size` bytes."""

    folder: Path
    size: int


def run_shrinking(folders: Sequence[Path], dry_run: bool, connection: Connection) -> None:
    """The whole life of the process that replaces the checkpoints of complete trials by their models' weights.

    Args:
        folders: of checkpoints.
        dry_run: only say what would be left.
        connection: takes one `Shrunk` a folder, or a warning as text for one that stays as it is.
    """
    lead_a_session()
    from wsol.checkpoint import keep_weights, weights_size

    send_warnings("wsol", connection)
    for folder in folders:
        try:
            size = weights_size(folder) if dry_run else keep_weights(folder)
        except Exception as error:  # torch says RuntimeError where a disk is full
            connection.send(f"the checkpoints in {folder} could not be shrunk: {one_line(error)}")
        else:
            connection.send(Shrunk(folder=folder, size=size))
