"""Attempts as tasks of a Ray cluster. Ray places and starts them; an attempt is what it is on one machine."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.executors.base import AttemptEnded, AttemptError, AttemptRequest, EpochDone, Event, SlotsChanged
from experiments.executors.ray_bundles import Share
from experiments.executors.ray_check import clear_terms, show_terms
from experiments.executors.ray_host import HostedEnd, is_ready, run_hosted
from experiments.executors.ray_mailbox import Mailbox, Order
from experiments.executors.ray_nodes import ClusterNodes
from experiments.metrics_file import read_metrics
from experiments.slots import Slot
from experiments.store import TrialPaths

_ALL = Share()
LEASE_S = 10.0
"""Shorter than Ray takes to believe a node dead, where no connection breaks."""
_MARGIN_S = 1.0
"""For the end of an attempt whose lease is over."""
_LOOK_EVERY_S = 0.5
"""At most so long between looks at the nodes, while nothing happens."""
_COLLECT_S = 5.0
_ANSWERS_WITHIN_S = 5.0
_CLOSES_WITHIN_S = 5.0
_MOST_AT_ONCE = 100_000
"""Questions to the mailbox that wait for an answer: one an attempt."""


@dataclass
class _Running:
    """An attempt that was launched and whose end was not told.

    Attributes:
        launch: its number among all launches.
        node: Ray's id of the node it is on.
        task: gives a `HostedEnd`; None: it was lost, and gives nothing any more.
        known_rows: of metrics.jsonl, that were there before or were told.
        received: how many of its events.
        end: how it ended, where that is known; it is told once all its events are here.
        lost_until: when it is sure that a lost one does not run.
        oom_kills: see `AttemptEnded`.
    """

    request: AttemptRequest
    launch: int
    node: str
    task: ray.ObjectRef[Any] | None
    known_rows: list[Mapping[str, Any]]
    received: int = 0
    end: HostedEnd | None = None
    lost_until: float | None = None
    oom_kills: int = 0


class RayExecutor:
    """See `Executor` for the promises. The process must be connected to a cluster, see `ray_connection`.

    Args:
        folder: of the sweep, on a file system that all nodes share.
        say: takes a line for people.
        share: of the cluster.
        lease_s: an attempt that gets no answer for so long ends; one that was lost counts as ended after it.
        clock: in seconds.

    Raises:
        UserError: where a node is not as it must be, or none is there.
    """

    def __init__(
        self,
        *,
        folder: Path,
        say: Callable[[str], None],
        share: Share = _ALL,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._say = clock, say
        self._launches = 0
        self._running: dict[int, _Running] = {}
        # Retries are the scheduler's. The Ray worker lives on with its warm fork server: no GPU is used in it itself.
        self._task = ray.remote(max_retries=0, retry_exceptions=False, max_calls=0)(run_hosted)
        self._mailbox: Any = None
        self._collected: ray.ObjectRef[Any] | None = None
        self._terms = show_terms(folder, lease_s=lease_s)
        self._nodes = ClusterNodes(terms=self._terms, say=say, share=share, clock=clock)
        try:
            self._open_mailbox()
            self._nodes.begin()
            self._wait_for_mailbox()  # it is there: attempts that get no answer end
        except BaseException:
            self.close()
            raise
        self._slots = tuple(self._nodes.slots)

    @property
    def slots(self) -> Sequence[Slot]:
        """Where attempts may run now."""
        return self._slots

    def warm_up(self) -> None:
        """Nothing can be done beforehand: Ray ends workers that have nothing to do."""

    def launch(self, request: AttemptRequest) -> None:
        """Starts an attempt."""
        self._launches += 1
        place = self._nodes.place(request.slot)
        running = _Running(
            request=request,
            launch=self._launches,
            node=place.node if place is not None else "",
            task=None,
            known_rows=list(read_metrics(TrialPaths(request.folder))),
        )
        self._running[request.number] = running
        if place is None:  # its node went a moment ago
            running.lost_until = self._clock()
            return
        task = self._task.options(name=f"trial {request.number}", **place.options)
        running.task = task.remote(request, running.launch, self._mailbox, self._terms)

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; blocks until something does or the time is over."""
        until = self._clock() + timeout_s
        events = self._look()
        while not events and (left := until - self._clock()) > 0:
            self._wait_for_news(min(left, _LOOK_EVERY_S))
            events = self._look()
        return events

    def stop(self, number: int) -> None:
        """Asks a trial's attempt to end soon, with everything saved."""
        self._order(number, "stop")

    def dump_stacks(self, number: int) -> None:
        """Makes a trial's attempt write where each of its threads is to log.txt."""
        self._order(number, "dump_stacks")

    def kill(self, number: int) -> None:
        """Ends a trial's attempt now."""
        self._order(number, "kill")

    def close(self) -> None:
        """Kills what still runs and frees everything."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        with contextlib.suppress(ray.exceptions.RayError):  # the cluster is gone
            for number in self._running:
                self.kill(number)
            ended, left = ray.wait(tasks, num_returns=len(tasks), timeout=_CLOSES_WITHIN_S) if tasks else ([], [])
            for task in left:
                ray.cancel(task, force=True)
            self._nodes.close()
            if self._mailbox is not None:
                ray.kill(self._mailbox)
        self._running.clear()
        self._slots, self._mailbox, self._collected = (), None, None
        clear_terms(self._terms)

    def _open_mailbox(self) -> None:
        """On this machine, and with this process's life."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=_MOST_AT_ONCE, scheduling_strategy=here)
        self._mailbox = actor.remote()
        self._collect()

    def _wait_for_mailbox(self) -> None:
        ray.get(self._mailbox.collect.remote(0.0))

    def _collect(self) -> None:
        self._collected = self._mailbox.collect.remote(_COLLECT_S)

    def _order(self, number: int, order: Order) -> None:
        if number in self._running:
            self._mailbox.order.remote(self._running[number].launch, order)

    def _wait_for_news(self, within_s: float) -> None:
        tasks = [running.task for running in self._running.values() if running.task is not None]
        news = [*tasks, *self._nodes.expected, *([self._collected] if self._collected is not None else [])]
        if news:
            ray.wait(news, timeout=within_s)
        else:
            time.sleep(within_s)

    def _look(self) -> list[Event]:
        if self._mailbox is None:
            return []
        events = self._received()
        for running in list(self._running.values()):
            self._hear(running)
        for node in self._nodes.look():
            self._lose_node(node)
        events += [event for number in sorted(self._running) for event in self._ended(number)]
        return events + self._slots_changed()

    def _received(self) -> list[Event]:
        """What attempts have told. What one tells that is taken for dead is heard no more."""
        assert self._collected is not None
        if not is_ready(self._collected):
            return []
        try:
            told: list[tuple[int, Event]] = ray.get(self._collected)
        except ray.exceptions.RayError:
            self._replace_mailbox()
            return []
        self._collect()
        by_launch = {running.launch: running for running in self._running.values()}
        events = []
        for launch, event in told:
            if (running := by_launch.get(launch)) is not None:
                running.received += 1
                events.append(event)
                if isinstance(event, EpochDone):
                    running.known_rows.append(event.row)
        return events

    def _replace_mailbox(self) -> None:
        """Its process was killed. No attempt gets a permit to go on from it any more."""
        self._say("the mailbox between the runner and its trials was killed: they start again")
        for running in self._running.values():
            self._lose(running)
        self._open_mailbox()

    def _hear(self, running: _Running) -> None:
        """Takes in how an attempt ended, once its task tells, or that it is lost."""
        if running.task is None or running.end is not None or not is_ready(running.task):
            return
        try:
            running.end = ray.get(running.task)
        except ray.exceptions.RayTaskError as error:  # ours: the task has killed its attempt, and says what is wrong
            running.end = HostedEnd(_task_failed(running.request.number, error), told=0)
        except ray.exceptions.OutOfMemoryError:
            running.oom_kills = 1
            self._lose(running)
        except ray.exceptions.NodeDiedError:
            self._nodes.lose(running.node)
            self._lose_node(running.node)
        except ray.exceptions.RayError:
            self._lose(running)

    def _lose_node(self, node: str) -> None:
        for running in self._running.values():
            if running.node == node:
                self._lose(running)

    def _lose(self, running: _Running) -> None:
        """The attempt counts as dead, and is so once its permit to go on has run out."""
        if running.lost_until is not None or running.end is not None:
            return
        if running.task is not None:
            ray.cancel(running.task, force=True)
            running.task = None
        try:
            silent_s = ray.get(self._mailbox.give_up.remote(running.launch), timeout=_ANSWERS_WITHIN_S)
        except (ray.exceptions.RayError, TimeoutError):
            silent_s = 0.0
        left_s = 0.0 if silent_s is None else max(0.0, self._terms.lease_s + _MARGIN_S - silent_s)
        running.lost_until = self._clock() + left_s

    def _ended(self, number: int) -> list[Event]:
        """The end of an attempt, after all its epochs, those included whose message was lost."""
        running = self._running[number]
        if running.end is not None and running.received >= running.end.told:
            ended = running.end.ended
        elif running.lost_until is not None and self._clock() >= running.lost_until:
            ended = AttemptEnded(number, exit_code=-signal.SIGKILL, oom_kills=running.oom_kills)
        else:
            return []
        rows = read_metrics(TrialPaths(running.request.folder))
        del self._running[number]
        return [*(EpochDone(number, row) for row in rows if row not in running.known_rows), ended]

    def _slots_changed(self) -> list[Event]:
        """A slot whose node is gone stays as long as its attempt is not told to have ended."""
        offered = self._nodes.slots
        kept = {slot.index for slot in offered}
        busy = [running.request.slot for running in self._running.values()]
        slots = (*offered, *(slot for slot in busy if slot.index not in kept))
        if {slot.index for slot in slots} == {slot.index for slot in self._slots}:
            return []
        self._slots = slots
        return [SlotsChanged()]


def _task_failed(number: int, error: ray.exceptions.RayTaskError) -> AttemptEnded:
    text = str(error).strip()
    failure = AttemptError(kind="error", message=f"its Ray task failed: {text.splitlines()[-1]}", details=text)
    return AttemptEnded(number, exit_code=1, error=failure)
