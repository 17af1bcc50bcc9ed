from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest
from simulated_driver import GIB, IS_LOST, SimulatedDriver, SimulatedGpu, a100, in_mig_mode, mig

from experiments import gpu_memory
from experiments.devices import visible_gpus
from experiments.gpu_memory import GpuMemory
from experiments.placement import Reading
from experiments.slots import Slot

COMPUTE, GRAPHICS, MPS = (f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "Graphics", "MPSCompute"))


def memory_of(driver: SimulatedDriver, *, in_container: bool = False, proc: Path = Path("/proc")) -> GpuMemory:
    return GpuMemory(visible_gpus({}, driver).gpus, driver, in_container=in_container, proc=proc)


def reading(gpu: SimulatedGpu, *, in_container: bool = False, proc: Path = Path("/proc")) -> Reading:
    (found,) = memory_of(SimulatedDriver(gpu), in_container=in_container, proc=proc).read().values()
    return found


def test_every_gpu_by_the_key_of_its_slots() -> None:
    driver = SimulatedDriver(a100(0, used=3 * GIB, utilisation=97, processes={7: GIB, 8: 2 * GIB}), a100(1))
    found = memory_of(driver).read()
    first, second = (Slot(index=0, visible_devices=gpu.uuid, threads=1).device for gpu in driver.gpus)
    assert found == {
        first: Reading(80 * GIB, 3 * GIB, by_process={7: GIB, 8: 2 * GIB}, utilisation=0.97),
        second: Reading(80 * GIB, 0, by_process={}, utilisation=0.0),
    }


def test_it_is_read_anew_each_time() -> None:
    driver = SimulatedDriver(a100(0))
    memory, key = memory_of(driver), f"/{a100(0).uuid}"
    for used in (0, 5, 3):
        driver.gpus[0].used = used
        assert memory.read()[key].used_bytes == used


def test_an_instance_has_a_share_and_no_utilisation() -> None:
    driver = SimulatedDriver(in_mig_mode(0, mig(0, (3, 0), used=GIB, processes={5: GIB}), mig(1, (4, 0))))
    found = memory_of(driver).read()
    assert list(found) == [f"/{mig(number, (0, 0)).uuid}" for number in (0, 1)]
    assert found[f"/{mig(0, (0, 0)).uuid}"] == Reading(10 * GIB, GIB, by_process={5: GIB}, utilisation=None)


class TestProcesses:
    def test_of_all_kinds(self) -> None:
        gpu = a100(0, processes={1: GIB, 2: 2 * GIB}, graphics={2: 2 * GIB, 3: 5}, mps={4: 6})
        assert reading(gpu).by_process == {1: GIB, 2: 2 * GIB, 3: 5, 4: 6}

    @pytest.mark.parametrize("kind", ["processes", "graphics", "mps"])
    def test_one_whose_memory_is_not_told(self, kind: str) -> None:
        assert reading(a100(0, **{"processes": {1: GIB}, kind: {2: None}})).by_process is None

    def test_that_cannot_be_listed(self) -> None:
        assert reading(a100(0, unsupported={COMPUTE}, graphics={3: 5})).by_process is None
        mismatch = pynvml.NVMLLibraryMismatchError("old driver")
        assert reading(a100(0, errors={COMPUTE: mismatch})).by_process is None

    def test_on_a_gpu_without_graphics_or_mps(self) -> None:
        gpu = a100(0, processes={1: GIB}, unsupported={GRAPHICS}, errors={MPS: pynvml.NVMLLibraryMismatchError("")})
        assert reading(gpu).by_process == {1: GIB}


class TestInAContainer:
    """Process ids may be the host's."""

    @pytest.fixture
    def proc(self, tmp_path: Path) -> Path:
        """Process 11 has a GPU open, 12 has other files, 13 may not be looked at."""
        for pid, target in ((11, "/dev/nvidia0"), (12, "/dev/null")):
            folder = tmp_path / str(pid) / "fd"
            folder.mkdir(parents=True)
            (folder / "0").symlink_to("/dev/null")
            (folder / "3").symlink_to(target)
        (tmp_path / "13").mkdir()
        return tmp_path

    @pytest.mark.parametrize(
        ("pids", "told"), [([11], True), ([], True), ([12], False), ([13], False), ([14], False), ([11, 14], False)]
    )
    def test_are_told_where_all_are_processes_here_that_have_a_gpu(
        self, proc: Path, pids: list[int], told: bool
    ) -> None:
        processes: dict[int, int | None] = dict.fromkeys(pids, GIB)
        found = reading(a100(0, used=9, processes=processes), in_container=True, proc=proc)
        assert found.by_process == (processes if told else None)
        assert found.used_bytes == 9

    def test_on_the_machine_itself_they_are_as_they_are(self, proc: Path) -> None:
        assert reading(a100(0, processes={14: GIB}), proc=proc).by_process == {14: GIB}

    def test_is_known_by_the_namespace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert gpu_memory._has_own_pids(tmp_path)  # not known
        (tmp_path / "self" / "ns").mkdir(parents=True)
        (tmp_path / "self" / "ns" / "pid").touch()
        assert gpu_memory._has_own_pids(tmp_path)
        inode = os.stat(tmp_path / "self" / "ns" / "pid").st_ino
        monkeypatch.setattr(gpu_memory, "_FIRST_PID_NAMESPACE", inode)
        assert not gpu_memory._has_own_pids(tmp_path)


class TestFaults:
    """A reading never fails: what cannot be read is missing."""

    def test_a_gpu_that_falls_off_the_bus_and_comes_back(self) -> None:
        driver = SimulatedDriver(a100(0), a100(1))
        memory = memory_of(driver)
        assert len(memory.read()) == 2
        driver.gpus[0].error = IS_LOST
        assert list(memory.read()) == [f"/{a100(1).uuid}"]
        driver.gpus[0].error = None
        assert len(memory.read()) == 2

    def test_an_instance_that_is_made_anew(self) -> None:
        old = mig(0, (3, 0))
        driver = SimulatedDriver(in_mig_mode(0, old))
        memory = memory_of(driver)
        assert len(memory.read()) == 1
        old.error = pynvml.NVML_ERROR_INVALID_ARGUMENT
        driver.gpus[0].instances = [mig(0, (3, 0), used=7)]
        assert memory.read() == {}
        assert [found.used_bytes for found in memory.read().values()] == [7]

    def test_a_gpu_that_has_the_hosts_memory(self) -> None:
        assert memory_of(SimulatedDriver(a100(0, unsupported={"nvmlDeviceGetMemoryInfo"}))).read() == {}

    def test_one_without_utilisation(self) -> None:
        assert reading(a100(0, unsupported={"nvmlDeviceGetUtilizationRates"})).utilisation is None

    def test_one_without_a_uuid(self) -> None:
        driver = SimulatedDriver(a100(0), a100(1, unsupported={"nvmlDeviceGetUUID"}, used=4))
        assert memory_of(driver).read()["/1"].used_bytes == 4

    def test_a_driver_that_does_not_start_any_more(self) -> None:
        driver = SimulatedDriver(a100(0))
        gpus = visible_gpus({}, driver).gpus
        driver.fault = pynvml.NVML_ERROR_UNKNOWN
        driver.gpus[0].error = pynvml.NVML_ERROR_UNINITIALIZED
        assert GpuMemory(gpus, driver).read() == {}

    def test_no_gpus(self) -> None:
        driver = SimulatedDriver(fault=pynvml.NVML_ERROR_UNKNOWN)
        assert GpuMemory([], driver).read() == {}
