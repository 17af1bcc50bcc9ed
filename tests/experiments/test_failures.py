from __future__ import annotations

import errno
import signal
import sqlite3
from typing import Any

import pytest

from experiments.executors.base import AttemptEnded, AttemptError
from experiments.failures import (
    MOST_KILLS,
    Failure,
    FailureKind,
    NextStep,
    classify,
    describe,
    kind_of_error,
    next_step,
)

K = FailureKind


def ended(exit_code: int, kind: str | None = None, message: str = "", *, oom_kills: int = 0) -> AttemptEnded:
    error = None if kind is None else AttemptError(kind=kind, message=message)
    return AttemptEnded(number=0, exit_code=exit_code, error=error, oom_kills=oom_kills)


@pytest.mark.parametrize(
    ("exit_code", "oom_kills", "kind"),
    [
        (-signal.SIGKILL, 0, K.KILLED),
        (-signal.SIGKILL, 1, K.OUT_OF_MEMORY),
        (-signal.SIGTERM, 1, K.KILLED),  # the kernel's kill is SIGKILL
        (-signal.SIGHUP, 0, K.KILLED),
        (-200, 0, K.KILLED),
        (-signal.SIGSEGV, 0, K.CRASH),
        (-signal.SIGSEGV, 1, K.CRASH),
        (-signal.SIGABRT, 0, K.CRASH),
        (-signal.SIGBUS, 0, K.CRASH),
        (1, 0, K.ERROR),
        (0, 0, K.ERROR),
    ],
)
def test_silent_endings(exit_code: int, oom_kills: int, kind: FailureKind) -> None:
    assert classify(ended(exit_code, oom_kills=oom_kills)) is kind


@pytest.mark.parametrize("kind", list(FailureKind))
@pytest.mark.parametrize("exit_code", [1, -9])
def test_what_the_attempt_said_counts(kind: FailureKind, exit_code: int) -> None:
    assert classify(ended(exit_code, kind)) is kind


def test_a_loader_process_that_the_kernel_killed_is_out_of_memory() -> None:
    assert classify(ended(1, K.KILLED, oom_kills=1)) is K.OUT_OF_MEMORY
    assert classify(ended(1, K.ERROR, oom_kills=1)) is K.ERROR


@pytest.mark.parametrize("how", [ended(-9), ended(-9, oom_kills=1), ended(1, K.ERROR)])
def test_what_was_ended_for_hanging_hung(how: AttemptEnded) -> None:
    assert classify(how, hung=True) is K.HANG


def steps(*kinds: FailureKind, max_attempts: int = 3, can_halve: bool = True, got_on: bool = False) -> list[NextStep]:
    """What follows each failure of a trial."""
    failures = [Failure(kind, got_on) for kind in kinds]
    return [
        next_step(failures[: count + 1], max_attempts=max_attempts, can_halve=can_halve) for count in range(len(kinds))
    ]


@pytest.mark.parametrize("kind", [K.ERROR, K.DATA, K.NON_FINITE_LOSS])
def test_what_comes_again_is_not_tried_again(kind: FailureKind) -> None:
    assert steps(kind) == [NextStep.FAIL]


def test_out_of_memory_alone_then_fewer_images_then_no_more() -> None:
    memory = [K.OUT_OF_MEMORY] * 3
    assert steps(*memory) == [NextStep.ALONE, NextStep.FEWER_AT_A_TIME, NextStep.FAIL]
    assert steps(*memory, max_attempts=9) == [NextStep.ALONE, NextStep.FEWER_AT_A_TIME, NextStep.FAIL]
    assert steps(*memory[:2], can_halve=False) == [NextStep.ALONE, NextStep.FAIL]
    assert steps(*memory[:2], max_attempts=2) == [NextStep.ALONE, NextStep.FAIL]
    assert steps(K.OUT_OF_MEMORY, max_attempts=1) == [NextStep.FAIL]


def test_a_hang_once_more() -> None:
    assert steps(K.HANG, K.HANG) == [NextStep.AGAIN, NextStep.FAIL]
    assert steps(K.HANG, max_attempts=1) == [NextStep.FAIL]


def test_a_crash_up_to_the_limit() -> None:
    assert steps(K.CRASH, K.CRASH, K.CRASH) == [NextStep.AGAIN, NextStep.AGAIN, NextStep.FAIL]


def test_kills_and_a_full_disk_use_up_nothing() -> None:
    between = [K.KILLED, K.DISK_FULL] * 4
    assert steps(*between, K.CRASH, *between, K.CRASH, *between)[-1] is NextStep.WHEN_THERE_IS_ROOM
    assert steps(*between, K.OUT_OF_MEMORY)[-1] is NextStep.ALONE
    assert set(steps(*between, max_attempts=1)) == {NextStep.AGAIN, NextStep.WHEN_THERE_IS_ROOM}


def test_killed_again_and_again_without_getting_on() -> None:
    assert set(steps(*[K.KILLED] * (MOST_KILLS - 1))) == {NextStep.AGAIN}
    assert steps(*[K.KILLED] * MOST_KILLS)[-1] is NextStep.LATER
    assert set(steps(*[K.KILLED] * 5 * MOST_KILLS, got_on=True)) == {NextStep.AGAIN}
    assert steps(*[K.KILLED] * (MOST_KILLS - 1), K.CRASH, K.KILLED)[-1] is NextStep.AGAIN


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), K.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), K.DISK_FULL),
        (OSError(errno.EIO, "Input/output error"), None),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), K.DISK_FULL),
        (sqlite3.OperationalError("database or disk is full"), K.DISK_FULL),
        (caused(RuntimeError("storage"), sqlite3.OperationalError("database or disk is full")), K.DISK_FULL),
        (MemoryError(), K.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), K.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Allocation was preemptively rejected because it"), K.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors"), K.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), K.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), K.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), K.KILLED),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. "), K.KILLED),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), K.KILLED),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), K.CRASH),
        (ValueError("memory"), None),
    ],
)
def test_errors(error: BaseException, kind: FailureKind | None) -> None:
    assert kind_of_error(error) is kind


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (ended(1, "error", "ValueError: what it said"), "ValueError: what it said"),
        (ended(-signal.SIGKILL), "its process was ended by SIGKILL"),
        (ended(-signal.SIGKILL, oom_kills=1), "its process was ended by SIGKILL, by the kernel, as memory ran out"),
        (ended(-signal.SIGSEGV), "its process was ended by SIGSEGV"),
        (ended(-200), "its process was ended by signal 200"),
        (ended(3), "its process exited with status 3 and left no result"),
        (ended(0), "its process exited with status 0 and left no result"),
    ],
)
def test_described_for_people(attempt: Any, text: str) -> None:
    assert describe(attempt) == text
