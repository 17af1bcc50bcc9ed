from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.footprint import Usage
from experiments.json_file import json_text, write_json, write_text
from experiments.metrics_file import append_metrics, cut_metrics, read_metrics, trained_s, usage_of
from experiments.report.csv_file import write_csv
from experiments.sealed import sealed
from experiments.store import StoredTrial, SweepStore, TrialPaths, TrialResult, read_result, write_result
from experiments.trial import TrialState

REPOSITORY = Path(__file__).resolve().parents[2]
SIGNATURE = "0123456789abcdef" * 4

RESULT = TrialResult(
    signature=SIGNATURE,
    state=TrialState.COMPLETE,
    stop_reason="",
    attempts=2,
    metrics={"ap50_11pt/mean": 0.5, "ap50_11pt/a,b": None},
    epochs=3,
    duration_s=1.25,
    usage=Usage(device_bytes=3, host_bytes=4, step_s=0.5),
)


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "sweep")


@pytest.fixture
def trial(store: SweepStore) -> StoredTrial:
    return store.create_trial(7, SIGNATURE, {"seed": 0})


class TestReplacing:
    """`write_text` killed at every step leaves the old text or the new one."""

    KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.json_file import write_text
import wsol.atomic_file

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

step, path = sys.argv[1], Path(sys.argv[2])
if step == "before anything is flushed":
    os.fsync = die
elif step == "before the new name":
    os.replace = die
else:
    wsol.atomic_file.sync_folder = die
