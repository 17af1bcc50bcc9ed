"""Main memory of a process and of what came of it, seen on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.host_memory import COST, EVERY_S, PeakMemory, tree_bytes

MB = 2**20
LARGE = 200 * MB

on_linux = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell the shares of shared pages"
)

HOLDS = f"""
import sys
held = bytearray(b"x") * {LARGE}
print("there", flush=True)
sys.stdin.read()
"""

FORKS = f"""
import os, sys
held = bytearray(b"x") * {LARGE}
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str) -> Iterator[tuple[int, str]]:
    """A process that runs `program` until its input ends, and its first line."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline()
        assert process.stdin is not None
        process.stdin.close()


@on_linux
def test_what_a_child_touches_counts() -> None:
    before = tree_bytes(os.getpid())
    with running(HOLDS) as (child, _):
        own = tree_bytes(child)
        assert LARGE < own < LARGE + 50 * MB
        assert 0.9 * own < tree_bytes(os.getpid()) - before < 1.1 * own + 20 * MB


@on_linux
def test_shared_pages_count_by_their_share() -> None:
    with running(FORKS) as (parent, child):
        assert LARGE / 2 < tree_bytes(int(child)) < LARGE / 2 + 50 * MB
        assert LARGE < tree_bytes(parent) < LARGE + 50 * MB, "once, for both"


def test_nothing_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert tree_bytes(1, proc=tmp_path) == 0


def test_of_the_whole_tree(tmp_path: Path) -> None:
    """2 has the children 3 and 4 of two threads, 4 has 5; 3 has ended meanwhile; 6 is another's."""
    for process, kilobytes in [(2, 1), (4, 10), (5, 100), (6, 1000)]:
        thread = tmp_path / str(process) / "task" / str(process)
        thread.mkdir(parents=True)
        (thread / "children").write_text({2: "3 ", 4: "5 "}.get(process, ""))
        rollup = f"55d-7ff ---p 0 00:00 0 [rollup]\nRss: 5000 kB\nPss:   {kilobytes} kB\nPss_Anon: 7 kB\n"
        (tmp_path / str(process) / "smaps_rollup").write_text(rollup)
    (tmp_path / "2" / "task" / "20").mkdir()
    (tmp_path / "2" / "task" / "20" / "children").write_text("4 ")
    assert tree_bytes(2, proc=tmp_path) == 111 * 1024


class TestPeak:
    """How often it looks, and what it keeps."""

    def peak(self, costs_s: float = 0.0) -> PeakMemory:
        self.now, self.looks, self.memory = 100.0, 0, 10

        def read() -> int:
            self.looks += 1
            self.now += costs_s
            return self.memory

        return PeakMemory(read=read, clock=lambda: self.now)

    def test_it_never_shrinks(self) -> None:
        peak = self.peak()
        for self.memory in (10, 30, 20):
            peak.look()
        assert (peak.peak_bytes, self.looks) == (30, 3)

    def test_steps_look_now_and_then(self) -> None:
        peak = self.peak()
        peak.look_now_and_then()
        assert self.looks == 0, "what is there before the first step says little"
        self.now += EVERY_S
        peak.look_now_and_then()
        self.now += EVERY_S - 0.25
        peak.look_now_and_then()
        assert self.looks == 1
        self.now += 0.25
        peak.look_now_and_then()
        assert self.looks == 2

    def test_looking_takes_little_of_the_time(self) -> None:
        peak = self.peak(costs_s=0.5)
        peak.look()
        self.now += 0.5 / COST - 0.25
        peak.look()
        peak.look_now_and_then()
        assert self.looks == 1
        self.now += 0.25
        peak.look()
        assert self.looks == 2
        peak.look(whatever_it_costs=True)
        assert self.looks == 3

    def test_of_this_process_unless_told_otherwise(self) -> None:
        peak = PeakMemory()
        peak.look()
        assert peak.peak_bytes > 0 or not Path("/proc/self/smaps_rollup").exists()
