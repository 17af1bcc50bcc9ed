"""The real command with its study in a real PostgreSQL server, which goes away in mid-sweep."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from postgres_server import PASSWORD, PostgresServer
from real_sweep import Sweep, all_gone, undisturbed_sweep

from wsol.data.digits import generate

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="waits on process descriptors"),
]
AT_MOST_S = 150.0
LRS = (1e-3, 3e-3, 1e-2)

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 4, pictures: 1}
search:
  - zip: {train.lr: [1.0e-3, 3.0e-3, 1.0e-2], train.epochs: [2, 6, 2]}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=8, val=4, test=1, image_px=48)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Sweep]:
    """On SQLite. What every sweep below must come to."""
    with undisturbed_sweep(tmp_path_factory.mktemp("undisturbed"), root, SPEC) as sweep:
        yield sweep


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    if not postgres.is_running:
        postgres.start()


@pytest.fixture
def url(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    database = server.new_database()
    monkeypatch.setenv("WSOL_STORAGE", server.url(database, password=""))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return server.url(database)


@pytest.fixture
def make_sweep(tmp_path: Path, root: Path) -> Iterator[Callable[[], Sweep]]:
    sweeps: list[Sweep] = []

    def make() -> Sweep:
        sweeps.append(Sweep(tmp_path / "sweep", root, SPEC))
        return sweeps[-1]

    yield make
    for sweep in sweeps:
        sweep.clean_up()


def in_study(url: str) -> list[tuple[int, str, float | None]]:
    """Number, state and value of every trial, as any reader of Optuna sees them."""
    storage = optuna.storages.RDBStorage(url)
    try:
        (name,) = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=name, storage=storage).trials
        return [(trial.user_attrs["trial"], trial.state.name, trial.value) for trial in trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def is_the_same(sweep: Sweep, undisturbed: Sweep, url: str) -> None:
    """Every trial once, in the tables and in the study."""
    assert sweep.outcome() == undisturbed.outcome()
    assert (sweep.folder / "per_class_ap.csv").read_bytes() == (undisturbed.folder / "per_class_ap.csv").read_bytes()
    assert [len(sweep.epochs(number)) for number in range(len(LRS))] == [2, 6, 2]
    found = in_study(url)
    assert sorted(found) == [(n, "COMPLETE", sweep.metrics(n)["ap50_11pt/mean"]) for n in range(len(LRS))]


def test_restarted_and_killed_in_mid_sweep(
    make_sweep: Callable[[], Sweep], undisturbed: Sweep, server: PostgresServer, url: str
) -> None:
    sweep = make_sweep()
    runner = sweep.start()
    runner.until(r"^trial 0 epoch 1/")
    others = runner.processes() - {runner.process.pid}
    assert len(others) >= 3, "a fork server, and attempts"
    for variable in (b"WSOL_STORAGE=", b"PGPASSWORD="):
        assert not [pid for pid in others if variable in Path(f"/proc/{pid}/environ").read_bytes()]
    server.restart()
    runner.until(r"^trial 2 starts on ")
    server.kill()
    runner.until(r"^paused: the database does not answer \(.*Connection refused\); nothing is lost")
    server.start()
    assert runner.end() == 0, runner.output + runner.errors
    assert runner.output.count("paused: ") == 1
    assert runner.output.count("the database answers again: going on") == 1
    assert runner.errors == ""
    is_the_same(sweep, undisturbed, url)
    assert {row["attempts"] for row in sweep.rows()} == {"1"}
    assert not (sweep.folder / "study.db").exists()


def test_a_runner_that_is_killed_while_it_waits(
    make_sweep: Callable[[], Sweep], undisturbed: Sweep, server: PostgresServer, url: str
) -> None:
    """What trains goes on to its end meanwhile, with nobody to tell."""
    sweep = make_sweep()
    runner = sweep.start()
    runner.until(r"^trial 1 epoch 1/")
    process = os.pidfd_open(sweep.process_of(1))
    server.kill()
    runner.until(r"^paused: the database does not answer ")
    ended, _, _ = select.select([process], [], [], AT_MOST_S)
    os.close(process)
    assert ended
    runner.process.kill()
    assert all_gone(runner, within_s=AT_MOST_S)
    before = sweep.results_as_written()
    assert len(before) == 2
    status, refused = sweep.run()
    assert status == 2
    killed = f"process {runner.process.pid} on {os.uname().nodename}"
    assert refused.lines == [
        f"the run before ({killed}) was ended before it could give the sweep back; going on from there"
    ]
    assert "is the server running, and are host and port right?" in refused.errors
    server.start()
    status, again = sweep.run()
    assert status == 0, again.errors
    assert {name: sweep.results_as_written()[name] for name in before} == before
    is_the_same(sweep, undisturbed, url)
    assert {row["attempts"] for row in sweep.rows()} == {"1"}


def test_a_stop_while_it_waits_saves_what_trains(
    make_sweep: Callable[[], Sweep],
    undisturbed: Sweep,
    server: PostgresServer,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then the sweep goes on with a file, and with the database again."""
    sweep = make_sweep()
    runner = sweep.start()
    runner.until(r"^trial 1 epoch 1/")
    server.kill()
    runner.until(r"^paused: the database does not answer ")
    runner.signal(signal.SIGINT)
    assert runner.end() == 130, runner.output + runner.errors
    assert runner.lines[-1] == "stopping: running trials save and end"
    assert runner.errors == "interrupted\n"
    assert all_gone(runner, within_s=AT_MOST_S)
    monkeypatch.delenv("WSOL_STORAGE")
    status, again = sweep.run()
    assert status == 0, again.errors
    assert "was kept in a database before (--storage); its study goes on in " in again.output
    file = f"sqlite:///{sweep.folder / 'study.db'}"
    is_the_same(sweep, undisturbed, file)
    server.start()
    status, back = sweep.run("--storage", url)
    assert status == 0
    assert " starts on " not in back.output
    is_the_same(sweep, undisturbed, url)


def test_a_study_in_an_emptied_database_is_made_from_the_folders(
    make_sweep: Callable[[], Sweep], undisturbed: Sweep, url: str
) -> None:
    """Also of a sweep that was run on SQLite."""
    sweep = make_sweep()
    shutil.copytree(undisturbed.folder, sweep.folder)
    status, runner = sweep.run()
    assert status == 0, runner.errors
    assert runner.lines[0] == "sweep digits: 3 trials, 3 finished before, 0 to run"
    is_the_same(sweep, undisturbed, url)
