"""The scheduler on an executor that runs nothing: each attempt ends as the test's script says."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.executors.base import AttemptEnded, AttemptError, AttemptRequest, EpochDone, Event
from experiments.exit_status import exit_status
from experiments.failures import FailureKind
from experiments.ledger import Ledger
from experiments.metrics_file import append_metrics
from experiments.scheduler import Scheduler
from experiments.slots import cpu_slots
from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore, TrialPaths, TrialResult, read_result, write_result
from experiments.study import Study
from experiments.trial import TrialState
from experiments.view import Counts, PlainView

SPEC = """\
name: tiny
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4]}
"""

Outcome = Callable[[AttemptRequest], AttemptEnded]


def complete(value: float | None = None) -> Outcome:
    """The attempt writes a result whose objective is `value`, or the learning rate."""

    def run(request: AttemptRequest) -> AttemptEnded:
        write_complete(request, request.config["train"]["lr"] if value is None else value)
        return AttemptEnded(number=request.number, exit_code=0)

    return run


def write_complete(request: AttemptRequest, value: float | None) -> None:
    paths = TrialPaths(request.folder)
    append_metrics(paths, {"epoch": 1, "loss": 1.0, "duration_s": 2.5, "metrics": {"ap50_11pt/mean": value}})
    result = TrialResult(
        signature=request.signature,
        state=TrialState.COMPLETE,
        stop_reason="",
        attempts=request.attempt,
        metrics={"ap50_11pt/mean": value},
        epochs=1,
        duration_s=2.5,
    )
    write_result(paths, result)


def killed(request: AttemptRequest) -> AttemptEnded:
    """Ended by SIGKILL, nothing said."""
    return AttemptEnded(number=request.number, exit_code=-9)


def crashed(request: AttemptRequest) -> AttemptEnded:
    """A segmentation fault."""
    return AttemptEnded(number=request.number, exit_code=-11)


def failed(kind: FailureKind) -> Outcome:
    """The attempt said why it failed."""
    return lambda request: AttemptEnded(request.number, 1, AttemptError(kind=kind, message="ValueError: what it said"))


class ScriptedExecutor:
    """Runs attempts in the order they were launched, one `wait` after the other. Keeps what it was asked for."""

    def __init__(self, script: Callable[[AttemptRequest], Outcome], *, slots: int = 1) -> None:
        self.slots = cpu_slots(slots, cores=slots)
        self.launched: list[AttemptRequest] = []
        self.most_at_once = 0
        self.on_launch: Callable[[], None] = lambda: None
        self._script = script
        self._running: list[AttemptRequest] = []
        self._stopping: set[int] = set()

    def launch(self, request: AttemptRequest) -> None:
        assert request.slot not in [other.slot for other in self._running], "two attempts on one slot"
        self.launched.append(request)
        self._running.append(request)
        self.most_at_once = max(self.most_at_once, len(self._running))
        self.on_launch()

    def wait(self, timeout_s: float) -> Sequence[Event]:
        request = self._running.pop(0)
        if request.number in self._stopping:
            error = AttemptError(kind=FailureKind.INTERRUPTED, message="Interrupted")
            return [AttemptEnded(request.number, 1, error)]
        row = {"epoch": 1, "loss": 1.0, "metrics": {}}
        return [EpochDone(number=request.number, row=row), self._script(request)(request)]

    def stop(self, number: int) -> None:
        self._stopping.add(number)

    def dump_stacks(self, number: int) -> None:
        raise AssertionError("nothing hangs here")

    def kill(self, number: int) -> None:
        self._stopping.add(number)

    def close(self) -> None:
        self._running.clear()


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    return spec_from(SPEC, tmp_path)


def spec_from(text: str, folder: Path) -> SweepSpec:
    file = folder / "tiny.yaml"
    file.write_text(text)
    return load_spec(file)


class Sweep:
    """Runs of the same command on one results folder."""

    def __init__(self, folder: Path) -> None:
        self.store = SweepStore(folder / "results" / "tiny")

    def run(
        self,
        spec: SweepSpec,
        script: Callable[[AttemptRequest], Outcome],
        *,
        slots: int = 1,
        **again: Any,
    ) -> tuple[Scheduler, ScriptedExecutor]:
        scheduler, executor = self.prepare(spec, script, slots=slots, **again)
        scheduler.run()
        if scheduler.enter_final_stage():
            scheduler.run_final_stage()
        return scheduler, executor

    def prepare(
        self,
        spec: SweepSpec,
        script: Callable[[AttemptRequest], Outcome],
        *,
        slots: int = 1,
        **again: Any,
    ) -> tuple[Scheduler, ScriptedExecutor]:
        """`again`: what the ledger takes besides."""
        executor = ScriptedExecutor(script, slots=slots)
        view = PlainView(objective=spec.objective.metric)
        study = Study(file=self.store.study, name="tiny", direction=spec.objective.direction)
        ledger = Ledger(store=self.store, study=study, objective=spec.objective, **again)
        scheduler = Scheduler(spec=spec, ledger=ledger, executor=executor, view=view)  # type: ignore[arg-type]
        return scheduler, executor

    def study(self) -> Study:
        return Study(file=self.store.study, name="tiny", direction="maximize")

    def results(self) -> dict[int, TrialResult | None]:
        return {trial.number: read_result(trial) for trial in self.store.trials()}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def always(outcome: Outcome) -> Callable[[AttemptRequest], Outcome]:
    return lambda request: outcome


def test_every_trial_runs_once_in_the_specs_order(spec: SweepSpec, sweep: Sweep) -> None:
    scheduler, executor = sweep.run(spec, always(complete()))
    assert [request.config["train"]["lr"] for request in executor.launched] == [0.1, 0.2, 0.3, 0.4]
    assert [request.number for request in executor.launched] == [0, 1, 2, 3]
    assert all(request.attempt == 1 for request in executor.launched)
    assert exit_status(scheduler.results(), total=4, stopped=False) == 0
    assert {trial.state for trial in sweep.study().trials().values()} == {TrialState.COMPLETE}


def test_all_slots_are_used_and_never_two_trials_on_one(spec: SweepSpec, sweep: Sweep) -> None:
    _, executor = sweep.run(spec, always(complete()), slots=3)
    assert executor.most_at_once == 3
    assert len(executor.launched) == 4


def test_a_second_run_of_the_command_runs_nothing(spec: SweepSpec, sweep: Sweep) -> None:
    sweep.run(spec, always(complete()))
    before = sweep.results()
    scheduler, executor = sweep.run(spec, always(complete()))
    assert executor.launched == []
    assert scheduler.plans_to_run() == []
    assert sweep.results() == before


def test_a_result_without_the_studys_knowledge_is_told_and_not_run_again(spec: SweepSpec, sweep: Sweep) -> None:
    """The runner died between result.json and the study: RUNNING there, finished on disk."""
    study = sweep.study()
    plan = spec.plans[0]
    trial = sweep.store.create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
    study.start(0, plan, attempts=1)
    write_complete(_request(trial.paths.folder, plan.signature), 0.5)
    _, executor = sweep.run(spec, always(complete()))
    assert [request.config["train"]["lr"] for request in executor.launched] == [0.2, 0.3, 0.4]
    assert sweep.study().trials()[0].state is TrialState.COMPLETE


def _request(folder: Path, signature: str) -> AttemptRequest:
    slot = cpu_slots(1, cores=1)[0]
    return AttemptRequest(number=0, signature=signature, attempt=1, config={}, folder=folder, slot=slot)


def test_a_running_trial_without_a_result_continues_as_the_next_attempt_of_the_same_trial(
    spec: SweepSpec, sweep: Sweep
) -> None:
    study = sweep.study()
    plan = spec.plans[2]
    sweep.store.create_trial(0, plan.signature, plan.config.model_dump(mode="json"))
    study.start(0, plan, attempts=1)
    _, executor = sweep.run(spec, always(complete()))
    continued = next(request for request in executor.launched if request.number == 0)
    assert (continued.config["train"]["lr"], continued.attempt) == (0.3, 2)
    assert len(sweep.results()) == 4, "a retry adds an attempt, never a trial"


@pytest.mark.parametrize("lost", ["study", "part of the study", "folders"])
def test_what_is_lost_on_one_side_comes_back_from_the_other(spec: SweepSpec, sweep: Sweep, lost: str) -> None:
    sweep.run(spec, always(complete()))
    if lost == "folders":
        shutil.rmtree(sweep.store.trials()[1].paths.folder)
    else:
        for file in sweep.store.folder.glob("study.db*"):
            file.unlink()
        if lost == "part of the study":
            sweep.study().start(0, spec.plans[0], attempts=1)
    _, executor = sweep.run(spec, always(complete()))
    assert len(executor.launched) == (1 if lost == "folders" else 0)
    study = sweep.study().trials()
    states = [study[trial.number].state for trial in sweep.store.trials()]
    assert states == [TrialState.COMPLETE] * 4


def test_added_cells_run_alone_and_removed_ones_stay_on_disk(spec: SweepSpec, sweep: Sweep, tmp_path: Path) -> None:
    sweep.run(spec, always(complete()))
    edited = spec_from("# a comment\n" + SPEC.replace("[0.1, 0.2, 0.3, 0.4]", "[0.9, 0.2, 0.1]"), tmp_path)
    scheduler, executor = sweep.run(edited, always(complete()))
    assert [request.config["train"]["lr"] for request in executor.launched] == [0.9]
    assert executor.launched[0].number == 4
    assert len(scheduler.results()) == 3
    assert len(sweep.store.trials()) == 5


def test_a_crashed_attempt_is_tried_again_up_to_the_limit_and_then_fails(spec: SweepSpec, sweep: Sweep) -> None:
    scheduler, executor = sweep.run(spec, lambda request: crashed if request.number == 1 else complete())
    attempts = [request.attempt for request in executor.launched if request.number == 1]
    assert attempts == [1, 2, 3]
    result = sweep.results()[1]
    assert result is not None
    assert (result.state, result.stop_reason, result.attempts) == (TrialState.FAIL, "crash", 3)
    assert exit_status(scheduler.results(), total=4, stopped=False) == 1
    assert sum(r is not None and r.state is TrialState.COMPLETE for r in sweep.results().values()) == 3


def test_killed_once_then_complete(spec: SweepSpec, sweep: Sweep) -> None:
    scheduler, executor = sweep.run(spec, lambda request: killed if request.attempt == 1 else complete())
    assert len(executor.launched) == 8
    assert exit_status(scheduler.results(), total=4, stopped=False) == 0
    assert {result.attempts for result in scheduler.results().values()} == {2}


@pytest.mark.parametrize("kind", [FailureKind.ERROR, FailureKind.DATA, FailureKind.NON_FINITE_LOSS])
def test_what_would_fail_again_is_not_tried_again(
    spec: SweepSpec, sweep: Sweep, kind: FailureKind, capsys: pytest.CaptureFixture[str]
) -> None:
    _, executor = sweep.run(spec, lambda request: failed(kind) if request.number == 0 else complete())
    assert [request.number for request in executor.launched] == [0, 1, 2, 3]
    result = sweep.results()[0]
    assert result is not None
    assert (result.state, result.stop_reason, result.metrics) == (TrialState.FAIL, kind, {})
    assert f"trial 0 failed ({kind}): ValueError: what it said; see " in capsys.readouterr().out


def test_a_failed_trial_stays_failed_until_it_is_asked_for(spec: SweepSpec, sweep: Sweep) -> None:
    sweep.run(spec, lambda request: failed(FailureKind.ERROR) if request.number == 0 else complete())
    scheduler, executor = sweep.run(spec, always(complete()))
    assert executor.launched == []
    assert exit_status(scheduler.results(), total=4, stopped=False) == 1
    scheduler, executor = sweep.run(spec, always(complete()), retry_failed=True)
    assert [(request.number, request.attempt) for request in executor.launched] == [(0, 2)]
    assert exit_status(scheduler.results(), total=4, stopped=False) == 0
    assert sweep.study().trials()[0].state is TrialState.COMPLETE
    assert len(sweep.store.trials()) == 4


def test_stop_lets_running_trials_end_and_starts_nothing_new(spec: SweepSpec, sweep: Sweep) -> None:
    scheduler, executor = sweep.prepare(spec, always(complete()), slots=2)
    stop = scheduler._stop
    executor.on_launch = lambda: (
        setattr(stop, "asked", True) if len(executor.launched) == 2 else None
    )  # a signal in a launch
    scheduler.run()
    assert len(executor.launched) == 2
    assert exit_status(scheduler.results(), total=4, stopped=True) == 130
    assert set(sweep.results().values()) == {None}
    _, executor = sweep.run(spec, always(complete()))
    assert [request.attempt for request in executor.launched] == [2, 2, 1, 1]


def test_stop_after_the_last_trial_is_no_interruption() -> None:
    result = TrialResult("s", TrialState.COMPLETE, "", 1, {}, 1, 1.0)
    assert exit_status({"s": result}, total=1, stopped=True) == 0


def test_an_undefined_objective_is_complete_with_metrics_and_never_the_best(
    spec: SweepSpec, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    def undefined(request: AttemptRequest) -> AttemptEnded:
        write_complete(request, None)
        return AttemptEnded(request.number, 0)

    scheduler, _ = sweep.run(spec, lambda request: undefined if request.number == 3 else complete())
    assert exit_status(scheduler.results(), total=4, stopped=False) == 0
    assert sweep.study().trials()[3].state is TrialState.FAIL
    assert "ap50_11pt/mean is undefined" in sweep.study().trials()[3].stop_reason
    out = capsys.readouterr().out
    assert "trial 3 complete: ap50_11pt/mean undefined" in out
    assert "best ap50_11pt/mean 0.3000, trial 2" in out
    _, executor = sweep.run(spec, always(complete()))
    assert executor.launched == [], "it is not run again for ever"


def test_a_result_counts_even_when_its_process_died_right_after(spec: SweepSpec, sweep: Sweep) -> None:
    def complete_then_killed(request: AttemptRequest) -> AttemptEnded:
        write_complete(request, 0.5)
        return AttemptEnded(request.number, -9)

    scheduler, executor = sweep.run(spec, always(complete_then_killed))
    assert len(executor.launched) == 4
    assert exit_status(scheduler.results(), total=4, stopped=False) == 0


def test_minimize_turns_the_best_around(tmp_path: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = SPEC + "objective: {metric: ap50_11pt/mean, direction: minimize}\n"
    sweep.run(spec_from(text, tmp_path), always(complete()))
    best = [line for line in capsys.readouterr().out.splitlines() if "; best " in line]
    assert best == ["1/4 finished; best ap50_11pt/mean 0.1000, trial 0: lr=0.1 seed=0"]


def test_replicates_are_trials_of_their_own(tmp_path: Path, sweep: Sweep) -> None:
    _, executor = sweep.run(spec_from(SPEC + "seeds: 3\n", tmp_path), always(complete()))
    seeds: dict[Any, list[int]] = defaultdict(list)
    for request in executor.launched:
        seeds[request.config["train"]["lr"]].append(request.config["seed"])
    assert list(seeds.values()) == [[0, 1, 2]] * 4


def test_counts_waiting_is_what_is_left() -> None:
    assert Counts(total=10, finished=3, failed=1, running=2).waiting == 5
