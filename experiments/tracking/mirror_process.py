"""What runs in the process that mirrors a sweep while it trains. Nobody waits for it but at the end, for some seconds.

It may be killed at any instant, and is, when the runner dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.child_process import lead_a_session
from experiments.errors import UserError
from experiments.store import SweepStore
from experiments.tracking.connection import probe
from experiments.tracking.leftover_processes import has_descendants
from experiments.tracking.mirror import Mirror
from experiments.tracking.paths import WandbPaths
from experiments.tracking.run_writer import RefusedError, UnreachableError
from experiments.tracking.session import MirrorOrders, alone, offline_instead, offline_mirror, online_mirror
from wsol.parent_death import leave_stopping_to_parent

END = "end"
"""The only message to the mirror: the sweep is over, send what is left."""
LOOK_EVERY_S = 1.0
RETRY_S = (10.0, 20.0, 40.0, 80.0, 160.0)
"""Between tries to reach a server that does not answer; the last one from then on."""
NICENESS = 10
LOCK_WITHIN_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Said:
    """A line for people."""

    text: str


@dataclass(frozen=True)
class Health:
    """Whether the server took what it was sent last. It is told before anything that may take long."""

    is_good: bool


@dataclass(frozen=True)
class Finished:
    """The mirror's last word.

    Attributes:
        left: trials that have ended and are not sent.
    """

    left: int


def run_mirror(orders: MirrorOrders, pipe: Connection) -> None:
    """The whole life of the mirror's process.

    Args:
        pipe: takes `Said`, `Health` and at last `Finished`; gives END. It breaks when the runner dies.
    """
    lead_a_session()
    leave_stopping_to_parent()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)  # training comes first
    paths = WandbPaths(SweepStore(orders.folder).wandb)
    _redirect_output(paths.log)
    try:
        _wait_for_lock(orders, paths, pipe)
    except UserError as error:
        pipe.send(Said(f"W&B: {error}"))
        pipe.send(Finished(left=0))
    pipe.close()
    os._exit(0)  # wandb waits at the exit for what it could not send


def _redirect_output(file: Path) -> None:
    """Everything printed from here on, also by wandb-core: the terminal is the runner's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")


def _wait_for_lock(orders: MirrorOrders, paths: WandbPaths, pipe: Connection) -> None:
    """A mirror that was killed gives its lock back within moments."""
    deadline = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            with alone(paths):
                _Session(orders, pipe).run()
            return
        except UserError:
            if time.monotonic() > deadline or pipe.poll(0.2):
                raise


class _Session:
    """Looks at the results again and again until it is told to end."""

    def __init__(self, orders: MirrorOrders, pipe: Connection) -> None:
        self._orders, self._pipe = orders, pipe
        self._paths = WandbPaths(SweepStore(orders.folder).wandb)
        self._mirror: Mirror | None = None
        self._failures = 0
        self._next_try = 0.0
        self._is_good = False

    def run(self) -> None:
        while self._orders.connection.mode != "disabled":
            is_over = self._pipe.poll(LOOK_EVERY_S)
            if time.monotonic() >= self._next_try:
                self._try()
            if is_over:
                break
        self._end()

    def _try(self) -> None:
        try:
            if self._mirror is None:
                self._mirror = self._connect()
            if self._mirror is not None:
                self._mirror.look()
                self._works()
        except UnreachableError as error:
            self._failed(str(error))
            if self._mirror is not None and not has_descendants(self._paths.folder):
                log.error("wandb-core has gone; this process cannot start another one")
                os._exit(1)
        except RefusedError as error:
            self._refused(str(error))

    def _connect(self) -> Mirror | None:
        to = self._orders.connection
        if to.mode == "online" and (problem := probe(to.base_url)):
            if not to.keeps_trying and self._failures == 0:
                self._go_offline(problem)
                return None
            raise UnreachableError(problem)
        if to.mode == "offline":
            return offline_mirror(self._orders, self._say)
        mirror = online_mirror(self._orders, self._say)
        self._say(f"W&B: {_url(mirror)}")
        return mirror

    def _works(self) -> None:
        if self._failures:
            self._say(f"W&B: {self._orders.connection.host} answers again")
        self._failures = 0
        self._set_health(True)

    def _failed(self, problem: str) -> None:
        self._set_health(False)
        if self._failures == 0:
            self._say(
                f"W&B: {self._orders.connection.host} does not take runs at present ({problem}); training goes on,"
                " they are sent later"
            )
        self._next_try = time.monotonic() + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1

    def _refused(self, problem: str) -> None:
        host = self._orders.connection.host
        self._go_offline(f"{host} refuses the API key (wrong, expired, or without right to the project): {problem}")

    def _go_offline(self, reason: str) -> None:
        self._orders = offline_instead(self._orders, reason)
        self._say(self._orders.connection.line)
        self._mirror = None
        if self._orders.connection.mode == "offline":
            self._try()

    def _end(self) -> None:
        if self._orders.connection.mode == "disabled":  # which was said, and what to do
            self._pipe.send(Finished(left=0))
            return
        left = self._mirror.left() if self._mirror is not None else _ended_trials(self._orders.folder)
        if self._mirror is not None and self._is_good:
            with contextlib.suppress(UnreachableError, RefusedError):
                self._mirror.interrupt()
        self._pipe.send(Finished(left=left))

    def _set_health(self, is_good: bool) -> None:
        self._is_good = is_good
        self._pipe.send(Health(is_good))

    def _say(self, text: str) -> None:
        log.info("%s", text)
        self._pipe.send(Said(text))


def _ended_trials(folder: Path) -> int:
    return sum(1 for trial in SweepStore(folder).trials() if trial.paths.result.exists())


def _url(mirror: Mirror) -> str:
    """Where to look at the sweep."""
    at = mirror.identity
    root = at.base_url.replace("https://api.", "https://", 1)
    where = f"sweeps/{at.sweep}" if at.sweep else f"groups/{mirror.sweep}"
    return f"{root}/{at.entity}/{at.project}/{where}"
