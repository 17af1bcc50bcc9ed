"""What is known of every trial: in its folder, in the study, in memory. The only place that changes any of the three.

The folder is the truth: `result.json` is there before the study is told, and `reconcile` repeats the telling where a
crash came between.
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

from experiments.code_version import CodeOf, code_unknown
from experiments.knowledge import Knowledge
from experiments.metrics_file import read_metrics, trained_s, usage_of
from experiments.patience import Patiently, once
from experiments.reuse import Library
from experiments.slots import Slot
from experiments.spec_document import KeepCheckpoints, Objective
from experiments.store import (
    StoredTrial,
    SweepStore,
    TrialPaths,
    TrialResult,
    belongs_to,
    exempt_from_pruning,
    limit_images_at_a_time,
    number_of,
    read_result,
    write_result,
)
from experiments.study import Study, StudyTrial
from experiments.timeline import Timeline
from experiments.trial import TrialPlan, TrialState
from experiments.view import Best
from wsol.checkpoint_files import remove, superfluous

log = logging.getLogger(__name__)


class Ledger:
    """The trials of a sweep.

    Args:
        retry_failed: failed trials are taken up again, each from its checkpoint.
        continue_pruned: pruned ones are, too; they are not pruned a second time.
        library: results of other sweeps, which stand for trials of this one; None: every trial runs here.
        patiently: does a write that may be repeated; see `patience.PatientWriter`.
        keep_checkpoints: `all`: those of a pruned or failed trial stay; else only the newest does.
        compares_epochs: whether a pruner or a sampler asks what finished trials reported at each epoch. Where none
            does, their `metrics.jsonl`, most of what there is to read at a start, are left alone.
        code_of: what a trial of a config runs now, see `CodeVersion.of_trial`.
    """

    def __init__(
        self,
        *,
        store: SweepStore,
        study: Study,
        objective: Objective,
        retry_failed: bool = False,
        continue_pruned: bool = False,
        library: Library | None = None,
        patiently: Patiently = once,
        keep_checkpoints: KeepCheckpoints = "weights",
        compares_epochs: bool = True,
        code_of: CodeOf = code_unknown,
    ) -> None:
        self._patiently = patiently
        self._store, self._study, self._library = store, study, library
        self._timeline = Timeline(store.timeline)
        self._keeps_all = keep_checkpoints == "all"
        self._compares_epochs = compares_epochs
        self.code_of = code_of
        self._again = {TrialState.FAIL: retry_failed, TrialState.PRUNED: continue_pruned}
        self._metric = objective.metric
        self.known = Knowledge(metric=objective.metric, direction=objective.direction)
        self._sign = 1 if objective.direction == "maximize" else -1
        self.best: Best | None = None
        """The best complete trial of the search; of equal ones the first that was known."""
        self.adopted = 0
        """Trials that were found in other sweeps."""
        self._in_study = study.at_first
        self._damaged: list[str] = []
        self.stored = self._read_folders()
        """What was there at the start."""
        self._trials = {trial.signature: trial for trial in self.stored}
        used = {*self._in_study, *(number_of(name) for name in store.trial_names())}
        self._free_numbers = (number for number in itertools.count() if number not in used)
        self._numbers: dict[str, int] = {}
        """Of trials that have no folder yet, by signature."""

    @property
    def folder(self) -> Path:
        """The sweep's."""
        return self._store.folder

    def trial(self, plan: TrialPlan) -> StoredTrial | None:
        """The folder of a plan; None where it has none yet."""
        return self._trials.get(plan.signature)

    def attempts(self, trial: StoredTrial) -> int:
        """Processes that a trial has had in earlier runs of the command."""
        in_study = self._of_study(trial)
        return in_study.attempts if in_study is not None else 0

    def may_be_pruned(self, plan: TrialPlan) -> bool:
        """Whether a pruner may stop a trial: one of the search that was not taken up after it had been pruned."""
        trial = self.trial(plan)
        return plan.stage == "search" and (trial is None or trial.may_be_pruned)

    def reconcile(self, plan: TrialPlan) -> None:
        """Brings folder, study and memory to one state; looks in other sweeps for a trial that has no folder.

        One that has none gets its number here, so that numbers follow the order in which trials become known, and not
        the one in which they start, which depends on how long others take.
        """
        trial = self.trial(plan) or self._mended_by(plan)
        if trial is not None:
            self._reconcile(plan, trial, self._of_study(trial))
            return
        self._number(plan)
        if self._library is not None and (found := self._library.find(plan)) is not None:
            self._adopt(plan, found)

    def take_up(self, plan: TrialPlan) -> StoredTrial:
        """A trial that is to run gets a folder and a place in the study, unless an earlier run gave it both."""
        trial = self.trial(plan)
        if trial is None:
            config = plan.config.model_dump(mode="json")
            number = self._number(plan)
            code = self.code_of(plan.config)
            trial = self._patiently(
                lambda: self._store.create_trial(
                    number, plan.signature, config, stage=plan.stage, draw=plan.draw, code=code
                )
            )
            self._trials[plan.signature] = trial
            self._patiently(lambda: self._study.start(number, plan))
        return trial

    def limit_images_at_a_time(self, plan: TrialPlan, images: int) -> StoredTrial:
        """More did not fit into memory: so it is for every further attempt of the trial, and its folder says so."""
        limited = self._patiently(lambda: limit_images_at_a_time(self._trials[plan.signature], images))
        self._trials[plan.signature] = limited
        return limited

    def record_attempt(self, trial: StoredTrial, attempts: int, slot: Slot) -> None:
        """Another process of a trial starts, on a slot."""
        self._patiently(lambda: self._study.record_attempt(trial.number, attempts))
        self._timeline.began(trial.number, attempts, slot)

    def attempt_ended(self, trial: StoredTrial, attempts: int) -> None:
        """The newest process of a trial is over."""
        self._timeline.ended(trial.number, attempts)

    def record_decision(self, plan: TrialPlan, stop_reason: str) -> None:
        """A trial's report stops its configuration. Its attempt may report more before it ends: the decision stands."""
        number = self._trials[plan.signature].number
        self._patiently(lambda: self._study.record_decision(number, stop_reason))

    def decided_before(self, plan: TrialPlan) -> str:
        """Why an earlier run of the command decided to stop a trial's configuration; empty where it did not."""
        trial = self.trial(plan)
        in_study = self._of_study(trial) if trial is not None else None
        return in_study.to_be_pruned if in_study is not None else ""

    def note(self, plan: TrialPlan, result: TrialResult) -> None:
        """A trial's last word is on disk: the study is told, and it is known from now on."""
        self._tell(self._trials[plan.signature], result)
        self._remember(plan, result)

    def finish(self, plan: TrialPlan, state: TrialState, stop_reason: str, *, attempts: int) -> TrialResult:
        """Writes the last word on a trial that could say none itself, and notes it."""
        paths = self._trials[plan.signature].paths
        rows = read_metrics(paths)
        result = TrialResult(
            signature=plan.signature,
            state=state,
            stop_reason=stop_reason,
            attempts=attempts,
            metrics=rows[-1]["metrics"] if rows and state is TrialState.PRUNED else {},
            epochs=len(rows),
            duration_s=trained_s(rows),
            usage=usage_of(rows),
        )
        self._patiently(lambda: write_result(paths, result))
        self._drop_older_checkpoints(paths, result)
        self.note(plan, result)
        return result

    def _of_study(self, trial: StoredTrial) -> StudyTrial | None:
        """A trial as the study has it. One that was not written to for a while may have another one of this number."""
        in_study = self._in_study.get(trial.number)
        return in_study if in_study is not None and in_study.signature == trial.signature else None

    def _read_folders(self) -> list[StoredTrial]:
        """Every trial, in order of its number. A config.json that is damaged is mended from the study."""
        found = []
        for name in self._store.trial_names():
            trial = self._store.stored_trial(name) or self._mended_by_study(name)
            if trial is None:
                self._damaged.append(name)
            else:
                found.append(trial)
        return sorted(found, key=lambda trial: trial.number)

    def _mended_by_study(self, name: str) -> StoredTrial | None:
        known = self._in_study.get(number_of(name))
        if known is None or not known.config or not belongs_to(name, known.signature):
            return None
        config, stage, draw = json.loads(known.config), known.stage, known.draw
        self._patiently(lambda: self._store.mend_config(name, known.signature, config, stage=stage, draw=draw))
        return self._store.stored_trial(name)

    def _mended_by(self, plan: TrialPlan) -> StoredTrial | None:
        """A folder whose config.json is damaged, and whose name says that it is the plan's."""
        name = next((name for name in self._damaged if belongs_to(name, plan.signature)), None)
        if name is None:
            return None
        config = plan.config.model_dump(mode="json")
        self._patiently(lambda: self._store.mend_config(name, plan.signature, config, stage=plan.stage, draw=plan.draw))
        self._damaged.remove(name)
        trial = self._store.stored_trial(name)
        assert trial is not None, f"{name} was mended"
        self._trials[plan.signature] = trial
        return trial

    def _reconcile(self, plan: TrialPlan, trial: StoredTrial, in_study: StudyTrial | None) -> None:
        """A trial that the study lacks is added; one that must run again is reopened.

        So is one that has ended otherwise than the study says: it was kept elsewhere meanwhile.
        """
        result = read_result(trial)
        if result is not None and self._again.get(result.state):
            if result.state is TrialState.PRUNED:
                self._trials[plan.signature] = self._patiently(lambda: exempt_from_pruning(trial))
            trial.paths.result.unlink()
            result = None
        state = in_study.state if in_study is not None else None
        if state is None or (state.is_finished and (result is None or state is not self._told_as(result)[0])):
            self._patiently(lambda: self._study.start(trial.number, plan, attempts=self.attempts(trial)))
            state = TrialState.RUNNING
        if result is None or self._compares_epochs:
            self._read_reports(plan, trial)
        if result is not None:
            self._drop_older_checkpoints(trial.paths, result)  # where a crash came between
            if not state.is_finished:
                self._tell(trial, result)
            self._remember(plan, result)

    def _adopt(self, plan: TrialPlan, found: StoredTrial) -> None:
        """A trial that another sweep has finished."""
        number = self._number(plan)
        trial = self._patiently(lambda: self._store.adopt(number, found, stage=plan.stage, draw=plan.draw))
        result = read_result(trial)
        assert result is not None, f"{trial.paths.folder} was adopted with its result"
        self._trials[plan.signature] = trial
        self._patiently(lambda: self._study.start(number, plan, attempts=result.attempts))
        self._read_reports(plan, trial)
        self.note(plan, result)
        self.adopted += 1

    def _drop_older_checkpoints(self, paths: TrialPaths, result: TrialResult) -> None:
        """One that may be taken up again needs the newest. Those of a complete one shrink in its own process."""
        if result.state is not TrialState.COMPLETE and not self._keeps_all:
            try:
                remove(paths.checkpoint, superfluous(paths.checkpoint))
            except OSError as error:  # it costs space and nothing else
                log.warning("%s: older checkpoints stay (%s)", paths.checkpoint, error)

    def _read_reports(self, plan: TrialPlan, trial: StoredTrial) -> None:
        for row in read_metrics(trial.paths):
            self.known.report(plan.signature, row)

    def _remember(self, plan: TrialPlan, result: TrialResult) -> None:
        self.known.finish(plan.signature, result)
        value = self.known.objective(plan.signature)
        if value is None or plan.stage != "search":
            return
        if self.best is None or self._sign * value > self._sign * self.best.value:
            self.best = Best(number=self._trials[plan.signature].number, value=value, plan=plan)

    def _number(self, plan: TrialPlan) -> int:
        if plan.signature not in self._numbers:
            self._numbers[plan.signature] = next(self._free_numbers)
        return self._numbers[plan.signature]

    def _tell(self, trial: StoredTrial, result: TrialResult) -> None:
        self._patiently(lambda: self._tell_study(trial, result))

    def _tell_study(self, trial: StoredTrial, result: TrialResult) -> None:
        state, value, reason = self._told_as(result)
        self._study.finish(trial.number, state=state, value=value, stop_reason=reason)

    def _told_as(self, result: TrialResult) -> tuple[TrialState, float | None, str]:
        """State, value and stop reason: Optuna takes nothing for complete that has no value."""
        value = result.metrics.get(self._metric)
        if result.state is TrialState.COMPLETE and value is None:
            return TrialState.FAIL, None, f"{self._metric} is undefined on this split"
        return result.state, value, result.stop_reason
