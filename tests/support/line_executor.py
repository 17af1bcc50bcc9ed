"""An `Executor` made another way than those that users have: one server process, spoken to in lines of JSON.

It shows that tests/contracts/test_executors.py holds the contract and not an implementation. `python -m line_executor`
is the server; attempts are its forked children.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pydantic import TypeAdapter

from experiments import worker
from experiments.executors import base
from experiments.executors.base import AttemptEnded, AttemptError, AttemptRequest, Event
from experiments.slots import Slot
from wsol.parent_death import leave_stopping_to_parent

REQUEST = TypeAdapter(AttemptRequest)


class LineExecutor:
    """See `Executor` for the promises."""

    server: subprocess.Popen[bytes] | None = None
    """One for all executors of a process, since it imports torch."""

    def __init__(self, *, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self._running: set[int] = set()
        if LineExecutor.server is None:
            LineExecutor.server = subprocess.Popen(
                [sys.executable, "-m", "line_executor", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                bufsize=0,
            )
        assert LineExecutor.server.stdin is not None
        assert LineExecutor.server.stdout is not None
        self._orders, self._events = LineExecutor.server.stdin, LineExecutor.server.stdout
        self._unread = b""

    @classmethod
    def end_server(cls) -> None:
        """The end of its input is the end of the server."""
        if cls.server is not None:
            cls.server.communicate()
            cls.server = None

    def launch(self, request: AttemptRequest) -> None:
        self._running.add(request.number)
        self._say(number=request.number, order="launch", request=REQUEST.dump_python(request, mode="json"))

    def wait(self, timeout_s: float) -> list[Event]:
        until = time.monotonic() + timeout_s
        events: list[Event] = []
        while not events and select.select([self._events], [], [], max(0.0, until - time.monotonic()))[0]:
            *lines, self._unread = (self._unread + os.read(self._events.fileno(), 2**20)).split(b"\n")
            events = [event for event in map(_event, lines) if event.number in self._running]
        self._running -= {event.number for event in events if isinstance(event, AttemptEnded)}
        return events

    def stop(self, number: int) -> None:
        self._order(number, "stop")

    def dump_stacks(self, number: int) -> None:
        self._order(number, "dump_stacks")

    def kill(self, number: int) -> None:
        self._order(number, "kill")

    def close(self) -> None:
        for number in self._running:
            self.kill(number)
        while self._running:
            self.wait(1.0)

    def _order(self, number: int, order: str) -> None:
        if number in self._running:
            self._say(number=number, order=order)

    def _say(self, **message: Any) -> None:
        self._orders.write(json.dumps(message).encode() + b"\n")


def _event(line: bytes) -> Any:
    message = json.loads(line)
    return TypeAdapter(getattr(base, message["type"])).validate_python(message["event"])


class Server:
    """What the server does for one executor at a time."""

    def __init__(self, runner: int) -> None:
        self._runner = runner
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._errors: dict[int, AttemptError] = {}

    def serve(self) -> None:
        unread = b""
        while True:
            watched = {item: n for n, pair in self._running.items() for item in (pair[0].sentinel, pair[1])}
            ready = wait([sys.stdin.fileno(), *watched])
            for number in {watched[item] for item in ready if item in watched}:
                self._pass_on(number)
            if sys.stdin.fileno() in ready:
                read = os.read(sys.stdin.fileno(), 2**20)
                if not read:
                    break
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    self._obey(**json.loads(line))
        for process, _ in self._running.values():
            _signal(process, signal.SIGKILL)

    def _obey(self, *, number: int, order: str, request: Any = None) -> None:
        if order == "launch":
            ours, theirs = multiprocessing.Pipe()
            arguments = (REQUEST.validate_python(request), theirs, self._runner)
            process = multiprocessing.get_context("fork").Process(target=worker.run_attempt, args=arguments)
            process.start()
            theirs.close()
            self._running[number] = process, ours
        elif number in self._running:
            process, connection = self._running[number]
            if order == "stop":
                connection.send(worker.STOP)
            else:
                assert worker.DUMP_SIGNAL is not None
                _signal(process, signal.SIGKILL if order == "kill" else worker.DUMP_SIGNAL)

    def _pass_on(self, number: int) -> None:
        process, connection = self._running[number]
        is_over = not process.is_alive()  # asked before the pipe is emptied: nothing is sent after the end
        with contextlib.suppress(EOFError, OSError):
            while connection.poll():
                message = connection.recv()
                if isinstance(message, AttemptError):
                    self._errors[number] = message
                else:
                    _say(message)
        if is_over:
            process.join()
            _signal(process, signal.SIGKILL)  # its loader processes
            self._pass_on_end(number)

    def _pass_on_end(self, number: int) -> None:
        process, connection = self._running.pop(number)
        connection.close()
        _say(AttemptEnded(number, process.exitcode or 0, self._errors.pop(number, None)))


def _say(event: Any) -> None:
    value = TypeAdapter(type(event)).dump_python(event, mode="json")
    os.write(sys.stdout.fileno(), json.dumps({"type": type(event).__name__, "event": value}).encode() + b"\n")


def _signal(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it does not lead a session yet
        if number == signal.SIGKILL:
            process.kill()


if __name__ == "__main__":
    leave_stopping_to_parent()
    import wsol.training  # noqa: F401  # as the fork server does, for all attempts

    Server(int(sys.argv[1])).serve()
