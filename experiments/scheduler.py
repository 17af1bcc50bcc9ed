"""The event loop: place, launch, observe, tell. The study's only writer.

A trial's life: WAITING (in the spec, no folder) -> RUNNING (folder, attempts) -> COMPLETE or FAIL (result.json).
`result.json` is written before the study is told; `_reconcile` repeats the telling where a crash came between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.executors.base import AttemptEnded, AttemptRequest, EpochDone, Executor
from experiments.failures import FailureKind, classify, describe, may_retry
from experiments.placement import Slot
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, SweepStore, TrialResult, read_metrics, read_result, trained_s, write_result
from experiments.study import Study, StudyTrial
from experiments.trial import TrialPlan, TrialState
from experiments.view import Best, Counts, View

WAIT_S = 0.5
"""Longest wait for an event, so that a signal is noticed soon."""


@dataclass
class _Live:
    """A trial that this run of the command works on."""

    plan: TrialPlan
    trial: StoredTrial
    attempts_before: int
    attempts_now: int = 0

    @property
    def attempts(self) -> int:
        return self.attempts_before + self.attempts_now


class Scheduler:
    """Runs every trial of a spec that is not finished."""

    def __init__(
        self, *, spec: SweepSpec, store: SweepStore, study: Study, executor: Executor, view: View, retry_failed: bool
    ) -> None:
        self._spec, self._store, self._study = spec, store, study
        self._executor, self._view = executor, view
        self._retry_failed = retry_failed
        self._free: deque[Slot] = deque(executor.slots)
        self._waiting: deque[TrialPlan] = deque()
        self._live: dict[int, _Live] = {}
        self._slot_of: dict[int, Slot] = {}
        self._again: deque[_Live] = deque()
        self._trials: dict[str, StoredTrial] = {}
        self._attempts: dict[int, int] = {}
        self._next_number = 0
        self._results: dict[str, TrialResult] = {}
        self._stop_asked = False
        self._kill_asked = False
        self._stopping: set[int] = set()

    @property
    def was_stopped(self) -> bool:
        """Whether `stop` ended the run before its time."""
        return self._stop_asked

    def reconcile(self) -> None:
        """Brings folders and study to one state, and finds out what is left to run."""
        known = self._study.trials()
        self._attempts = {number: trial.attempts for number, trial in known.items()}
        stored = self._store.trials()
        self._trials = {trial.signature: trial for trial in stored}
        self._next_number = 1 + max((number for number in [*known, *(t.number for t in stored)]), default=-1)
        for plan in self._spec.plans:
            trial = self._trials.get(plan.signature)
            if trial is not None:
                self._reconcile_trial(plan, trial, known.get(trial.number))
        self._waiting = deque(plan for plan in self._spec.plans if plan.signature not in self._results)

    def _reconcile_trial(self, plan: TrialPlan, trial: StoredTrial, in_study: StudyTrial | None) -> None:
        """The folder is the truth. A trial that the study lacks is added; one that must run again is reopened."""
        result = read_result(trial)
        if result is not None and result.state is TrialState.FAIL and self._retry_failed:
            trial.paths.result.unlink()
            result = None
        state = in_study.state if in_study is not None else None
        if state is None or (state.is_finished and result is None):
            self._study.start(trial.number, plan, attempts=self._attempts.setdefault(trial.number, 0))
            state = TrialState.RUNNING
        if result is not None:
            self._results[plan.signature] = result
            if not state.is_finished:
                self._tell(trial, result)

    def plans_to_run(self) -> list[TrialPlan]:
        """What is left, after `reconcile`."""
        return list(self._waiting)

    def run(self) -> None:
        """Runs until nothing is left or `stop` was called."""
        self._view.start(name=self._spec.name, counts=self._counts(), reused=len(self._results))
        self._show_progress()
        while self._slot_of or ((self._waiting or self._again) and not self._stop_asked):
            self._fill_slots()
            self._pass_on_stop()
            for event in self._executor.wait(WAIT_S):
                if isinstance(event, EpochDone):
                    self._view.epoch(event.number, self._live[event.number].plan, event.row)
                else:
                    self._attempt_ended(event)

    def stop(self) -> None:
        """Asks running trials to save and stop; nothing new starts. Safe in a signal handler, as it only notes it."""
        self._stop_asked = True

    def kill(self) -> None:
        """Ends running trials now; their checkpoints are what is kept. Safe in a signal handler."""
        self._stop_asked = self._kill_asked = True

    def _pass_on_stop(self) -> None:
        """Tells the executor what `stop` and `kill` noted. A handler may not: it can come in the midst of a launch."""
        if self._kill_asked:
            for number in self._slot_of:
                self._executor.kill(number)
        elif self._stop_asked and not self._stopping:
            self._view.message("stopping: running trials save and end (the signal again: they end at once)")
            self._stopping = set(self._slot_of)
            for number in self._stopping:
                self._executor.stop(number)

    def results(self) -> dict[str, TrialResult]:
        """The finished trials of the spec, by signature."""
        return dict(self._results)

    def _fill_slots(self) -> None:
        while self._free and not self._stop_asked and (self._waiting or self._again):
            live = self._again.popleft() if self._again else self._take_up(self._waiting.popleft())
            self._launch(live, self._free.popleft())

    def _take_up(self, plan: TrialPlan) -> _Live:
        """A waiting trial gets a folder and a place in the study, unless an earlier run gave it both."""
        trial = self._trials.get(plan.signature)
        if trial is None:
            number, self._next_number = self._next_number, self._next_number + 1
            trial = self._store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"))
            self._trials[plan.signature] = trial
            self._study.start(number, plan)
        return _Live(plan=plan, trial=trial, attempts_before=self._attempts.get(trial.number, 0))

    def _launch(self, live: _Live, slot: Slot) -> None:
        live.attempts_now += 1
        number = live.trial.number
        self._study.record_attempt(number, live.attempts)
        self._live[number], self._slot_of[number] = live, slot
        self._view.launched(number, live.plan, slot, live.attempts)
        self._executor.launch(
            AttemptRequest(
                number=number,
                signature=live.plan.signature,
                attempt=live.attempts,
                config=live.plan.config.model_dump(mode="json"),
                folder=live.trial.paths.folder,
                slot=slot,
            )
        )

    def _attempt_ended(self, ended: AttemptEnded) -> None:
        """What an attempt left decides: a result ends the trial; without one the kind of failure does."""
        live = self._live.pop(ended.number)
        self._free.append(self._slot_of.pop(ended.number))
        result = read_result(live.trial)
        if result is None:
            result = self._after_failure(live, ended)
        if result is not None:
            self._results[live.plan.signature] = result
            self._tell(live.trial, result)
            if result.state is TrialState.COMPLETE:
                self._view.ended(ended.number, live.plan, self._complete_text(result), failed=False)
        self._show_progress()

    def _after_failure(self, live: _Live, ended: AttemptEnded) -> TrialResult | None:
        """None where the trial goes on: now as another attempt, or with the next run of the command."""
        kind = classify(ended)
        if kind is FailureKind.INTERRUPTED or self._stop_asked:
            self._view.ended(ended.number, live.plan, "stopped; it continues with the same command", failed=False)
            return None
        if may_retry(kind, attempts=live.attempts_now, max_attempts=self._spec.retry.max_attempts):
            self._view.ended(ended.number, live.plan, f"starts again: {describe(ended)}", failed=False)
            self._again.append(live)
            return None
        log = live.trial.paths.log
        self._view.ended(ended.number, live.plan, f"failed ({kind}): {describe(ended)}; see {log}", failed=True)
        rows = read_metrics(live.trial.paths)
        result = TrialResult(
            signature=live.plan.signature,
            state=TrialState.FAIL,
            stop_reason=kind,
            attempts=live.attempts,
            metrics={},
            epochs=len(rows),
            duration_s=trained_s(rows),
        )
        write_result(live.trial.paths, result)
        return result

    def _tell(self, trial: StoredTrial, result: TrialResult) -> None:
        value = result.metrics.get(self._spec.objective.metric)
        if result.state is TrialState.COMPLETE and value is None:
            reason = f"{self._spec.objective.metric} is undefined on this split"
            self._study.finish(trial.number, state=TrialState.FAIL, value=None, stop_reason=reason)
        else:
            self._study.finish(trial.number, state=result.state, value=value, stop_reason=result.stop_reason)

    def _complete_text(self, result: TrialResult) -> str:
        value = result.metrics.get(self._spec.objective.metric)
        shown = "undefined" if value is None else f"{value:.4f}"
        return (
            f"complete: {self._spec.objective.metric} {shown} after {result.epochs} epochs, {result.duration_s:.0f} s"
        )

    def _show_progress(self) -> None:
        self._view.progress(self._counts(), self._best())

    def _counts(self) -> Counts:
        return Counts(
            total=len(self._spec.plans),
            finished=len(self._results),
            failed=sum(result.state is TrialState.FAIL for result in self._results.values()),
            running=len(self._slot_of),
        )

    def _best(self) -> Best | None:
        sign = 1 if self._spec.objective.direction == "maximize" else -1
        plans = {plan.signature: plan for plan in self._spec.plans}
        candidates = [
            Best(number=self._trials[signature].number, value=value, plan=plans[signature])
            for signature, result in self._results.items()
            if (value := result.metrics.get(self._spec.objective.metric)) is not None
        ]
        return max(candidates, key=lambda best: sign * best.value, default=None)


def exit_status(results: Mapping[str, TrialResult], *, total: int, stopped: bool) -> int:
    """The command's exit status: 0 every trial complete or pruned, 1 a trial failed, 130 stopped before the end."""
    if stopped and len(results) < total:
        return 130
    return 1 if any(result.state is TrialState.FAIL for result in results.values()) else 0
