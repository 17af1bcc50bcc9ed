from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.lock import Holder, sweep_lock, this_process

REPOSITORY = Path(__file__).resolve().parents[2]

HOLDER = """
import sys
from pathlib import Path
from experiments.lock import sweep_lock
with sweep_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env={"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


def test_another_process_is_named_and_its_death_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / "runner.lock"
    with another_process_holding(path) as child:
        with (
            pytest.raises(UserError, match=rf"sweep: this sweep is being run by process {child.pid} on .+; wait"),
            sweep_lock(path),
        ):
            pytest.fail("two processes hold the lock")
        child.kill()
        child.wait()
        told: list[str] = []
        with sweep_lock(path, say=told.append):
            assert json.loads(path.read_text()) == asdict(this_process())
        assert told == [
            f"the run before (process {child.pid} on {socket.gethostname()}) was ended before it could give the sweep"
            " back; going on from there"
        ]
        with sweep_lock(path, say=told.append):
            pass
        assert len(told) == 1, "it was given back"


def test_is_given_back_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "runner.lock"
    for _ in range(2):
        with sweep_lock(path):
            assert len(path.read_text().splitlines()) == 1


def test_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "runner.lock"
    with pytest.raises(RuntimeError, match="inside"), sweep_lock(path):
        raise RuntimeError("inside")
    with sweep_lock(path):
        pass


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "runner.lock"
    with sweep_lock(path), pytest.raises(UserError, match="is being run by process"), sweep_lock(path):
        pytest.fail("held twice")


def test_two_sweeps_do_not_meet(tmp_path: Path) -> None:
    with sweep_lock(tmp_path / "a" / "runner.lock"), sweep_lock(tmp_path / "b" / "runner.lock"):
        pass


@pytest.mark.parametrize("folder", ["/dev/null/sweep", "/proc/sweep"])
def test_a_folder_that_cannot_be_written(folder: str) -> None:
    with (
        pytest.raises(UserError, match=rf"^{folder}: cannot be used for results: "),
        sweep_lock(Path(folder) / "x.lock"),
    ):
        pytest.fail("no lock was taken")


class TestWithoutLocksOfTheFileSystem:
    """What the file says is all there is."""

    @pytest.fixture(autouse=True)
    def _no_locks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_file: int, _how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)

    def _write(self, path: Path, holder: Holder) -> None:
        path.write_text(json.dumps(asdict(holder)))

    def test_one_that_is_alive_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "runner.lock"
        self._write(path, this_process())
        with pytest.raises(UserError, match=f"is being run by process {os.getpid()} on "), sweep_lock(path):
            pytest.fail("held twice")
        assert json.loads(path.read_text())["pid"] == os.getpid(), "the refused one has written nothing"

    @pytest.mark.parametrize(
        "change", [{"start_time": 1}, {"boot": "another"}, {"pid": 2**22 + 1}], ids=["pid reused", "rebooted", "gone"]
    )
    def test_a_stale_one_is_taken_over(self, tmp_path: Path, change: dict[str, int | str]) -> None:
        path = tmp_path / "runner.lock"
        self._write(path, replace(this_process(), **change))  # type: ignore[arg-type]
        told: list[str] = []
        with sweep_lock(path, say=told.append):
            assert json.loads(path.read_text()) == asdict(this_process())
        assert len(told) == 1

    def test_that_of_another_machine_is_not_guessed_at(self, tmp_path: Path) -> None:
        path = tmp_path / "runner.lock"
        self._write(path, replace(this_process(), host="elsewhere"))
        expected = rf"may still be run by process {os.getpid()} on elsewhere, .*; if it has ended, remove {path}$"
        with pytest.raises(UserError, match=expected), sweep_lock(path):
            pytest.fail("it may be alive")

    @pytest.mark.parametrize("text", ["", "{", "process 12 on here", "[]"])
    def test_a_torn_file_holds_nothing(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "runner.lock"
        path.write_text(text)
        with sweep_lock(path):
            pass
