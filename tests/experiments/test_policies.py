"""What the scheduler does about every kind of failure, on an executor that runs nothing and a clock that tests turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments import disk_space
from experiments.executors.base import AttemptEnded, AttemptError, AttemptRequest, EpochDone, Event, SignOfLife
from experiments.exit_status import exit_status
from experiments.failures import MOST_KILLS, FailureKind
from experiments.ledger import Ledger
from experiments.metrics_file import append_metrics
from experiments.scheduler import Scheduler
from experiments.slots import cpu_slots
from experiments.spec import load_spec
from experiments.stopping import STOP_WITHIN_S, StopRequest
from experiments.store import SweepStore, TrialPaths, TrialResult, read_result, write_result
from experiments.study import Study
from experiments.trial import TrialPlan, TrialState
from experiments.view import PlainView
from experiments.watchdog import DUMP_S, START_S

SPEC = """\
name: tiny
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2, batch_size: 5}
search:
  - grid: {train.lr: LRS, proposals.count: COUNTS}
"""

Steps = Sequence[Event | None]
"""What an attempt does in each call of `wait`; None: nothing."""


class Lab:
    """One sweep, whose attempts do as a script says. Each call of `wait` takes 0.5 s of the clock."""

    def __init__(
        self,
        folder: Path,
        *,
        lrs: Sequence[float] = (0.1, 0.2, 0.3, 0.4),
        counts: Sequence[int] = (10, 20),
        slots: int = 1,
    ) -> None:
        self.store = SweepStore(folder / "results" / "tiny")
        self._file = folder / "tiny.yaml"
        self._file.write_text(SPEC.replace("LRS", str(list(lrs))).replace("COUNTS", str(list(counts))))
        self.slots = cpu_slots(slots, cores=slots)
        self.now = 0.0
        self.launched: list[AttemptRequest] = []
        self.at_once: list[int] = []
        """Attempts that ran at each launch, that one included."""
        self.did: list[tuple[str, int, float]] = []
        """What was done to attempts from outside, and when."""
        self.stop_request = StopRequest()
        self.before_wait: Callable[[], None] = lambda: None
        self._running: dict[int, list[Event | None]] = {}
        self._script: Callable[[AttemptRequest], Steps] = complete

    def run(self, script: Callable[[AttemptRequest], Steps], **again: Any) -> int:
        """The exit status."""
        self._script = script
        spec = load_spec(self._file)
        study = Study(file=self.store.study, name="tiny", direction="maximize")
        ledger = Ledger(store=self.store, study=study, objective=spec.objective, **again)
        view = PlainView(objective=spec.objective.metric)
        scheduler = Scheduler(
            spec=spec, ledger=ledger, executor=self, view=view, stop=self.stop_request, clock=lambda: self.now
        )
        try:
            scheduler.run()
        finally:
            study.close()
        return exit_status(
            scheduler.results(),
            total=scheduler.total,
            stopped=self.stop_request.asked,
            gave_up=scheduler.gave_up,
        )

    def results(self) -> dict[int, TrialResult | None]:
        return {trial.number: read_result(trial) for trial in self.store.trials()}

    def failed(self) -> dict[int, str]:
        """Trials that failed, with their reasons."""
        return {n: r.stop_reason for n, r in self.results().items() if r is not None and r.state is TrialState.FAIL}

    def attempts_of(self, number: int) -> list[AttemptRequest]:
        return [request for request in self.launched if request.number == number]

    def launch(self, request: AttemptRequest) -> None:
        self.launched.append(request)
        self._running[request.number] = list(self._script(request))
        self.at_once.append(len(self._running))

    def wait(self, timeout_s: float) -> list[Event]:
        self.before_wait()
        self.now += timeout_s
        events = [step for steps in self._running.values() if steps and (step := steps.pop(0)) is not None]
        for event in events:
            if isinstance(event, AttemptEnded):
                del self._running[event.number]
        return events

    def stop(self, number: int) -> None:
        self.did.append(("stop", number, self.now))

    def dump_stacks(self, number: int) -> None:
        self.did.append(("dump", number, self.now))

    def kill(self, number: int) -> None:
        self.did.append(("kill", number, self.now))
        self._running[number] = [AttemptEnded(number, -9)]

    def close(self) -> None:
        self._running.clear()


def epoch(request: AttemptRequest) -> EpochDone:
    return EpochDone(request.number, {"epoch": 1, "loss": 1.0, "metrics": {}})


def complete(request: AttemptRequest) -> Steps:
    result = TrialResult(request.signature, TrialState.COMPLETE, "", request.attempt, {"ap50_11pt/mean": 0.5}, 2, 1.0)
    write_result(TrialPaths(request.folder), result)
    return [epoch(request), AttemptEnded(request.number, 0)]


def said(kind: FailureKind, *, got_on: bool = False) -> Callable[[AttemptRequest], Steps]:
    """The attempt fails in its own words."""

    def fail(request: AttemptRequest) -> Steps:
        error = AttemptError(kind=kind, message="ValueError: it", details="Traceback:\n  line 7\nValueError: it")
        return [*([epoch(request)] if got_on else []), AttemptEnded(request.number, 1, error)]

    return fail


def killed(request: AttemptRequest) -> Steps:
    return [AttemptEnded(request.number, -9)]


def by_attempt(*scripts: Callable[[AttemptRequest], Steps], number: int = 0) -> Callable[[AttemptRequest], Steps]:
    """What the attempts of one trial do in turn, the last of them for ever; others complete."""
    count: dict[int, int] = defaultdict(int)

    def script(request: AttemptRequest) -> Steps:
        if request.number != number:
            return complete(request)
        count[number] += 1
        return scripts[min(count[number], len(scripts)) - 1](request)

    return script


def test_kills_use_up_no_attempts(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    kills = MOST_KILLS - 1
    assert lab.run(by_attempt(*[killed] * kills, complete)) == 0
    assert [request.attempt for request in lab.attempts_of(0)] == list(range(1, kills + 2))
    assert lab.failed() == {}


def test_a_batch_systems_word_to_an_attempt_is_a_kill(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert lab.run(by_attempt(*[said(FailureKind.INTERRUPTED)] * 5, complete)) == 0
    assert len(lab.attempts_of(0)) == 6


def test_a_trial_that_is_always_killed_is_left_and_never_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path)
    assert lab.run(by_attempt(killed)) == 1
    assert len(lab.attempts_of(0)) == MOST_KILLS
    assert lab.results()[0] is None
    assert f"ended {MOST_KILLS} times without getting on and is left" in capsys.readouterr().out
    assert sum(result is not None for result in lab.results().values()) == 7, "the others are not touched"
    assert lab.run(complete) == 0


def test_out_of_memory_alone_then_fewer_images_then_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab(tmp_path, slots=3)
    assert lab.run(by_attempt(said(FailureKind.OUT_OF_MEMORY))) == 1
    assert [request.images_at_a_time for request in lab.attempts_of(0)] == [None, None, 2]
    alone = [lab.at_once[i] for i, request in enumerate(lab.launched) if request.number == 0]
    assert alone == [1, 1, 1]
    after = [lab.at_once[i + 1] for i, r in enumerate(lab.launched[:-1]) if r.number == 0 and r.attempt > 1]
    assert set(after) <= {1}, "nobody joins it"
    assert lab.failed() == {0: "oom"}
    assert lab.results()[0].metrics == {}  # type: ignore[union-attr]
    assert "alone on its device, 2 images at a time" in capsys.readouterr().out
    assert sum(result is not None for result in lab.results().values()) == 8


def test_one_that_is_pruned_while_it_waits_to_be_alone_does_not_start(tmp_path: Path) -> None:
    """Its other seed reports something bad meanwhile."""
    lab = Lab(tmp_path, lrs=[0.1, 0.2], counts=[10], slots=2)
    lab._file.write_text(
        lab._file.read_text().replace("epochs: 2", "epochs: 3")
        + "seeds: 2\npruner: {median: {startup_trials: 1, warmup_epochs: 0}}\n"
    )

    def reports(request: AttemptRequest, value: float, count: int) -> list[Event | None]:
        rows = [
            {"epoch": e, "loss": 1.0, "time": lab.now + e, "duration_s": 1.0, "metrics": {"ap50_11pt/mean": value}}
            for e in range(1, count + 1)
        ]
        for row in rows:
            append_metrics(TrialPaths(request.folder), row)
        return [EpochDone(request.number, row) for row in rows]

    def script(request: AttemptRequest) -> Steps:
        good = request.config["train"]["lr"] == 0.1
        if good:
            ends = complete(request)[-1]
            return [*reports(request, 0.9, 3), ends]
        if request.config["seed"] == 0:
            return [None] * 2 + list(said(FailureKind.OUT_OF_MEMORY)(request))
        return [None] * 4 + reports(request, 0.1, 1) + [None] * 2 + list(said(FailureKind.INTERRUPTED)(request))

    assert lab.run(script) == 0
    assert {n: r.state for n, r in lab.results().items() if r is not None} == {
        0: TrialState.COMPLETE,
        1: TrialState.COMPLETE,
        2: TrialState.PRUNED,
        3: TrialState.PRUNED,
    }
    assert len(lab.launched) == 4


def test_that_fewer_images_fit_is_kept_for_the_next_run(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    memory = said(FailureKind.OUT_OF_MEMORY)

    def stop_then(request: AttemptRequest) -> Steps:
        lab.stop_request.asked = True
        return killed(request)

    assert lab.run(by_attempt(memory, memory, stop_then)) == 130
    lab.stop_request = StopRequest()
    assert lab.run(complete) == 0
    assert lab.attempts_of(0)[-1].images_at_a_time == 2


def test_a_full_disk_pauses_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path, slots=2)
    room_at = 100.0
    looks: list[float] = []

    def has_room(folder: Path, size_bytes: int) -> bool:
        assert folder == lab.store.folder
        looks.append(lab.now)
        return lab.now >= room_at

    monkeypatch.setattr(disk_space, "has_room", has_room)
    assert lab.run(by_attempt(said(FailureKind.DISK_FULL), complete)) == 0
    assert lab.failed() == {}
    before = [request for request, now in zip(lab.launched, lab.at_once, strict=True) if request.number > 1]
    assert len(before) == 6
    assert lab.now > room_at
    assert looks[0] >= disk_space.LOOK_EVERY_S
    output = capsys.readouterr().out
    assert output.count("paused: the disk is full; nothing is lost") == 1
    assert output.count("there is room again: going on") == 1


def test_room_that_is_never_enough_is_tried_more_and_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, or another disk that is full: there seems to be room."""
    lab = Lab(tmp_path, lrs=[0.1])
    monkeypatch.setattr(disk_space, "has_room", lambda folder, size: True)
    times: list[float] = []

    def script(request: AttemptRequest) -> Steps:
        times.append(lab.now)
        return complete(request) if lab.now > 2000 else said(FailureKind.DISK_FULL)(request)

    assert lab.run(script) == 0
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert max(gaps) >= disk_space.LONGEST_WAIT_S
    assert len(times) < 25


