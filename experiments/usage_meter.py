"""What an attempt takes of its machine, measured in its own process while it trains."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from typing import Literal

from experiments.footprint import Usage
from experiments.host_memory import PeakMemory

PROBE_STEPS = 20
"""Training steps after which the first measurement is told."""
GROWTH = 1.05
"""A peak that has grown by more than this factor since it was told is told again."""

_KEPT = 1001
"""Steps that the median is of, the latest."""


class UsageMeter:
    """Peaks of memory and the median step. What is told never shrinks in bytes.

    Args:
        device_bytes: gives the peak of GPU memory so far.
        host: of main memory.
        tell: takes a measurement after PROBE_STEPS training steps, or those of the first pass where they are fewer;
            after the first evaluation; and at the end of an epoch in which a peak has grown.
    """

    def __init__(self, *, device_bytes: Callable[[], int], host: PeakMemory, tell: Callable[[Usage], None]) -> None:
        self._device_bytes, self._host, self._tell = device_bytes, host, tell
        self._steps: deque[float] = deque(maxlen=_KEPT)
        self._told: Usage | None = None
        self._evaluated = False

    def step_begins(self) -> None:
        """A step of any pass."""
        self._host.look_now_and_then()

    def trained(self, seconds: float) -> None:
        """A step of the optimizer is done."""
        self._steps.append(seconds)
        if len(self._steps) == PROBE_STEPS and self._told is None:
            self._look_and_tell()

    def pass_ends(self, over: Literal["rehearsal", "training", "evaluation"]) -> None:
        """After the last step of a pass."""
        first_evaluation = over == "evaluation" and not self._evaluated
        if first_evaluation or (over == "training" and self._told is None):
            self._look_and_tell()
        else:
            self._host.look()
        self._evaluated |= over == "evaluation"

    def epoch_ends(self) -> Usage:
        """What was taken so far."""
        usage = self._usage()
        if self._told is None or _has_grown(self._told, usage):
            self._tell_now()
        return usage

    def _look_and_tell(self) -> None:
        """At most twice an attempt: others plan with what is told."""
        self._host.look(whatever_it_costs=True)
        self._tell_now()

    def _tell_now(self) -> None:
        self._told = self._usage()
        self._tell(self._told)

    def _usage(self) -> Usage:
        return Usage(
            device_bytes=self._device_bytes(),
            host_bytes=self._host.peak_bytes,
            step_s=round(statistics.median(self._steps), 6) if self._steps else 0.0,
        )


def _has_grown(before: Usage, now: Usage) -> bool:
    return now.device_bytes > GROWTH * before.device_bytes or now.host_bytes > GROWTH * before.host_bytes
