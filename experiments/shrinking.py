"""Checkpoints of complete trials become weights alone, in a process of its own: it takes torch.

An attempt does that itself when it has ended well; here is what a kill or a full disk has left.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiments.executors.local import end_session, warm_context
from experiments.report.entries import Entry
from experiments.shrinking_process import Shrunk, run_shrinking
from experiments.spec_document import KeepCheckpoints
from experiments.trial import TrialState
from wsol.checkpoint_files import checkpoint_files, remove_all

Warn = Callable[[str], None]


def shrink_left_over(entries: Iterable[Entry], keep: KeepCheckpoints, *, warn: Warn) -> None:
    """Brings the checkpoints of the complete trials that this sweep ran to what is to stay of them.

    Those of a trial that came from another sweep take no space twice: they are left to `runner.py gc`.
    """
    own = [
        entry.trial.paths.checkpoint
        for entry in entries
        if entry.trial and entry.result and entry.state is TrialState.COMPLETE and not entry.result.reused_from
    ]
    if keep == "weights":
        shrink([folder for folder in own if not has_weights_alone(folder)], warn=warn)
    elif keep == "none":
        for folder in own:
            try:
                remove_all(folder)
            except OSError as error:
                warn(f"the checkpoints in {folder} stay: {error}")


def has_weights_alone(folder: Path) -> bool:
    """Whether one file of weights is all that a folder has, or nothing at all, so that it cannot shrink."""
    files = checkpoint_files(folder)
    return not files or (len(files) == 1 and files[0].weights_alone)


def shrink(folders: Sequence[Path], *, warn: Warn, dry_run: bool = False) -> dict[Path, int]:
    """Leaves in each folder the weights of its newest checkpoint.

    Args:
        warn: takes a line for each folder that stays as it is, and more.
        dry_run: only say what would be left.

    Returns:
        The bytes that are left, of each folder that was done.
    """
    if not folders:
        return {}
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = warm_context().Process(  # type: ignore[attr-defined]  # every concrete context has it
        target=run_shrinking, args=(list(folders), dry_run, theirs), name="shrink"
    )
    process.start()
    theirs.close()
    try:
        return _follow(process, ours, warn)
    finally:
        end_session(process)
        ours.close()


def _follow(process: BaseProcess, connection: Connection, warn: Warn) -> dict[Path, int]:
    done: dict[Path, int] = {}
    while True:
        try:
            message = connection.recv()
        except EOFError:
            break
        if isinstance(message, Shrunk):
            done[message.folder] = message.size
        else:
            warn(str(message))
    process.join()
    if process.exitcode:
        warn(f"the process that shrinks checkpoints ended with status {process.exitcode}; the next one does the rest")
    return done
