"""Results of other sweeps in the same results folder: a trial with the same signature need not run twice.

It must have run all of its attempts with the source, packages and data that are there now. Where that is not known, as
of trials that are older than the record of it, the trial runs here.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from experiments.code_version import CodeOf
from experiments.store import StoredTrial, SweepStore, read_result, sweep_folders
from experiments.trial import TrialPlan, TrialState


class Library:
    """The complete trials of all sweeps but one.

    Args:
        results: folder of all sweeps.
        but: the sweep that looks for trials.
        code_of: what a trial of a config would run now, see `CodeVersion.of_trial`.
    """

    def __init__(self, results: Path, *, but: SweepStore, code_of: CodeOf) -> None:
        self._results = results
        self._but = but
        self._code_of = code_of

    def find(self, plan: TrialPlan) -> StoredTrial | None:
        """A complete trial that stands for this one, of the first such sweep by name; None where there is none."""
        for store, name in self._folders.get(plan.signature[:8], ()):
            trial = store.stored_trial(name)
            if trial is not None and trial.signature == plan.signature and self._has_run_as_now(trial, plan):
                return trial
        return None

    def _has_run_as_now(self, trial: StoredTrial, plan: TrialPlan) -> bool:
        result = read_result(trial)
        if result is None or result.state is not TrialState.COMPLETE:
            return False
        return trial.code == result.code == self._code_of(plan.config) != ""

    @cached_property
    def _folders(self) -> dict[str, list[tuple[SweepStore, str]]]:
        """Trial folders by the first digits of their signature, which their names have. Nothing is opened for it."""
        found: dict[str, list[tuple[SweepStore, str]]] = {}
        for store in sweep_folders(self._results):
            if store.folder.resolve() != self._but.folder.resolve():
                for name in store.trial_names():
                    found.setdefault(name.rpartition("-")[2], []).append((store, name))
        return found
