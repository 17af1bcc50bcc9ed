"""How an attempt ended -> what kind of failure that is -> what to do. Pure."""

from __future__ import annotations

import signal
from enum import StrEnum

from experiments.executors.base import AttemptEnded


class FailureKind(StrEnum):
    """Why an attempt gave no result. The value is the trial's stop reason."""

    ERROR = "error"
    """An exception in the code, or a config that cannot work."""
    DATA = "data"
    """An image, annotation or weights file is missing or broken."""
    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "out_of_memory"
    """The GPU's memory, or the allocator's word about the host's."""
    KILLED = "killed"
    """By a signal from outside: the kernel out of memory, a batch system, a person."""
    INTERRUPTED = "interrupted"
    """The runner asked the attempt to stop; it is no failure and not counted as one."""


_RETRIED = frozenset({FailureKind.KILLED, FailureKind.OUT_OF_MEMORY})
"""What may go well another time. An error in the code, the data or the loss comes again: the data order is fixed."""


def classify(ended: AttemptEnded) -> FailureKind:
    """The kind of a failure, for an attempt that left no result."""
    if ended.error is not None:
        return FailureKind(ended.error.kind)
    return FailureKind.KILLED if ended.exit_code < 0 else FailureKind.ERROR


def may_retry(kind: FailureKind, *, attempts: int, max_attempts: int) -> bool:
    """Whether another attempt follows.

    Args:
        attempts: made in this run of the command.
    """
    return kind in _RETRIED and attempts < max_attempts


def describe(ended: AttemptEnded) -> str:
    """One line for people."""
    if ended.error is not None:
        return ended.error.message
    if ended.exit_code < 0:
        try:
            name = signal.Signals(-ended.exit_code).name
        except ValueError:
            name = f"signal {-ended.exit_code}"
        hint = " (out of host memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process exited with status {ended.exit_code} and left no result"
