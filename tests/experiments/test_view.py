from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from experiments.slots import Slot
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan
from experiments.view import Best, Counts, PlainView, cell_text, duration_text, epoch_text, value_text

METRIC = "ap50_11pt/mean"


@pytest.fixture
def plan(load: Callable[[str], SweepSpec]) -> TrialPlan:
    block = "  - grid: {train.lr: [1.0e-4], proposals.count: [null]}\n"
    return load(f"{{EXPERIMENT}}\n  train: {{epochs: 8}}\nsearch:\n{block}seeds: [2]\n").plans[0]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def view(stream: io.StringIO) -> PlainView:
    return PlainView(objective=METRIC, stream=stream)


def test_the_lines_of_a_sweep(view: PlainView, stream: io.StringIO, plan: TrialPlan) -> None:
    counts = Counts(total=6, finished=2, failed=1, running=0)
    view.start(name="quick", counts=counts, reused=2)
    view.launched(3, plan, Slot(index=1, visible_devices="", threads=1), 1)
    view.launched(3, plan, Slot(index=0, visible_devices="4", threads=1), 2)
    view.epoch(3, plan, {"epoch": 1, "loss": 1.23456, "metrics": {METRIC: 0.43214}})
    view.epoch(3, plan, {"epoch": 2, "loss": 1.2, "metrics": {}})
    view.ended(3, plan, "complete", failed=False)
    view.message("done")
    view.stop()
    assert stream.getvalue().splitlines() == [
        "sweep quick: 6 trials, 2 finished before, 4 to run",
        "trial 3 starts on cpu 1: lr=0.0001 count=null seed=2",
        "trial 3 starts on gpu 4 (attempt 2): lr=0.0001 count=null seed=2",
        "trial 3 epoch 1/8: loss 1.2346, ap50_11pt/mean 0.4321",
        "trial 3 epoch 2/8: loss 1.2000",
        "trial 3 complete",
        "done",
    ]


def test_the_best_is_told_when_it_changes(view: PlainView, stream: io.StringIO, plan: TrialPlan) -> None:
    counts = Counts(total=6, finished=2, failed=0, running=1)
    view.progress(counts, None)
    view.progress(counts, Best(number=1, value=0.5, plan=plan))
    view.progress(counts, Best(number=1, value=0.5, plan=plan))
    view.progress(counts, Best(number=4, value=0.75, plan=plan))
    assert stream.getvalue().splitlines() == [
        "2/6 finished; best ap50_11pt/mean 0.5000, trial 1: lr=0.0001 count=null seed=2",
        "2/6 finished; best ap50_11pt/mean 0.7500, trial 4: lr=0.0001 count=null seed=2",
    ]


@pytest.mark.parametrize(("total", "lines"), [(0, 1), (1, 2), (5, 6), (1000, 11)])
def test_preparation_takes_a_line_a_tenth(view: PlainView, stream: io.StringIO, total: int, lines: int) -> None:
    for done in range(total + 1):
        view.prepared(done, total, "proposals")
    shown = stream.getvalue().splitlines()
    assert len(shown) == lines
    assert shown[-1] == f"proposals: {total}/{total}"


class TestTheEnd:
    def said(self, *moments: tuple[float, int, float | None]) -> list[str]:
        """What is told at such times, with so many of 10 trials finished and so many seconds left."""
        stream = io.StringIO()
        now = 0.0
        view = PlainView(objective=METRIC, stream=stream, clock=lambda: now)
        for moment, finished, left_s in moments:
            now = moment
            view.progress(Counts(total=10, finished=finished, failed=0, running=1, left_s=left_s), None)
        return stream.getvalue().splitlines()

    def test_once_and_again_when_it_was_wrong(self) -> None:
        assert self.said((0, 0, None), (5, 1, 7200.0), (1000, 2, 6300.0), (2000, 4, 3000.0)) == [
            "1/10 finished; about 2 h 0 min left",
            "4/10 finished; about 50 min left",
        ]

    def test_a_little_off_is_right(self) -> None:
        assert len(self.said((0, 0, 1000.0), (0, 1, 1111.0), (0, 2, 910.0))) == 1  # by a tenth of what is left
        assert len(self.said((0, 0, 1000.0), (0, 1, 1112.0))) == 2
        assert len(self.said((0, 0, 300.0), (0, 1, 360.0))) == 1  # by a minute
        assert len(self.said((0, 0, 300.0), (0, 1, 361.0))) == 2

    def test_minutes_are_not_worth_a_word(self) -> None:
        assert self.said((0, 0, 60.0)) == []
        assert len(self.said((0, 0, 61.0))) == 1

    def test_nothing_is_left(self) -> None:
        assert self.said((0, 10, 0.0), (0, 10, 500.0)) == []


def test_lines_go_to_the_standard_output_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView(objective=METRIC).message("[red] is no markup here")
    assert capsys.readouterr().out == "[red] is no markup here\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "0.0001"),
        (1e-05, "1e-05"),
        (0.5, "0.5"),
        (4.0, "4"),
        (2000, "2000"),
        (None, "null"),
        (True, "true"),
        ("vgg16", "vgg16"),
        ([128, 256], "[128, 256]"),
        ((0.5, 1.0), "[0.5, 1.0]"),
        (["é"], '["é"]'),
    ],
)
def test_values_as_yaml_spells_them(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_a_trial_that_sweeps_nothing(load: Callable[[str], SweepSpec]) -> None:
    assert cell_text(load("{EXPERIMENT}\n").plans[0]) == "seed=0"


@pytest.mark.parametrize("metrics", [{}, {METRIC: None}, {"cls_ap/mean": 0.5}])
def test_an_epoch_without_the_objective(metrics: dict[str, float | None]) -> None:
    assert epoch_text({"loss": 0.00004, "metrics": metrics}, METRIC) == "loss 0.0000"


def test_waiting_is_the_rest() -> None:
    assert Counts(total=10, finished=4, failed=1, running=2).waiting == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (1, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),  # and not 60 s
        (60, "1 min"),
        (89, "1 min"),
        (91, "2 min"),
        (59.4 * 60, "59 min"),
        (59.6 * 60, "1 h 0 min"),  # and not 60 min
        (3600, "1 h 0 min"),
        (3600 + 5 * 60, "1 h 5 min"),
        (2 * 3600 - 29, "2 h 0 min"),
        (47 * 3600 + 29 * 60, "47 h 29 min"),
        (47 * 3600 + 31 * 60, "2 d 0 h"),
        (48 * 3600, "2 d 0 h"),
        (76.4 * 3600, "3 d 4 h"),
        (71.6 * 3600, "3 d 0 h"),
        (1000 * 24 * 3600, "1000 d 0 h"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
