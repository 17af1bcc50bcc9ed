"""How a run is stopped: what people and batch systems ask for, and the signals by which they do."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from wsol.parent_death import STOPPING_SIGNALS

ONE_SIGNAL_S = 2.0
"""Signals of a batch system that come so soon after the first are the same."""
STOP_WITHIN_S = 9.0
"""What has not saved and ended by then, after the runner was asked to stop, is ended."""


@dataclass
class StopRequest:
    """What people and batch systems ask of a running sweep. Safe in a signal handler, as it only notes it."""

    asked: bool = False
    """Running trials save and end; nothing new starts."""
    now: bool = False
    """Running trials end at once; their checkpoints are what is kept."""


@contextlib.contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """The first signal lets running trials save and stop; the second ends them now.

    A batch system may send one signal twice at a time, to a script that passes it on and to this process: that is one.
    """
    first_at = -math.inf

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if not stop.asked:
            stop.asked, first_at = True, now
        elif number == signal.SIGINT or now - first_at >= ONE_SIGNAL_S:
            stop.now = True

    with contextlib.ExitStack() as stack:
        for number in STOPPING_SIGNALS:
            stack.enter_context(_handler(number, on_signal))
        yield


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """What else may end a run is a Ctrl-C, so that it leaves no process behind either."""
    with contextlib.ExitStack() as stack:
        for number in STOPPING_SIGNALS:
            stack.enter_context(_handler(number, signal.default_int_handler))
        yield


@contextlib.contextmanager
def _handler(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """One that is ignored stays so: under nohup the end of the terminal is no reason to stop."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
