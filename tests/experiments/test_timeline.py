"""What is known afterwards of when which attempt ran where."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from experiments.slots import Slot
from experiments.timeline import AttemptSpan, Timeline, read_timeline

GPU, CPU = (
    Slot(index=1, visible_devices="GPU-abc", threads=2, gpu_name="3"),
    Slot(index=0, visible_devices="", threads=1),
)


class Clock:
    """Ticks once a look."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "timeline.jsonl"


def test_attempts_come_back_in_the_order_of_their_starts(path: Path) -> None:
    timeline = Timeline(path, Clock())
    timeline.began(7, 1, GPU)
    timeline.began(2, 1, CPU)
    timeline.ended(2, 1)
    timeline.began(2, 2, CPU)
    timeline.ended(7, 1)
    assert read_timeline(path) == [
        AttemptSpan(trial=7, attempt=1, slot=1, place="gpu 3", began=101.0, ended=105.0),
        AttemptSpan(trial=2, attempt=1, slot=0, place="cpu 0", began=102.0, ended=103.0),
        AttemptSpan(trial=2, attempt=2, slot=0, place="cpu 0", began=104.0, ended=None),
    ]


def test_no_file_is_no_attempts(path: Path) -> None:
    assert read_timeline(path) == []


@pytest.mark.parametrize("torn", range(1, 20))
def test_a_torn_line_costs_that_line_alone(path: Path, torn: int) -> None:
    """As a runner leaves it that is killed in the midst of a write; the next run appends."""
    clock = Clock()
    first = Timeline(path, clock)
    first.began(0, 1, CPU)
    whole = path.stat().st_size
    first.began(1, 1, GPU)
    with path.open("r+b") as file:
        file.truncate(whole + torn)
    again = Timeline(path, clock)
    again.began(2, 1, GPU)
    again.ended(2, 1)
    assert [(span.trial, span.ended) for span in read_timeline(path)] == [(0, None), (2, 104.0)]


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"trial": 0, "attempt": 1}',
        b'{"trial": "0", "attempt": 1, "slot": 0, "place": "cpu 0", "began": 1.0}',
        b'{"trial": 0, "attempt": 1, "slot": 0, "place": "cpu 0", "began": null}',
        b'{"trial": 0, "attempt": 1, "slot": 0, "place": "cpu 0", "began": 1.0, "more": 1}',
        b'{"trial": 9, "attempt": 1, "ended": 5.0}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_line_of_ours_is_left_out(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    Timeline(path, Clock()).began(3, 1, CPU)
    assert [span.trial for span in read_timeline(path)] == [3]


def test_the_first_end_counts(path: Path) -> None:
    timeline = Timeline(path, Clock())
    timeline.began(0, 1, CPU)
    timeline.ended(0, 1)
    timeline.ended(0, 1)
    assert [span.ended for span in read_timeline(path)] == [102.0]


def test_a_line_that_cannot_be_written_is_lost_and_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    timeline = Timeline(path, Clock())
    with caplog.at_level(logging.WARNING):
        timeline.began(0, 1, CPU)
        timeline.ended(0, 1)
    assert len(caplog.records) == 1
    assert "not all attempts will be in it (" in caplog.text
    path.rmdir()
    timeline.began(1, 1, CPU)
    assert [span.trial for span in read_timeline(path)] == [1]
