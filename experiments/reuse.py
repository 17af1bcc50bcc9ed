"""Results of other sweeps in the same results folder: a trial with the same signature need not run twice."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from experiments.store import StoredTrial, SweepStore, read_result, sweep_folders
from experiments.trial import TrialState


class Library:
    """The complete trials of all sweeps but one.

    Args:
        results: folder of all sweeps.
        but: the sweep that looks for trials.
    """

    def __init__(self, results: Path, *, but: SweepStore) -> None:
        self._results = results
        self._but = but

    def find(self, signature: str) -> StoredTrial | None:
        """A complete trial with this signature, of the first such sweep by name; None where there is none."""
        for store, name in self._folders.get(signature[:8], ()):
            trial = store.stored_trial(name)
            if trial is not None and trial.signature == signature:
                result = read_result(trial)
                if result is not None and result.state is TrialState.COMPLETE:
                    return trial
        return None

    @cached_property
    def _folders(self) -> dict[str, list[tuple[SweepStore, str]]]:
        """Trial folders by the first digits of their signature, which their names have. Nothing is opened for it."""
        found: dict[str, list[tuple[SweepStore, str]]] = {}
        for store in sweep_folders(self._results):
            if store.folder.resolve() != self._but.folder.resolve():
                for name in store.trial_names():
                    found.setdefault(name.rpartition("-")[2], []).append((store, name))
        return found
