"""What `runner.py status` says of a sweep's folder, at every stage."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sweep_folders import result, row

import runner
from experiments.lock import sweep_lock, this_process
from experiments.metrics_file import append_metrics
from experiments.slots import cpu_slots
from experiments.spec import SweepSpec, load_spec
from experiments.status import MAX_FAILURES, status_lines
from experiments.store import SweepStore, write_result
from experiments.timeline import Timeline
from experiments.trial import TrialState

SPEC = """\
name: x
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2}
search: [grid: {train.lr: [%s]}]
"""
SLOTS = cpu_slots(2, cores=2)


class Folder:
    """A sweep's folder in which trials are where a test wants them."""

    def __init__(self, folder: Path, trials: int) -> None:
        self.file = folder / "x.yaml"
        self.file.write_text(SPEC % ", ".join(f"{number + 1}.0e-3" for number in range(trials)))
        self.spec: SweepSpec = load_spec(self.file)
        self.results = folder / "results"
        self.store = SweepStore(self.results / "x")
        self.timeline = Timeline(self.store.timeline, clock=lambda: 100.0)

    def begin(self, number: int, *, epochs: int = 0, attempt: int = 1, slot: int = 0) -> None:
        plan = self.spec.plans[number]
        trial = self.store.create_trial(number, plan.signature, plan.config.model_dump(mode="json"))
        for epoch in range(1, epochs + 1):
            append_metrics(trial.paths, {**row(epoch, 0.1 * epoch), "loss": 1.5})
        self.timeline.began(number, attempt, SLOTS[slot])

    def end(self, number: int, state: TrialState, value: float | None = None, *, attempt: int = 1) -> None:
        plan = self.spec.plans[number]
        config = plan.config.model_dump(mode="json")
        outcome = replace(result(plan, state, value), config=config, duration_s=120.0, epochs=2)
        write_result(self.store.trial_paths(number, plan.signature), outcome)
        self.timeline.ended(number, attempt)

    def lines(self) -> list[str]:
        return status_lines(self.spec, self.store, results=self.results, now=lambda: 400.0)


def test_before_anything(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 3)
    assert folder.lines() == [
        f"sweep x in {folder.store.folder}: nobody runs it now",
        "0 of 3 trials finished, 3 waiting",
    ]


def test_while_it_runs(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 6)
    with sweep_lock(folder.store.lock):
        folder.begin(0)
        folder.end(0, TrialState.COMPLETE, 0.25)
        folder.begin(1)
        folder.end(1, TrialState.PRUNED, 0.9)
        folder.begin(2, epochs=1, slot=1)
        folder.timeline.ended(2, 1)
        folder.timeline.began(2, 2, SLOTS[1])
        folder.begin(3)
        assert folder.lines() == [
            f"sweep x in {folder.store.folder}: run by {this_process().label}",
            "2 of 6 trials finished (1 complete, 1 pruned), 2 running, 2 waiting, about 4 min left",
            "best so far: ap50_11pt/mean 0.2500, trial 0: lr=0.001 seed=0",
            "  cpu 0: trial 3: lr=0.004 seed=0; epoch 0/2; 5 min",
            "  cpu 1: trial 2, attempt 2: lr=0.003 seed=0; epoch 1/2, loss 1.5000, ap50_11pt/mean 0.1000; 5 min",
        ]


def test_nothing_runs_that_nobody_runs(tmp_path: Path) -> None:
    """The runner was killed: its attempts went with it."""
    folder = Folder(tmp_path, 2)
    folder.begin(0)
    dead = replace(this_process(), pid=2**22 + 1)
    folder.store.lock.write_text(json.dumps(asdict(dead)))
    assert folder.lines()[:2] == [
        f"sweep x in {folder.store.folder}: nobody runs it now",
        "0 of 2 trials finished, 2 waiting",
    ]


def test_a_runner_of_another_machine_may_have_ended(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 1)
    folder.begin(0)
    there = replace(this_process(), host="node7")
    folder.store.lock.write_text(json.dumps(asdict(there)))
    assert folder.lines()[0].endswith(
        f": run by process {there.pid} on node7, if it has not ended: it cannot be seen from here"
    )
    assert "1 running" in folder.lines()[1]


def test_failures_have_their_reason_on_one_line_and_not_too_many(tmp_path: Path) -> None:
    folder = Folder(tmp_path, MAX_FAILURES + 1)
    for number in range(MAX_FAILURES + 1):
        folder.begin(number)
        paths = folder.store.trial_paths(number, folder.spec.plans[number].signature)
        if number == 0:
            paths.log.write_text("Traceback ...\nValueError: too \x1b[31mred\n\n")
        folder.end(number, TrialState.FAIL)
    lines = folder.lines()
    assert lines[2] == "  failed: trial 0 (a reason): ValueError: too \x1b[31mred"
    assert lines[3] == "  failed: trial 1 (a reason)"
    assert lines[-2:] == ["  failed: 1 more, see runner.py report", "  --retry-failed runs failed trials again"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path, 1)
    folder.begin(0)
    folder.store.trial_paths(0, folder.spec.plans[0].signature).log.write_text("\x1b[2Jgone\n")
    folder.end(0, TrialState.FAIL)
    monkeypatch.chdir(tmp_path)
    assert runner.main(["status", "x.yaml"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 trial finished (1 failed)" in out
    assert r"failed: trial 0 (a reason): \x1b[2Jgone" in out
    assert runner.main(["status", "y.yaml"]) == 2
    assert "y.yaml: no such file; did you mean x.yaml?" in capsys.readouterr().err
