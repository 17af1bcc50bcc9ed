"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from postgres_server import PostgresServer, binaries

if TYPE_CHECKING:
    from ray_cluster import RayCluster

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # So a shell starts what it runs in the background, and every process below inherits it: no test of an interrupt
    # could pass.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise, under nohup

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real photographs, AP vectors and ImageNet weights kept beside the repository, never in it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` (photographs, AP vectors, weights) beside the repository")
    return folder


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own cache."""
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path_factory.getbasetemp() / "wsol-cache"))


@pytest.fixture(scope="session", autouse=True)
def no_key_of_wandb() -> Iterator[None]:
    """No test sends anything to the account of who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("NETRC", os.devnull)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests: each makes a database of its own in it."""
    if binaries() is None:
        pytest.skip("needs the programs of a PostgreSQL server (Debian: apt-get install postgresql)")
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One for all tests, as it takes seconds. It has a node with one core; a test adds more, and takes them away."""
    from ray_cluster import RayCluster

    cluster = RayCluster()
    yield cluster
    cluster.shutdown()
