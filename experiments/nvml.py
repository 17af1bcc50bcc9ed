"""The calls of NVIDIA's management library that the sweep makes. Nothing else here knows the library by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import pynvml

NvmlError = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
"""What any of the calls raises."""

Handle = Any
"""Of a GPU, or of a part of one."""


class ProcessOnGpu(Protocol):
    """A process that uses a GPU."""

    pid: int
    usedGpuMemory: int | None  # bytes; None where the driver does not tell


class Nvml(Protocol):
    """As the module `pynvml` (nvidia-ml-py) has them: the same names and parameters, and `pynvml.NVMLError` as error.

    Source: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
    """

    def nvmlInit(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle: ...
    def nvmlDeviceGetUUID(self, handle: Handle) -> str: ...
    def nvmlDeviceGetName(self, handle: Handle) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Handle) -> Any: ...
    def nvmlDeviceGetComputeMode(self, handle: Handle) -> int: ...
    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> Sequence[ProcessOnGpu]: ...
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> Sequence[ProcessOnGpu]: ...
    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: Handle) -> Sequence[ProcessOnGpu]: ...
    def nvmlDeviceGetMigMode(self, device: Handle) -> Sequence[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, device: Handle) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Handle, index: int) -> Handle: ...
    def nvmlDeviceGetGpuInstanceId(self, device: Handle) -> int: ...
    def nvmlDeviceGetComputeInstanceId(self, device: Handle) -> int: ...


def nvml_library() -> Nvml:
    """The library itself. Whether there is a driver shows at `nvmlInit`."""
    return cast(Nvml, pynvml)


def nvml_code(error: Exception) -> int:
    """One of NVML's `NVML_ERROR_...`; 0 where nvidia-ml-py found the driver too old for a call."""
    return int(getattr(error, "value", 0))


def nvml_text(error: Exception) -> str:
    """The error in NVML's words."""
    return f"NVML: {str(error).strip().rstrip('.')}"
