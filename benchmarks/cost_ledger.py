"""What a run of the scheduler costs, operation by operation: in our own code, in the study, and in neither.

Retrospective: whoever drives the scheduler says what has been done since the last time it was asked. So nothing in the
scheduler has to know that it is measured.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal

Operation = Literal["start", "report", "end", "other"]
"""A trial starts, an epoch is reported, an attempt ends; signs of life and waking up in vain."""
PER_TRIAL: tuple[Operation, ...] = ("start", "report", "end")
"""What there is in proportion to the trials."""


@dataclass
class Costs:
    """Of the operations of one kind, in their order.

    Attributes:
        own: seconds of the processor in our own code.
        study: the same within the study's methods.
        wall: seconds by the clock, the study included.
    """

    own: array[float] = field(default_factory=lambda: array("d"))
    study: array[float] = field(default_factory=lambda: array("d"))
    wall: array[float] = field(default_factory=lambda: array("d"))

    def total(self, part: Literal["own", "study", "wall"]) -> float:
        """Of all operations."""
        return sum(getattr(self, part))

    def ends(self, part: Literal["own", "study", "wall"], share: float) -> tuple[float, float]:
        """Of the first and of the last operations, a share (0 to 1) of all each."""
        costs = getattr(self, part)
        count = round(share * len(costs))
        return sum(costs[:count]), sum(costs[len(costs) - count :])


class CostLedger:
    """The seconds of this process. Processor time is that of all its threads, its system calls included.

    Args:
        clock: another measure of work instead of the processor's seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self.costs: dict[Operation, Costs] = {"start": Costs(), "report": Costs(), "end": Costs(), "other": Costs()}
        self.outside = 0.0
        """Seconds of the processor that were nobody's: what plays the attempts."""
        self.handling: Operation = "other"
        """What `charge` without an operation is for."""
        self._study_cpu = 0.0
        self._cpu, self._wall = clock(), time.perf_counter()

    def begin(self) -> None:
        """Nothing that was done so far counts."""
        self._lap()
        self._study_cpu = 0.0

    def charge(self, operation: Operation | None = None) -> None:
        """What was done since the last call was one operation."""
        cpu, wall = self._lap()
        costs = self.costs[operation or self.handling]
        costs.own.append(cpu - self._study_cpu)
        costs.study.append(self._study_cpu)
        costs.wall.append(wall)
        self._study_cpu = 0.0
        self.handling = "other"

    def skip(self) -> None:
        """What was done since the last call is nobody's."""
        self.outside += self._lap()[0]

    def watch(self, study: Any) -> None:
        """From now on the time in a study's public methods is the study's."""
        for name in dir(study):
            if not name.startswith("_") and callable(getattr(study, name)):
                setattr(study, name, self._watched(getattr(study, name)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def watched(*arguments: Any, **keywords: Any) -> Any:
            began = self._clock()
            try:
                return method(*arguments, **keywords)
            finally:
                self._study_cpu += self._clock() - began

        return watched

    def _lap(self) -> tuple[float, float]:
        cpu, wall = self._clock(), time.perf_counter()
        lap = cpu - self._cpu, wall - self._wall
        self._cpu, self._wall = cpu, wall
        return lap
