"""An executor that is listened to while the runner waits for something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.executors.attended import LISTEN_S, AttendedExecutor
from experiments.executors.base import AttemptEnded, AttemptRequest, Event, SignOfLife
from experiments.slots import Slot, cpu_slots


class Scripted:
    """An executor on which things happen as they are written down. Each call of `wait` takes its time."""

    def __init__(self, *script: list[Event]) -> None:
        self.slots: Sequence[Slot] = cpu_slots(3, cores=3)
        self.now = 0.0
        self.did: list[str] = []
        self._script = list(script)

    def launch(self, request: AttemptRequest) -> None:
        self.did.append(f"launch {request.number}")

    def wait(self, timeout_s: float) -> list[Event]:
        self.now += timeout_s
        return self._script.pop(0) if self._script else []

    def stop(self, number: int) -> None:
        self.did.append(f"stop {number}")

    def dump_stacks(self, number: int) -> None:
        self.did.append(f"dump {number}")

    def kill(self, number: int) -> None:
        self.did.append(f"kill {number}")

    def close(self) -> None:
        self.did.append("close")


def attended(scripted: Scripted, *, running: Sequence[int] = ()) -> AttendedExecutor:
    executor = AttendedExecutor(scripted, clock=lambda: scripted.now)
    for number in running:
        executor.launch(AttemptRequest(number, "", 1, {}, Path(), scripted.slots[0]))
    return executor


def sign(number: int) -> SignOfLife:
    return SignOfLife(number, 60.0)


def test_it_is_the_other_one() -> None:
    scripted = Scripted([sign(1)])
    executor = attended(scripted, running=[1])
    assert executor.slots is scripted.slots
    assert executor.wait(0.5) == [sign(1)]
    assert scripted.now == 0.5
    executor.stop(1)
    executor.dump_stacks(1)
    executor.kill(1)
    executor.close()
    assert scripted.did == ["launch 1", "stop 1", "dump 1", "kill 1", "close"]


def test_what_happens_meanwhile_comes_first_and_in_order() -> None:
    scripted = Scripted([sign(1)], [sign(2), AttemptEnded(1, 0)], [sign(2)], [sign(2)])
    executor = attended(scripted, running=[1, 2])
    executor.pass_time(0.0)
    assert scripted.now == 0.0
    for _ in range(2):
        executor.pass_time(2.0)
    assert scripted.now == 4.0
    assert executor.wait(0.5) == [sign(1), sign(2), AttemptEnded(1, 0), sign(2)]  # with what is there by now
    assert scripted.now == 4.0, "it was not waited for more"
    assert executor.wait(0.5) == [sign(2)]
    assert scripted.now == 4.5


def test_all_that_runs_may_save() -> None:
    scripted = Scripted([AttemptEnded(1, 0)], [sign(2)], [AttemptEnded(2, 0)])
    executor = attended(scripted, running=[1, 2, 3])
    executor.pass_time(LISTEN_S)
    executor.launch(AttemptRequest(4, "", 1, {}, Path(), scripted.slots[0]))
    scripted.did.clear()
    executor.save_all(within_s=9.0, at_once=lambda: False)
    assert sorted(scripted.did) == ["stop 2", "stop 3", "stop 4"]
    assert scripted.now == LISTEN_S + 9.0, "two are left to be killed"


def test_it_takes_no_longer_than_they_do() -> None:
    scripted = Scripted([sign(2)], [AttemptEnded(2, 0)])
    attended(scripted, running=[2]).save_all(within_s=9.0, at_once=lambda: False)
    assert scripted.now == 2 * LISTEN_S


def test_nobody_waits_for_it_who_has_no_patience() -> None:
    scripted = Scripted()
    attended(scripted, running=[2]).save_all(within_s=9.0, at_once=lambda: scripted.now >= 1.0)
    assert scripted.did == ["launch 2", "stop 2"]
    assert scripted.now == 1.0


def test_nothing_that_runs_needs_no_time() -> None:
    scripted = Scripted()
    attended(scripted).save_all(within_s=9.0, at_once=lambda: False)
    assert scripted.now == 0.0
