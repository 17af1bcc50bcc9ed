"""What runs in an attempt's process. Whole attempts are in tests/contracts/test_executors.py."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wsol.training
from experiments import child_process, worker
from experiments.code_version import source_of
from experiments.executors.base import AttemptRequest
from experiments.failures import FailureKind
from experiments.slots import Slot, cpu_slots, gpu_slots
from experiments.store import TrialPaths
from experiments.trial import signature
from wsol.config import ExperimentConfig

REPOSITORY = Path(__file__).resolve().parents[2]

ATTEMPT = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from experiments import worker
from experiments.executors.base import AttemptRequest
from experiments.slots import Slot

def look(request, paths, connection):
    print("printed")
    os.system("echo printed by a child")
    seen = {
        "environment": dict(os.environ),
        "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
        "sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "heavy": sorted({"torch", "numpy"} & sys.modules.keys()),
    }
    (paths.folder / "seen.json").write_text(json.dumps(seen))

worker._train = look
if __name__ == "__main__":
    slot = Slot(**json.loads(sys.argv[2]))
    request = AttemptRequest(number=5, signature="0" * 64, attempt=2, config={}, folder=Path(sys.argv[1]), slot=slot)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=worker.run_attempt, args=(request, theirs, 4321))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


def attempt_on(slot: Slot, folder: Path) -> dict[str, Any]:
    """What a real process of an attempt saw, its training left out."""
    values = {"index": slot.index, "visible_devices": slot.visible_devices, "threads": slot.threads}
    subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(folder), json.dumps(values)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "0,1,2,3", "OMP_NUM_THREADS": "64"}
        | {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
        check=True,
        capture_output=True,
    )
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen


@pytest.mark.parametrize(
    ("slot", "devices", "threads"),
    [
        (cpu_slots(2, cores=8)[1], "", "4"),
        (gpu_slots(["3", "1"], cores=6)[0], "3", "3"),
        (gpu_slots(["GPU-8b2c"], cores=1)[0], "GPU-8b2c", "1"),
    ],
    ids=["cpu", "gpu", "gpu by uuid"],
)
def test_an_attempts_process(slot: Slot, devices: str, threads: str, tmp_path: Path) -> None:
    seen = attempt_on(slot, tmp_path)
    environment = seen["environment"]
    assert environment["CUDA_VISIBLE_DEVICES"] == devices
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == threads
    assert environment["OPENBLAS_NUM_THREADS"] == environment["OPENCV_FOR_THREADS_NUM"] == threads
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "whatever the runner's is"
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    request = AttemptRequest(number=0, signature="", attempt=1, config={}, folder=tmp_path, slot=slot)
    checked = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", "OPENCV_FOR_THREADS_NUM"}
    checked |= {f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS")}
    assert worker.attempt_environment(request).keys() == checked, "each is asserted here"
    assert seen["leads"], "a session and a process group of its own"
    assert seen["sigint_ignored"]
    assert seen["heavy"] == [], "the environment is set before torch is imported"
    first, *others = (tmp_path / "log.txt").read_text().splitlines()
    assert first.startswith("--- attempt 2, process ")
    assert first.endswith(" of runner 4321")
    assert sorted(others) == ["printed", "printed by a child"]


def test_the_log_of_an_earlier_attempt_stays(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("earlier\n")
    attempt_on(cpu_slots(1, cores=1)[0], tmp_path)
    assert (tmp_path / "log.txt").read_text().startswith("earlier\n--- attempt 2, ")


def errors() -> list[tuple[BaseException, FailureKind]]:
    import torch

    from wsol.checkpoint import CheckpointError
    from wsol.data.images import DataError
    from wsol.models.weights import WeightsError
    from wsol.training import Interrupted, NonFiniteLossError

    return [
        (Interrupted("x"), FailureKind.INTERRUPTED),
        (NonFiniteLossError("x"), FailureKind.NON_FINITE_LOSS),
        (torch.cuda.OutOfMemoryError("x"), FailureKind.OUT_OF_MEMORY),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (DataError("x"), FailureKind.DATA),
        (WeightsError("x"), FailureKind.DATA),
        (CheckpointError("x"), FailureKind.DATA),
        (ValueError("x"), FailureKind.ERROR),
        (ArithmeticError("x"), FailureKind.ERROR),
        (RuntimeError("x"), FailureKind.ERROR),
        (SystemExit(3), FailureKind.ERROR),
        (KeyboardInterrupt(), FailureKind.ERROR),
    ]


def test_the_kind_of_each_error() -> None:
    kinds = [(type(error).__name__, child_process.failure_kind(error)) for error, _ in errors()]
    assert kinds == [(type(error).__name__, kind) for error, kind in errors()]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("got 3\n  for x"), "ValueError: got 3 for x"),
        (MemoryError(), "MemoryError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 488),
    ],
    ids=["lines", "no text", "long"],
)
def test_an_error_on_one_line(error: BaseException, line: str) -> None:
    assert child_process.one_line(error) == line


class TestStop:
    def test_asked(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        asked = worker._stop_asked(theirs)
        assert not asked()
        ours.send(worker.STOP)
        assert asked()

    def test_a_runner_that_is_gone_counts_as_a_stop(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        asked = worker._stop_asked(theirs)
        ours.close()
        assert asked()
        assert asked()


def test_warnings_of_the_preparation_go_over_the_pipe() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    log = logging.Logger("test")
    log.addHandler(child_process._SendingHandler(theirs))
    log.info("not this")
    log.warning("%d images", 3)
    assert ours.recv() == "3 images"
    assert not ours.poll()


def test_an_error_without_a_runner_to_tell_it_to_still_ends_the_process(tmp_path: Path) -> None:
    pipe = "ours, theirs = multiprocessing.Pipe()"
    program = ATTEMPT.replace(pipe, f"{pipe}; ours.close()")
    program = program.replace('print("printed")', "raise MemoryError")
    slot = json.dumps({"index": 0, "visible_devices": "", "threads": 1})
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), slot],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 1
    assert "BrokenPipeError" not in (tmp_path / "log.txt").read_text()
    assert "MemoryError" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("probe", "rehearsed"), [(False, 0), (True, worker.REHEARSED_IMAGES)])
def test_what_the_request_says_reaches_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probe: bool, rehearsed: int
) -> None:
    config = ExperimentConfig.model_validate({"task": "localizer", "data": {"root": "digits"}})
    slot = Slot(index=0, visible_devices="", threads=3)
    request = AttemptRequest(
        number=0,
        signature=signature(config),
        attempt=1,
        config=config.model_dump(mode="json"),
        folder=tmp_path,
        slot=slot,
        images_at_a_time=2,
        memory_bytes=5,
        probe=probe,
    )
    given: dict[str, Any] = {}

    def fit(_config: ExperimentConfig, **options: Any) -> None:
        given.update(options)
        raise KeyError("far enough")

    monkeypatch.setattr(wsol.training, "fit", fit)
    monkeypatch.setattr(worker, "_stop_asked", lambda connection: lambda: False)
    connection: Any = None
    with pytest.raises(KeyError, match="far enough"):
        worker._train(request, TrialPaths(tmp_path), connection)
    assert {name: given[name] for name in ("threads", "images_at_a_time", "memory_bytes", "rehearse")} == {
        "threads": 3,
        "images_at_a_time": 2,
        "memory_bytes": 5,
        "rehearse": rehearsed,
    }


class TestCode:
    """What a result says of what was run."""

    def told(self, tmp_path: Path, code: str) -> str:
        slot = cpu_slots(1, cores=1)[0]
        return worker._code(AttemptRequest(0, "s", 1, {}, tmp_path, slot, code=code))

    def test_what_it_was_to_run(self, tmp_path: Path) -> None:
        code = f"{source_of(REPOSITORY)[:12]}-packages-data"
        assert self.told(tmp_path, code) == code

    @pytest.mark.parametrize("code", ["", "0123456789ab-packages-data"])
    def test_nothing_where_it_was_to_run_something_else(self, tmp_path: Path, code: str) -> None:
        """A file was changed meanwhile, say."""
        assert self.told(tmp_path, code) == ""

    def test_nothing_where_the_fork_server_has_another_wsol(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wsol.training, "__file__", str(tmp_path / "wsol" / "training.py"))
        assert self.told(tmp_path, f"{source_of(REPOSITORY)[:12]}-packages-data") == ""
