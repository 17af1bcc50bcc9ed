"""Runner, workers, mirror and wandb-core are killed -9 at random instants: at W&B there is one run a trial, whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_sweep import REPOSITORY, Runner, Sweep
from wandb_tools import KEY, wandb_tool

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]
EPOCHS = 3
SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 3, optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 4, pictures: 1}
search:
  - grid: {train.lr: [1.0e-3, 1.0e-2], model.detection_temperature: [1.0, 2.0]}
tracking: {wandb: {project: kills}}
"""
KINDS = ("runner", "worker", "mirror", "wandb-core")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=8, val=4, test=1, image_px=48)
    return folder


@pytest.fixture
def server(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


def _victims(runner: Runner, kind: str) -> list[int]:
    """Processes of a kind that the command has started."""
    if kind == "runner":
        return [runner.process.pid]
    found = []
    for pid in runner.processes() - {runner.process.pid}:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            is_of = {
                "mirror": b"spawn_main" in command,
                "wandb-core": b"wandb-core" in command,
                "worker": b"forkserver" in command and _parent(pid) != runner.process.pid,
            }
            if is_of[kind]:
                found.append(pid)
    return sorted(found)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _lines_then_an_instant(runner: Runner, rng: random.Random) -> bool:
    """Lets some lines come, then a moment pass. False when the runner has come to its end."""
    assert runner.process.stdout is not None
    for _ in range(rng.randint(1, 4)):
        line = runner.process.stdout.readline()
        if not line:
            return False
        runner.lines.append(line.rstrip("\n"))
    select.select([runner.process.stdout], [], [], rng.uniform(0.0, 0.4))
    return True


def _kill(sweep: Sweep, rng: random.Random, kinds: list[str]) -> None:
    """Runs the command until all of these have been killed, or it has come to its end."""
    while kinds:
        runner = sweep.start()
        while kinds and _lines_then_an_instant(runner, rng):
            victims = _victims(runner, kinds[0])
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    if kinds.pop(0) == "runner":
                        break
        runner.end()
        if runner.process.returncode == 0:
            return


def _sync(sweep: Sweep) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "runner.py", "sync", str(sweep._spec), "--results", str(sweep.results)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("kills", "seed"), [(4, 1), pytest.param(20, 2, marks=pytest.mark.slow)])
def test_killed_at_random_instants(tmp_path: Path, root: Path, server: Any, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    left = [*KINDS, *(rng.choice(KINDS) for _ in range(kills))][:kills]
    rng.shuffle(left)
    sweeps = 0
    while left:
        sweep = Sweep(tmp_path / f"sweep{sweeps}", root, SPEC.replace("kills}", f"kills{sweeps}}}"))
        try:
            _kill(sweep, rng, left)
            runner = sweep.start()
            assert runner.end() == 0, runner.output + runner.errors
            done = _sync(sweep)
            assert done.returncode == 0, done.stdout + done.stderr
            _check_runs(sweep, {key: run for key, run in server.runs.items() if f"/kills{sweeps}/" in key})
        finally:
            sweep.clean_up()
        sweeps += 1
    assert server.unknown == []


def _check_runs(sweep: Sweep, runs: dict[str, Any]) -> None:
    rows = {row["signature"]: row for row in sweep.rows()}
    assert sorted(key.rpartition("-")[2] for key in runs) == sorted(rows), "one run a trial"
    for key, run in runs.items():
        row = rows[key.rpartition("-")[2]]
        trial = sweep.trial(int(row["trial"]))
        history = run["history"]
        assert [entry["_step"] for entry in history] == list(range(EPOCHS + 1)), key
        assert [entry["epoch"] for entry in history[:EPOCHS]] == [1, 2, 3]
        assert history[-1].keys() >= {"pictures", "per_class"}
        assert (run["complete"], run["exitcode"]) == (True, 0)
        assert run["summary"]["state"] == row["state"] == "COMPLETE"
        result = json.loads((trial / "result.json").read_text())["metrics"]
        defined = {name: value for name, value in result.items() if value is not None}
        assert {name: run["summary"][name] for name in defined} == pytest.approx(defined, abs=1e-12)
        written = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
        assert [entry["loss"] for entry in history[:EPOCHS]] == pytest.approx([line["loss"] for line in written])
        uploaded = set(run["uploaded"])
        assert set(history[-1]["pictures"]["filenames"]) <= uploaded
        assert history[-1]["per_class"]["path"] in uploaded
        assert re.fullmatch(r"sw\d+", run["sweep"])
