from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.lock import sweep_lock

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
        with sweep_lock(path):
            assert path.read_text().startswith("process ")
            assert str(child.pid) not in path.read_text().split()


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
