"""What attempts on other machines and the runner say to each other. In Ray it is an actor beside the runner."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from experiments.executors.base import Event

Order = Literal["stop", "dump_stacks", "kill"]
"""What the runner asks of an attempt: the method of `Executor` that is called where it runs."""


class Mailbox:
    """Events go to the runner, orders to the attempts. Everybody asks and waits for the answer; nobody is called.

    An attempt is known by the number of its launch, which no other attempt has.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: list[tuple[int, Event]] = []
        self._has_news = asyncio.Event()
        self._orders: defaultdict[int, list[Order]] = defaultdict(list)
        self._has_orders: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._answered_at: dict[int, float] = {}
        self._given_up: set[int] = set()

    async def tell(self, launch: int, events: Sequence[Event]) -> None:
        """Events of an attempt, in order."""
        self._told += [(launch, event) for event in events]
        self._has_news.set()

    async def collect(self, within_s: float) -> list[tuple[int, Event]]:
        """All that was told since the last time; waits for something, but not longer than `within_s`."""
        await _wait(self._has_news, within_s)
        told, self._told = self._told, []
        self._has_news.clear()
        return told

    async def order(self, launch: int, order: Order) -> None:
        """An order for an attempt."""
        self._orders[launch].append(order)
        self._has_orders[launch].set()

    async def orders(self, launch: int, within_s: float) -> list[Order]:
        """Orders for an attempt since the last time. An answer allows it to go on, see `give_up`."""
        if launch not in self._given_up:
            await _wait(self._has_orders[launch], within_s)
        if launch in self._given_up:  # perhaps while it waited
            return ["kill"]
        self._has_orders[launch].clear()
        self._answered_at[launch] = self._clock()
        return self._orders.pop(launch, [])

    async def give_up(self, launch: int) -> float | None:
        """From now on the attempt is told nothing but to end.

        Returns:
            Seconds since it was answered last; None if it never was.
        """
        self._given_up.add(launch)
        self._has_orders[launch].set()
        answered = self._answered_at.get(launch)
        return None if answered is None else self._clock() - answered


async def _wait(event: asyncio.Event, within_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
