"""A process that is killed between two file operations, played in the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest


class KilledError(BaseException):
    """Stands for SIGKILL at this instant: only the test catches it."""


def kill_before(call: int, *names: str, patch: pytest.MonkeyPatch) -> None:
    """The call of these functions of `os` with this number, from 0, is not done any more, nor is any after it."""
    calls = 0

    def killing(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise KilledError
            return original(*arguments, **options)

        return operation

    for name in names:
        patch.setattr(os, name, killing(getattr(os, name)))
