"""What runs in an attempt's process: set the device, call wsol, write the result. The door to torch.

Imported by the scheduler for the names of its messages, so torch is imported inside functions.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.child_process import failure_kind, lead_a_session, one_line
from experiments.code_version import REPOSITORY, source_of
from experiments.executors.base import AttemptError, AttemptRequest, EpochDone, Measured, SignOfLife
from experiments.footprint import Usage
from experiments.host_memory import PeakMemory
from experiments.metrics_file import append_metrics, cut_metrics, read_metrics, trained_s, usage_of
from experiments.spec_document import KeepCheckpoints
from experiments.store import StoredTrial, TrialPaths, TrialResult, write_result
from experiments.trial import TrialState, signature
from experiments.usage_meter import UsageMeter
from experiments.watchdog import Promise, StepTimes
from wsol.parent_death import STOPPING_SIGNALS

if TYPE_CHECKING:
    from wsol.config import DataConfig
    from wsol.training import EpochRecord, Pass

STOP = "stop"
"""The only message to an attempt: end soon, everything saved."""

DUMP_SIGNAL = signal.Signals["SIGUSR2"] if "SIGUSR2" in signal.Signals.__members__ else None
"""Makes an attempt write the stacks of all its threads to its log, in the midst of anything."""

REHEARSED_IMAGES = 8
"""Evaluated before the training of a probe."""


def run_attempt(request: AttemptRequest, connection: Connection, parent_pid: int) -> None:
    """The whole life of an attempt's process. Its exit code is 0 if and only if result.json is written.

    Args:
        connection: takes `EpochDone`, `SignOfLife`, `Measured` and at most one `AttemptError`; gives STOP. It breaks
            when the runner dies.
        parent_pid: the runner's process.
    """
    bound = _bind_to_cores(request.slot.cores)
    lead_a_session()
    os.environ.update(attempt_environment(request))
    paths = TrialPaths(request.folder)
    try:
        _redirect_output(paths)
        print(f"--- attempt {request.attempt}, process {os.getpid()} of runner {parent_pid}", flush=True)
        for line in bound:
            print(line, flush=True)
        _train(request, paths, connection)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk is full
            traceback.print_exc()
            sys.stderr.flush()
        with contextlib.suppress(OSError):  # the runner has gone
            connection.send(
                AttemptError(kind=failure_kind(error), message=one_line(error), details=traceback.format_exc())
            )
        os._exit(1)  # whatever is broken in here must not hang the exit


def attempt_environment(request: AttemptRequest) -> dict[str, str]:
    """Variables of an attempt's process and of what it starts. CUDA's are in time: it starts with the first tensor.

    Pools of threads are set by `fit` as well: those of libraries that the fork server has imported are there already.
    """
    threads = str(request.slot.threads)
    return {
        "CUDA_VISIBLE_DEVICES": request.slot.visible_devices,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that numbers mean what nvidia-smi and NVML mean by them
        "OMP_NUM_THREADS": threads,  # torch
        "MKL_NUM_THREADS": threads,  # torch's linear algebra on x86
        "OPENBLAS_NUM_THREADS": threads,  # that of numpy and scipy
        "OPENCV_FOR_THREADS_NUM": threads,  # read when an attempt first imports it, for heat maps
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic cuBLAS. Source: pytorch.org/docs/stable/notes/randomness
    }


def _bind_to_cores(cores: Sequence[int]) -> list[str]:
    """Binds this process, and what it starts from now on, to some cores where the system can.

    Returns:
        A line for the log where not all of them are to be had.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return []
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # none of them is there
        return [f"warning: not bound to cores {_listed(cores)}: {error.strerror}"]
    missing = set(cores) - os.sched_getaffinity(0)
    return [f"warning: cores {_listed(missing)} are not there any more"] if missing else []


def _listed(cores: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def _redirect_output(paths: TrialPaths) -> None:
    """Everything printed from here on, also by C code, goes to log.txt."""
    descriptor = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)


