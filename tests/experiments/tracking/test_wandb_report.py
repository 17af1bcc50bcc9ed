"""The report at W&B: what it says, and that it is saved in its own place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb_tools import KEY, wandb_tool
from written_sweep import WrittenSweep

from experiments.tracking.identity import Identity, read_identity, write_identity
from experiments.tracking.paths import WandbPaths

REPOSITORY = Path(__file__).resolve().parents[3]


def run(command: str, sweep: WrittenSweep, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "runner.py", command, str(sweep.file), "--results", str(sweep.results)]
        + (["--wandb"] if command == "report" else []),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def test_what_it_says(written: Callable[..., WrittenSweep], shared_dir: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra wandb-report")
    sweep = written()
    sweep.complete([0, 3])
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        place = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        done = run("report", sweep, **place)
        assert done.returncode == 2
        assert "got no run of written at W&B" in done.stderr
        assert "runner.py sync" in done.stderr
        assert run("sync", sweep, **place).returncode == 0
        for _ in range(2):
            done = run("report", sweep, **place)
            assert (done.returncode, done.stdout.startswith("report: http")) == (0, True), done.stdout + done.stderr
        saved = [variables for name, variables in server.ops if name.lower().startswith("upsertview")]
        assert saved[0].get("id") is None
        identity = read_identity(WandbPaths(sweep.store.wandb))
        assert identity is not None
        assert saved[-1].get("id") == identity.report != ""
    spec = json.loads(saved[-1]["spec"])
    text = json.dumps(spec)
    assert "Which learning rate?" in text
    kinds = [panel["viewType"] for panel in panels(spec)]
    assert kinds == [
        "Parallel Coordinates Plot",
        "Parameter Importance",
        "Run History Line Plot",
        "Bar Chart",
        "Weave",
        "Media Browser",
        "Media Browser",
    ]
    columns = panels(spec)[0]["config"]["columns"]
    expected = ["config:train.value.lr", "config:proposals.value.count", "summary:ap50_11pt/mean"]
    assert [column["accessor"] for column in columns] == expected
    assert "| 3 | 0.01 | 20 | 0 | search | 0.3300 |" in text
    runs = next(block["metadata"]["runSets"][0] for block in spec["blocks"] if block["type"] == "panel-grid")
    assert [one["value"] for one in runs["filters"]["filters"]] == ["sw000000", "search"]
    assert runs["runFeed"]["columnOrder"][2:] == ["config:train.value.lr", "config:proposals.value.count"]
    assert "ap50_11pt/digit_0" in text
    assert '"written"' in text


def test_a_damaged_name_of_it_is_not_overwritten(written: Callable[..., WrittenSweep]) -> None:
    sweep = written()
    sweep.complete([0])
    paths = WandbPaths(sweep.store.wandb)
    write_identity(paths, Identity("0" * 8, entity="e"))
    paths.identity.write_text("{")
    done = run("report", sweep, WANDB_API_KEY=KEY)
    assert done.returncode == 2
    assert "identity.json: damaged" in done.stderr


def test_without_a_key(written: Callable[..., WrittenSweep]) -> None:
    sweep = written()
    done = run("report", sweep)
    assert done.returncode == 2
    assert "got no API key for api.wandb.ai" in done.stderr


def test_without_the_package(written: Callable[..., WrittenSweep], tmp_path: Path) -> None:
    sweep = written()
    write_identity(WandbPaths(sweep.store.wandb), Identity("0" * 8, entity="e"))
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError")
    done = run("report", sweep, WANDB_API_KEY=KEY, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 2
    assert "got --wandb without the package wandb-workspaces; expected it to be installed: pip install" in done.stderr
