"""An executor that is listened to while the runner waits for something else, such as a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from experiments.executors.base import AttemptEnded, AttemptRequest, Event, Executor
from experiments.slots import Slot

LISTEN_S = 0.5


class AttendedExecutor:
    """See `Executor` for the promises; what happens while the runner waits is kept for the next `wait`.

    Attempts would stand still once nobody had read for long what they send.

    Args:
        executor: that runs them.
        clock: in seconds.
    """

    def __init__(self, executor: Executor, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._executor, self._clock = executor, clock
        self._kept: list[Event] = []
        self._running: set[int] = set()

    @property
    def slots(self) -> Sequence[Slot]:
        """Where attempts may run now."""
        return self._executor.slots

    def warm_up(self) -> None:
        """Does now what makes the first launch slow, as far as that can be done beforehand."""
        self._executor.warm_up()

    def launch(self, request: AttemptRequest) -> None:
        """Starts an attempt."""
        self._executor.launch(request)
        self._running.add(request.number)

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; blocks until something does or the time is over."""
        kept, self._kept = self._kept, []
        return [*kept, *self._listen(0.0)] if kept else self._listen(timeout_s)

    def stop(self, number: int) -> None:
        """Asks a trial's attempt to end soon, with everything saved."""
        self._executor.stop(number)

    def dump_stacks(self, number: int) -> None:
        """Makes a trial's attempt write where each of its threads is to log.txt."""
        self._executor.dump_stacks(number)

    def kill(self, number: int) -> None:
        """Ends a trial's attempt now."""
        self._executor.kill(number)

    def close(self) -> None:
        """Kills what still runs and frees everything."""
        self._executor.close()

    def pass_time(self, seconds: float) -> None:
        """Sleeps, listening."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self._kept += self._listen(left)

    def save_all(self, *, within_s: float, at_once: Callable[[], bool]) -> None:
        """Lets everything that runs save and end. Nobody will hear what it says of that.

        Args:
            within_s: what has not ended by then is left to `close`.
            at_once: whether somebody has lost patience.
        """
        for number in self._running:
            self._executor.stop(number)
        until = self._clock() + within_s
        while self._running and not at_once() and (left := until - self._clock()) > 0:
            self._listen(min(left, LISTEN_S))

    def _listen(self, timeout_s: float) -> list[Event]:
        events = self._executor.wait(timeout_s)
        self._running -= {event.number for event in events if isinstance(event, AttemptEnded)}
        return events
