"""Attempts as processes of this machine, forked from a server that has torch imported already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from experiments import worker
from experiments.executors.base import (
    AttemptEnded,
    AttemptError,
    AttemptRequest,
    EpochDone,
    Event,
    Measured,
    SignOfLife,
)
from experiments.kernel_oom import oom_kills
from experiments.slots import Slot
from wsol.parent_death import STOPPING_SIGNALS

WARM_MODULES = ("torch", "torchvision", "timm", "wsol.build", "wsol.training")
"""What the fork server imports once. None of it runs a tensor operation or touches CUDA."""

_FORK_SERVER_GONE = 255
"""What multiprocessing gives as the exit code of a process whose fork server has died. No attempt exits with it."""


@dataclass
class _Running:
    process: BaseProcess
    connection: Connection
    error: AttemptError | None = None


class LocalExecutor:
    """See `Executor` for the promises."""

    def __init__(self, *, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self._context = warm_context()
        self._running: dict[int, _Running] = {}
        self._oom_kills = oom_kills()

    def warm_up(self) -> None:
        """Starts the fork server now, so that its imports (seconds) overlap with what comes before the first launch.

        It inherits that what may stop a sweep is ignored: a Ctrl-C in its imports is the runner's alone, and a batch
        system that signals every process of a job must not end the one on which all attempts hang.
        """
        if self._context.get_start_method() == "forkserver":
            with contextlib.ExitStack() as stack:
                for number in STOPPING_SIGNALS:
                    stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
                forkserver.ensure_running()

    def launch(self, request: AttemptRequest) -> None:
        """Starts an attempt."""
        self.warm_up()
        ours, theirs = multiprocessing.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined]  # every concrete context has it
            target=worker.run_attempt, args=(request, theirs, os.getpid()), name=f"trial-{request.number}"
        )
        process.start()
        theirs.close()
        self._running[request.number] = _Running(process=process, connection=ours)

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; blocks until something does or the time is over."""
        watched: dict[Connection | int, int] = {}
        for number, running in self._running.items():
            watched[running.process.sentinel] = number
            if not running.connection.closed:
                watched[running.connection] = number
        ready = {watched[item] for item in wait(list(watched), timeout_s)}  # type: ignore[index]
        return [event for number in sorted(ready) for event in self._events(number)]

    def stop(self, number: int) -> None:
        """Asks a trial's attempt to end soon, with everything saved."""
        with contextlib.suppress(OSError, KeyError):  # it has ended already: `wait` will say so
            self._running[number].connection.send(worker.STOP)

    def dump_stacks(self, number: int) -> None:
        """Makes a trial's attempt write where each of its threads is to log.txt."""
        if number in self._running and worker.DUMP_SIGNAL is not None:
            _signal_session(self._running[number].process, worker.DUMP_SIGNAL)

    def kill(self, number: int) -> None:
        """Ends a trial's attempt now."""
        if number in self._running:
            end_session(self._running[number].process)

    def close(self) -> None:
        """Kills what still runs and frees everything."""
        for running in self._running.values():
            end_session(running.process)
            running.process.join()
            running.connection.close()
        self._running.clear()

    def _events(self, number: int) -> list[Event]:
        running = self._running[number]
        ended = not running.process.is_alive()  # asked before the pipe is emptied: nothing is sent after the end
        events = self._messages(number, running)
        if ended:
            running.process.join()
            end_session(running.process)  # data-loader workers of an attempt that was killed
            running.connection.close()
            del self._running[number]
            events.append(self._ended(number, running))
        return events

    def _ended(self, number: int, running: _Running) -> AttemptEnded:
        """Each of the kernel's kills is put down to one attempt alone."""
        exit_code = _exit_code(running.process)
        in_question = exit_code == -signal.SIGKILL or running.error is not None
        by_kernel = int(in_question and oom_kills() > self._oom_kills)
        self._oom_kills += by_kernel
        return AttemptEnded(number=number, exit_code=exit_code, error=running.error, oom_kills=by_kernel)

    def _messages(self, number: int, running: _Running) -> list[Event]:
        events: list[Event] = []
        try:
            while not running.connection.closed and running.connection.poll():
                message = running.connection.recv()
                if isinstance(message, (EpochDone, SignOfLife, Measured)):
                    events.append(message)
                else:
                    assert isinstance(message, AttemptError)
                    running.error = message
        except (EOFError, OSError):  # the other end is gone; the sentinel tells the rest
            running.connection.close()
        return events


def _exit_code(process: BaseProcess) -> int:
    """Of a process that has ended. Where the fork server died, nobody knows, and the attempt was killed with it."""
    return -signal.SIGKILL if process.exitcode == _FORK_SERVER_GONE else process.exitcode or 0


def warm_context() -> BaseContext:
    """A fork server with torch imported where the system has one, else fresh interpreters."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM_MODULES))
    return context


def end_session(process: BaseProcess) -> None:
    """Kills a process that leads a session of its own, and its descendants there."""
    if process.pid is None:
        return
    _signal_session(process, signal.SIGKILL)
    if process.is_alive():  # not yet a session leader, or no process groups here
        process.kill()


def _signal_session(process: BaseProcess, number: signal.Signals) -> None:
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
