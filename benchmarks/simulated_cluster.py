"""A cluster on which nothing trains: an `Executor` whose attempts live by a simulated clock.

What an attempt of the real worker leaves on the disk, these leave too: a row of `metrics.jsonl` an epoch, with every
metric of 20 classes, and `result.json`. They go on where `metrics.jsonl` ends. How long an attempt takes and how it
ends follow from (seed, trial, number of the attempt).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cost_ledger import CostLedger

from experiments.device_monitor import Claim, Claims
from experiments.executors.base import (
    AttemptEnded,
    AttemptError,
    AttemptRequest,
    EpochDone,
    Event,
    Measured,
    SignOfLife,
)
from experiments.failures import FailureKind
from experiments.footprint import Usage
from experiments.metrics_file import append_metrics, read_metrics, trained_s
from experiments.placement import Reading
from experiments.slots import Slot
from experiments.store import TrialPaths, TrialResult, write_result
from experiments.trial import TrialState
from experiments.watchdog import LEAST_S, SPARE
from wsol.metrics.names import METRICS_OF_TASK

GPU_BYTES, TRIAL_BYTES = 24 * 2**30, 9 * 2**30
"""A GPU holds two trials, once it is known what they take."""
CLASSES = [f"class_{index:02d}" for index in range(20)]
METRICS = [f"{metric}/{name}" for metric in METRICS_OF_TASK["wsddn"] for name in (*CLASSES, "mean")]

Ending = Literal["complete", "oom", "killed", "crash", "error", "stopped"]
FAILURES: Mapping[Ending, float] = {"oom": 0.01, "killed": 0.015, "crash": 0.004, "error": 0.001}
"""How often attempts end so. An error comes before the first epoch, the others at any time."""


@dataclass(frozen=True)
class Fate:
    """What becomes of an attempt that nobody stops.

    Attributes:
        epoch_s: seconds of an epoch.
        ending: how it ends.
        epochs: that it gets through.
    """

    epoch_s: float
    ending: Ending
    epochs: int


def fate_of(request: AttemptRequest, *, done: int, seed: int) -> Fate:
    """An epoch's time is in proportion to the proposals, and differs by a fifth or so from trial to trial.

    Args:
        done: epochs of earlier attempts.
    """
    of_trial = random.Random(f"{seed} {request.signature}")
    of_attempt = random.Random(f"{seed} {request.signature} {request.attempt}")
    epoch_s = (20 + 0.08 * request.config["proposals"]["count"]) * of_trial.lognormvariate(0.0, 0.2)
    left = request.config["train"]["epochs"] - done
    drawn = of_attempt.random()
    for ending, below in zip(FAILURES, itertools.accumulate(FAILURES.values()), strict=True):
        if drawn < below:
            return Fate(epoch_s, ending, 0 if ending == "error" else of_attempt.randint(0, left - 1) if left else 0)
    return Fate(epoch_s, "complete", left)


@dataclass
class _Attempt:
    """One that runs.

    Attributes:
        rows: of metrics.jsonl, those of earlier attempts included.
        ahead: epochs that it still gets through.
        sign: of life, the same each time.
    """

    request: AttemptRequest
    fate: Fate
    began: float
    rows: list[dict[str, Any]]
    ahead: int
    sign: SignOfLife


@dataclass(frozen=True)
class Lived:
    """An attempt that is over, by the simulated clock."""

    signature: str
    slot: int
    began: float
    ended: float
    ending: Ending


class SimulatedCluster:
    """See `Executor` and `DeviceMonitor` for the promises. One event each time, but all signs of life come together.

    Args:
        costs: is told what the scheduler does; what is done in here is nobody's.
        seed: of everything that is random.
    """

    def __init__(self, slots: Sequence[Slot], *, costs: CostLedger, seed: int) -> None:
        self.slots = slots
        self.now = 0.0
        self.lived: list[Lived] = []
        self._costs, self._seed = costs, seed
        self._running: dict[int, _Attempt] = {}
        self._busy: set[int] = set()
        self._due: list[tuple[float, int, _Attempt]] = []
        self._order = itertools.count()
        self._next_signs = LEAST_S * SPARE
        self._readings = {slot.device: Reading(GPU_BYTES, 0) for slot in slots}

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def launch(self, request: AttemptRequest) -> None:
        """Starts an attempt."""
        self._costs.charge("start")
        assert request.number not in self._running, f"trial {request.number} runs already"
        assert request.slot.index not in self._busy, f"two attempts in slot {request.slot.index}"
        rows = read_metrics(TrialPaths(request.folder))
        fate = fate_of(request, done=len(rows), seed=self._seed)
        sign = SignOfLife(request.number, LEAST_S * (1 + SPARE))
        attempt = _Attempt(request, fate, self.now, rows, fate.epochs, sign)
        self._running[request.number] = attempt
        self._busy.add(request.slot.index)
        self._use(request, TRIAL_BYTES)
        self._await_next(attempt)
        self._costs.skip()

    def wait(self, timeout_s: float) -> list[Event]:
        """The clock goes on to what comes next, if that is soon enough."""
        self._costs.charge()
        events = self._events(self.now + timeout_s)
        self._costs.skip()
        return events

    def stop(self, number: int) -> None:
        """Ends an attempt at once: it has saved all that it has."""
        attempt = self._running[number]
        attempt.fate, attempt.ahead = Fate(0.0, "stopped", 0), 0
        self._await_next(attempt)

    def kill(self, number: int) -> None:
        """The same."""
        if number in self._running:
            self.stop(number)

    def dump_stacks(self, number: int) -> None:
        """Nothing hangs here."""
        raise AssertionError(f"trial {number} hangs")

    def close(self) -> None:
        """Forgets what still runs."""
        self._running.clear()

    def read(self) -> Mapping[str, Reading]:
        """All GPUs."""
        return self._readings

    @contextmanager
    def claims(self) -> Iterator[Claims | None]:
        """No other sweep is there."""
        yield self

    @property
    def of_others(self) -> Mapping[str, Claim]:
        """Nothing."""
        return {}

    def publish(self, own: Mapping[str, Claim]) -> None:
        """Nobody reads it."""

    def _use(self, request: AttemptRequest, size: int) -> None:
        device = request.slot.device
        used = self._readings[device].used_bytes + size
        assert used <= GPU_BYTES, f"{device} is over-committed"
        self._readings[device] = Reading(GPU_BYTES, used)

    def _events(self, until: float) -> list[Event]:
        next_due = self._due[0][0] if self._due else until
        self.now = min(until, self._next_signs, next_due)
        if self._due and next_due <= self.now:
            attempt = heapq.heappop(self._due)[2]
            return self._step(attempt) if self._running.get(attempt.request.number) is attempt else []
        if self._next_signs <= self.now:
            self._next_signs = self.now + LEAST_S * SPARE
            return [attempt.sign for attempt in self._running.values()]
        return []

    def _await_next(self, attempt: _Attempt) -> None:
        """An epoch, or after the last one the end: a second for the result, or half an epoch until it fails."""
        pause_s = 1.0 if attempt.fate.ending == "complete" else attempt.fate.epoch_s / 2
        at = self.now + (attempt.fate.epoch_s if attempt.ahead else pause_s)
        heapq.heappush(self._due, (at, next(self._order), attempt))

    def _step(self, attempt: _Attempt) -> list[Event]:
        if not attempt.ahead:
            return [self._ended(attempt)]
        row = self._row(attempt)
        append_metrics(TrialPaths(attempt.request.folder), row)
        attempt.rows.append(row)
        attempt.ahead -= 1
        self._await_next(attempt)
        self._costs.handling = "report"
        number = attempt.request.number
        usage = Usage(device_bytes=TRIAL_BYTES, host_bytes=2**30, step_s=attempt.fate.epoch_s / 100)
        return [EpochDone(number, row), Measured(number, usage)]

    def _row(self, attempt: _Attempt) -> dict[str, Any]:
        epoch = len(attempt.rows) + 1
        values = random.Random(f"{attempt.request.signature} {epoch}")
        return {
            "epoch": epoch,
            "loss": 1.0,
            "lr": 0.1,
            "duration_s": attempt.fate.epoch_s,
            "time": self.now,
            "metrics": {name: values.random() for name in METRICS},
        }

    def _ended(self, attempt: _Attempt) -> AttemptEnded:
        request, ending = attempt.request, attempt.fate.ending
        if ending == "complete":
            self._write_result(attempt)
        del self._running[request.number]
        self._busy.remove(request.slot.index)
        self._use(request, -TRIAL_BYTES)
        self.lived.append(Lived(request.signature, request.slot.index, attempt.began, self.now, ending))
        self._costs.handling = "end"
        return _ended(request.number, ending)

    def _write_result(self, attempt: _Attempt) -> None:
        request = attempt.request
        result = TrialResult(
            signature=request.signature,
            state=TrialState.COMPLETE,
            stop_reason="",
            attempts=request.attempt,
            metrics=attempt.rows[-1]["metrics"],
            epochs=len(attempt.rows),
            duration_s=trained_s(attempt.rows),
            config=request.config,
            code=request.code,
        )
        write_result(TrialPaths(request.folder), result)


def _ended(number: int, ending: Ending) -> AttemptEnded:
    """As the real executor would tell of it."""
    if ending == "complete":
        return AttemptEnded(number, exit_code=0)
    if ending in ("killed", "crash"):
        return AttemptEnded(number, exit_code=-9 if ending == "killed" else -11)
    kinds = {"oom": FailureKind.OUT_OF_MEMORY, "error": FailureKind.ERROR, "stopped": FailureKind.INTERRUPTED}
    return AttemptEnded(number, exit_code=1, error=AttemptError(kind=kinds[ending], message=f"simulated: {ending}"))
