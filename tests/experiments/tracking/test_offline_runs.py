"""Offline runs, read back from W&B's own files, say what the leaderboard says."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb_tools import wandb_tool
from written_sweep import EPOCHS, WrittenSweep

from experiments.metrics_file import read_metrics
from experiments.report.entries import entries
from experiments.report.leaderboard import write_tables
from experiments.store import SweepStore
from experiments.trial import TrialState

PROGRAM = """\
import os, pathlib, sys
from experiments.spec import load_spec
from experiments.store import SweepStore
from experiments.tracking.connection import choose_connection
from experiments.tracking.paths import WandbPaths
from experiments.tracking.session import alone, mirror_orders, offline_mirror

spec = load_spec(pathlib.Path(sys.argv[1]))
store = SweepStore(pathlib.Path(sys.argv[2]))
connection = choose_connection(spec.tracking.wandb, os.environ, home=pathlib.Path.home())
assert connection.mode == "offline", connection
with alone(WandbPaths(store.wandb)):
    mirror = offline_mirror(mirror_orders(spec, store, connection), print)
    mirror.look()
    mirror.close()
print(mirror.newly_sent)
"""


def write_offline(sweep: WrittenSweep) -> str:
    """In a process of its own, as wandb leaves threads behind."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sweep.file), str(sweep.store.folder)],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def logs(store: SweepStore, shared: Path) -> list[dict[str, Any]]:
    """What each offline run says, in the order of the trials."""
    load = wandb_tool(shared, "wandb_log").load
    found = [load(file) for file in store.wandb.glob("offline-run-*/*.wandb") if not file.parent.is_symlink()]
    return sorted(found, key=lambda log: log["config"]["trial"]["number"])


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_they_say_what_the_leaderboard_says(written: Callable[..., WrittenSweep], shared_dir: Path) -> None:
    sweep = written(tracking="tracking: {wandb: {mode: offline, project: p}}")
    trials = sweep.complete([0, 1])
    failed = sweep.begin(2)
    sweep.train(failed, epochs=1)
    failed.paths.log.write_text("the reason\n")
    sweep.end(failed, TrialState.FAIL, "out of luck")
    sweep.train(sweep.begin(3), epochs=1)  # it has not ended
    write_tables(sweep.store, sweep.spec, entries(sweep.spec, sweep.store))
    assert write_offline(sweep) == "3"

    found = logs(sweep.store, shared_dir)
    rows = sorted(table(sweep.store.leaderboard), key=lambda row: int(row["trial"]))
    assert [log["config"]["trial"]["number"] for log in found] == [0, 1, 2]
    for log, row in zip(found, rows, strict=False):
        assert log["run"].run_id.endswith(f"-{row['signature']}")
        assert (log["run"].run_group, log["run"].job_type, log["run"].project) == ("written", "search", "p")
        assert log["run"].resume
        assert (log["summary"]["state"], log["summary"]["stop_reason"]) == (row["state"], row["stop_reason"])
        assert log["summary"]["attempts"] == int(row["attempts"])
        assert log["config"]["train"]["lr"] == float(row["train.lr"])
        assert log["config"]["proposals"]["count"] == int(row["proposals.count"])
        assert log["summary"]["ap50_11pt/mean"] == pytest.approx(float(row["ap50_11pt/mean"]), abs=1e-12)
        assert log["exit"] == (1 if row["state"] == "FAIL" else 0)
    assert found[2]["summary"]["log_tail"] == "the reason"

    per_class = [row for row in table(sweep.store.per_class) if row["trial"] == "1"]
    defined = {row["class"]: float(row["ap50_11pt"]) for row in per_class if row["ap50_11pt"]}
    assert len(defined) == 9
    assert {name: found[1]["summary"][f"ap50_11pt/{name}"] for name in defined} == pytest.approx(defined, abs=1e-12)
    assert [entry["epoch"] for entry in found[1]["history"][:EPOCHS]] == [1, 2, 3]
    assert [entry["_step"] for entry in found[1]["history"]] == [0, 1, 2, 3]
    losses = [row["loss"] for row in read_metrics(trials[1].paths)]
    assert [entry["loss"] for entry in found[1]["history"][:EPOCHS]] == pytest.approx(losses)
    assert sum(name.endswith(".boxes2D.json") for name in found[1]["files"]) == 6, "two layers of three pictures"
    assert sum(name.endswith(".jpg") for name in found[1]["files"]) == 3
    assert sum(name.endswith(".table.json") for name in found[1]["files"]) == 1


def test_a_log_that_is_not_whole_is_written_anew(written: Callable[..., WrittenSweep], shared_dir: Path) -> None:
    sweep = written(tracking="tracking: {wandb: {mode: offline}}")
    sweep.complete([0])
    assert write_offline(sweep) == "1"
    (file,) = sweep.store.wandb.glob("offline-run-*/*.wandb")
    file.write_bytes(file.read_bytes()[:7])  # as a kill leaves it
    (sweep.store.wandb / "sent.jsonl").unlink()
    assert write_offline(sweep) == "1"
    assert [len(log["history"]) for log in logs(sweep.store, shared_dir)] == [EPOCHS + 1]
    assert write_offline(sweep) == "0"
