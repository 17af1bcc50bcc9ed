from __future__ import annotations

from pathlib import Path

import pytest
from simulated_driver import GIB, SimulatedDriver, a100

from experiments import local_monitor
from experiments.claims import SharedClaims
from experiments.device_monitor import Claim, DeviceMonitor
from experiments.devices import visible_gpus
from experiments.local_monitor import HOST, LocalMonitor
from experiments.slots import Slot


def test_reads_the_gpus_and_the_main_memory() -> None:
    driver = SimulatedDriver(a100(0, used=GIB), a100(1))
    monitor: DeviceMonitor = LocalMonitor(visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, driver).gpus, driver)
    found = monitor.read()
    assert list(found) == [f"/{a100(1).uuid}", HOST]
    assert found[HOST].total_bytes > found[HOST].used_bytes > 0
    assert Slot(index=0, visible_devices="", threads=1).device == HOST


def test_where_the_main_memory_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_monitor, "main_memory", lambda: None)
    assert LocalMonitor().read() == {}


def test_monitors_of_two_sweeps_agree(tmp_path: Path) -> None:
    one, other = (LocalMonitor(shared=SharedClaims(tmp_path / "shared")) for _ in range(2))
    with one.claims() as claims:
        assert claims is not None
        claims.publish({"/GPU-1": Claim(promised_bytes=5, used_bytes=2)})
    with other.claims() as claims:
        assert claims is not None
        assert claims.of_others == {"/GPU-1": Claim(promised_bytes=5, used_bytes=2)}
    one.close()
    with other.claims() as claims:
        assert claims is not None
        assert claims.of_others == {}
    other.close()