def _train(request: AttemptRequest, paths: TrialPaths, connection: Connection) -> None:
    import torch

    from wsol.config import ExperimentConfig
    from wsol.detections import save_detections
    from wsol.device_memory import peak_bytes
    from wsol.pictures import write_pictures
    from wsol.training import Watch, fit

    config = ExperimentConfig.model_validate(dict(request.config))
    if signature(config) != request.signature:
        raise RuntimeError(f"got a config of signature {signature(config)}; expected {request.signature}")
    device = torch.device("cuda:0" if request.slot.visible_devices else "cpu")
    signs = _SignsOfLife(request.number, connection)
    stop_asked = _stop_asked(connection)
    meter = UsageMeter(
        device_bytes=lambda: peak_bytes(device), host=PeakMemory(), tell=_telling(request.number, connection)
    )

    def step_begins() -> bool:
        signs.step()
        meter.step_begins()
        return stop_asked()

    def pass_ends(over: Pass) -> None:
        signs.pass_ends()
        meter.pass_ends(over)

    result = fit(
        config,
        checkpoint_dir=paths.checkpoint,
        device=device,
        on_resume=lambda epochs: cut_metrics(paths, epochs=epochs),
        on_epoch=lambda record: _record_epoch(record, meter.epoch_ends(), request.number, paths, connection),
        watch=Watch(should_stop=step_begins, on_pass_end=pass_ends, on_trained=meter.trained),
        threads=request.slot.threads,
        images_at_a_time=request.images_at_a_time,
        memory_bytes=request.memory_bytes,
        rehearse=REHEARSED_IMAGES if request.probe else 0,
    )
    save_detections(paths.detections, result.detections)
    # Before the result, so that a complete trial has its pictures. What goes wrong here is the attempt's error, and
    # another attempt goes on from the last checkpoint.
    write_pictures(paths.images, result.detections, result.split, count=config.evaluate.pictures)
    rows = read_metrics(paths)
    write_result(
        paths,
        TrialResult(
            signature=request.signature,
            state=TrialState.COMPLETE,
            stop_reason="",
            attempts=request.attempt,
            metrics=result.metrics,
            epochs=len(rows),
            duration_s=trained_s(rows),
            images_at_a_time=request.images_at_a_time,
            config=config.model_dump(mode="json"),
            code=_code(request),
            usage=usage_of(rows),
        ),
    )
    _keep_record(request, config.data)
    _shrink_checkpoints(paths, request.keep_checkpoints)


def _keep_record(request: AttemptRequest, data: DataConfig) -> None:
    """Resamples the images for the reports that will come. A fault here is a warning: the trial is complete."""
    if not request.metric:
        return
    from experiments.report.match_records import NoRecords, RecordReader
    from experiments.report.resampling import Resampling

    try:
        trial = StoredTrial(request.number, request.signature, TrialPaths(request.folder))
        RecordReader(request.metric, Resampling()).of_trial(trial, data)
    except NoRecords:
        pass  # a report says so
    except Exception as error:
        with contextlib.suppress(OSError):  # the disk is full
            print(f"warning: the images could not be resampled: {one_line(error)}", flush=True)


def _shrink_checkpoints(paths: TrialPaths, keep: KeepCheckpoints) -> None:
    """Leaves of a complete trial's checkpoints what is to stay. A fault here is a warning: the trial is complete."""
    from wsol.checkpoint import keep_weights
    from wsol.checkpoint_files import remove_all

    try:
        if keep == "weights":
            keep_weights(paths.checkpoint)
        elif keep == "none":
            remove_all(paths.checkpoint)
    except Exception as error:  # torch says RuntimeError where a disk is full
        with contextlib.suppress(OSError):  # the disk is full
            print(f"warning: the checkpoints could not be shrunk: {one_line(error)}", flush=True)


def _code(request: AttemptRequest) -> str:
    """What the attempt ran; empty where the files of this process are not, or no longer, those it was to run."""
    import wsol.training  # which the fork server has from wherever it found it

    is_here = Path(wsol.training.__file__).resolve().parent.parent == REPOSITORY
    return request.code if is_here and request.code.startswith(source_of(REPOSITORY)[:12]) else ""


def _telling(number: int, connection: Connection) -> Callable[[Usage], None]:
    def tell(usage: Usage) -> None:
        with contextlib.suppress(OSError):  # the runner has gone: `_stop_asked` sees it
            connection.send(Measured(number, usage))

    return tell


def _record_epoch(record: EpochRecord, usage: Usage, number: int, paths: TrialPaths, connection: Connection) -> None:
    """The row is on disk before anyone is told."""
    row = {
        "epoch": record.epoch,
        "loss": record.loss,
        "lr": record.lr,
        "duration_s": round(record.duration_s, 3),
        "time": round(time.time(), 3),
        "usage": asdict(usage),
        "metrics": record.metrics,
    }
    append_metrics(paths, row)
    connection.send(EpochDone(number=number, row=row))


class _SignsOfLife:
    """Tells the runner that the attempt gets on, and when to expect the next word of it."""

    def __init__(self, number: int, connection: Connection) -> None:
        self._number, self._connection = number, connection
        self._times, self._promise = StepTimes(time.monotonic), Promise(time.monotonic)

    def step(self) -> None:
        """Before each step."""
        self._tell(self._promise.renewed(self._times.step()))

    def pass_ends(self) -> None:
        """After the last step of a pass."""
        self._tell(self._promise.renewed(self._times.pass_ends()))

    def _tell(self, next_within_s: float | None) -> None:
        if next_within_s is not None:
            with contextlib.suppress(OSError):  # the runner has gone: `_stop_asked` sees it
                self._connection.send(SignOfLife(self._number, next_within_s))


def _stop_asked(connection: Connection) -> Callable[[], bool]:
    """Whether STOP came, a batch system wants this process to end, or the runner is gone."""
    signalled: list[int] = []
    for number in STOPPING_SIGNALS:
        if number is not signal.SIGINT:  # which is for the runner alone
            signal.signal(number, lambda received, _frame: signalled.append(received))

    def asked() -> bool:
        if signalled:
            return True
        try:
            return connection.poll() and connection.recv() == STOP
        except (EOFError, OSError):
            return True

    return asked
