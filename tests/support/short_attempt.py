"""An attempt that trains nothing, and that is killed once in ten times."""

from __future__ import annotations

import os
import random
import signal
from multiprocessing.connection import Connection

from experiments.child_process import lead_a_session
from experiments.executors.base import AttemptRequest, EpochDone
from experiments.metrics_file import append_metrics
from experiments.store import TrialPaths, TrialResult, write_result
from experiments.trial import TrialState


def short_attempt(request: AttemptRequest, connection: Connection, parent_pid: int) -> None:
    """Stands for `worker.run_attempt` in the attempt's process: no training, and one in ten is killed."""
    lead_a_session()
    rng = random.Random(f"{request.number} {request.attempt}")
    if rng.random() < 0.1:
        os.kill(os.getpid(), signal.SIGKILL)
    row = {"epoch": 1, "loss": 1.0, "lr": 0.1, "duration_s": 0.01, "time": 1.0, "metrics": {"ap50_11pt/mean": 0.5}}
    append_metrics(TrialPaths(request.folder), row)
    connection.send(EpochDone(request.number, row))
    result = TrialResult(request.signature, TrialState.COMPLETE, "", request.attempt, {"ap50_11pt/mean": 0.5}, 1, 0.01)
    write_result(TrialPaths(request.folder), result)
