"""One run of the command, less what needs processes: those are in tests/faults."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from simulated_driver import IS_LOST, SimulatedDriver, a100

from experiments import stopping, sweep
from experiments.live_view import LiveView
from experiments.spec import SweepSpec
from experiments.stopping import StopRequest
from experiments.store import SweepStore, TrialResult, write_result
from experiments.sweep import Options
from experiments.trial import TrialState
from experiments.view import PlainView
from wsol.parent_death import STOPPING_SIGNALS

Load = Callable[[str], SweepSpec]
TWO = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\n"


def test_what_trials_run_on_is_said(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    machine = sweep._machine(load(TWO + "resources: {cpu_slots: 2}\n"), Options(), Console(soft_wrap=True))
    assert [slot.label for slot in machine.slots] == ["cpu 0", "cpu 1"]
    assert machine.line.startswith("CUDA_VISIBLE_DEVICES=-1 hides all GPUs: training on the CPU, 2 slots of ")
    assert capsys.readouterr().out == f"{machine.line}\n"


def test_what_was_asked_for_is_not_said(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    machine = sweep._machine(load(TWO), Options(cpu_slots=2), Console())
    assert len(machine.slots) == 2
    assert capsys.readouterr().out == ""


def test_what_is_wrong_with_a_gpu_is_warned_of(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = SimulatedDriver(a100(0, error=IS_LOST), a100(1))
    monkeypatch.setattr("experiments.devices.nvml_library", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = sweep._machine(load(TWO), Options(), Console(quiet=True))
    assert [gpu.index for gpu in machine.gpus] == [1]
    assert caplog.messages == ["GPU 0: NVML: GPU is lost; it is left out"]


def test_entries_are_the_specs_trials_with_what_is_on_disk(load: Load, tmp_path: Path) -> None:
    spec = load(TWO)
    store = SweepStore(tmp_path / "results")
    assert [entry.state for entry in sweep.entries(spec, store)] == [TrialState.WAITING] * 2
    done, other = spec.plans[1], "f" * 64
    trial = store.create_trial(0, done.signature, {})
    store.create_trial(1, other, {})
    assert [entry.state for entry in sweep.entries(spec, store)] == [TrialState.WAITING, TrialState.RUNNING]
    write_result(trial.paths, TrialResult(done.signature, TrialState.COMPLETE, "", 1, {"ap50_11pt/mean": 0.5}, 1, 1.0))
    first, second = sweep.entries(spec, store)
    assert (first.state, first.trial) == (TrialState.WAITING, None)
    assert (second.state, second.trial, second.metric("ap50_11pt/mean")) == (TrialState.COMPLETE, trial, 0.5)


@pytest.mark.parametrize(("terminal", "view"), [(True, LiveView), (False, PlainView)])
def test_a_terminal_is_drawn_on_and_a_pipe_gets_lines(load: Load, terminal: bool, view: type) -> None:
    made = sweep._view(Console(force_terminal=terminal, quiet=True), load(TWO), list)
    made.stop()
    assert type(made) is view


def test_a_warning_is_one_line_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    before, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        sweep._log_to(Console(soft_wrap=True))
        logging.getLogger("wsol.data").warning("[bold]%s[/bold] " + "long " * 50, "x")
        logging.getLogger("wsol.data").info("not this")
    finally:
        logging.basicConfig(handlers=before, level=level, force=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "warning: [bold]x[/bold] " + "long " * 50


@pytest.fixture
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """What the process does on signals, as it is before and must be after."""
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class TestSignals:
    @pytest.mark.parametrize("first", STOPPING_SIGNALS)
    def test_stop_then_kill(self, handlers: dict[signal.Signals, Any], first: signal.Signals) -> None:
        stop = StopRequest()
        with stopping.stop_on_signals(stop):
            os.kill(os.getpid(), first)
            assert stop == StopRequest(asked=True, now=False)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop == StopRequest(asked=True, now=True)
        assert {number: signal.getsignal(number) for number in handlers} == handlers

    @pytest.mark.parametrize(("later_s", "now"), [(0.0, False), (1.9, False), (2.0, True), (60.0, True)])
    def test_a_batch_systems_signal_may_come_twice_at_a_time(
        self, handlers: dict[signal.Signals, Any], monkeypatch: pytest.MonkeyPatch, later_s: float, now: bool
    ) -> None:
        stop, times = StopRequest(), iter([100.0, 100.0 + later_s])
        monkeypatch.setattr("experiments.stopping.time.monotonic", lambda: next(times))
        with stopping.stop_on_signals(stop):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop == StopRequest(asked=True, now=now)

    @pytest.mark.parametrize("number", STOPPING_SIGNALS)
    def test_outside_of_the_trials_it_is_an_interrupt(
        self, handlers: dict[signal.Signals, Any], number: signal.Signals
    ) -> None:
        with pytest.raises(KeyboardInterrupt, match="^$"), stopping.interrupt_on_signals():
            os.kill(os.getpid(), number)
        assert {number: signal.getsignal(number) for number in handlers} == handlers

    def test_under_nohup_the_end_of_the_terminal_is_no_reason(self, handlers: dict[signal.Signals, Any]) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = StopRequest()
        with stopping.interrupt_on_signals(), stopping.stop_on_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
