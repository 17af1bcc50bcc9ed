"""Whole sweeps in milliseconds: the real scheduler, store and study on an executor that trains nothing."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.executors.base import AttemptEnded, AttemptError, AttemptRequest, EpochDone, Event
from experiments.failures import FailureKind
from experiments.ledger import Ledger
from experiments.metrics_file import append_metrics, read_metrics
from experiments.report.entries import Entry, entries
from experiments.reuse import Library
from experiments.scheduler import Scheduler
from experiments.slots import cpu_slots
from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore, TrialPaths, TrialResult, write_result
from experiments.study import Study
from experiments.trial import TrialState
from experiments.view import PlainView
from wsol.config import ExperimentConfig

METRIC = "ap50_11pt/mean"
CODE = "source-packages-data"
"""What trials run, where a test does not say otherwise."""
Objective = Callable[[Mapping[str, Any], int], float]
"""A config as plain values and an epoch -> what the trial reports."""


class RunnerKilledError(Exception):
    """The runner is gone; nobody may catch this but the test."""


class AttemptFailsError(Exception):
    """An objective raises it where the attempt is to fail."""

    def __init__(self, kind: FailureKind) -> None:
        super().__init__(kind)
        self.kind = kind


class SimulatedExecutor:
    """Attempts that report what a function says, epoch after epoch, and go on where `metrics.jsonl` ends.

    Args:
        objective: of a config at an epoch.
        order: which of the running attempts comes next; None: the first that was launched.
        kill_after: so many steps (a row or a result written, or an event handed over), then the runner is killed.
        clock: gives later and later times, over all runs of a sweep.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        slots: int,
        clock: Iterator[int],
        order: random.Random | None = None,
        kill_after: int | None = None,
    ) -> None:
        self.slots = cpu_slots(slots, cores=slots)
        self.launched: list[AttemptRequest] = []
        self._objective, self._order, self._clock = objective, order, clock
        self._steps_left = kill_after
        self._running: dict[int, AttemptRequest] = {}
        self._stopping: set[int] = set()

    def launch(self, request: AttemptRequest) -> None:
        assert len(self._running) < len(self.slots), "more attempts than slots"
        self._step()
        self.launched.append(request)
        self._running[request.number] = request

    def wait(self, timeout_s: float) -> list[Event]:
        numbers = list(self._running)
        number = numbers[0] if self._order is None else self._order.choice(numbers)
        request = self._running[number]
        if number in self._stopping:
            return [self._ended(request, AttemptError(kind=FailureKind.INTERRUPTED, message="Interrupted"))]
        epoch = 1 + len(read_metrics(TrialPaths(request.folder)))
        if epoch > request.config["train"]["epochs"]:
            self._write_result(request)
            self._step()
            return [self._ended(request, None)]
        try:
            row = self._row(request, epoch)
        except AttemptFailsError as failure:
            return [self._ended(request, AttemptError(kind=failure.kind, message="it failed"))]
        append_metrics(TrialPaths(request.folder), row)
        self._step()
        return [EpochDone(number=number, row=row)]

    def stop(self, number: int) -> None:
        self._stopping.add(number)

    def dump_stacks(self, number: int) -> None:
        raise AssertionError("nothing hangs here")

    def kill(self, number: int) -> None:
        self._stopping.add(number)

    def close(self) -> None:
        self._running.clear()

    def _step(self) -> None:
        if self._steps_left is not None:
            if self._steps_left == 0:
                raise RunnerKilledError
            self._steps_left -= 1

    def _row(self, request: AttemptRequest, epoch: int) -> dict[str, Any]:
        value = self._objective(request.config, epoch)
        return {
            "epoch": epoch,
            "loss": 1.0,
            "lr": 0.1,
            "duration_s": 1.0,
            "time": next(self._clock),
            "metrics": {METRIC: value},
        }

    def _write_result(self, request: AttemptRequest) -> None:
        rows = read_metrics(TrialPaths(request.folder))
        result = TrialResult(
            signature=request.signature,
            state=TrialState.COMPLETE,
            stop_reason="",
            attempts=request.attempt,
            metrics=rows[-1]["metrics"],
            epochs=len(rows),
            duration_s=float(len(rows)),
            config=request.config,
            code=request.code,
        )
        write_result(TrialPaths(request.folder), result)

    def _ended(self, request: AttemptRequest, error: AttemptError | None) -> AttemptEnded:
        del self._running[request.number]
        self._stopping.discard(request.number)
        return AttemptEnded(number=request.number, exit_code=0 if error is None else 1, error=error)


@dataclass(frozen=True)
class Run:
    """What one run of the command did.

    Attributes:
        launched: signatures, in order; a trial that was begun before comes again.
        said: what the user was told.
        finished: whether it came to its end.
    """

    launched: list[str]
    said: str
    finished: bool
    total: int


class SimulatedSweep:
    """Runs of the same command on one results folder."""

    def __init__(self, folder: Path, objective: Objective, *, name: str = "sweep") -> None:
        self.folder = folder
        self.store = SweepStore(folder / "results" / name)
        self._objective = objective
        self._clock = itertools.count()
        self._name = name

    def spec(self, text: str, *, generation: str = "") -> SweepSpec:
        file = self.folder / f"{self._name}.yaml"
        file.write_text(text)
        return load_spec(file, code=generation)

    def run(
        self,
        text: str,
        *,
        slots: int = 1,
        order: random.Random | None = None,
        kill_after: int | None = None,
        reuse: bool = False,
        generation: str = "",
        code: str = CODE,
        **again: bool,
    ) -> Run:
        spec = self.spec(text, generation=generation)

        def code_of(_: ExperimentConfig) -> str:
            return code

        executor = SimulatedExecutor(
            self._objective, slots=slots, clock=self._clock, order=order, kill_after=kill_after
        )
        told = io.StringIO()
        finished = True
        total = 0
        with self._study(spec) as study:
            library = Library(self.store.folder.parent, but=self.store, code_of=code_of) if reuse else None
            ledger = Ledger(
                store=self.store, study=study, objective=spec.objective, library=library, code_of=code_of, **again
            )
            view = PlainView(objective=spec.objective.metric, stream=told)
            try:
                scheduler = Scheduler(spec=spec, ledger=ledger, executor=executor, view=view)
                scheduler.run()
                if scheduler.enter_final_stage():
                    scheduler.run_final_stage()
                total = scheduler.total
            except RunnerKilledError:
                finished = False
        launched = [request.signature for request in executor.launched]
        return Run(launched=launched, said=told.getvalue(), finished=finished, total=total)

    def run_in_pieces(self, text: str, *, every: int, **options: Any) -> list[Run]:
        """The same command until it comes to its end, killed after so many steps each time (one more each time)."""
        runs = []
        for steps in itertools.count(every):
            runs.append(self.run(text, kill_after=steps, **options))
            if runs[-1].finished:
                return runs
        raise AssertionError

    def entries(self, text: str, *, generation: str = "") -> list[Entry]:
        return entries(self.spec(text, generation=generation), self.store)

    def signatures(self) -> list[str]:
        """Of the trials in the store, by number."""
        return [trial.signature for trial in self.store.trials()]

    @contextmanager
    def _study(self, spec: SweepSpec) -> Iterator[Study]:
        name = f"{spec.name}: {spec.objective.direction} {spec.objective.metric}"
        study = Study(file=self.store.study, name=name, direction=spec.objective.direction)
        try:
            yield study
        finally:
            study.close()
