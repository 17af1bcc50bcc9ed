"""Processes that a killed mirror has left are found by their environment, and no others."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.tracking.leftover_processes import (
    VARIABLE,
    end_leftover_processes,
    has_descendants,
    mark_descendants,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen[bytes]], folder: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, as wandb-core is."""
    mark_descendants(folder)
    command = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    started.append(subprocess.Popen(command, start_new_session=True))
    return started[-1]


def test_they_are_ended(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "mine2"
    assert not has_descendants(mine)
    left, others = start(started, mine), start(started, other)
    assert has_descendants(mine)
    end_leftover_processes(mine)
    assert left.wait(timeout=60) == -signal.SIGKILL
    assert not has_descendants(mine)
    assert others.poll() is None
    end_leftover_processes(mine)