def test_a_stop_ends_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path)
    monkeypatch.setattr(disk_space, "has_room", lambda folder, size: False)
    lab.before_wait = lambda: setattr(lab.stop_request, "asked", lab.now > 50)
    assert lab.run(said(FailureKind.DISK_FULL)) == 130
    assert lab.failed() == {}


def test_a_hang_dumps_stacks_is_killed_and_retried_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab(tmp_path, slots=2)

    def silent(request: AttemptRequest) -> Steps:
        return [SignOfLife(request.number, 60.0)]

    assert lab.run(by_attempt(silent)) == 1
    assert len(lab.attempts_of(0)) == 2
    assert lab.failed() == {0: "hang"}
    (_, _, dumped), (_, _, ended) = [did for did in lab.did if did[1] == 0][:2]
    assert dumped == pytest.approx(60.5, abs=0.6)
    assert ended - dumped == pytest.approx(DUMP_S, abs=0.6)
    assert [what for what, _, _ in lab.did] == ["dump", "kill", "dump", "kill"]
    assert "failed (hang): no step came to its end; log.txt has the stacks" in capsys.readouterr().out


def test_a_runner_that_had_to_wait_for_a_write_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not read what the attempts said meanwhile."""
    lab = Lab(tmp_path, lrs=[0.1], slots=2)
    note = Ledger.note

    def note_late(ledger: Ledger, plan: TrialPlan, result: TrialResult) -> None:
        lab.now += 1000.0
        note(ledger, plan, result)

    monkeypatch.setattr(Ledger, "note", note_late)

    def script(request: AttemptRequest) -> Steps:
        if request.number == 0:
            return complete(request)
        return [SignOfLife(request.number, 60.0), None, SignOfLife(request.number, 60.0), *complete(request)]

    assert lab.run(script) == 0
    assert lab.did == []


def test_an_attempt_that_never_gives_a_sign(tmp_path: Path) -> None:
    lab = Lab(tmp_path, lrs=[0.1])
    assert lab.run(by_attempt(lambda request: [], complete)) == 0
    (what, number, now), _ = lab.did
    assert (what, number) == ("dump", 0)
    assert now == pytest.approx(START_S, abs=1.0)


def test_a_start_may_take_long_and_signs_of_life_put_it_off(tmp_path: Path) -> None:
    lab = Lab(tmp_path, lrs=[0.1])

    def slow(request: AttemptRequest) -> Steps:
        start: list[Event | None] = [None] * (int(START_S / 0.5) - 2)
        steps: list[Event | None] = [SignOfLife(request.number, 61.0), *[None] * 100] * 5
        return [*start, *steps, *complete(request)]

    assert lab.run(slow) == 0
    assert lab.did == []


def test_a_bug_that_hits_every_config_stops_after_three_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path, lrs=[0.1, 0.2, 0.3, 0.4], counts=range(1, 26))  # in the spec's order the first 25 share a value
    assert lab.run(said(FailureKind.ERROR)) == 1
    assert len(lab.launched) == 3
    output = capsys.readouterr().out
    assert "Traceback:\n  line 7\nValueError: it\nstopped: 3 trials failed one after the other" in output
    assert len(lab.results()) == 3
    assert lab.run(complete, retry_failed=True) == 0
    assert len(lab.results()) == 100


@pytest.mark.parametrize("kind", [FailureKind.ERROR, FailureKind.DATA])
@pytest.mark.parametrize("count", [10, 20])
@pytest.mark.parametrize("slots", [1, 3])
def test_one_tied_to_a_value_fails_that_value_alone(tmp_path: Path, kind: FailureKind, count: int, slots: int) -> None:
    lab = Lab(tmp_path, slots=slots)
    status = lab.run(lambda r: said(kind)(r) if r.config["proposals"]["count"] == count else complete(r))
    assert status == 1
    bad = {request.number for request in lab.launched if request.config["proposals"]["count"] == count}
    assert lab.failed() == dict.fromkeys(bad, kind)
    assert len(bad) == 4
    assert len(lab.results()) == 8


def test_faults_here_and_there_stop_nothing(tmp_path: Path) -> None:
    """Each has values of its own, but between them others work."""
    lab = Lab(tmp_path, lrs=[i / 100 for i in range(1, 17)], counts=[10])
    assert lab.run(lambda r: said(FailureKind.ERROR)(r) if r.number % 3 == 0 else complete(r)) == 1
    assert lab.failed() == dict.fromkeys(range(0, 16, 3), "error")
    assert len(lab.results()) == 16


def test_data_that_go_away_in_mid_sweep_stop_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, lrs=[i / 100 for i in range(1, 51)], slots=2)
    assert lab.run(lambda r: complete(r) if r.number < 20 else said(FailureKind.DATA)(r)) == 1
    assert len(lab.failed()) <= 4


def test_failures_after_an_epoch_are_no_common_fault(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert lab.run(said(FailureKind.ERROR, got_on=True)) == 1
    assert len(lab.failed()) == 8


def test_divergence_of_all_is_no_common_fault(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert lab.run(said(FailureKind.NON_FINITE_LOSS)) == 1
    assert lab.failed() == dict.fromkeys(range(8), "non_finite_loss")


def test_what_does_not_stop_in_time_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab(tmp_path, slots=2)
    lab.before_wait = lambda: setattr(lab.stop_request, "asked", lab.now >= 5)
    assert lab.run(lambda request: [epoch(request)]) == 130
    stops = [now for what, _, now in lab.did if what == "stop"]
    kills = [now for what, _, now in lab.did if what == "kill"]
    assert len(stops) == 2
    assert kills
    assert STOP_WITHIN_S <= kills[0] - stops[0] <= STOP_WITHIN_S + 1
    assert "stopped; it continues with the same command" in capsys.readouterr().out
    assert lab.failed() == {}
