"""Attempts that have stopped getting on, told by the signs of life that they give. Pure, but for the clocks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

LEAST_S = 60.0
"""No step is waited for less than this."""
TIMES_THE_MEDIAN = 10.0
BETWEEN_STEPS_S = 600.0
"""For what has no steps: a pass that begins, metrics, checkpoints, pictures."""
START_S = 1800.0
"""For an attempt's first sign: it may have to download weights."""
DUMP_S = 2.0
"""From the order to write down all stacks to the end."""

SPARE = 0.1
"""An attempt promises its next sign so much later than it needs to. Until that is used up it has nothing to say: of a
thousand attempts that spoke once a second the runner had nothing else to do."""

_KEPT = 101
"""Steps that the median is of."""


class StepTimes:
    """How long the steps of a pass take, and how long to wait for the next one. In the attempt."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._durations: list[float] = []
        self._began: float | None = None

    def step(self) -> float:
        """A step begins, and ends the one before. Returns how long it may take, in seconds."""
        now = self._clock()
        if self._began is not None:
            self._durations = [*self._durations[1 - _KEPT :], now - self._began]
        self._began = now
        return (
            max(LEAST_S, TIMES_THE_MEDIAN * statistics.median(self._durations)) if self._durations else BETWEEN_STEPS_S
        )

    def pass_ends(self) -> float:
        """The last step is over. Returns how long what follows may take, in seconds."""
        self._durations, self._began = [], None
        return BETWEEN_STEPS_S


class Promise:
    """What the runner was last told of the next sign of life, and whether it still holds. In the attempt.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = -math.inf

    def renewed(self, next_within_s: float) -> float | None:
        """What to tell now, if what follows may take so long; None where what was told is enough, and not too much."""
        left_s = self._until - self._clock()
        if next_within_s <= left_s <= 2 * next_within_s:
            return None
        promised_s = next_within_s * (1 + SPARE)
        self._until = self._clock() + promised_s
        return promised_s


class Watchdog:
    """Which of the running attempts are overdue. In the runner.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadlines: dict[int, float] = {}
        self._dumping: dict[int, float] = {}
        self._look_at = math.inf
        """No deadline is before that. It keeps a thousand attempts from being looked at after each event."""

    def started(self, number: int) -> None:
        """An attempt of a trial starts."""
        self.expect(number, START_S)

    def expect(self, number: int, within_s: float) -> None:
        """The next sign of life is due in so long. One that comes too late changes nothing."""
        if number not in self._dumping:
            deadline = self._clock() + within_s
            self._deadlines[number] = deadline
            self._look_at = min(self._look_at, deadline)

    def ended(self, number: int) -> bool:
        """The attempt is over. Returns whether it had hung."""
        self._deadlines.pop(number, None)
        return self._dumping.pop(number, None) is not None

    def overdue(self, *, heard_until: float) -> list[int]:
        """Trials whose attempt has just become overdue: it is to write down its stacks. Each is named once.

        Args:
            heard_until: when the signs of life were read last, on the watchdog's clock. What came later counts, too.
        """
        now = self._clock()
        if heard_until < self._look_at:
            return []
        found = [number for number, deadline in self._deadlines.items() if heard_until >= deadline]
        for number in found:
            del self._deadlines[number]
            self._dumping[number] = now + DUMP_S
        self._look_at = min(self._deadlines.values(), default=math.inf)
        return found

    def to_kill(self) -> list[int]:
        """Trials whose attempt had its time to write down its stacks."""
        now = self._clock()
        return [number for number, until in self._dumping.items() if now >= until]
