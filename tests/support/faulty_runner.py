"""The real command, whose attempts fail as the environment variable FAULTS says: run it as `python -m faulty_runner`.

FAULTS is JSON: trial number -> the fault of each of its attempts in turn; later attempts have none. A fault strikes in
the second epoch, so that checkpoints are there. What the runner waits for is waited for less long.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments import disk_space, watchdog, worker
from experiments.executors.base import AttemptRequest

_run_attempt = worker.run_attempt


def _error() -> None:
    raise ValueError("the bug")


def _gpu_memory() -> None:
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def _host_memory() -> None:
    bytearray(2**62)


def _eats() -> None:
    """More than any limit, touched page by page."""
    eaten = [bytearray(os.urandom(2**20)) for _ in range(8 * 2**10)]
    raise AssertionError(f"{len(eaten)} MB were there")


def _hang() -> None:
    threading.Event().wait()


def _crash() -> None:
    ctypes.string_at(0)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


FAULTS: dict[str, Callable[[], None]] = {
    "error": _error,
    "gpu_memory": _gpu_memory,
    "host_memory": _host_memory,
    "eats": _eats,
    "hang": _hang,
    "crash": _crash,
    "killed": _signal(signal.SIGKILL),
    "preempted": _signal(signal.SIGTERM),
    "disk_full": _disk_full,
}


def faulty_attempt(request: AttemptRequest, connection: Connection, parent_pid: int) -> None:
    """Stands for `worker.run_attempt` in the attempt's process."""
    faults = json.loads(os.environ["FAULTS"]).get(str(request.number), [])
    fault = faults[request.attempt - 1] if request.attempt <= len(faults) else ""
    watchdog.LEAST_S = 3.0
    if fault:
        _arm(fault)
    _run_attempt(request, connection, parent_pid)


def _arm(fault: str) -> None:
    """From the second epoch on, before each batch."""
    from wsol.data import loader
    from wsol.models import wsddn

    losses, read = wsddn.Wsddn.training_losses, loader.read_image
    epoch, batches = [0], list[int]()
    training_epoch = loader.BatchLoader.training_epoch

    def counted(self: Any, number: int, *, after: int = 0) -> Any:
        epoch[0] = number
        return training_epoch(self, number, after=after)

    def struck(self: Any, batch: Any) -> Any:
        if epoch[0] >= 2:
            batches.append(epoch[0])
        if epoch[0] < 2 or (fault == "hang" and len(batches) < 2):  # the first step of a pass may take minutes
            return losses(self, batch)
        if fault == "nan":
            return {name: loss * float("nan") for name, loss in losses(self, batch).items()}
        FAULTS[fault]()
        return losses(self, batch)

    def of_a_broken_disk(record: Any) -> Any:
        if epoch[0] < 2:
            return read(record)
        cut = Path(os.environ["TMPDIR"]) / f"cut-{os.getpid()}.jpg"
        cut.write_bytes(record.path.read_bytes()[:200])
        return read(dataclasses.replace(record, path=cut))

    loader.BatchLoader.training_epoch = counted  # type: ignore[method-assign]
    if fault == "data":
        loader.read_image = of_a_broken_disk
    else:
        wsddn.Wsddn.training_losses = struck  # type: ignore[method-assign]


def main() -> int:
    """The command line, as in `runner.py`."""
    import faulty_runner

    import runner

    worker.run_attempt = faulty_runner.faulty_attempt
    disk_space.LOOK_EVERY_S = 0.2
    watchdog.DUMP_S = 0.5
    return runner.main()


if __name__ == "__main__":
    sys.exit(main())
