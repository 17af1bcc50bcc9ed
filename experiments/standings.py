"""How configurations stand where a pruner compares them, kept up report by report. Pure.

A decision looks at all configurations: at 20,000 of them, and with a decision an epoch, they cannot all be gone through
each time. What is kept here is what going through them would give.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection

from experiments.pruning import Standing

StandingOf = Callable[[str, float], Standing]
"""A configuration and a time -> how it stood by then."""


class Standings:
    """Of all configurations, in one comparison.

    Args:
        standing_of: called again only for those that are said to have changed, and for those that a question names.
    """

    def __init__(self, standing_of: StandingOf) -> None:
        self._standing_of = standing_of
        self._latest: dict[str, Standing] = {}
        self._values: list[float] = []  # of `_latest`, ascending
        self._complete = 0
        self._changed: set[str] = set()

    def changed(self, configuration: str) -> None:
        """It is new, or there was another report of it."""
        self._changed.add(configuration)

    def others(self, configuration: str, *, by: float, later: Collection[str]) -> tuple[list[float], int]:
        """How all but one configuration stood at a time.

        Args:
            later: those of which something was reported after that time.

        Returns:
            The values that compete, in ascending order, and how many configurations were complete.
        """
        self._catch_up()
        values, complete = self._values.copy(), self._complete
        for other in {configuration, *later}:
            if (standing := self._latest.get(other)) is not None:
                complete -= standing.complete
                _remove(values, standing.value)
        for other in later:
            if other != configuration:
                standing = self._standing_of(other, by)
                complete += standing.complete
                _insert(values, standing.value)
        return values, complete

    def _catch_up(self) -> None:
        for configuration in self._changed:
            before = self._latest.pop(configuration, None)
            if before is not None:
                self._complete -= before.complete
                _remove(self._values, before.value)
            now = self._standing_of(configuration, math.inf)
            if now.complete or now.value is not None:
                self._latest[configuration] = now
                self._complete += now.complete
                _insert(self._values, now.value)
        self._changed.clear()


class LastReports:
    """When each configuration was last heard of."""

    def __init__(self) -> None:
        self._time: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []

    def heard(self, configuration: str, time: float) -> None:
        """There is a report of it."""
        before = self._time.get(configuration)
        if before is None or time > before:
            if before is not None:
                del self._order[bisect.bisect_left(self._order, (before, configuration))]
            self._time[configuration] = time
            bisect.insort(self._order, (time, configuration))

    def after(self, time: float) -> list[str]:
        """The configurations that were heard of after a time."""
        return [configuration for _, configuration in self._order[bisect.bisect_right(self._order, time, key=_time) :]]


def _time(entry: tuple[float, str]) -> float:
    return entry[0]


def _insert(values: list[float], value: float | None) -> None:
    if value is not None:
        bisect.insort(values, value)


def _remove(values: list[float], value: float | None) -> None:
    if value is not None:
        del values[bisect.bisect_left(values, value)]
