"""The runner's side of the mirror: a thread that starts its process, passes on what it says, and starts it again.

The scheduler never waits for any of it. At the end of a sweep the runner does, for some seconds, while the server takes
what it is sent; what is missing then is sent by `runner.py sync`.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiments.executors.local import end_session
from experiments.spec import SweepSpec
from experiments.stopping import StopRequest
from experiments.store import SweepStore
from experiments.tracking.connection import choose_connection
from experiments.tracking.mirror_process import END, Finished, Health, Said, run_mirror
from experiments.tracking.session import MirrorOrders, mirror_orders

MAX_RESTARTS = 5
END_WITHIN_S = 10.0
"""At the end of a sweep, while the server is well: the last trial's pictures are on their way."""
END_STOPPED_WITHIN_S = 2.0
"""Likewise, when somebody has stopped the sweep: a batch system gives it some seconds for everything."""
END_UNWELL_WITHIN_S = 0.5
"""Likewise, when the server does not answer or was not reached yet."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def mirrored(
    spec: SweepSpec,
    store: SweepStore,
    *,
    say: Callable[[str], None],
    is_work_left: bool,
    stop: StopRequest,
) -> Iterator[None]:
    """Mirrors a sweep meanwhile, as its spec and the environment say.

    Args:
        say: takes a line for people, from another thread.
        is_work_left: where nothing is to run nothing is mirrored.
        stop: who asks twice for a stop wants to be gone at once.
    """
    connection = choose_connection(spec.tracking.wandb, os.environ, home=Path.home())
    if connection.mode == "disabled" or not is_work_left:
        yield
        return
    if connection.line:
        say(connection.line)
    supervisor = MirrorSupervisor(mirror_orders(spec, store, connection), say=say, sync_command=f"sync {spec.file}")
    supervisor.start()
    try:
        yield
        with contextlib.suppress(KeyboardInterrupt):  # which asks not to wait: the sweep is over
            supervisor.wait_for_the_end(lambda: stop.now, is_stopped=stop.asked)
    finally:
        supervisor.close()


class MirrorSupervisor:
    """Keeps a mirror running.

    Args:
        target: what the process runs.
        sync_command: for people, without `python runner.py`.
    """

    def __init__(
        self,
        orders: MirrorOrders,
        *,
        say: Callable[[str], None],
        sync_command: str,
        target: Callable[[MirrorOrders, Pipe], None] = run_mirror,
    ) -> None:
        self._orders, self._say, self._sync_command, self._target = orders, say, sync_command, target
        self._changed = threading.Condition()
        self._is_well = False
        self._is_over = False  # no mirror runs any more, nor will
        self._left: int | None = None
        self._ending = False
        self._process: BaseProcess | None = None
        self._pipe: Pipe | None = None
        self._thread = threading.Thread(target=self._keep_running, name="wandb-mirror", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process that runs, or ran last."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def wait_for_the_end(self, must_stop: Callable[[], bool] = lambda: False, *, is_stopped: bool = False) -> None:
        """Has the mirror send what is left, for some seconds, and says what is not sent then.

        Args:
            must_stop: asked again and again, whether to wait no longer.
            is_stopped: somebody has asked the sweep to end early.
        """
        began = time.monotonic()
        well_within_s = END_STOPPED_WITHIN_S if is_stopped else END_WITHIN_S
        with self._changed:
            self._ending = True
            self._tell_the_end()
            while not self._is_over and not must_stop():
                allowed_s = well_within_s if self._is_well else END_UNWELL_WITHIN_S
                left_s = began + allowed_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, 0.2))
            left = self._left
        if left != 0:
            what = "trials are" if left is None else "1 trial is" if left == 1 else f"{left} trials are"
            self._say(f"W&B: {what} not sent yet; `python runner.py {self._sync_command}` sends what is missing")

    def close(self) -> None:
        """Ends the process, whatever it does."""
        with self._changed:
            self._ending = True
            process = self._process
        if process is not None:
            end_session(process)
        self._thread.join(timeout=2.0)

    def _tell_the_end(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it has ended; the next one is told at its start
                self._pipe.send(END)

    def _keep_running(self) -> None:
        try:
            for _ in range(1 + MAX_RESTARTS):
                if self._run_once() or self._ending:
                    break
            else:
                self._say(
                    f"W&B: the mirror has ended {1 + MAX_RESTARTS} times and is not started again"
                    f" ({self._orders.folder / 'wandb'} tells more); `python runner.py {self._sync_command}` sends what"
                    " is missing"
                )
        except Exception:  # whatever it is, the sweep goes on
            log.warning("W&B: the mirror cannot be run", exc_info=True)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _run_once(self) -> bool:
        """One process from start to end; whether it came to its end by itself."""
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=self._target, args=(self._orders, theirs), name="wandb-mirror", daemon=True
        )
        process.start()
        theirs.close()
        with self._changed:
            self._process, self._pipe = process, ours
            self._is_well = False
            if self._ending:
                self._tell_the_end()
        is_finished = self._listen(ours)
        process.join()
        with self._changed:
            self._pipe = None
        ours.close()
        return is_finished

    def _listen(self, pipe: Pipe) -> bool:
        is_finished = False
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                return is_finished
            with self._changed:
                if isinstance(message, Health):
                    self._is_well = message.is_good
                elif isinstance(message, Finished):
                    is_finished, self._left = True, message.left
                self._changed.notify_all()
            if isinstance(message, Said):
                self._say(message.text)
