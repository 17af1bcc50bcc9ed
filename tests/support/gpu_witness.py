"""A Ray task whose attempt is the real process, and which instead of training writes down which GPU it was given."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from typing import Any

from experiments import worker
from experiments.executors.base import AttemptRequest
from experiments.executors.ray_check import Terms
from experiments.executors.ray_host import HostedEnd, run_hosted

_run_attempt = worker.run_attempt


def run_hosted_witness(request: AttemptRequest, launch: int, mailbox: Any, terms: Terms) -> HostedEnd:
    """In the Ray worker."""
    worker.run_attempt = run_witness
    return run_hosted(request, launch, mailbox, terms)


def run_witness(request: AttemptRequest, connection: Connection, parent_pid: int) -> None:
    """In the attempt's process."""
    worker._train = _write_down
    _run_attempt(request, connection, parent_pid)


def _write_down(request: AttemptRequest, *_: Any) -> None:
    seen = [os.environ["CUDA_VISIBLE_DEVICES"], request.slot.visible_devices, os.environ["OMP_NUM_THREADS"]]
    (request.folder / "seen").write_text(" ".join(seen))
