"""The scheduler on simulated GPUs: what attempts measure decides what runs beside what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from simulated_machine import Devices, SimulatedMonitor, gpus

from experiments.executors.base import (
    AttemptEnded,
    AttemptError,
    AttemptRequest,
    EpochDone,
    Event,
    Measured,
    SlotsChanged,
)
from experiments.exit_status import exit_status
from experiments.failures import FailureKind
from experiments.footprint import Footprints, Usage
from experiments.ledger import Ledger
from experiments.scheduler import Scheduler
from experiments.slots import Slot, cpu_slots
from experiments.spec import load_spec
from experiments.store import SweepStore, TrialPaths, TrialResult, read_result, write_result
from experiments.study import Study
from experiments.time_estimate import footprints
from experiments.trial import TrialState
from experiments.view import PlainView

SPEC = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2, batch_size: 4}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3], proposals.count: [10, 20]}
objective: {metric: ap50_11pt/mean}
"""
PEAK = {10: 100, 20: 300}
"""Bytes that trials take, by the number of their proposals."""
OUT_OF_MEMORY = AttemptError(FailureKind.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory. Tried to allocate")

Script = Callable[[AttemptRequest], list[Event]]


def count(request: AttemptRequest) -> int:
    return int(request.config["proposals"]["count"])


def complete(request: AttemptRequest) -> list[Event]:
    """It takes its peak at once, tells it, and ends some events later."""
    return [
        Measured(request.number, Usage(PEAK[count(request)], 1, 0.1)),
        EpochDone(request.number, {"epoch": 1, "loss": 1.0, "duration_s": 10.0 * count(request), "metrics": {}}),
        AttemptEnded(request.number, 0),
    ]


class GpuLab:
    """A sweep on GPUs of so many bytes each; something happens to each attempt in turn, one event at a time."""

    def __init__(self, folder: Path, *totals: int, places: int = 4, spec: str = SPEC) -> None:
        self.store = SweepStore(folder / "results" / "tiny")
        self._file = folder / "tiny.yaml"
        self._file.write_text(spec)
        self.all_slots, self.of = gpus(totals, places=places)
        self.slots: Sequence[Slot] = self.all_slots
        self.devices = Devices(self.of)
        self.launched: list[AttemptRequest] = []
        self.together: list[int] = []
        """Attempts that ran once each had been launched."""
        self.before_wait: Callable[[], list[Event]] = list
        self._script: Script = complete
        self._left: dict[int, list[Event]] = {}
        self._taken: dict[int, tuple[str, int]] = {}

    def run(self, script: Script = complete, *, known: Footprints | None = None) -> int:
        """The exit status."""
        self._script = script
        spec = load_spec(self._file)
        study = Study(file=self.store.study, name="tiny", direction="maximize")
        scheduler = Scheduler(
            spec=spec,
            ledger=Ledger(store=self.store, study=study, objective=spec.objective),
            executor=self,
            view=PlainView(objective=spec.objective.metric),
            monitor=SimulatedMonitor(self.devices),
            known=known,
        )
        try:
            scheduler.run()
        finally:
            study.close()
        return exit_status(scheduler.results(), total=scheduler.total, stopped=False, gave_up=scheduler.gave_up)

    def results(self) -> list[TrialResult]:
        return [result for trial in self.store.trials() if (result := read_result(trial)) is not None]

    def launch(self, request: AttemptRequest) -> None:
        assert request.memory_bytes is not None
        self.launched.append(request)
        self._left[request.number] = self._script(request)
        self.together.append(len(self._left))
        peak = min(PEAK[count(request)], request.memory_bytes)
        self._taken[request.number] = (request.slot.device, peak)
        self.devices.take(request.slot.device, peak)

    def wait(self, timeout_s: float) -> list[Event]:
        if events := self.before_wait():
            return events
        for number, left in list(self._left.items()):
            event = left.pop(0)
            if isinstance(event, AttemptEnded):
                self._end(number, event)
            else:
                self._left[number] = self._left.pop(number)  # the others come first now
            return [event]
        return []

    def lose(self, number: int) -> AttemptEnded:
        """Its machine is gone."""
        event = AttemptEnded(number, -9)
        self._end(number, event)
        return event

    def _end(self, number: int, event: AttemptEnded) -> None:
        del self._left[number]
        self.devices.free(*self._taken.pop(number))
        if event.exit_code == 0:
            request = next(one for one in reversed(self.launched) if one.number == number)
            result = TrialResult(
                request.signature,
                TrialState.COMPLETE,
                "",
                request.attempt,
                {"ap50_11pt/mean": 0.5},
                epochs=2,
                duration_s=20.0 * count(request),
            )
            write_result(TrialPaths(request.folder), result)

    def stop(self, number: int) -> None:
        raise AssertionError("nobody asked")

    dump_stacks = kill = stop

    def close(self) -> None:
        self._left.clear()


def test_the_first_of_each_shape_is_a_probe_and_the_others_are_packed(tmp_path: Path) -> None:
    lab = GpuLab(tmp_path, 1000)
    assert lab.run() == 0
    assert len(lab.results()) == 6
    first, second, *rest = lab.launched
    assert (count(first), first.memory_bytes, first.probe) == (10, 950, True)
    assert (count(second), second.memory_bytes, second.probe) == (20, 950 - 110, True), "beside the first, capped"
    assert {(count(one), one.memory_bytes, one.probe) for one in rest} == {(10, 110, False), (20, 330, False)}
    assert max(lab.together) >= 3


def test_what_earlier_sweeps_measured_needs_no_probe(tmp_path: Path) -> None:
    known = Footprints()
    lab = GpuLab(tmp_path, 1000)
    assert lab.run(known=known) == 0
    (tmp_path / "again").mkdir()
    again = GpuLab(tmp_path / "again", 1000, spec=SPEC.replace("0.1, 0.2, 0.3", "0.4"))
    assert again.run(known=known) == 0
    assert [(count(one), one.memory_bytes, one.probe) for one in again.launched] == [(20, 330, False), (10, 110, False)]
    assert again.together == [1, 2]


def test_results_of_other_sweeps_tell_what_to_promise(tmp_path: Path) -> None:
    spec = load_spec(GpuLab(tmp_path, 1000)._file)
    usage = Usage(device_bytes=300, host_bytes=7, step_s=0.1)
    of_20 = next(plan for plan in spec.plans if plan.config.proposals.count == 20)
    config = of_20.config.model_dump(mode="json")
    known = footprints([TrialResult("x", TrialState.COMPLETE, "", 1, {}, 2, 40.0, config=config, usage=usage)])
    lab = GpuLab(tmp_path, 1000)
    assert lab.run(known=known) == 0
    assert [one.probe for one in lab.launched if count(one) == 20] == [False] * 3


def test_the_longest_first_once_times_are_known(tmp_path: Path) -> None:
    lab = GpuLab(tmp_path, 1000, places=1)
    assert lab.run() == 0
    assert [count(one) for one in lab.launched] == [10, 20, 20, 20, 10, 10]
    assert [one.number for one in lab.launched] == [0, 1, 3, 5, 2, 4], "numbers follow the spec"


def test_a_trial_whose_share_was_too_little_starts_again_with_more_and_has_not_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One trial of 20 proposals needs more than those before it. It runs out, and nothing else does."""
    needs = 350
    lab = GpuLab(tmp_path, 1000)

    def script(request: AttemptRequest) -> list[Event]:
        assert request.memory_bytes is not None
        if request.config["train"]["lr"] == 0.3 and count(request) == 20 and request.memory_bytes < needs:
            return [AttemptEnded(request.number, 1, error=OUT_OF_MEMORY)]
        return complete(request)

    assert lab.run(script) == 0
    of_it = [one for one in lab.launched if one.number == 5]
    assert [one.memory_bytes for one in of_it][:2] == [330, 363]
    assert [result.state for result in lab.results()] == [TrialState.COMPLETE] * 6
    assert "trial 5 starts again, with more memory" in capsys.readouterr().out


def test_one_that_runs_out_of_all_there_is_goes_the_way_of_its_failure(tmp_path: Path) -> None:
    lab = GpuLab(tmp_path, 1000, spec=SPEC.replace("[0.1, 0.2, 0.3]", "[0.1]").replace("[10, 20]", "[20]"))

    def script(request: AttemptRequest) -> list[Event]:
        if len(lab.launched) < 3:
            return [AttemptEnded(request.number, 1, error=OUT_OF_MEMORY)]
        return complete(request)

    assert lab.run(script) == 0
    assert [(one.memory_bytes, one.images_at_a_time) for one in lab.launched] == [(950, None), (950, None), (950, 2)]


def test_main_memory_that_ran_out_says_nothing_of_the_gpu(tmp_path: Path) -> None:
    known = Footprints()
    lab = GpuLab(tmp_path, 1000, spec=SPEC.replace("[0.1, 0.2, 0.3]", "[0.1]").replace("[10, 20]", "[20]"))

    def script(request: AttemptRequest) -> list[Event]:
        return [AttemptEnded(request.number, -9, oom_kills=1)] if request.attempt == 1 else complete(request)

    assert lab.run(script, known=known) == 0
    assert [one.memory_bytes for one in lab.launched] == [950, 950]


class TestMachinesComeAndGo:
    def test_one_that_joins_is_used(self, tmp_path: Path) -> None:
        lab = GpuLab(tmp_path, 1000, 1000, places=1)
        lab.slots = lab.all_slots[:1]

        def join() -> list[Event]:
            lab.slots, lab.before_wait = lab.all_slots, list
            return [SlotsChanged()]

        lab.before_wait = join
        assert lab.run() == 0
        assert {one.slot.visible_devices for one in lab.launched} == {"GPU-0", "GPU-1"}

    def test_trials_of_one_that_dies_start_again_elsewhere(self, tmp_path: Path) -> None:
        lab = GpuLab(tmp_path, 1000, 1000, places=1)

        def die() -> list[Event]:
            lab.slots, lab.before_wait = lab.all_slots[:1], list
            return [lab.lose(lab.launched[1].number), SlotsChanged()]

        lab.before_wait = die
        assert lab.run() == 0
        assert [one.number for one in lab.launched].count(lab.launched[1].number) == 2
        assert {one.slot.visible_devices for one in lab.launched[2:]} == {"GPU-0"}
        assert [result.state for result in lab.results()] == [TrialState.COMPLETE] * 6

    def test_when_all_are_gone_it_waits_for_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lab = GpuLab(tmp_path, 1000, places=1)
        waits = 0

        def nothing_for_long() -> list[Event]:
            nonlocal waits
            waits += 1
            if waits == 1:
                lab.slots = []
                return [lab.lose(lab.launched[0].number), SlotsChanged()]
            if waits == 50:
                lab.slots, lab.before_wait = lab.all_slots, list
                return [SlotsChanged()]
            return []

        lab.before_wait = nothing_for_long
        assert lab.run() == 0
        assert len(lab.results()) == 6
        assert capsys.readouterr().out.count("nothing can start: there is no machine to run on; the sweep waits") == 1


def test_it_waits_for_memory_that_others_hold_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = GpuLab(tmp_path, 1000)
    lab.devices.used["/GPU-0"] = 800
    waits = 0

    def free_in_the_end() -> list[Event]:
        nonlocal waits
        waits += 1
        if waits == 30:
            assert not lab.launched
            lab.devices.used["/GPU-0"] = 0
            lab.before_wait = list
        return []

    lab.before_wait = free_in_the_end
    assert lab.run() == 0
    said = (
        "nothing can start: other processes hold too much memory; the next trial needs 250 B, gpu GPU-0 has 150 B left;"
        " the sweep waits (Ctrl-C stops it)\n"
    )
    assert capsys.readouterr().out.count(said) == 1


def test_main_memory_limits_trials_on_the_cpu(tmp_path: Path) -> None:
    lab = GpuLab(tmp_path, 1000)
    lab.slots = cpu_slots(4, cores=4)
    lab.devices = Devices({"/cpu": 4 * 2**30})
    together = []

    def launch(request: AttemptRequest) -> None:
        assert request.memory_bytes is None, "main memory is not capped"
        assert not request.probe
        lab.launched.append(request)
        lab._left[request.number] = complete(request)
        lab._taken[request.number] = ("/cpu", 1)
        lab.devices.take("/cpu", 1)
        together.append(len(lab._left))

    lab.launch = launch  # type: ignore[method-assign]
    assert lab.run() == 0
    assert together[:2] == [1, 2]
    assert len(lab.results()) == 6
