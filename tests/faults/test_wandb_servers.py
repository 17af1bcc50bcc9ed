"""W&B that is down, wrong or silent: what is said, and that `sync` brings all later."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bad_servers
import pytest
from real_sweep import REPOSITORY, Sweep
from wandb_tools import KEY, wandb_tool
from written_sweep import WrittenSweep, write_data

from experiments.tracking import supervision
from experiments.tracking.connection import choose_connection
from experiments.tracking.session import mirror_orders
from experiments.tracking.supervision import MirrorSupervisor

pytestmark = pytest.mark.timeout(300)

ONE_TRIAL = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 2, optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 4, pictures: 1}
tracking: {wandb: {}}
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    write_data(root)
    return root


@pytest.fixture
def sweep(tmp_path: Path, root: Path) -> WrittenSweep:
    return WrittenSweep(tmp_path, root)


@pytest.fixture
def real(tmp_path: Path, root: Path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path / "real", root, ONE_TRIAL)
    yield sweep
    sweep.clean_up()


def sync(file: Path, results: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "runner.py", "sync", str(file), "--results", str(results)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def first_line(sweep: WrittenSweep, expected: str) -> str:
    """What a mirror says first; nothing more comes of it."""
    said: queue.Queue[str] = queue.Queue()
    connection = choose_connection(sweep.spec.tracking.wandb, os.environ, home=Path.home())
    supervisor = MirrorSupervisor(
        mirror_orders(sweep.spec, sweep.store, connection), say=said.put, sync_command="sync x.yaml"
    )
    supervisor.start()
    try:
        line = said.get(timeout=120)
        assert expected in line
        assert "\n" not in line
        return line
    finally:
        supervisor.close()


class TestKeys:
    def test_a_wrong_one(self, sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
        sweep.complete([0])
        with bad_servers.server_that_answers(401, b'{"errors":[{"message":"user is not logged in"}]}') as url:
            monkeypatch.setenv("WANDB_BASE_URL", url)
            line = first_line(sweep, "refuses the API key (wrong, expired, or without right to the project): ")
            assert "writing offline runs, `python runner.py sync SPEC.yaml` sends all later" in line
            done = sync(sweep.file, sweep.results)
            assert done.returncode == 1
            assert "user is not logged in" in done.stdout

    def test_one_that_is_none(self, sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "too-short")
        with bad_servers.server_that_answers(401) as url:
            monkeypatch.setenv("WANDB_BASE_URL", url)
            assert "40+ characters" in first_line(sweep, "refuses the API key")

    @pytest.mark.slow
    def test_none(self, real: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WANDB_API_KEY")
        status, runner = real.run()
        assert status == 0, runner.output + runner.errors
        (line,) = [line for line in runner.lines if "W&B" in line]
        assert line.startswith("W&B: no API key for api.wandb.ai in WANDB_API_KEY or ~/.netrc (`wandb login` puts it")
        assert len(list(real.folder.glob("wandb/offline-run-*"))) == 1
        done = sync(real._spec, real.results)
        assert done.returncode == 2
        assert "got no API key for api.wandb.ai; expected one in WANDB_API_KEY or ~/.netrc" in done.stderr


@pytest.mark.parametrize(
    "server",
    [
        lambda: bad_servers.server_that_answers(200, b"<html>\x00\xff"),
        pytest.param(lambda: bad_servers.server_that_answers(500), marks=pytest.mark.slow),
        pytest.param(lambda: bad_servers.server_that_answers(429), marks=pytest.mark.slow),
        pytest.param(bad_servers.server_that_never_answers, marks=pytest.mark.slow),
    ],
    ids=["garbage", "500", "429", "nothing"],
)
def test_a_server_that_is_none(sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch, server: Callable[[], Any]) -> None:
    sweep.complete([0])
    with server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        first_line(sweep, "does not take runs at present")
    assert not list(sweep.store.wandb.glob("offline-run-*")), "it may be well in a minute"


def test_no_server(sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    with bad_servers.no_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        first_line(sweep, "127.0.0.1 cannot be reached ([Errno 111] Connection refused); writing offline runs")
        done = sync(sweep.file, sweep.results)
        assert (done.returncode, "no trial of written has begun" in done.stdout) == (1, True)
        sweep.complete([0])
        done = sync(sweep.file, sweep.results)
        assert (done.returncode, "cannot be reached" in done.stdout) == (1, True)


def test_a_sweep_does_not_notice_a_silent_server(
    real: Sweep, monkeypatch: pytest.MonkeyPatch, shared_dir: Path
) -> None:
    with bad_servers.server_that_never_answers() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        status, runner = real.run()
        assert status == 0, runner.output + runner.errors
        assert any("not sent yet; `python runner.py sync" in line for line in runner.lines), runner.output
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = sync(real._spec, real.results)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "digits: 1 trials are at W&B, 1 of them sent now" in done.stdout
        (run,) = server.runs.values()
        assert [entry["_step"] for entry in run["history"]] == [0, 1, 2]


def test_down_for_the_whole_sweep_then_sync(
    sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch, shared_dir: Path
) -> None:
    sweep.complete()
    with bad_servers.no_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        first_line(sweep, "cannot be reached")
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_SWEEP_ID", "another")
        monkeypatch.setenv("WANDB_RUN_ID", "another")
        monkeypatch.setenv("WANDB_MODE", "offline")
        for now in (4, 0):
            done = sync(sweep.file, sweep.results)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"written: 4 trials are at W&B, {now} of them sent now" in done.stdout
            assert len(server.runs) == 4
            assert len(server.sweeps) == 1
            for run in server.runs.values():
                assert [entry["_step"] for entry in run["history"]] == [0, 1, 2, 3]
                assert (run["sweep"], run["groupName"], run["exitcode"]) == ("sw000000", "written", 0)
        for run in server.runs.values():  # the server has lost what it had
            del run["history"][1:]
            run["summary"] = {"_step": 0}
            break
        done = sync(sweep.file, sweep.results)
        assert done.returncode == 0, done.stdout
        assert [len(run["history"]) for run in server.runs.values()] == [4] * 4
        for run in server.runs.values():  # and lies about it
            del run["history"][1:]
        done = sync(sweep.file, sweep.results)
        assert (done.returncode, "4 runs have fewer rows at W&B" in done.stdout) == (1, True), done.stdout
        assert [one for one in server.unknown if "/otel/" not in one[1]] == []
    for folder in sweep.store.wandb.glob("offline-run-*"):
        assert list(folder.glob("*.synced")), "`wandb sync` would send it once more"


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_falls_ill(
    sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch, shared_dir: Path, status: int
) -> None:
    monkeypatch.setattr(supervision, "END_WITHIN_S", 1.0)
    said: queue.Queue[str] = queue.Queue()
    with wandb_tool(shared_dir, "fake_wandb").FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        connection = choose_connection(sweep.spec.tracking.wandb, os.environ, home=Path.home())
        orders = mirror_orders(sweep.spec, sweep.store, connection)
        supervisor = MirrorSupervisor(orders, say=said.put, sync_command="sync x.yaml")
        supervisor.start()
        try:
            assert said.get(timeout=120) == f"W&B: {server.url}/ent/wsol/sweeps/sw000000"
            server.fail_next.append([".*", status, 10**9])
            sweep.complete([0])
            supervisor.wait_for_the_end()
        finally:
            supervisor.close()
        assert "not sent yet; `python runner.py sync x.yaml` sends what is missing" in said.get_nowait()
        server.fail_next.clear()
        done = sync(sweep.file, sweep.results)
        assert done.returncode == 0, done.stdout
        (run,) = server.runs.values()
        assert [entry["_step"] for entry in run["history"]] == [0, 1, 2, 3]
        assert len(server.sweeps) == 1


def test_two_do_not_write_at_a_time(sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.complete([0])
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, sys, time\nfrom experiments.lock import sweep_lock\n"
            "with sweep_lock(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(600)",
            str(sweep.store.wandb / "mirror.lock"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        with bad_servers.server_that_answers(500) as url:
            monkeypatch.setenv("WANDB_BASE_URL", url)
            done = sync(sweep.file, sweep.results)
        assert done.returncode == 2
        assert "is being run by process" in done.stderr
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_sync_without_a_key(sweep: WrittenSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    sweep.complete([0])
    done = sync(sweep.file, sweep.results)
    assert done.returncode == 2
    assert "got no API key for api.wandb.ai; expected one in WANDB_API_KEY or ~/.netrc" in done.stderr


def test_the_end_is_not_waited_for_longer_than_that() -> None:
    assert supervision.END_UNWELL_WITHIN_S <= 1
    assert supervision.END_WITHIN_S <= 10
