"""The event loop: place, launch, observe, prune, tell. The study's only writer.

A trial's life: WAITING (in the spec, no folder) -> RUNNING (folder, attempts) -> COMPLETE, PRUNED or FAIL
(result.json).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.agenda import Agenda
from experiments.executors.base import AttemptEnded, AttemptRequest, EpochDone, Executor
from experiments.failures import FailureKind, classify, describe, may_retry
from experiments.ledger import Ledger
from experiments.placement import Slot
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, TrialResult, read_result
from experiments.trial import TrialPlan, TrialState
from experiments.view import Counts, View

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

    def __init__(self, *, spec: SweepSpec, ledger: Ledger, executor: Executor, view: View) -> None:
        self._spec, self._ledger = spec, ledger
        self._executor, self._view = executor, view
        self._agenda = Agenda(spec, ledger)
        self._free: deque[Slot] = deque(executor.slots)
        self._live: dict[int, _Live] = {}
        self._slot_of: dict[int, Slot] = {}
        self._retries: deque[_Live] = deque()
        self._pruned: dict[str, str] = {}
        """Configurations that are pruned, with the reason."""
        self._stop_asked = False
        self._kill_asked = False
        self._stopping: set[int] = set()
        self._recall_pruned()

    @property
    def was_stopped(self) -> bool:
        """Whether `stop` ended the run before its time."""
        return self._stop_asked

    @property
    def total(self) -> int:
        """Trials of the sweep, those included that are not chosen yet."""
        return self._agenda.total

    def plans_to_run(self) -> list[TrialPlan]:
        """What is left; for what is yet to be sampled, trials that stand for all of it."""
        return self._agenda.to_prepare()

    def run(self) -> None:
        """Runs the search until nothing of it is left or `stop` was called."""
        is_over = self._agenda.search_is_over
        if is_over:
            self._agenda.begin_final_stage()  # so that what an earlier run finished of it counts as finished
        finished = len(self._ledger.known.results)
        self._view.start(name=self._spec.name, counts=self._counts(), reused=finished)
        if self._ledger.adopted:
            self._view.message(f"{self._ledger.adopted} of them were found in other sweeps")
        self._show_progress()
        if not is_over:
            self._loop()
        for line in self._agenda.exhausted():
            self._view.message(line)

    def enter_final_stage(self) -> list[TrialPlan]:
        """Once the search is over, the trials of the final stage that are left; `run_final_stage` runs them."""
        if self._spec.final is None or self._stop_asked:
            return []
        if reason := self._agenda.begin_final_stage():
            self._view.message(f"no final stage yet: {reason}")
            return []
        if others := self._agenda.earlier_final_trials():
            numbers = ", ".join(str(trial.number) for trial in others)
            self._view.message(
                f"warning: split {self._spec.final.eval} was measured on before, for another configuration (trials"
                f" {numbers}): it is no longer unseen"
            )
        self._show_progress()
        return self._agenda.waiting

    def run_final_stage(self) -> None:
        """Runs what `enter_final_stage` found."""
        assert self._spec.final is not None
        seeds = [str(plan.config.seed) for plan in self._agenda.waiting]
        self._view.message(
            f"final stage: {self._agenda.winner_text()} trains on {self._spec.final.train} with "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} and is measured on {self._spec.final.eval}"
        )
        self._loop()

    def stop(self) -> None:
        """Asks running trials to save and stop; nothing new starts. Safe in a signal handler, as it only notes it."""
        self._stop_asked = True

    def kill(self) -> None:
        """Ends running trials now; their checkpoints are what is kept. Safe in a signal handler."""
        self._stop_asked = self._kill_asked = True

    def results(self) -> dict[str, TrialResult]:
        """The finished trials of the spec, by signature."""
        return dict(self._ledger.known.results)

    def _loop(self) -> None:
        """Runs until nothing runs and nothing is left to start."""
        while True:
            self._fill_slots()
            self._pass_on_stop()
            if not self._slot_of:
                return
            for event in self._executor.wait(WAIT_S):
                if isinstance(event, EpochDone):
                    self._epoch_done(event)
                else:
                    self._attempt_ended(event)

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

    def _fill_slots(self) -> None:
        while self._free and not self._stop_asked and (live := self._next_live()) is not None:
            self._launch(live, self._free.popleft())

    def _next_live(self) -> _Live | None:
        """The next trial to launch. One whose configuration was pruned meanwhile ends here, before it begins."""
        while True:
            live = self._retries.popleft() if self._retries else self._begun()
            if live is None or not self._is_pruned(live.plan):
                return live
            self._finish_pruned(live)

    def _begun(self) -> _Live | None:
        plan = self._agenda.next_plan()
        if plan is None:
            return None
        trial = self._ledger.take_up(plan)
        return _Live(plan=plan, trial=trial, attempts_before=self._ledger.attempts(trial))

    def _launch(self, live: _Live, slot: Slot) -> None:
        live.attempts_now += 1
        number = live.trial.number
        self._ledger.record_attempt(live.trial, live.attempts)
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

    def _epoch_done(self, event: EpochDone) -> None:
        plan = self._live[event.number].plan
        self._ledger.known.report(plan.signature, event.row)
        self._view.epoch(event.number, plan, event.row)
        if (reason := self._stop_reason(plan)) is not None:
            self._pruned[plan.configuration] = reason
            self._ledger.record_decision(plan, reason)
            for number, live in self._live.items():
                if live.plan.configuration == plan.configuration and self._is_pruned(live.plan):
                    self._executor.stop(number)

    def _stop_reason(self, plan: TrialPlan) -> str | None:
        """Why the pruner stops a trial's configuration after what the trial reported last; None where it does not."""
        epoch = self._ledger.known.last_epoch(plan.signature)
        if self._spec.pruner is None or epoch is None or epoch >= plan.config.train.epochs:
            return None
        if plan.configuration in self._pruned or not self._ledger.may_be_pruned(plan):
            return None
        return self._ledger.known.stop_reason(self._spec.pruner, plan, epoch, self._agenda.configurations)

    def _is_pruned(self, plan: TrialPlan) -> bool:
        return plan.configuration in self._pruned and self._ledger.may_be_pruned(plan)

    def _recall_pruned(self) -> None:
        """What was pruned before, what was to be, and what should have been when a crash came between.

        What was reported last and not decided on gives the decision that it would have given then.
        """
        for plan in self._agenda.plans.values():
            result = self._ledger.known.results.get(plan.signature)
            if result is not None and result.state is TrialState.PRUNED:
                self._pruned.setdefault(plan.configuration, result.stop_reason)
            elif self._ledger.may_be_pruned(plan) and (decided := self._ledger.decided_before(plan)):
                self._pruned.setdefault(plan.configuration, decided)
        for plan in self._agenda.waiting:
            if (reason := self._stop_reason(plan)) is not None:
                self._pruned[plan.configuration] = reason

    def _finish_pruned(self, live: _Live) -> None:
        reason = self._pruned[live.plan.configuration]
        self._ledger.finish(live.plan, TrialState.PRUNED, reason, attempts=live.attempts)
        self._view.ended(live.trial.number, live.plan, f"pruned: {reason}", failed=False)

    def _attempt_ended(self, ended: AttemptEnded) -> None:
        """What an attempt left decides: a result ends the trial; without one the kind of failure does."""
        live = self._live.pop(ended.number)
        self._free.append(self._slot_of.pop(ended.number))
        result = read_result(live.trial)
        if result is not None:
            self._complete(live, result)
        elif self._is_pruned(live.plan):
            self._finish_pruned(live)
        else:
            self._after_failure(live, ended)
        self._show_progress()

    def _complete(self, live: _Live, result: TrialResult) -> None:
        self._ledger.note(live.plan, result)
        value = result.metrics.get(self._spec.objective.metric)
        shown = "undefined" if value is None else f"{value:.4f}"
        text = (
            f"complete: {self._spec.objective.metric} {shown} after {result.epochs} epochs, {result.duration_s:.0f} s"
        )
        self._view.ended(live.trial.number, live.plan, text, failed=False)

    def _after_failure(self, live: _Live, ended: AttemptEnded) -> None:
        """The trial goes on, now as another attempt or with the next run of the command; or it has failed."""
        kind = classify(ended)
        if kind is FailureKind.INTERRUPTED or self._stop_asked:
            self._view.ended(ended.number, live.plan, "stopped; it continues with the same command", failed=False)
        elif may_retry(kind, attempts=live.attempts_now, max_attempts=self._spec.retry.max_attempts):
            self._view.ended(ended.number, live.plan, f"starts again: {describe(ended)}", failed=False)
            self._retries.append(live)
        else:
            log = live.trial.paths.log
            self._view.ended(ended.number, live.plan, f"failed ({kind}): {describe(ended)}; see {log}", failed=True)
            self._ledger.finish(live.plan, TrialState.FAIL, kind, attempts=live.attempts)

    def _show_progress(self) -> None:
        self._view.progress(self._counts(), self._ledger.best)

    def _counts(self) -> Counts:
        results = self._ledger.known.results
        return Counts(
            total=self.total,
            finished=len(results),
            failed=sum(result.state is TrialState.FAIL for result in results.values()),
            running=len(self._slot_of),
        )


def exit_status(results: Mapping[str, TrialResult], *, total: int, stopped: bool) -> int:
    """The command's exit status: 0 every trial complete or pruned, 1 a trial failed, 130 stopped before the end."""
    if stopped and len(results) < total:
        return 130
    return 1 if any(result.state is TrialState.FAIL for result in results.values()) else 0
