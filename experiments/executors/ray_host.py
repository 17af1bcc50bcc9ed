"""What a Ray task does for an attempt: it runs it as a process of its own and passes on what the two sides say.

The attempt is a child of the Ray worker's fork server, so all that holds on one machine holds here: it has a session of
its own, which the kernel kills when the Ray worker dies. A Ray worker dies with the Ray of its node.

No attempt goes on that the runner may believe dead: each time that it asks for orders and gets an answer, it may go on
for `Terms.lease_s` from the asking. Else it is killed here; and before that time is over the runner starts no other
attempt of a trial that it lost.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import ray

from experiments.executors.base import AttemptEnded, AttemptRequest, Event
from experiments.executors.local import LocalExecutor, warm_context
from experiments.executors.ray_check import Terms
from experiments.executors.ray_mailbox import Order

_ASKS_A_LEASE = 5
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class HostedEnd:
    """How an attempt ended, or why it did not begin.

    Attributes:
        told: events that went to the mailbox before; the runner waits for them.
    """

    ended: AttemptEnded
    told: int


def run_hosted(request: AttemptRequest, launch: int, mailbox: Any, terms: Terms) -> HostedEnd:
    """The whole of a Ray task.

    Args:
        launch: which no other attempt has.
        mailbox: handle of the actor.
    """
    _settle(terms)
    gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
    request = replace(request, slot=replace(request.slot, visible_devices=gpus))
    with closing(LocalExecutor(slots=[request.slot])) as executor:
        _warm_up(executor)  # which takes seconds in a new Ray worker, in which nobody would ask
        line = _Line(mailbox, launch, lease_s=terms.lease_s)
        if line.begin():
            executor.launch(request)
            return _follow(request.number, executor, line)
    return HostedEnd(AttemptEnded(request.number, exit_code=-9), told=0)


def _settle(terms: Terms) -> None:
    """Makes the Ray worker, and what comes of it, like the runner's own process."""
    os.chdir(terms.working_directory)
    # The fork server looks there first, and not in the working directory.
    os.environ |= {"PYTHONPATH": str(terms.repository), "PYTHONSAFEPATH": "1", "WSOL_CACHE": str(terms.cache)}
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's; an attempt has its own
    vars(sys.modules["__main__"]).pop("__file__", None)  # else every attempt would import Ray's own script, and Ray


def _warm_up(executor: LocalExecutor) -> None:
    """Returns when the fork server has imported all that it shall."""
    executor.warm_up()
    process = warm_context().Process(target=os.getpid)  # type: ignore[attr-defined]  # every concrete context has it
    process.start()
    process.join()


def _follow(number: int, executor: LocalExecutor, line: _Line) -> HostedEnd:
    while True:
        events = executor.wait(_LOOK_EVERY_S)
        ended = [event for event in events if isinstance(event, AttemptEnded)]
        line.tell([event for event in events if not isinstance(event, AttemptEnded)])
        if ended:
            line.finish()
            return HostedEnd(ended[0], told=line.told)
        orders = line.orders()
        if "kill" in orders or line.is_lost():
            executor.kill(number)
        if "stop" in orders:
            executor.stop(number)
        if "dump_stacks" in orders:
            executor.dump_stacks(number)


def _now() -> float:
    """Seconds that go on while a machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Line:
    """An attempt's line to the runner. Nothing here waits for the runner but `begin` and `finish`."""

    def __init__(self, mailbox: Any, launch: int, *, lease_s: float) -> None:
        self._mailbox, self._launch, self._lease_s = mailbox, launch, lease_s
        self._allowed_until = 0.0
        self._asked_at = _now()
        self._answer: ray.ObjectRef[Any] | None = None
        self._unconfirmed: list[ray.ObjectRef[Any]] = []
        self.told = 0

    def begin(self) -> bool:
        """Asks for the first permit. Returns whether there is one."""
        self._ask(0.0)
        ray.wait([self._answer], timeout=self._lease_s)
        return "kill" not in self.orders() and not self.is_lost()

    def is_lost(self) -> bool:
        """Whether the attempt has to end."""
        return _now() >= self._allowed_until

    def orders(self) -> list[Order]:
        """What has come in meanwhile."""
        if self._answer is None or not is_ready(self._answer):
            return []
        try:
            orders: list[Order] = ray.get(self._answer)
        except ray.exceptions.RayError:  # the runner is gone, and the mailbox with it
            self._answer, self._allowed_until = None, 0.0
            return ["kill"]
        self._allowed_until = self._asked_at + self._lease_s
        self._ask(self._lease_s / _ASKS_A_LEASE)
        return orders

    def tell(self, events: list[Event]) -> None:
        """Sends events on their way."""
        if events:
            self._unconfirmed = [ref for ref in self._unconfirmed if not is_ready(ref)]
            self._unconfirmed.append(self._mailbox.tell.remote(self._launch, events))
            self.told += len(events)

    def finish(self) -> None:
        """Waits until all that was told has arrived, where it can."""
        if self._unconfirmed:
            ray.wait(self._unconfirmed, num_returns=len(self._unconfirmed), timeout=self._lease_s)

    def _ask(self, within_s: float) -> None:
        self._asked_at = _now()
        self._answer = self._mailbox.orders.remote(self._launch, within_s)


def is_ready(ref: ray.ObjectRef[Any]) -> bool:
    """Whether a task has ended, or a question is answered."""
    return bool(ray.wait([ref], timeout=0)[0])
