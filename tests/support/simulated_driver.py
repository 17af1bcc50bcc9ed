"""An NVIDIA driver with GPUs that tests describe: `Nvml` with the errors and answers of the real library."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION


@dataclass
class SimulatedGpu:
    """A GPU, or an instance of one.

    Attributes:
        error: what every question to it is answered with, if anything.
        unsupported: calls that it does not support.
        errors: calls that fail in another way.
        processes, graphics, mps: bytes by process id; None: not told.
        instances: not None: it is in MIG mode. None among them: a place without one.
        ids: GPU and compute instance, of an instance.
    """

    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    total: int = 80 * GIB
    used: int = 0
    utilisation: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    graphics: dict[int, int | None] = field(default_factory=dict)
    mps: dict[int, int | None] = field(default_factory=dict)
    compute_mode: int = pynvml.NVML_COMPUTEMODE_DEFAULT
    instances: list[SimulatedGpu | None] | None = None
    ids: tuple[int, int] | None = None
    error: int | None = None
    unsupported: set[str] = field(default_factory=set)
    errors: dict[str, Exception] = field(default_factory=dict)


class SimulatedDriver:
    """See `Nvml`. `fault`: with which error it refuses to start."""

    def __init__(self, *gpus: SimulatedGpu, fault: int | None = None) -> None:
        self.gpus = list(gpus)
        self.fault = fault
        self.calls = 0
        self._is_up = False

    def nvmlInit(self) -> None:
        if self.fault is not None:
            raise pynvml.NVMLError(self.fault)
        self._is_up = True

    def nvmlDeviceGetCount(self) -> int:
        assert self._is_up
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedGpu:
        return self._answering(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimulatedGpu:
        parts = [part for gpu in self.gpus for part in gpu.instances or [] if part is not None]
        for gpu in [*self.gpus, *parts]:
            if gpu.uuid == uuid:
                return self._answering(gpu, "nvmlDeviceGetHandleByUUID")
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle: SimulatedGpu) -> str:
        return self._answering(handle, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetName(self, handle: SimulatedGpu) -> str:
        return self._answering(handle, "nvmlDeviceGetName").name

    def nvmlDeviceGetMemoryInfo(self, handle: SimulatedGpu) -> Any:
        gpu = self._answering(handle, "nvmlDeviceGetMemoryInfo")
        return pynvml.c_nvmlMemory_t(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetComputeMode(self, handle: SimulatedGpu) -> int:
        return self._answering(handle, "nvmlDeviceGetComputeMode").compute_mode

    def nvmlDeviceGetUtilizationRates(self, handle: SimulatedGpu) -> Any:
        gpu = self._answering(handle, "nvmlDeviceGetUtilizationRates")
        if gpu.ids is not None:
            raise pynvml.NVMLError(NOT_SUPPORTED)
        return pynvml.c_nvmlUtilization_t(gpu=gpu.utilisation, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: SimulatedGpu) -> list[Any]:
        return _listed(self._answering(handle, "nvmlDeviceGetComputeRunningProcesses").processes)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: SimulatedGpu) -> list[Any]:
        return _listed(self._answering(handle, "nvmlDeviceGetGraphicsRunningProcesses").graphics)

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: SimulatedGpu) -> list[Any]:
        return _listed(self._answering(handle, "nvmlDeviceGetMPSComputeRunningProcesses").mps)

    def nvmlDeviceGetMigMode(self, device: SimulatedGpu) -> list[int]:
        enabled = int(self._answering(device, "nvmlDeviceGetMigMode").instances is not None)
        return [enabled, enabled]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: SimulatedGpu) -> int:
        return len(self._answering(device, "nvmlDeviceGetMaxMigDeviceCount").instances or [])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: SimulatedGpu, index: int) -> SimulatedGpu:
        instance = (self._answering(device, "nvmlDeviceGetMigDeviceHandleByIndex").instances or [])[index]
        if instance is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self._answering(instance, "nvmlDeviceGetMigDeviceHandleByIndex")

    def nvmlDeviceGetGpuInstanceId(self, device: SimulatedGpu) -> int:
        assert device.ids is not None
        return device.ids[0]

    def nvmlDeviceGetComputeInstanceId(self, device: SimulatedGpu) -> int:
        assert device.ids is not None
        return device.ids[1]

    def _answering(self, gpu: SimulatedGpu, call: str) -> SimulatedGpu:
        assert self._is_up
        self.calls += 1
        if gpu.error is not None:
            raise pynvml.NVMLError(gpu.error)
        if call in gpu.unsupported:
            raise pynvml.NVMLError(NOT_SUPPORTED)
        if call in gpu.errors:
            raise gpu.errors[call]
        return gpu


def _listed(processes: dict[int, int | None]) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]


def a100(number: int, **fields: Any) -> SimulatedGpu:
    """GPUs of one model with different UUIDs: `GPU-0...`, `GPU-1...`."""
    return SimulatedGpu(uuid=f"GPU-{number}b2c937f-d72c-4106-c12f-20bd9faed9f6", **fields)


def rtx3090(number: int, **fields: Any) -> SimulatedGpu:
    """Another model."""
    return a100(number, name="NVIDIA GeForce RTX 3090", total=24 * GIB, **fields)


def in_mig_mode(number: int, *instances: SimulatedGpu | None) -> SimulatedGpu:
    """An A100 that is split."""
    return a100(number, instances=list(instances))


def mig(number: int, ids: tuple[int, int], **fields: Any) -> SimulatedGpu:
    """An instance: `MIG-0...`, `MIG-1...`."""
    return SimulatedGpu(
        uuid=f"MIG-{number}e1c7a90-2c3b-5d7e-9f51-7b1d3c0a8f44",
        name="NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        total=10 * GIB,
        ids=ids,
        **fields,
    )
