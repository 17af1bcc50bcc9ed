"""The event loop: place, launch, observe, prune, tell. The study's only writer.

A trial's life: WAITING (in the spec, no folder) -> RUNNING (folder, attempts) -> COMPLETE, PRUNED or FAIL
(result.json).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from experiments.agenda import Agenda
from experiments.common_fault import CommonFault
from experiments.device_monitor import DeviceMonitor
from experiments.disk_space import Pause, paused_text
from experiments.executors.base import (
    AttemptEnded,
    AttemptRequest,
    EpochDone,
    Event,
    Executor,
    Measured,
    SignOfLife,
    SlotsChanged,
)
from experiments.failures import (
    FAULTS_OF_THE_CODE,
    Failure,
    FailureKind,
    NextStep,
    classify,
    describe,
    next_step,
    ran_out_of_gpu_memory,
)
from experiments.footprint import Footprints
from experiments.ledger import Ledger
from experiments.live_trial import LiveTrial, goes_on
from experiments.outlook import Outlook
from experiments.packing import Asker, Packing
from experiments.placement import Place
from experiments.pruned import PrunedConfigurations
from experiments.spec import SweepSpec
from experiments.stopping import STOP_WITHIN_S, StopRequest
from experiments.store import TrialResult, read_result
from experiments.trial import TrialPlan, TrialState
from experiments.view import Counts, View
from experiments.watchdog import Watchdog

WAIT_S = 0.5
"""Longest wait for an event, so that a signal is noticed soon."""


class Scheduler:
    """Runs every trial of a spec that is not finished.

    Args:
        stop: may ask for the end at any time.
        monitor: tells of the memory of devices; None: the slots are all that limits.
        known: what trials cost, from those that ran before.
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
        monitor: DeviceMonitor | None = None,
        known: Footprints | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._ledger = spec, ledger
        self._executor, self._view = executor, view
        self._stop = stop or StopRequest()
        self._clock = clock
        self._agenda = Agenda(spec, ledger)
        self._known = known or Footprints()
        self._packing = Packing(executor.slots, known=self._known, monitor=monitor)
        self._watchdog = Watchdog(clock)
        self._pause = Pause(ledger.folder, clock=clock)
        self._common_fault = CommonFault()
        self._launches = 0
        self._live: dict[int, LiveTrial] = {}
        self._retries: deque[LiveTrial] = deque()
        self._pruned = PrunedConfigurations(spec.pruner, self._agenda, ledger)
        self._outlook = Outlook(
            self._agenda,
            self._packing,
            self._known,
            epochs_done=lambda plan: ledger.known.last_epoch(plan.signature) or 0,
            clock=clock,
        )
        self._has_said_why = False
        """Whether people know why nothing runs."""
        self._stopping: float | None = None
        """When running trials were asked to stop."""
        self.gave_up = False
        """Whether something is left that this run of the command could not do, though nobody stopped it."""
        self._no_more = False
        """Whether nothing may start any more, since what started failed alike."""

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
            if not self._live and (self._is_ending or not self._is_held_up()):
                return
            events = self._executor.wait(WAIT_S)
            heard_until = self._clock()  # a write of what follows may have to wait, for room or a database
            for event in events:
                self._take_in(event)
            self._end_what_hangs(heard_until)

    def _take_in(self, event: Event) -> None:
        if isinstance(event, SignOfLife):
            self._watchdog.expect(event.number, event.next_within_s)
        elif isinstance(event, EpochDone):
            self._epoch_done(event)
        elif isinstance(event, Measured):
            self._packing.measured(self._live[event.number].plan.signature, event.usage)
        elif isinstance(event, SlotsChanged):
            self._packing.set_slots(self._executor.slots)
        else:
            self._attempt_ended(event)

    def _is_held_up(self) -> bool:
        """Whether something is left to start, though nothing runs: the disk is full, or there is no place for it."""
        if self._pause.is_on:
            return True
        left = [*(live.shape for live in self._retries), *map(self._agenda.shape, self._heads())]
        if left and not self._has_said_why:
            self._view.message(
                f"nothing can start: {self._packing.why_not(left[0])}; the sweep waits (Ctrl-C stops it)"
            )
        self._has_said_why = bool(left)
        return bool(left)

    def _pass_on_stop(self) -> None:
        """Tells the executor what is asked for. A signal handler may not: it can come in the midst of a launch."""
        if self._is_ending and self._stopping is None:
            if self._live:
                self._view.message("stopping: running trials save and end (the signal again: they end at once)")
            self._stopping = self._clock()
            for number in self._live:
                self._executor.stop(number)
        if self._stop.now or (self._stopping is not None and self._clock() >= self._stopping + STOP_WITHIN_S):
            for number in self._live:
                self._executor.kill(number)

    def _end_what_hangs(self, heard_until: float) -> None:
        for number in self._watchdog.overdue(heard_until=heard_until):
            self._view.message(f"trial {number} does not get on: it writes down what it is doing, and is ended")
            self._executor.dump_stacks(number)
        for number in self._watchdog.to_kill():
            self._executor.kill(number)

    def _fill_slots(self) -> None:
        if self._pause.may_end():
            self._view.message("there is room again: going on")
        while not self._pause.is_on and not self._is_ending:
            self._settle_pruned()
            chosen = self._choose()
            for live, place in chosen:
                self._launch(live, place)
            if not chosen:
                return

    def _choose(self) -> list[tuple[LiveTrial, Place]]:
        """The trials that start now, each with its place."""
        may_start = self._packing.has_room() and bool(self._retries or self._agenda.candidates(self._known))
        if not may_start and not any(live.is_alone for live in self._retries) and not self._packing.must_publish():
            return []
        chosen: list[tuple[LiveTrial | TrialPlan, Place]] = []
        with self._packing.looking() as may_place:
            while may_place and (one := self._next_with_place()) is not None:
                chosen.append(one)
        return [(self._begun(one) if isinstance(one, TrialPlan) else one, place) for one, place in chosen]

    def _next_with_place(self) -> tuple[LiveTrial | TrialPlan, Place] | None:
        """A trial that starts now: one that starts again, before all those that need a device alone, else a new one."""
        retries = sorted(self._retries, key=lambda live: not live.is_alone)
        plans = self._heads() if self._packing.has_room() else []
        found = self._packing.first_that_fits(
            [
                *(Asker(live.plan.signature, live.shape, alone=live.is_alone) for live in retries),
                *(Asker(plan.signature, self._agenda.shape(plan)) for plan in plans),
            ]
        )
        if found is None:
            return None
        position, place = found
        if position < len(retries):
            self._retries.remove(retries[position])
            return retries[position], place
        plan = plans[position - len(retries)]
        self._agenda.take(plan)
        return plan, place

    def _heads(self) -> list[TrialPlan]:
        """Trials that may start next, in order; what tells a common fault from another comes alone."""
        if self._common_fault.count and (waiting := self._agenda.waiting):
            return [self._common_fault.next_of(waiting)]
        return self._agenda.heads(self._known)

    def _begun(self, plan: TrialPlan) -> LiveTrial:
        trial = self._ledger.take_up(plan)
        return LiveTrial(plan, trial, self._agenda.shape(plan), attempts_before=self._ledger.attempts(trial))

    def _settle_pruned(self) -> None:
        """Trials whose configuration was pruned while they waited end here, before they begin."""
        for live in [live for live in self._retries if live.plan in self._pruned]:
            self._retries.remove(live)
            self._packing.forget(live.plan.signature)
            self._finish_pruned(live)
        for plan in self._pruned.unsettled():
            self._agenda.take(plan)
            self._packing.forget(plan.signature)
            self._finish_pruned(self._begun(plan))

    def _launch(self, live: LiveTrial, place: Place) -> None:
        live.attempts_now += 1
        self._launches += 1
        live.launch, live.got_on = self._launches, False
        number = live.trial.number
        self._ledger.record_attempt(live.trial, live.attempts, place.slot)
        self._live[number] = live
        self._view.launched(number, live.plan, place.slot, live.attempts)
        self._watchdog.started(number)
        self._executor.launch(
            AttemptRequest(
                number=number,
                signature=live.plan.signature,
                attempt=live.attempts,
                config=live.plan.config.model_dump(mode="json"),
                folder=live.trial.paths.folder,
                slot=place.slot,
                images_at_a_time=live.trial.images_at_a_time,
                keep_checkpoints=self._spec.resources.keep_checkpoints,
                code=self._ledger.code_of(live.plan.config),
                memory_bytes=place.promised_bytes if place.slot.visible_devices else None,
                metric=self._spec.objective.metric.partition("/")[0],
                probe=self._known.device_bytes(live.shape) is None and bool(place.slot.visible_devices),
            )
        )

    def _epoch_done(self, event: EpochDone) -> None:
        live = self._live[event.number]
        plan = live.plan
        if not live.got_on:
            live.got_on = True
            self._common_fault.worked(live.launch)
            self._pause.got_on()
        if duration_s := event.row.get("duration_s"):
            is_news = self._known.epoch_s(live.shape) is None
            self._known.note_epoch(live.shape, duration_s)
            if is_news:
                self._show_progress()
        self._ledger.known.report(plan.signature, event.row)
        self._view.epoch(event.number, plan, event.row)
        if self._pruned.prunes(plan):
            for number, live in self._live.items():
                if live.plan.configuration == plan.configuration and live.plan in self._pruned:
                    self._executor.stop(number)

    def _finish_pruned(self, live: LiveTrial) -> None:
        reason = self._pruned.reason(live.plan)
        self._ledger.finish(live.plan, TrialState.PRUNED, reason, attempts=live.attempts)
        self._view.ended(live.trial.number, live.plan, f"pruned: {reason}", failed=False)

    def _attempt_ended(self, ended: AttemptEnded) -> None:
        """What an attempt left decides: a result ends the trial; without one the kind of failure does."""
        live = self._live.pop(ended.number)
        self._ledger.attempt_ended(live.trial, live.attempts)
        hung = self._watchdog.ended(ended.number)
        result = read_result(live.trial)
        ran_out = result is None and ran_out_of_gpu_memory(ended)
        had_a_share = ran_out and self._packing.had_too_little(live.plan.signature)
        self._packing.ended(live.plan.signature)
        if result is not None:
            self._complete(live, result)
        elif live.plan in self._pruned:
            self._finish_pruned(live)
        elif self._stopping is not None:
            self._view.ended(ended.number, live.plan, "stopped; it continues with the same command", failed=False)
        else:
            self._after_failure(live, ended, classify(ended, hung=hung), had_a_share=had_a_share)
        self._show_progress()

    def _complete(self, live: LiveTrial, result: TrialResult) -> None:
        self._ledger.note(live.plan, result)
        if result.epochs:
            self._known.note_trial(live.shape, epochs=result.epochs, duration_s=result.duration_s)
        value = result.metrics.get(self._spec.objective.metric)
        shown = "undefined" if value is None else f"{value:.4f}"
        text = (
            f"complete: {self._spec.objective.metric} {shown} after {result.epochs} epochs, {result.duration_s:.0f} s"
        )
        self._view.ended(live.trial.number, live.plan, text, failed=False)

    def _after_failure(self, live: LiveTrial, ended: AttemptEnded, kind: FailureKind, *, had_a_share: bool) -> None:
        """The trial goes on as another attempt, now or later, or it has failed.

        Args:
            had_a_share: it ran out of memory, but of a device that has more: that it was given too little, is not its
                failure.
        """
        if had_a_share:
            self._retries.append(live)
            self._view.ended(ended.number, live.plan, "starts again, with more memory", failed=False)
            return
        if kind is FailureKind.INTERRUPTED:
            kind = FailureKind.KILLED  # nobody here asked for it: a batch system told the attempt
        live.failures.append(Failure(kind, got_on=live.got_on))
        step = next_step(live.failures, max_attempts=self._spec.retry.max_attempts, can_halve=live.images_at_a_time > 1)
        if step is NextStep.FAIL:
            self._fail(live, ended, kind)
        else:
            self._take_up_later(live, step)
            self._view.ended(ended.number, live.plan, f"{goes_on(live, step)}: {_reason(ended, kind)}", failed=False)

    def _take_up_later(self, live: LiveTrial, step: NextStep) -> None:
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
                fewer = live.images_at_a_time // 2
                live.limit_images_at_a_time(self._ledger.limit_images_at_a_time(live.plan, fewer))
            live.is_alone = True
            self._retries.append(live)

    def _fail(self, live: LiveTrial, ended: AttemptEnded, kind: FailureKind) -> None:
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
        known = self._ledger.known
        return Counts(
            total=self.total,
            finished=len(known.results),
            failed=known.count(TrialState.FAIL),
            running=len(self._live),
            left_s=self._outlook.left_s(self._live.values()),
        )


def _reason(ended: AttemptEnded, kind: FailureKind) -> str:
    return "no step came to its end; log.txt has the stacks" if kind is FailureKind.HANG else describe(ended)
