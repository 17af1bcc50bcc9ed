"""Writes of the runner that wait for what they need, instead of failing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

LOOK_FOR_A_STOP_EVERY_S = 0.5


class Patiently(Protocol):
    """Does a write that may be repeated: it is whole or not at all, or knows what of it was done."""

    def __call__(self, action: Callable[[], T], /) -> T:
        """What the write returned."""


def once(action: Callable[[], T], /) -> T:
    """Without patience."""
    return action()


class Obstacle(Protocol):
    """What may be in a write's way for a while."""

    @property
    def look_every_s(self) -> float:
        """Between two looks at it."""

    @property
    def over_text(self) -> str:
        """A line for people, once it is gone."""

    def stopped(self, error: Exception) -> bool:
        """Whether a write failed because of it."""

    def paused_text(self, error: Exception) -> str:
        """A line for people, when it stops a write."""

    def may_be_gone(self) -> bool:
        """Whether trying again may be worth while."""


class PatientWriter:
    """Writes of the runner, each repeated until nothing is in its way.

    Args:
        obstacles: what is waited for; any other fault is raised.
        say: takes a line for people.
        must_stop: asked again and again while it waits.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *obstacles: Obstacle,
        say: Callable[[str], None],
        must_stop: Callable[[], bool],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._obstacles: Sequence[Obstacle] = obstacles
        self._say, self._must_stop, self._sleep = say, must_stop, sleep

    def write(self, action: Callable[[], T]) -> T:
        """Does what may be repeated.

        Raises:
            KeyboardInterrupt: when the run is to stop before it could be done.
        """
        met: Obstacle | None = None
        while True:
            try:
                result = action()
            except Exception as error:
                obstacle = next((one for one in self._obstacles if one.stopped(error)), None)
                if obstacle is None:
                    raise
                if obstacle is not met:
                    self._say(obstacle.paused_text(error))
                    met = obstacle
                self._wait(obstacle)
            else:
                if met is not None:
                    self._say(met.over_text)
                return result

    def _wait(self, obstacle: Obstacle) -> None:
        while True:
            left = obstacle.look_every_s
            while left > 0:
                if self._must_stop():
                    raise KeyboardInterrupt
                self._sleep(min(left, LOOK_FOR_A_STOP_EVERY_S))
                left -= LOOK_FOR_A_STOP_EVERY_S
            if obstacle.may_be_gone():
                return
