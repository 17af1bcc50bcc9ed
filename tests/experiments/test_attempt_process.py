"""What an attempt is given: devices, threads and cores, seen in real processes of the real fork server."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from observed_attempt import observed_attempt

from experiments.executors.base import AttemptRequest
from experiments.executors.local import warm_context
from experiments.slots import Slot
from experiments.trial import signature
from wsol.config import ExperimentConfig
from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and binds to cores"),
]

NO_SUCH_CORE = 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=4, val=2, test=0, image_px=32)
    return folder


def observed(root: Path, folder: Path, slot: Slot) -> dict[str, Any]:
    """What the process of an attempt with two loader processes is like when it begins to train."""
    values = {
        "task": "localizer",
        "data": {"root": str(root), "workers": 2},
        "model": {"backbone": "tiny", "weights": "none"},
        "train": {"epochs": 1},
    }
    config = ExperimentConfig.model_validate(values)
    request = AttemptRequest(
        number=0,
        signature=signature(config),
        attempt=1,
        config=config.model_dump(mode="json"),
        folder=folder,
        slot=slot,
    )
    ours, theirs = multiprocessing.Pipe()
    process = warm_context().Process(  # type: ignore[attr-defined]  # every concrete context has it
        target=observed_attempt, args=(request, theirs, os.getpid())
    )
    process.start()
    theirs.close()
    process.join()
    ours.close()
    log = (folder / "log.txt").read_text()
    assert "RuntimeError: that was all" in log, log
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen | {"log": log}


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(root: Path, tmp_path: Path, threads: int) -> None:
    """Of every pool, though torch and numpy were imported, with pools for all cores, before the attempt began."""
    seen = observed(root, tmp_path, Slot(index=0, visible_devices="", threads=threads))
    assert seen["torch_threads"] == seen["opencv_threads"] == threads
    assert {library for library, _ in seen["pools"]} >= {"openblas", "openmp"}
    # an OpenBLAS that comes with a later import (OpenCV has its own) has no more threads than there are cores
    at_least = min(threads, len(os.sched_getaffinity(0)))
    assert all(at_least <= count <= threads for _, count in seen["pools"]), seen["pools"]
    assert "omp" in seen["most_threads"]
    assert set(seen["most_threads"].values()) == {threads}, "MKL's, where torch has it, as well"
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert [seen["environment"][name] for name in variables] == [str(threads)] * 3
    assert (seen["environment"]["CUDA_VISIBLE_DEVICES"], seen["environment"]["CUDA_DEVICE_ORDER"]) == ("", "PCI_BUS_ID")
    assert seen["cores"] == sorted(os.sched_getaffinity(0)), "not bound"
    assert "warning" not in seen["log"]
    assert seen["threads_before_loaders"] == [1]
    assert seen["loaders_start_by"] == "fork", "nothing had started a thread before them"


def test_cores(root: Path, tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    slot = Slot(index=0, visible_devices="", threads=1, cores=(core,))
    seen = observed(root, tmp_path, slot)
    assert seen["cores"] == [core]
    assert seen["cores_of_loaders"] == [[core]] * 2
    assert "warning" not in seen["log"]

    seen = observed(root, tmp_path, dataclasses.replace(slot, cores=(core, NO_SUCH_CORE)))
    assert seen["cores"] == [core]
    assert f"warning: cores {NO_SUCH_CORE} are not there any more\n" in seen["log"]

    seen = observed(root, tmp_path, dataclasses.replace(slot, cores=(NO_SUCH_CORE,)))
    assert seen["cores"] == sorted(os.sched_getaffinity(0))
    assert f"warning: not bound to cores {NO_SUCH_CORE}: Invalid argument\n" in seen["log"]
