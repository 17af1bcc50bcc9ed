from __future__ import annotations

import signal

import pytest

from experiments.executors.base import AttemptEnded, AttemptError
from experiments.failures import FailureKind, classify, describe, may_retry


def ended(exit_code: int, kind: str | None = None, message: str = "") -> AttemptEnded:
    error = None if kind is None else AttemptError(kind=kind, message=message)
    return AttemptEnded(number=0, exit_code=exit_code, error=error)


@pytest.mark.parametrize(
    ("exit_code", "kind"),
    [(-9, FailureKind.KILLED), (-15, FailureKind.KILLED), (1, FailureKind.ERROR), (0, FailureKind.ERROR)],
)
def test_silent_endings(exit_code: int, kind: FailureKind) -> None:
    assert classify(ended(exit_code)) is kind


@pytest.mark.parametrize("kind", list(FailureKind))
@pytest.mark.parametrize("exit_code", [1, -9])
def test_what_the_attempt_said_counts(kind: FailureKind, exit_code: int) -> None:
    assert classify(ended(exit_code, kind)) is kind


@pytest.mark.parametrize("kind", list(FailureKind))
def test_only_what_may_go_well_another_time_is_retried(kind: FailureKind) -> None:
    assert may_retry(kind, attempts=1, max_attempts=3) == (kind in ("killed", "out_of_memory"))


@pytest.mark.parametrize(("attempts", "again"), [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_attempts_are_counted(attempts: int, again: bool) -> None:
    assert may_retry(FailureKind.KILLED, attempts=attempts, max_attempts=3) is again


def test_one_attempt_means_no_retry() -> None:
    assert not may_retry(FailureKind.KILLED, attempts=1, max_attempts=1)


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (ended(1, "error", "ValueError: what it said"), "ValueError: what it said"),
        (ended(-signal.SIGKILL), "its process was ended by SIGKILL (out of host memory?)"),
        (ended(-signal.SIGSEGV), "its process was ended by SIGSEGV"),
        (ended(-200), "its process was ended by signal 200"),
        (ended(3), "its process exited with status 3 and left no result"),
        (ended(0), "its process exited with status 0 and left no result"),
    ],
)
def test_described_for_people(attempt: AttemptEnded, text: str) -> None:
    assert describe(attempt) == text
