"""What the processes that take torch have in common: they die with the runner, and tell it what went wrong."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection

from experiments.failures import FailureKind, kind_of_error
from wsol.parent_death import die_with_parent

_PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h


def lead_a_session() -> None:
    """A session of its own, so that Ctrl-C reaches the runner alone; and death with the runner and the fork server.

    The runner's death alone would not end the fork server, which lives as long as any of its children.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    die_with_parent()


def send_warnings(logger: str, connection: Connection) -> None:
    """Warnings of a part of the code go over the pipe, and nowhere else."""
    log = logging.getLogger(logger)
    log.addHandler(_SendingHandler(connection))
    log.propagate = False


class _SendingHandler(logging.Handler):
    """Log records as text over a pipe."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(level=logging.WARNING)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(record.getMessage())


def failure_kind(error: BaseException) -> FailureKind:
    """What kind of failure an exception is, by those of torch and wsol as well."""
    import torch

    from wsol.checkpoint import CheckpointError
    from wsol.data.images import DataError
    from wsol.models.weights import WeightsError
    from wsol.training import Interrupted, NonFiniteLossError

    if isinstance(error, Interrupted):
        return FailureKind.INTERRUPTED
    if isinstance(error, NonFiniteLossError):
        return FailureKind.NON_FINITE_LOSS
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return FailureKind.OUT_OF_MEMORY
    if kind := kind_of_error(error):
        return kind
    if isinstance(error, (DataError, WeightsError, CheckpointError)):
        return FailureKind.DATA
    return FailureKind.ERROR


def one_line(error: BaseException) -> str:
    """An exception in at most 500 characters."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}"[:500] if text else name
