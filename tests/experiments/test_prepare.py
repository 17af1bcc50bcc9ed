"""The preparation as the runner sees it: progress, warnings, faults. A thread plays its process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.executors.base import AttemptError
from experiments.failures import FailureKind
from experiments.preparation_process import Prepared
from experiments.prepare import _follow


class RecordingView:
    def __init__(self) -> None:
        self.seen: list[object] = []

    def prepared(self, done: int, total: int, what: str) -> None:
        self.seen.append((done, total, what))

    def message(self, text: str) -> None:
        self.seen.append(text)


def followed(messages: Sequence[object], *, exit_code: int = 0) -> list[object]:
    """What the view is told when the process sends `messages` and ends."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    for message in messages:
        theirs.send(message)
    theirs.close()
    process: Any = SimpleNamespace(join=lambda: None, exitcode=exit_code)
    view: Any = RecordingView()
    with ours:
        _follow(process, ours, view)
    seen: list[object] = view.seen
    return seen


def test_progress_and_warnings_are_shown_in_order() -> None:
    messages = [Prepared(done=1, total=2), "2 boxes mended", Prepared(done=2, total=2)]
    assert followed(messages) == [(1, 2, "proposals"), "warning: 2 boxes mended", (2, 2, "proposals")]


def test_nothing_to_say() -> None:
    assert followed([]) == []


def test_a_fault_of_the_data_is_the_users() -> None:
    error = AttemptError(kind=FailureKind.DATA, message="DataError: a.jpg is cut off", details="Traceback")
    with pytest.raises(UserError, match=r"^a\.jpg is cut off$"):
        followed([Prepared(done=0, total=1), error])


def test_a_full_disk_is_told() -> None:
    error = AttemptError(kind=FailureKind.DISK_FULL, message="OSError: /cache: No space left on device", details="")
    with pytest.raises(UserError, match=r"^the disk is full, and what .* made: OSError: /cache: No space left"):
        followed([error])


def test_any_other_fault_comes_with_its_traceback() -> None:
    error = AttemptError(kind=FailureKind.ERROR, message="KeyError: 'x'", details="Traceback of it")
    with pytest.raises(RuntimeError, match="could not be made:\nTraceback of it"):
        followed([error])


@pytest.mark.parametrize("exit_code", [1, -9])
def test_a_process_that_ends_without_a_word(exit_code: int) -> None:
    with pytest.raises(RuntimeError, match=f"ended with status {exit_code}$"):
        followed([Prepared(done=1, total=2)], exit_code=exit_code)
