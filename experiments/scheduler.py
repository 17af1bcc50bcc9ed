"""The event loop: place, launch, observe, prune, tell. The study's only writer.

A trial's life: WAITING (in the spec, no folder) -> RUNNING (folder, attempts) -> COMPLETE, PRUNED or FAIL
(result.json).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experiments.agenda import Agenda
from experiments.common_fault import CommonFault
from experiments.disk_space import Pause, paused_text
from experiments.executors.base import AttemptEnded, AttemptRequest, EpochDone, Executor, SignOfLife
from experiments.failures import (
    FAULTS_OF_THE_CODE,
    Failure,
    FailureKind,
    NextStep,
    classify,
    describe,
    next_step,
)
from experiments.ledger import Ledger
from experiments.placement import Slot, SlotPool
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, TrialResult, read_result
from experiments.trial import TrialPlan, TrialState
from experiments.view import Counts, View
from experiments.watchdog import Watchdog

WAIT_S = 0.5
"""Longest wait for an event, so that a signal is noticed soon."""
STOP_WITHIN_S = 9.0
"""What has not saved and ended by then, after the runner was asked to stop, is ended."""


@dataclass
class StopRequest:
    """What people and batch systems ask of a running sweep. Safe in a signal handler, as it only notes it."""

    asked: bool = False
    """Running trials save and end; nothing new starts."""
    now: bool = False
    """Running trials end at once; their checkpoints are what is kept."""


@dataclass
class _Live:
    """A trial that this run of the command works on.

    Attributes:
        attempts_before: in earlier runs of the command.
        launch: number of its present attempt among all launches of this run.
        got_on: whether its present attempt has reported an epoch.
        failures: of its attempts in this run.
    """

    plan: TrialPlan
    trial: StoredTrial
    attempts_before: int
    attempts_now: int = 0
    launch: int = 0
    got_on: bool = False
    failures: list[Failure] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        return self.attempts_before + self.attempts_now

    @property
    def images_at_a_time(self) -> int:
        """Most that go through the model at once."""
        train, evaluate = self.plan.config.train, self.plan.config.evaluate
        return self.trial.images_at_a_time or max(train.batch_size, evaluate.batch_size)


class Scheduler:
    """Runs every trial of a spec that is not finished.

    Args:
        stop: may ask for the end at any time.
        clock: in seconds.
    """

    def __init__(
        self,
        *,
        spec: SweepSpec,
        ledger: Ledger,
        executor: Executor,
        view: View,
        stop: StopRequest | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._ledger = spec, ledger
        self._executor, self._view = executor, view
        self._stop = stop or StopRequest()
        self._clock = clock
        self._agenda = Agenda(spec, ledger)
        self._slots = SlotPool(executor.slots)
        self._watchdog = Watchdog(clock)
        self._pause = Pause(ledger.folder, clock=clock)
        self._common_fault = CommonFault()
        self._launches = 0
        self._live: dict[int, _Live] = {}
        self._slot_of: dict[int, Slot] = {}
        self._retries: deque[_Live] = deque()
        self._retries_alone: deque[_Live] = deque()
        self._pruned: dict[str, str] = {}
        """Configurations that are pruned, with the reason."""
        self._stopping: float | None = None
        """When running trials were asked to stop."""
        self.gave_up = False
        """Whether something is left that this run of the command could not do, though nobody stopped it."""
        self._no_more = False
        """Whether nothing may start any more, since what started failed alike."""
        self._recall_pruned()

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
        if self._spec.final is None or self._is_ending or self.gave_up:
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

    def results(self) -> dict[str, TrialResult]:
        """The finished trials of the spec, by signature."""
        return dict(self._ledger.known.results)

    @property
    def _is_ending(self) -> bool:
        return self._stop.asked or self._no_more

    def _loop(self) -> None:
        """Runs until nothing runs and nothing is left to start."""
        while True:
            self._fill_slots()
            self._pass_on_stop()
            if not self._slot_of and (self._is_ending or not self._pause.is_on):
                return
            for event in self._executor.wait(WAIT_S):
                if isinstance(event, SignOfLife):
                    self._watchdog.expect(event.number, event.next_within_s)
                elif isinstance(event, EpochDone):
                    self._epoch_done(event)
                elif isinstance(event, AttemptEnded):
                    self._attempt_ended(event)
            self._end_what_hangs()

    def _pass_on_stop(self) -> None:
        """Tells the executor what is asked for. A signal handler may not: it can come in the midst of a launch."""
        if self._is_ending and self._stopping is None:
            if self._slot_of:
                self._view.message("stopping: running trials save and end (the signal again: they end at once)")
            self._stopping = self._clock()
            for number in self._slot_of:
                self._executor.stop(number)
        if self._stop.now or (self._stopping is not None and self._clock() >= self._stopping + STOP_WITHIN_S):
            for number in self._slot_of:
                self._executor.kill(number)

    def _end_what_hangs(self) -> None:
        for number in self._watchdog.overdue():
            self._view.message(f"trial {number} does not get on: it writes down what it is doing, and is ended")
            self._executor.dump_stacks(number)
        for number in self._watchdog.to_kill():
            self._executor.kill(number)

    def _fill_slots(self) -> None:
        if self._pause.may_end():
            self._view.message("there is room again: going on")
        while not self._pause.is_on and not self._is_ending:
            if self._retries_alone and (slot := self._slots.take_alone()) is not None:
                self._launch_alone(self._retries_alone.popleft(), slot)
            elif self._slots.has_room() and (live := self._next_live()) is not None:
                slot = self._slots.take()
                assert slot is not None, "has_room said so"
                self._launch(live, slot)
            else:
                return

    def _launch_alone(self, live: _Live, slot: Slot) -> None:
        if self._is_pruned(live.plan):  # while it waited for a device to itself
            self._slots.give_back(slot)
            self._finish_pruned(live)
        else:
            self._launch(live, slot)

    def _next_live(self) -> _Live | None:
        """The next trial to launch. One whose configuration was pruned meanwhile ends here, before it begins."""
        while True:
            live = self._retries.popleft() if self._retries else self._begun()
            if live is None or not self._is_pruned(live.plan):
                return live
            self._finish_pruned(live)

    def _begun(self) -> _Live | None:
        plan = self._agenda.next_plan(self._common_fault.next_of)
        if plan is None:
            return None
        trial = self._ledger.take_up(plan)
        return _Live(plan=plan, trial=trial, attempts_before=self._ledger.attempts(trial))

    def _launch(self, live: _Live, slot: Slot) -> None:
        live.attempts_now += 1
        self._launches += 1
        live.launch, live.got_on = self._launches, False
        number = live.trial.number
        self._ledger.record_attempt(live.trial, live.attempts)
        self._live[number], self._slot_of[number] = live, slot
        self._view.launched(number, live.plan, slot, live.attempts)
        self._watchdog.started(number)
        self._executor.launch(
            AttemptRequest(
                number=number,
                signature=live.plan.signature,
                attempt=live.attempts,
                config=live.plan.config.model_dump(mode="json"),
                folder=live.trial.paths.folder,
                slot=slot,
                images_at_a_time=live.trial.images_at_a_time,
                keep_checkpoints=self._spec.resources.keep_checkpoints,
                code=self._ledger.code_of(live.plan.config),
            )
        )

    def _epoch_done(self, event: EpochDone) -> None:
        live = self._live[event.number]
        plan = live.plan
        if not live.got_on:
            live.got_on = True
            self._common_fault.worked(live.launch)
            self._pause.got_on()
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
        self._slots.give_back(self._slot_of.pop(ended.number))
        hung = self._watchdog.ended(ended.number)
        result = read_result(live.trial)
        if result is not None:
            self._complete(live, result)
        elif self._is_pruned(live.plan):
            self._finish_pruned(live)
        elif self._stopping is not None:
            self._view.ended(ended.number, live.plan, "stopped; it continues with the same command", failed=False)
        else:
            self._after_failure(live, ended, hung=hung)
        self._show_progress()

    def _complete(self, live: _Live, result: TrialResult) -> None:
        self._ledger.note(live.plan, result)
        value = result.metrics.get(self._spec.objective.metric)
        shown = "undefined" if value is None else f"{value:.4f}"
        text = (
            f"complete: {self._spec.objective.metric} {shown} after {result.epochs} epochs, {result.duration_s:.0f} s"
        )
        self._view.ended(live.trial.number, live.plan, text, failed=False)

    def _after_failure(self, live: _Live, ended: AttemptEnded, *, hung: bool) -> None:
        """The trial goes on as another attempt, now or later, or it has failed."""
        kind = classify(ended, hung=hung)
        if kind is FailureKind.INTERRUPTED:
            kind = FailureKind.KILLED  # nobody here asked for it: a batch system told the attempt
        live.failures.append(Failure(kind, got_on=live.got_on))
        step = next_step(live.failures, max_attempts=self._spec.retry.max_attempts, can_halve=live.images_at_a_time > 1)
        if step is NextStep.FAIL:
            self._fail(live, ended, kind)
        else:
            self._take_up_later(live, step)
            self._view.ended(ended.number, live.plan, f"{_goes_on(live, step)}: {_reason(ended, kind)}", failed=False)

    def _take_up_later(self, live: _Live, step: NextStep) -> None:
        if step is NextStep.LATER:
            self.gave_up = True
        elif step is NextStep.WHEN_THERE_IS_ROOM:
            if not self._pause.is_on:
                self._view.message(paused_text(self._ledger.folder))
            self._pause.begin()
            self._retries.append(live)
        elif step is NextStep.AGAIN:
            self._retries.append(live)
        else:
            if step is NextStep.FEWER_AT_A_TIME:
                live.trial = self._ledger.limit_images_at_a_time(live.plan, live.images_at_a_time // 2)
            self._retries_alone.append(live)

    def _fail(self, live: _Live, ended: AttemptEnded, kind: FailureKind) -> None:
        log = live.trial.paths.log
        self._view.ended(ended.number, live.plan, f"failed ({kind}): {_reason(ended, kind)}; see {log}", failed=True)
        self._ledger.finish(live.plan, TrialState.FAIL, kind, attempts=live.attempts)
        if kind in FAULTS_OF_THE_CODE and not live.got_on:
            self._common_fault.failed(live.plan, live.launch)
            self._stop_what_fails_alike(ended)

    def _stop_what_fails_alike(self, ended: AttemptEnded) -> None:
        """A fault that every trial has is shown once, instead of failing every trial."""
        results = self._ledger.known.results
        not_failed = (
            plan
            for plan in self._agenda.plans.values()
            if plan.signature not in results or results[plan.signature].state is not TrialState.FAIL
        )
        if self._no_more or not self._common_fault.hits_all(not_failed):
            return
        self._no_more = self.gave_up = True
        for line in ended.error.details.splitlines() if ended.error is not None else ():
            self._view.message(line)
        self._view.message(
            f"stopped: {self._common_fault.count} trials failed one after the other before their first epoch, and no"
            " value that they share is to blame; mend the cause and run the same command with --retry-failed"
        )

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


def _goes_on(live: _Live, step: NextStep) -> str:
    """What follows for a trial, for people."""
    if step is NextStep.ALONE:
        return "starts again, alone on its device"
    if step is NextStep.FEWER_AT_A_TIME:
        return f"starts again, alone on its device, {live.images_at_a_time} images at a time"
    if step is NextStep.WHEN_THERE_IS_ROOM:
        return "waits for room"
    if step is NextStep.LATER:
        return f"ended {len(live.failures)} times without getting on and is left; it continues with the same command"
    return "starts again"


def _reason(ended: AttemptEnded, kind: FailureKind) -> str:
    return "no step came to its end; log.txt has the stacks" if kind is FailureKind.HANG else describe(ended)


def exit_status(results: Mapping[str, TrialResult], *, total: int, stopped: bool, gave_up: bool = False) -> int:
    """The command's exit status: 0 every trial complete or pruned, 1 one failed or is left, 130 stopped before the end.

    Args:
        gave_up: whether something is left though nobody stopped the run.
    """
    if stopped and len(results) < total:
        return 130
    return 1 if gave_up or any(result.state is TrialState.FAIL for result in results.values()) else 0
