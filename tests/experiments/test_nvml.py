"""What the sweep asks of nvidia-ml-py is what nvidia-ml-py has, and the simulated driver with it."""

from __future__ import annotations

import ctypes.util
import inspect
from pathlib import Path

import pynvml
import pytest
from simulated_driver import SimulatedDriver

from experiments.devices import visible_gpus
from experiments.gpu_memory import GpuMemory
from experiments.gpus import machine_cards
from experiments.nvml import Nvml, NvmlError, nvml_code, nvml_library, nvml_text

CALLS = [name for name in vars(Nvml) if name.startswith("nvml")]
HAS_DRIVER = ctypes.util.find_library("nvidia-ml") is not None


def parameters(function: object) -> list[inspect.Parameter]:
    assert callable(function)
    return [found for name, found in inspect.signature(function).parameters.items() if name != "self"]


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_the_librarys(call: str) -> None:
    ours, theirs = parameters(getattr(Nvml, call)), parameters(getattr(pynvml, call))
    assert [found.name for found in ours] == [found.name for found in theirs[: len(ours)]]
    assert all(found.default is not inspect.Parameter.empty for found in theirs[len(ours) :])


@pytest.mark.parametrize("call", CALLS)
def test_the_simulated_driver_has_them_too(call: str) -> None:
    assert [found.name for found in parameters(getattr(SimulatedDriver, call))] == [
        found.name for found in parameters(getattr(Nvml, call))
    ]


def test_there_are_calls() -> None:
    assert len(CALLS) == 17


def test_fields_that_are_read_are_the_librarys() -> None:
    assert {"total", "used"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}
    assert {"gpu"} <= {name for name, _ in pynvml.c_nvmlUtilization_t._fields_}
    assert {"pid", "usedGpuMemory"} <= {name for name, _ in pynvml.c_nvmlProcessInfo_t._fields_}


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has NVIDIA's library")
class TestWithoutADriver:
    def test_the_library_says_so(self) -> None:
        with pytest.raises(NvmlError, match="^NVML Shared Library Not Found$") as error:
            nvml_library().nvmlInit()
        assert nvml_code(error.value) == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        assert nvml_text(error.value) == "NVML: NVML Shared Library Not Found"

    def test_there_are_no_gpus(self, tmp_path: Path) -> None:
        found = machine_cards(nvml_library(), dev=tmp_path)
        assert (found.cards, found.none_because) == ((), "NVML: NVML Shared Library Not Found")

    def test_nothing_is_read(self) -> None:
        assert GpuMemory([]).read() == {}


def test_a_driver_that_is_older_than_a_call_has_no_code() -> None:
    error = pynvml.NVMLLibraryMismatchError("Unversioned function called.")
    assert isinstance(error, NvmlError)
    assert (nvml_code(error), nvml_text(error)) == (0, "NVML: Unversioned function called")


@pytest.mark.gpu
def test_the_gpus_of_this_machine() -> None:
    gpus = visible_gpus({}).gpus
    readings = GpuMemory(gpus).read()
    assert list(readings) == [gpu.device for gpu in gpus]
    for gpu in gpus:
        reading = readings[gpu.device]
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert 0 <= reading.used_bytes <= reading.total_bytes == gpu.memory_bytes
        assert reading.utilisation is None or 0 <= reading.utilisation <= 1
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": gpu.uuid}).gpus == (gpu,)