write_text(path, "new " * 100_000)
"""

    @pytest.mark.parametrize(
        ("step", "kept"),
        [
            ("before anything is flushed", "old"),
            ("before the new name", "old"),
            ("after the new name", "new " * 100_000),
        ],
    )
    def test_killed(self, tmp_path: Path, step: str, kept: str) -> None:
        path = tmp_path / "result.json"
        path.write_text("old")
        child = subprocess.run(
            [sys.executable, "-c", self.KILLED, step, str(path)], env={"PYTHONPATH": str(REPOSITORY)}, check=False
        )
        assert child.returncode == -9
        assert path.read_text() == kept
        write_text(path, "newer")  # what the dead process left behind is in nobody's way
        assert path.read_text() == "newer"

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_failing_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        path = tmp_path / "result.json"
        write_text(path, "old")

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space left"):
            write_text(path, "new")
        assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]  # and no temporary file

    def test_makes_its_folder(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a" / "b" / "c.txt", "é\n")
        assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é\n".encode()

    def test_json_is_what_every_reader_takes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "x.json", {"loss": float("nan")})
        assert list(tmp_path.iterdir()) == []


class TestResult:
    def test_round_trip(self, trial: StoredTrial) -> None:
        assert read_result(trial) is None
        write_result(trial.paths, RESULT)
        assert read_result(trial) == RESULT

    @pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
    def test_with_a_reason(self, trial: StoredTrial, state: TrialState) -> None:
        result = dataclasses.replace(RESULT, state=state, stop_reason="killed", metrics={})
        write_result(trial.paths, result)
        assert read_result(trial) == result

    def test_is_plain_json(self, trial: StoredTrial) -> None:
        write_result(trial.paths, RESULT)
        assert json.loads(trial.paths.result.read_text()) == {
            "signature": SIGNATURE,
            "state": "COMPLETE",
            "stop_reason": "",
            "attempts": 2,
            "metrics": {"ap50_11pt/mean": 0.5, "ap50_11pt/a,b": None},
            "epochs": 3,
            "duration_s": 1.25,
            "images_at_a_time": None,
            "reused_from": "",
            "config": {},
            "checksum": "2e1965945ad24d8c",
            "code": "",
            "usage": {"device_bytes": 3, "host_bytes": 4, "step_s": 0.5},
        }

    def test_one_that_knows_nothing_of_usage(self, trial: StoredTrial) -> None:
        """It was written by an earlier version."""
        values = dataclasses.asdict(RESULT)
        del values["usage"]
        write_json(trial.paths.result, sealed(values))
        assert read_result(trial) == dataclasses.replace(RESULT, usage=None)

    def test_keys_of_a_later_version_are_no_damage(self, trial: StoredTrial) -> None:
        write_json(trial.paths.result, {**dataclasses.asdict(RESULT), "new_key": 1})
        assert read_result(trial) == RESULT

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "3",
            '"text"',
            "{}",
            "\x00" * 500,
            "\xff\xfe",
            *(
                json.dumps({**dataclasses.asdict(RESULT), key: value})
                for key, value in [
                    ("state", "RUNNING"),
                    ("state", "WAITING"),
                    ("state", "complete"),
                    ("state", None),
                    ("metrics", None),
                    ("metrics", ["ap50_11pt/mean"]),
                    ("metrics", {"ap50_11pt/mean": "high"}),
                    ("duration_s", "long"),
                    ("attempts", None),
                ]
            ),
        ],
    )
    def test_a_damaged_file_counts_as_none(
        self, trial: StoredTrial, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        trial.paths.result.write_bytes(text.encode("latin-1"))
        with caplog.at_level(logging.WARNING):
            assert read_result(trial) is None
        if text != "null":  # read as nothing at all
            assert str(trial.paths.result) in caplog.text
            assert len(caplog.records) == 1

    def test_of_another_trial(self, trial: StoredTrial, caplog: pytest.LogCaptureFixture) -> None:
        write_result(trial.paths, dataclasses.replace(RESULT, signature="f" * 64))
        assert read_result(trial) is None
        assert "belongs to another trial" in caplog.text


class TestTrials:
    def test_files(self, store: SweepStore, trial: StoredTrial) -> None:
        assert trial.paths.folder == store.folder / "trials" / "0007-01234567"
        assert json.loads(trial.paths.config.read_text()) == {
            "number": 7,
            "signature": SIGNATURE,
            "stage": "search",
            "config": {"seed": 0},
            "checksum": "ea7a3b5bc7e29dd8",
        }
        assert store.trial_paths(7, SIGNATURE) == trial.paths

    def test_by_number_not_by_name(self, store: SweepStore) -> None:
        for number in (10_000, 9_999, 10, 2):
            store.create_trial(number, SIGNATURE, {})
        assert [found.number for found in store.trials()] == [2, 10, 9_999, 10_000]
        assert store.trials()[0] == store.create_trial(2, SIGNATURE, {})

    def test_none(self, store: SweepStore) -> None:
        assert store.trials() == []

    def test_other_folders_are_left_alone(self, store: SweepStore, trial: StoredTrial) -> None:
        for name in ("notes", "0008-short", "x-01234567", "0008-0123456z", "0008-012345678"):
            (store.folder / "trials" / name).mkdir()
        (store.folder / "trials" / "0009-01234567").touch()  # a file
        assert store.trials() == [trial]

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"signature": 3}', '{"signature": "ffffffff"}', "\x00\x00", "\xff"]
    )
    def test_a_damaged_config_is_named(
        self, store: SweepStore, trial: StoredTrial, caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        trial.paths.config.write_bytes(text.encode("latin-1"))
        assert store.trials() == []
        assert f"{trial.paths.folder}: no readable config.json" in caplog.text

    def test_a_config_half_made_by_a_killed_runner(self, store: SweepStore, trial: StoredTrial) -> None:
        trial.paths.config.unlink()
        assert store.trials() == []
        store.create_trial(7, SIGNATURE, {})
        assert [found.number for found in store.trials()] == [7]


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "duration_s": 1.5}


def test_usage_is_over_all_rows_that_tell_it() -> None:
    rows = [
        row(1),
        row(2) | {"usage": {"device_bytes": 5, "host_bytes": 20, "step_s": 0.5}},
        row(3) | {"usage": {"device_bytes": 7, "host_bytes": 10, "step_s": 0.0}},
        row(4) | {"usage": {"device_bytes": 6, "host_bytes": 10, "step_s": 0.7}},
        row(5) | {"usage": {"device_bytes": 6, "host_bytes": 10, "step_s": 0.1}},
    ]
    assert usage_of(rows) == Usage(device_bytes=7, host_bytes=20, step_s=0.5)
    assert usage_of(rows[2:3]) == Usage(device_bytes=7, host_bytes=10, step_s=0.0)
    assert usage_of(rows[:1]) is usage_of([]) is None


class TestMetrics:
    @pytest.fixture
    def paths(self, trial: StoredTrial) -> TrialPaths:
        return trial.paths

    def test_row_by_row(self, paths: TrialPaths) -> None:
        assert read_metrics(paths) == []
        rows: list[dict[str, Any]] = [row(1) | {"metrics": {"é": None}}, row(2) | {"loss": 0.5}]
        for each in rows:
            append_metrics(paths, each)
        assert read_metrics(paths) == rows
        assert paths.metrics.read_text().count("\n") == 2

    @pytest.mark.parametrize("torn", ["{", '{"epoch": 3', '{"epoch": 3}', "\x00\x00\x00", "\xc3"])
    def test_a_torn_last_line_is_left_out_and_cut_off(self, paths: TrialPaths, torn: str) -> None:
        append_metrics(paths, row(1))
        append_metrics(paths, row(2))
        with paths.metrics.open("ab") as file:
            file.write(torn.encode("latin-1"))
        assert read_metrics(paths) == [row(1), row(2)]
        cut_metrics(paths, epochs=2)
        append_metrics(paths, row(3))
        assert read_metrics(paths) == [row(1), row(2), row(3)]

    @pytest.mark.parametrize("damage", ["{", "\x00", "\xff", "[]", '{"epoch": 2}', "3"])
    def test_a_damaged_line_in_the_middle_is_left_out_and_counted(
        self, paths: TrialPaths, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        append_metrics(paths, row(1))
        with paths.metrics.open("ab") as file:
            file.write(damage.encode("latin-1") + b"\n")
        append_metrics(paths, row(3))
        assert read_metrics(paths) == [row(1), row(3)]
        assert "1 damaged lines left out" in caplog.text

    def test_the_time_of_all_epochs(self) -> None:
        assert trained_s([row(1), row(2)]) == 3.0
        assert trained_s([]) == 0.0

    @pytest.mark.parametrize("epochs", [0, 1, 3, 4])
    def test_cut(self, paths: TrialPaths, epochs: int) -> None:
        for epoch in (1, 2, 3):
            append_metrics(paths, row(epoch))
        cut_metrics(paths, epochs=epochs)
        assert [row["epoch"] for row in read_metrics(paths)] == [1, 2, 3][:epochs]

    def test_cut_of_nothing(self, paths: TrialPaths) -> None:
        cut_metrics(paths, epochs=3)
        assert not paths.metrics.exists()

    def test_no_reader_gets_a_number_that_is_none(self, paths: TrialPaths) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            append_metrics(paths, {"loss": float("inf")})
        assert read_metrics(paths) == []


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [
        ["a,b", 'say "no"', "two\nlines", " space ", "[red]", "", "é"],
        [1, 0.1 + 0.2, None, True, -0.0, "=1+1", "\t"],
    ]
    write_csv(tmp_path / "x.csv", ["1", "2", "3", "4", "5", "6", "7"], rows)
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *found = csv.reader(file)
    assert header == ["1", "2", "3", "4", "5", "6", "7"]
    assert found == [["" if cell is None else str(cell) for cell in row] for row in rows]
    assert float(found[1][1]) == 0.1 + 0.2  # every digit


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": {}},
        {"a": {"b": {"c": [1, {"d": None}]}}, "e": [], "f": 'line\nbreak \u2028 "quoted" \x00'},
        {1: True, "t": 1e-07, "n": -0.0},
        [{"a": 1}],
        "text",
        None,
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_json_with_a_line_an_item_is_the_same_json(value: object, depth: int) -> None:
    assert json.loads(json_text(value, depth=depth)) == json.loads(json.dumps(value))


def test_json_has_lines_as_deep_as_asked() -> None:
    text = json_text({"a": 1, "b": {"c": {"d": 2, "e": 3}, "f": [4, 5]}}, depth=2)
    assert text == '{\n "a": 1,\n "b": {\n  "c": {"d": 2, "e": 3},\n  "f": [4, 5]\n }\n}'
