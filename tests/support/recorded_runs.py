"""W&B as the mirror sees it, in memory: what a server that keeps its promises would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.tracking.run_content import RunEnd, RunHead
from experiments.tracking.run_writer import Media, UnreachableError


class MirrorKilledError(BaseException):
    """The mirror is gone; nobody may catch this but the test."""


@dataclass
class ServerRun:
    """A run as the server has it."""

    head: RunHead
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    media: dict[int, Media] = field(default_factory=dict)
    ends: list[RunEnd] = field(default_factory=list)
    opened: int = 0
    interrupted: int = 0
    is_open: bool = False


class RecordedServer:
    """All runs by id.

    Args:
        kill_after: so many calls, then the mirror is killed within the next one: before or after it took effect.
    """

    def __init__(self) -> None:
        self.runs: dict[str, ServerRun] = {}
        self.is_down = False
        self.most_open = 0
        self.kill_after: int | None = None
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        if self.is_down:
            raise UnreachableError("no answer")
        if self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after < 0:
                raise MirrorKilledError("killed within a call")

    def writer(self) -> RecordedWriter:
        """For another mirror: nothing of the one before is open any more."""
        for run in self.runs.values():
            run.is_open = False
        return RecordedWriter(self)


class RecordedWriter:
    """Keeps `RunWriter`."""

    def __init__(self, server: RecordedServer) -> None:
        self._server = server

    def open(self, head: RunHead) -> RecordedRun:
        self._server.call()
        run = self._server.runs.setdefault(head.run_id, ServerRun(head))
        run.opened += 1
        run.is_open = True
        self._server.most_open = max(self._server.most_open, sum(one.is_open for one in self._server.runs.values()))
        self._server.call()
        return RecordedRun(self._server, run)

    def close(self) -> None:
        """Nothing runs in the background."""


class RecordedRun:
    """Keeps `OpenRun`."""

    def __init__(self, server: RecordedServer, run: ServerRun) -> None:
        self._server, self._run = server, run
        self.next_step = 1 + max((step for step, _ in run.rows), default=-1)

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        assert step >= self.next_step, "the server would drop it"
        self._server.call()
        self._run.rows.append((step, dict(row)))
        self.next_step = step + 1
        self._server.call()

    def log_media(self, media: Media, *, step: int) -> None:
        if step >= self.next_step:
            self.log({"media": True}, step=step)
        self._server.call()
        self._run.media[step] = media

    def finish(self, end: RunEnd) -> None:
        self._run.is_open = False
        self._server.call()
        self._run.ends.append(end)
        self._server.call()

    def interrupt(self) -> None:
        self._run.is_open = False
        self._server.call()
        self._run.interrupted += 1
