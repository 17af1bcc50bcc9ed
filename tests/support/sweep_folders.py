"""Sweep folders as earlier runs of the command may have left them, made by hand: no scheduler, no executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from experiments.ledger import Ledger
from experiments.metrics_file import append_metrics
from experiments.reuse import Library
from experiments.spec_document import Objective
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.study import Study
from experiments.trial import TrialPlan, TrialState

METRIC = "ap50_11pt/mean"
CODE = "source-packages-data"
"""What trials run, where a test does not say otherwise."""


class RunnerKilledError(Exception):
    """Stands for SIGKILL at this instant."""


class Sweep:
    """A sweep's folder, and what one run of the command after the other makes of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.store = SweepStore(folder / name)

    def study(self) -> Study:
        return Study(file=self.store.study, name="study", direction="maximize")

    def ledger(self, **options: Any) -> Ledger:
        options.setdefault("objective", Objective(metric=METRIC, direction="maximize"))
        return Ledger(store=self.store, study=self.study(), **options)

    def library(self, code: str = CODE) -> Library:
        """All other sweeps in the results folder."""
        return Library(self.store.folder.parent, but=self.store, code_of=lambda _: code)

    def folder_of(self, plan: TrialPlan, number: int = 0) -> StoredTrial:
        return self.store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"), code=CODE)

    def values(self) -> list[float | None]:
        """What Optuna's readers see of the search's finished trials."""
        read = optuna.load_study(study_name="study", storage=f"sqlite:///{self.store.study}")
        return [trial.value for trial in read.trials if trial.state.is_finished()]


def result(
    plan: TrialPlan, state: TrialState = TrialState.COMPLETE, value: float | None = 0.5, *, attempts: int = 1
) -> TrialResult:
    reason = "" if state is TrialState.COMPLETE else "a reason"
    return TrialResult(plan.signature, state, reason, attempts, {METRIC: value}, 2, 3.0, code=CODE)


def row(epoch: int, value: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "duration_s": 1.5, "time": float(epoch), "metrics": {METRIC: value}}


def finished(sweep: Sweep, plan: TrialPlan, state: TrialState, *, number: int = 0) -> StoredTrial:
    """A trial that an earlier run of the command began and ended."""
    study = sweep.study()
    trial = sweep.folder_of(plan, number)
    study.start(number, plan, attempts=2)
    append_metrics(trial.paths, row(1))
    write_result(trial.paths, result(plan, state, attempts=2))
    study.finish(number, state=state, value=0.5, stop_reason="" if state is TrialState.COMPLETE else "a reason")
    study.close()
    return trial


def killed(*_: Any, **__: Any) -> None:
    raise RunnerKilledError("killed")
