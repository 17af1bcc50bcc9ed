"""A real attempt that writes down what its process is like once it trains, and ends there."""

from __future__ import annotations

import json
import os
import re
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments import worker
from experiments.executors.base import AttemptRequest


def observed_attempt(request: AttemptRequest, connection: Connection, parent_pid: int) -> None:
    """Stands for `worker.run_attempt` in the attempt's process. Leaves seen.json in the trial's folder."""
    from wsol import training

    threads_before: list[int] = []
    build_data = training.build_data

    def build(*arguments: Any, **options: Any) -> Any:
        threads_before.append(len(os.listdir("/proc/self/task")))
        return build_data(*arguments, **options)

    def train(run: Any, *arguments: Any, **options: Any) -> Any:
        seen = _seen(run.data.batches) | {"threads_before_loaders": threads_before}
        (request.folder / "seen.json").write_text(json.dumps(seen))
        raise RuntimeError("that was all")

    training.build_data, training._train = build, train
    worker.run_attempt(request, connection, parent_pid)


def _seen(batches: Any) -> dict[str, Any]:
    import cv2
    import torch
    from threadpoolctl import threadpool_info

    loaders = [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return {
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)),
        "cores_of_loaders": [sorted(os.sched_getaffinity(loader)) for loader in loaders],
        "loaders_start_by": batches._loader.multiprocessing_context.get_start_method(),
        "opencv_threads": cv2.getNumThreads(),
        "torch_threads": torch.get_num_threads(),
        "pools": [(pool["internal_api"], pool["num_threads"]) for pool in threadpool_info()],
        "most_threads": {
            name: int(count)
            for name, count in re.findall(r"(omp|mkl)_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
        },
    }
