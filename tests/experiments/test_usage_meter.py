"""When an attempt tells what it takes, and what it says."""

from __future__ import annotations

import pytest

from experiments.footprint import Usage
from experiments.host_memory import PeakMemory
from experiments.usage_meter import PROBE_STEPS, UsageMeter


class Machine:
    """Memory as a test says; looking at it takes no time, so that every look is allowed."""

    def __init__(self) -> None:
        self.device = self.host = 1000
        self.told: list[Usage] = []

    def meter(self) -> UsageMeter:
        host = PeakMemory(read=lambda: self.host, clock=lambda: 0.0)
        return UsageMeter(device_bytes=lambda: self.device, host=host, tell=self.told.append)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def train(meter: UsageMeter, seconds: list[float]) -> None:
    for each in seconds:
        meter.step_begins()
        meter.trained(each)


def test_it_is_told_once_after_the_steps_of_a_probe(machine: Machine) -> None:
    meter = machine.meter()
    train(meter, [0.2] * (PROBE_STEPS - 1))
    assert machine.told == []
    train(meter, [9.0])
    assert machine.told == [Usage(device_bytes=1000, host_bytes=1000, step_s=0.2)]
    train(meter, [0.2] * PROBE_STEPS * 2)
    meter.pass_ends("training")
    assert len(machine.told) == 1


def test_it_is_told_after_a_shorter_first_pass(machine: Machine) -> None:
    meter = machine.meter()
    train(meter, [0.1, 0.3])
    meter.pass_ends("training")
    assert machine.told == [Usage(device_bytes=1000, host_bytes=1000, step_s=0.2)]
    train(meter, [0.1] * PROBE_STEPS)
    meter.pass_ends("training")
    assert len(machine.told) == 1


def test_what_is_told_first_is_looked_at_whatever_that_costs() -> None:
    memory = iter([(10.0, 1000), (20.0, 3000), (30.0, 5000)])  # each look takes ten seconds
    now, told = [0.0], []

    def read() -> int:
        now[0], bytes_there = next(memory)
        return bytes_there

    host = PeakMemory(read=read, clock=lambda: now[0])
    meter = UsageMeter(device_bytes=lambda: 0, host=host, tell=told.append)
    meter.pass_ends("rehearsal")
    train(meter, [0.1])
    meter.pass_ends("training")
    meter.pass_ends("evaluation")
    meter.pass_ends("evaluation")
    assert [usage.host_bytes for usage in told] == [3000, 5000]


def test_a_rehearsal_alone_tells_nothing_but_its_peak_counts(machine: Machine) -> None:
    meter = machine.meter()
    machine.host = 5000
    meter.pass_ends("rehearsal")
    assert machine.told == []
    machine.host = 10
    train(meter, [0.1])
    meter.pass_ends("training")
    assert machine.told == [Usage(device_bytes=1000, host_bytes=5000, step_s=0.1)]


def test_it_is_told_after_the_first_evaluation_whatever_it_took(machine: Machine) -> None:
    meter = machine.meter()
    meter.pass_ends("evaluation")
    assert machine.told == [Usage(device_bytes=1000, host_bytes=1000, step_s=0.0)]
    meter.pass_ends("evaluation")
    assert len(machine.told) == 1


@pytest.mark.parametrize(("device", "host", "told"), [(1050, 1050, 1), (1051, 1000, 2), (1000, 1051, 2), (1, 1, 1)])
def test_at_the_end_of_an_epoch_what_has_grown_is_told(machine: Machine, device: int, host: int, told: int) -> None:
    meter = machine.meter()
    train(meter, [0.1])
    meter.pass_ends("training")
    machine.device, machine.host = max(device, 1000), host
    meter.pass_ends("training")
    usage = meter.epoch_ends()
    assert usage == Usage(device_bytes=max(device, 1000), host_bytes=max(host, 1000), step_s=0.1)
    assert len(machine.told) == told
    assert meter.epoch_ends() == machine.told[-1] or told == 1
    assert len(machine.told) == told, "the same is not told twice"


def test_an_epoch_without_a_measurement_before_it_is_told(machine: Machine) -> None:
    assert machine.meter().epoch_ends() == Usage(device_bytes=1000, host_bytes=0, step_s=0.0)
    assert len(machine.told) == 1
