"""Sweeps of one machine share a GPU without over-committing it, whichever of them is killed or stopped, and when."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from claiming_sweep import CAPACITY, GPU

from experiments.claims import SharedClaims

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tests" / "support" / "claiming_sweep.py"


class Machine:
    """Sweeps that claim memory of one GPU, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.audit = folder / "shared", folder / "audit"
        self.audit.touch()
        self._rounds, self._told = os.pipe()
        self.sweeps: list[subprocess.Popen[bytes]] = []

    def start(self, mode: str = "loop", *, user: int | None = None) -> subprocess.Popen[bytes]:
        uid = os.geteuid() if user is None else user
        command = [sys.executable, str(SCRIPT), str(self.folder), str(self.audit), mode, str(uid)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        sweep = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=self._told)
        self.sweeps.append(sweep)
        return sweep

    def await_rounds(self, count: int) -> None:
        """Until the sweeps have promised so many more times, all together."""
        while count > 0:
            count -= len(os.read(self._rounds, count))

    def await_all(self) -> None:
        """Until each one that runs has promised."""
        while {sweep.pid for sweep in self.sweeps} - {pid for what, pid, *_ in self.log() if what == "out"}:
            self.await_rounds(1)

    def kill(self, sweep: subprocess.Popen[bytes]) -> None:
        """Between the two lines that say so it may be either dead or alive."""
        self._write(f"kill {sweep.pid}")
        _end(sweep)
        self._write(f"dead {sweep.pid}")
        self.sweeps.remove(sweep)

    def end(self) -> None:
        """All end by themselves."""
        for sweep in self.sweeps:
            assert sweep.stdin is not None
            sweep.stdin.close()
        assert [sweep.wait() for sweep in self.sweeps] == [0] * len(self.sweeps)
        self.sweeps.clear()

    def close(self) -> None:
        for sweep in self.sweeps:
            _end(sweep)
        os.close(self._rounds)
        os.close(self._told)

    def log(self) -> list[tuple[str, int, *tuple[int, ...]]]:
        lines = [line.split() for line in self.audit.read_text().splitlines()]
        return [(what, int(pid), *map(int, numbers)) for what, pid, *numbers in lines]

    def others(self) -> int:
        """What a sweep that begins now sees promised."""
        with SharedClaims(self.folder, wait_s=60.0).taken() as claims:
            assert claims is not None
            return claims.of_others[GPU].promised_bytes if claims.of_others else 0

    def _write(self, line: str) -> None:
        with self.audit.open("a") as file:
            file.write(f"{line}\n")


def _end(sweep: subprocess.Popen[bytes]) -> None:
    assert sweep.stdin is not None
    sweep.kill()
    sweep.wait()
    sweep.stdin.close()


def check(log: list[tuple[str, int, *tuple[int, ...]]]) -> dict[int, int]:
    """Replays what was done: one at a time, never too much, and nothing forgotten. Returns each one's rounds."""
    promised: dict[int, int] = {}
    rounds: dict[int, int] = {}
    dying: set[int] = set()
    in_doubt: set[int] = set()  # those that were dying at some time since the last one went out
    inside: int | None = None
    for what, pid, *numbers in log:
        if what == "in":
            assert inside is None or inside in dying, f"{pid} came in while {inside} was in"
            inside = pid
        elif what == "out":
            assert inside == pid, f"{pid} was not in"
            inside = None
            own, seen = numbers
            others = sum(size for other, size in promised.items() if other not in {pid, *in_doubt})
            assert others <= seen <= CAPACITY, "a living sweep's promise was not seen"
            assert in_doubt or seen == others, "a dead sweep's promise was seen"
            in_doubt = set(dying)
            promised[pid], rounds[pid] = own, rounds.get(pid, 0) + 1
            assert others + own <= CAPACITY, "too much was promised"
        elif what == "kill":
            dying.add(pid)
            in_doubt.add(pid)
        elif what == "dead":
            dying.discard(pid)
            promised.pop(pid, None)
            inside = None if inside == pid else inside
    return rounds


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    with contextlib.closing(made):
        yield made


def test_two_sweeps_share_and_take_turns(machine: Machine) -> None:
    machine.start(), machine.start()
    machine.await_all()
    machine.await_rounds(800)
    machine.end()
    rounds = check(machine.log())
    assert len(rounds) == 2
    assert min(rounds.values()) > 80, "one of them starves"
    for pid in rounds:
        own = [numbers[0] for what, who, *numbers in machine.log() if (what, who) == ("out", pid)]
        assert sum(size > CAPACITY / 4 for size in own) > 10, "it never gets a fair share"


def test_five_sweeps_that_are_killed_at_any_instant(machine: Machine) -> None:
    rng = random.Random(0)
    for _ in range(5):
        machine.start()
    machine.await_all()
    for _ in range(8):
        machine.await_rounds(rng.randrange(1, 60))
        machine.kill(rng.choice(machine.sweeps))
        if len(machine.sweeps) < 3:
            machine.start(), machine.start()
    machine.await_all()
    machine.await_rounds(50)
    survivors = {sweep.pid for sweep in machine.sweeps}
    rounds = check(machine.log())
    assert survivors <= rounds.keys()
    for sweep in list(machine.sweeps):
        machine.kill(sweep)
    assert machine.others() == 0
    assert [path.name for path in machine.folder.iterdir()] == ["README"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
def test_sweeps_of_different_users() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Machine(Path(folder))) as machine:
        Path(folder).chmod(0o1777)  # as /tmp
        nobody, somebody, root = (machine.start(user=uid) for uid in (65534, 54321, 0))
        machine.await_all()
        machine.await_rounds(50)
        assert {file.stat().st_uid for file in machine.folder.glob("sweep-*")} == {65534, 54321, 0}
        machine.kill(somebody)
        machine.await_rounds(20)
        for sweep in (nobody, root):
            machine.kill(sweep)
        assert len(check(machine.log())) == 3
        assert machine.others() == 0


def test_one_that_is_stopped_with_the_lock_holds_nobody_for_ever(machine: Machine) -> None:
    stopped = machine.start("stop")
    assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
    impatient = SharedClaims(machine.folder, wait_s=0.05)
    for _ in range(2):
        with impatient.taken() as claims:
            assert claims is None, "conservative: nothing starts"
    os.kill(stopped.pid, signal.SIGCONT)
    machine.await_rounds(1)
    machine.end()
    check(machine.log())


def test_the_death_of_one_that_is_stopped_gives_the_lock_back(machine: Machine) -> None:
    stopped = machine.start("stop")
    assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
    machine.kill(stopped)
    with SharedClaims(machine.folder, wait_s=0.0).taken() as claims:
        assert claims is not None
        assert claims.of_others == {}


def test_what_a_sweep_started_does_not_keep_its_promises(machine: Machine) -> None:
    sweep = machine.start("child")
    machine.await_rounds(3)
    ((_, child),) = [line for line in machine.log() if line[0] == "child"]
    os.kill(child, signal.SIGSTOP)  # so that it outlives its parent, whose end closes its standard input
    try:
        machine.kill(sweep)
        assert machine.others() == 0
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
