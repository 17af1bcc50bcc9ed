"""What all trials of a sweep share, made once before the first one starts: generated data, proposals.

It runs in a process of its own, so that the runner stays small, and reports over a pipe.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from experiments.errors import UserError
from experiments.executors.base import AttemptError
from experiments.executors.local import end_session, warm_context
from experiments.failures import FailureKind
from experiments.preparation_process import Prepared, run_preparation
from experiments.trial import TrialPlan
from experiments.view import View


def prepare(plans: Sequence[TrialPlan], *, workers: int, view: View) -> None:
    """Makes what is missing for `plans`, with `workers` processes, and shows how far it is.

    Raises:
        UserError: for a fault in the data: nothing was started.
        RuntimeError: where the process broke in another way.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    configs = [plan.config.model_dump(mode="json") for plan in plans]
    process = warm_context().Process(  # type: ignore[attr-defined]  # every concrete context has it
        target=run_preparation, args=(configs, workers, theirs), name="prepare"
    )
    process.start()
    theirs.close()
    try:
        _follow(process, ours, view)
    finally:
        end_session(process)
        ours.close()


def _follow(process: BaseProcess, connection: Connection, view: View) -> None:
    while True:
        try:
            message = connection.recv()
        except EOFError:
            break
        if isinstance(message, Prepared):
            view.prepared(message.done, message.total, "proposals")
        elif isinstance(message, AttemptError):
            if message.kind == FailureKind.DATA:
                raise UserError(message.message.removeprefix("DataError: "))
            if message.kind == FailureKind.DISK_FULL:
                raise UserError(f"the disk is full, and what the trials share cannot be made: {message.message}")
            raise RuntimeError(f"what the trials share could not be made:\n{message.details}")
        else:
            view.message(f"warning: {message}")
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process that makes what the trials share ended with status {process.exitcode}")
