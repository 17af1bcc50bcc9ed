from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from rich.console import Console

from experiments.live_view import LiveView
from experiments.slots import Slot
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan
from experiments.view import Best, Counts

METRIC = "ap50_11pt/mean"
SLOTS = [Slot(index=0, visible_devices="", threads=1), Slot(index=1, visible_devices="", threads=1)]


@pytest.fixture
def plan(load: Callable[[str], SweepSpec]) -> TrialPlan:
    return load("{EXPERIMENT}\n  train: {epochs: 8}\nsearch:\n  - grid: {train.lr: [0.5]}\n").plans[0]


class Terminal:
    """A terminal of 100 columns. `live` is what its moving part shows, `lasting` what was printed above."""

    def __init__(self, *, slots: Sequence[Slot] = SLOTS, height: int = 40) -> None:
        self.slots = slots
        self.stream = io.StringIO()
        self.console = Console(file=self.stream, force_terminal=True, width=100, height=height, color_system=None)
        self.view = LiveView(console=self.console, objective=METRIC, slots=lambda: self.slots)

    def live(self) -> list[str]:
        still = Console(file=io.StringIO(), width=100, color_system=None)
        with still.capture() as shown:
            still.print(self.view._render())
        return [line.rstrip() for line in shown.get().splitlines()]

    def lasting(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.view.stop()


@contextmanager
def of_24_lines(slots: int) -> Iterator[Terminal]:
    terminal = Terminal(slots=[Slot(index=i, visible_devices=str(i), threads=1) for i in range(slots)], height=24)
    try:
        yield terminal
    finally:
        terminal.view.stop()


def test_a_line_a_slot(terminal: Terminal, plan: TrialPlan) -> None:
    view = terminal.view
    assert terminal.live()[1:] == ["cpu 0 idle", "cpu 1 idle"]
    view.launched(7, plan, SLOTS[1], 1)
    assert terminal.live()[1:] == ["cpu 0 idle", "cpu 1 trial 7: starting, 0 s (lr=0.5 seed=0)"]
    view.epoch(7, plan, {"epoch": 3, "loss": 1.5, "metrics": {METRIC: 0.25}})
    assert terminal.live()[2] == "cpu 1 trial 7: epoch 3/8, loss 1.5000, ap50_11pt/mean 0.2500, 0 s (lr=0.5 seed=0)"
    view.ended(7, plan, "complete: it went well", failed=False)
    assert terminal.live()[1:] == ["cpu 0 idle", "cpu 1 idle"]
    assert "trial 7 complete: it went well (lr=0.5 seed=0)" in terminal.lasting()


def test_another_attempt_says_so(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.launched(7, plan, SLOTS[0], 2)
    assert "trial 7: continuing, attempt 2, 0 s" in terminal.live()[1]


def test_slots_are_independent(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.launched(0, plan, SLOTS[0], 1)
    terminal.view.launched(1, plan, SLOTS[1], 1)
    terminal.view.ended(0, plan, "complete", failed=False)
    terminal.view.launched(2, plan, SLOTS[0], 1)
    assert [line.split(":")[0] for line in terminal.live()[1:]] == ["cpu 0 trial 2", "cpu 1 trial 1"]


def test_the_bar_and_the_best(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.start(name="quick", counts=Counts(total=6, finished=1, failed=0, running=0), reused=1)
    assert "sweep quick: 6 trials, 1 finished before, 5 to run" in terminal.lasting()
    terminal.view.progress(Counts(total=6, finished=4, failed=1, running=1), Best(number=2, value=0.51239, plan=plan))
    live = terminal.live()
    assert live[0].startswith("trials, 1 failed ")
    assert "4/6" in live[0]
    assert live[-1] == "best  ap50_11pt/mean 0.5124, trial 2: lr=0.5 seed=0"


def test_preparation(terminal: Terminal) -> None:
    terminal.view.prepared(30, 400, "proposals")
    assert terminal.live()[0].startswith("proposals ")
    assert "30/400" in terminal.live()[0]


def test_nothing_is_markup(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.message("[red]a message[/red] [/]")
    terminal.view.ended(1, plan, "failed: KeyError: '[bold]'", failed=True)
    assert "[red]a message[/red] [/]" in terminal.lasting()
    assert "failed: KeyError: '[bold]'" in terminal.lasting()


def test_a_long_line_stays_one_line(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.launched(0, plan, SLOTS[0], 1)
    terminal.view.epoch(0, plan, {"epoch": 1, "loss": 1e100, "metrics": {}})
    assert len(terminal.live()) == 3


def test_the_terminal_is_given_back(terminal: Terminal) -> None:
    hide_cursor, show_cursor = "\x1b[?25l", "\x1b[?25h"
    assert hide_cursor in terminal.lasting()
    assert show_cursor not in terminal.lasting()
    terminal.view.stop()
    assert show_cursor in terminal.lasting()


class TestMoreSlotsThanLines:
    """The live part must fit: rich cuts off what does not, and the best trial is at its end."""

    @pytest.mark.parametrize(("slots", "shown", "more"), [(21, 21, 0), (22, 20, 2), (1000, 20, 980)])
    def test_as_many_as_fit(self, plan: TrialPlan, slots: int, shown: int, more: int) -> None:
        with of_24_lines(slots) as terminal:
            terminal.view.progress(Counts(total=6, finished=4, failed=0, running=1), Best(2, 0.5, plan))
            live = terminal.live()
            assert len(live) <= 23
            assert sum(line.endswith("idle") for line in live) == shown
            assert [line.split() for line in live if "more" in line] == (
                [["...", "and", str(more), "more,", "0", "of", "them", "busy"]] if more else []
            )
            assert live[-1].startswith("best")

    def test_the_busy_ones_come_first_in_their_order(self, plan: TrialPlan) -> None:
        with of_24_lines(1000) as terminal:
            slots = [Slot(index=i, visible_devices=str(i), threads=1) for i in range(1000)]
            for number, index in enumerate((999, 500, 7)):
                terminal.view.launched(number, plan, slots[index], 1)
            labels = [line.partition(" trial")[0].partition(" idle")[0].strip() for line in terminal.live()[1:]]
            assert labels[:5] == ["gpu 7", "gpu 500", "gpu 999", "gpu 0", "gpu 1"]
            for number in range(3, 30):
                terminal.view.launched(number, plan, slots[100 + number], 1)
            live = terminal.live()
            assert [line.split()[1] for line in live[1:4]] == ["7", "103", "104"]
            assert live[-1].split()[1:] == ["and", "980", "more,", "10", "of", "them", "busy"]
            terminal.view.ended(2, plan, "complete", failed=False)  # that in slot 7
            assert terminal.live()[1].startswith("gpu 103 ")

    def test_what_is_drawn_does_not_grow_with_the_slots(self, plan: TrialPlan) -> None:
        with of_24_lines(1000) as many, of_24_lines(50) as few:
            drawn = [len(terminal.live()) for terminal in (many, few)]
            assert drawn[0] == drawn[1] == 22

    def test_of_a_terminal_with_hardly_any_lines(self, plan: TrialPlan) -> None:
        terminal = Terminal(height=2)
        try:
            assert [line.split()[0] for line in terminal.live()[1:]] == ["cpu", "..."]
        finally:
            terminal.view.stop()


def test_a_slot_that_was_given_to_another_trial_before_the_end_was_told(terminal: Terminal, plan: TrialPlan) -> None:
    terminal.view.launched(0, plan, SLOTS[0], 1)
    terminal.view.launched(1, plan, SLOTS[0], 1)
    terminal.view.launched(2, plan, SLOTS[1], 1)
    terminal.view.launched(3, plan, SLOTS[1], 1)
    terminal.view.ended(0, plan, "complete", failed=False)
    assert terminal.live()[1].startswith("cpu 0 trial 1: ")
    for number in (3, 2):
        terminal.view.ended(number, plan, "complete", failed=False)
    assert terminal.live()[2] == "cpu 1 idle"


def test_an_end_without_a_beginning(terminal: Terminal, plan: TrialPlan) -> None:
    """A trial whose configuration is pruned while it waits is never launched."""
    terminal.view.ended(5, plan, "pruned", failed=False)
    assert "trial 5 pruned" in terminal.lasting()
