"""How an attempt ended -> what kind of failure that is -> what follows for its trial. Pure."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from experiments.executors.base import AttemptEnded

MOST_KILLS = 10
"""Killed so often in a row without getting on, a trial is left for the next run of the command."""

_CRASHES = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP"})
"""Signals that a process brings upon itself."""


class FailureKind(StrEnum):
    """Why an attempt gave no result. The value is the trial's stop reason."""

    ERROR = "error"
    """An exception in the code, or a config that cannot work."""
    CRASH = "crash"
    """The process broke outside of Python: a segmentation fault, an abort."""
    DATA = "data"
    """An image, annotation or weights file is missing or broken."""
    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "oom"
    """Of the GPU, or of the host: the allocator's word, or the kernel's kill."""
    HANG = "hang"
    """No step came to its end for far longer than steps take."""
    KILLED = "killed"
    """By a signal from outside: a batch system that wants its node back, a person."""
    DISK_FULL = "disk_full"
    INTERRUPTED = "interrupted"
    """The runner asked the attempt to stop; it is no failure and not counted as one."""


FAULTS_OF_THE_CODE = frozenset({FailureKind.ERROR, FailureKind.DATA, FailureKind.CRASH, FailureKind.HANG})
"""What may hit every trial of a sweep alike."""


class NextStep(StrEnum):
    """What follows for a trial whose attempt gave no result."""

    AGAIN = auto()
    """Another attempt, as soon as there is a slot."""
    ALONE = auto()
    """Another attempt, with a device for itself."""
    FEWER_AT_A_TIME = auto()
    """Alone, with half as many images in the model at a time."""
    WHEN_THERE_IS_ROOM = auto()
    """Another attempt, once the disk has room."""
    LATER = auto()
    """Nothing in this run of the command: the trial stays unfinished."""
    FAIL = auto()


@dataclass(frozen=True)
class Failure:
    """An attempt that gave no result.

    Attributes:
        got_on: whether it reported an epoch.
    """

    kind: FailureKind
    got_on: bool = False


def classify(ended: AttemptEnded, *, hung: bool = False) -> FailureKind:
    """The kind of a failure, for an attempt that left no result.

    Args:
        hung: whether it was ended for that.
    """
    if hung:
        return FailureKind.HANG
    if ended.error is not None:
        kind = FailureKind(ended.error.kind)
        return FailureKind.OUT_OF_MEMORY if kind is FailureKind.KILLED and ended.oom_kills else kind
    if ended.exit_code >= 0:
        return FailureKind.ERROR
    name = _signal_name(ended)
    if name in _CRASHES:
        return FailureKind.CRASH
    return FailureKind.OUT_OF_MEMORY if name == "SIGKILL" and ended.oom_kills else FailureKind.KILLED


def ran_out_of_gpu_memory(ended: AttemptEnded) -> bool:
    """Whether an attempt said that a GPU had no memory left for it; main memory is another matter."""
    error = ended.error
    of_gpu = error is not None and any(name in error.message for name in ("CUDA", "CUBLAS", "CUDNN"))
    return of_gpu and classify(ended) is FailureKind.OUT_OF_MEMORY


def next_step(failures: Sequence[Failure], *, max_attempts: int, can_halve: bool) -> NextStep:
    """What follows after the last of a trial's failures.

    Args:
        failures: in this run of the command, in order; at least one.
        max_attempts: attempts that count. One that was killed or found the disk full does not.
        can_halve: whether fewer images could go through the model at a time.
    """
    kind = failures[-1].kind
    if kind in (FailureKind.KILLED, FailureKind.INTERRUPTED):
        last = failures[-MOST_KILLS:]
        in_vain = all(failure.kind is FailureKind.KILLED and not failure.got_on for failure in last)
        return NextStep.LATER if in_vain and len(last) == MOST_KILLS else NextStep.AGAIN
    if kind is FailureKind.DISK_FULL:
        return NextStep.WHEN_THERE_IS_ROOM
    uncounted = (FailureKind.KILLED, FailureKind.INTERRUPTED, FailureKind.DISK_FULL)
    if sum(failure.kind not in uncounted for failure in failures) >= max_attempts:
        return NextStep.FAIL
    alike = sum(failure.kind is kind for failure in failures)
    if kind is FailureKind.OUT_OF_MEMORY:
        if alike == 1:
            return NextStep.ALONE
        return NextStep.FEWER_AT_A_TIME if alike == 2 and can_halve else NextStep.FAIL
    if kind is FailureKind.CRASH or (kind is FailureKind.HANG and alike == 1):
        return NextStep.AGAIN
    return NextStep.FAIL  # an error in the code, the data or the loss comes again: the order of the data is fixed


def kind_of_error(error: BaseException) -> FailureKind | None:
    """What is known of an exception without the code that raised it; None: nothing."""
    for link in _chain(error):
        text = str(link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return FailureKind.DISK_FULL
        if any(
            words in text for words in ("No space left on device", "database or disk is full", "Disk quota exceeded")
        ):
            return FailureKind.DISK_FULL
        if isinstance(link, MemoryError) or _is_out_of_memory(text):
            return FailureKind.OUT_OF_MEMORY
        if text.startswith("DataLoader worker"):
            killed = any(f"killed by signal: {name}" in text for name in ("Killed", "Terminated", "Hangup"))
            return FailureKind.KILLED if killed or "exited unexpectedly" in text else FailureKind.CRASH
    return None


def describe(ended: AttemptEnded) -> str:
    """One line for people."""
    if ended.error is not None:
        return ended.error.message
    if ended.exit_code < 0:
        hint = ", by the kernel, as memory ran out" if ended.oom_kills else ""
        return f"its process was ended by {_signal_name(ended)}{hint}"
    return f"its process exited with status {ended.exit_code} and left no result"


def _signal_name(ended: AttemptEnded) -> str:
    try:
        return signal.Signals(-ended.exit_code).name
    except ValueError:
        return f"signal {-ended.exit_code}"


def _is_out_of_memory(text: str) -> bool:
    """Torch says it in many ways, most of them as RuntimeError."""
    return any(
        words in text
        for words in (
            "CUDA out of memory",
            "CUDA error: out of memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_ALLOC_FAILED",
            "can't allocate memory",
            "not enough memory",
            "Cannot allocate memory",
        )
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came of."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
