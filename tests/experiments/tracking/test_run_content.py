"""What a run says of a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.store import StoredTrial, TrialPaths, TrialResult
from experiments.tracking.run_content import (
    LOG_TAIL_LINE_LENGTH,
    LOG_TAIL_LINES,
    MAX_NAME_LENGTH,
    history_row,
    log_tail,
    media_step,
    per_class_table,
    run_end,
    run_head,
    step_of,
    value_at,
)
from experiments.trial import TrialState

CONFIG = {"seed": 3, "train": {"lr": 0.5, "scales_px": [64, 96]}, "data": {"eval": "val"}}


def stored(**options: Any) -> StoredTrial:
    return StoredTrial(7, "ab" * 32, TrialPaths(Path("nowhere")), **options)


def test_the_head() -> None:
    head = run_head(
        stored(stage="final", code="c"), CONFIG, run_id="id", sweep="s", swept_keys=["train.lr", "train.scales_px"]
    )
    assert (head.run_id, head.group, head.job_type, head.tags) == ("id", "s", "final", ("s", "final"))
    assert head.name == "0007 lr=0.5 scales_px=[64, 96] seed=3"
    assert head.config == {
        **CONFIG,
        "trial": {"number": 7, "signature": "ab" * 32, "stage": "final", "split": "val", "code": "c"},
    }


def test_long_names_are_cut() -> None:
    head = run_head(stored(), {"a": "x" * 200}, run_id="id", sweep="s" * 100, swept_keys=["a"])
    assert len(head.name) == MAX_NAME_LENGTH
    assert head.tags == ("s" * 64, "search")


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 3), ("train.lr", 0.5), ("train", CONFIG["train"]), ("x", None), ("seed.x", None)]
)
def test_values(key: str, value: Any) -> None:
    assert value_at(CONFIG, key) == value


def test_a_row() -> None:
    usage = {"device_bytes": 1_500_000_000, "host_bytes": 0, "step_s": 0.1}
    row = {"epoch": 2, "loss": 0.0, "lr": 0.1, "duration_s": 3.0, "time": 9.5, "usage": usage}
    assert history_row({**row, "metrics": {"a/mean": 0.0, "a/b": None}}) == {
        **{"epoch": 2, "loss": 0.0, "lr": 0.1, "duration_s": 3.0, "_timestamp": 9.5},
        **{"memory/gpu_gb": 1.5, "a/mean": 0.0},
    }
    assert history_row({"epoch": 1, "duration_s": 1.0}) == {"epoch": 1, "duration_s": 1.0}


def test_steps() -> None:
    assert [step_of({"epoch": epoch}) for epoch in (1, 2, 9)] == [0, 1, 8]
    assert media_step([]) == 0
    assert media_step([{"epoch": 1}]) == 1
    assert media_step([{"epoch": 1}, {"epoch": 3}]) == 3, "a lost row takes no step away"


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_the_end(state: TrialState) -> None:
    result = TrialResult("ab" * 32, state, "why", 2, {"a/x": 0.5, "a/y": None}, 4, 8.0, reused_from="o/1", code="c")
    end = run_end(result, sweep="s", stage="search", tail="t")
    assert end.exit_code == (1 if state is TrialState.FAIL else 0)
    assert end.tags == ("s", "search", state.value)
    assert end.summary == {
        **{"state": state.value, "stop_reason": "why", "attempts": 2, "epochs": 4, "duration_s": 8.0},
        **{"code": "c", "reused_from": "o/1", "a/x": 0.5, "log_tail": "t"},
    }
    assert "log_tail" not in run_end(result, sweep="s", stage="search").summary


def test_the_table() -> None:
    metrics = {"a/x": 0.1, "a/y": None, "a/mean": 0.1, "b/x": 0.3, "b/mean": 0.3}
    assert per_class_table(metrics) == (["class", "a", "b"], [["x", 0.1, 0.3], ["y", None, None]])
    assert per_class_table({}) == (["class"], [])


class TestLogTail:
    def test_of_a_short_log(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b"one\ntwo \x1b[31m\xff\n")
        assert log_tail(tmp_path / "log") == "one\ntwo \\x1b[31m�"

    def test_of_a_long_one(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("".join(f"{'x' * 400} {n}\n" for n in range(1000)) + "last\n")
        lines = log_tail(tmp_path / "log").splitlines()
        assert len(lines) == LOG_TAIL_LINES
        assert max(map(len, lines)) == LOG_TAIL_LINE_LENGTH
        assert lines[-1] == "last"

    def test_of_one_that_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("x" * 1_000_000)
        assert log_tail(tmp_path / "log") == "x" * LOG_TAIL_LINE_LENGTH

    def test_of_none(self, tmp_path: Path) -> None:
        assert log_tail(tmp_path / "log") == ""
        (tmp_path / "log").touch()
        assert log_tail(tmp_path / "log") == ""
