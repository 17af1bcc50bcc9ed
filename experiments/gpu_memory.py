"""The memory of GPUs as it is now, as NVML tells it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.gpus import Gpu
from experiments.nvml import Handle, Nvml, NvmlError, nvml_library
from experiments.placement import Reading

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own one. Source: Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO."""


class GpuMemory:
    """Reads some GPUs.

    Process ids are the driver's. Within a container, drivers before about R550 give those of the host, which mean
    other processes here or none (https://github.com/NVIDIA/nvidia-docker/issues/1483); newer ones translate them.
    So there `by_process` is told only where every process that is listed is one here that has a GPU open.

    Compute instances that share one MIG GPU instance share its memory: each reads all of it.

    Args:
        gpus: of this machine.
        nvml: None: the driver's library.
        in_container: whether this process has process ids of its own; None: as the system says.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        nvml: Nvml | None = None,
        *,
        in_container: bool | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._gpus, self._nvml, self._proc = gpus, nvml or nvml_library(), proc
        self._in_container = _has_own_pids(proc) if in_container is None else in_container
        self._handles: dict[str, Handle] = {}
        if gpus:
            with contextlib.suppress(*NvmlError):  # then nothing can be read, which is what `read` says
                self._nvml.nvmlInit()

    def read(self) -> dict[str, Reading]:
        """Every GPU that answers, by `Gpu.device`."""
        readings = {}
        for gpu in self._gpus:
            try:
                readings[gpu.device] = self._reading(self._handle(gpu))
            except NvmlError:
                self._handles.pop(gpu.uuid, None)  # an instance that is made anew has another one
        return readings

    def _handle(self, gpu: Gpu) -> Handle:
        if gpu.uuid not in self._handles:
            by_index = gpu.uuid.isdecimal()
            self._handles[gpu.uuid] = (
                self._nvml.nvmlDeviceGetHandleByIndex(gpu.index)
                if by_index
                else self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            )
        return self._handles[gpu.uuid]

    def _reading(self, handle: Handle) -> Reading:
        """NVML's first form of memory counts what the driver keeps for itself as used: no process can have it."""
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return Reading(
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            by_process=self._by_process(handle),
            utilisation=self._utilisation(handle),
        )

    def _by_process(self, handle: Handle) -> Mapping[int, int] | None:
        try:
            listed = [*self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        except NvmlError:
            return None
        nvml = self._nvml
        for more in (nvml.nvmlDeviceGetGraphicsRunningProcesses, nvml.nvmlDeviceGetMPSComputeRunningProcesses):
            with contextlib.suppress(*NvmlError):  # not every GPU has graphics, nor every driver MPS
                listed += more(handle)
        used: dict[int, int] = {}
        for process in listed:
            if process.usedGpuMemory is None:
                return None
            # one that computes and draws is in both lists, with the same memory
            used[process.pid] = max(used.get(process.pid, 0), int(process.usedGpuMemory))
        if self._in_container and not all(self._has_gpu_open(pid) for pid in used):
            return None
        return used

    def _utilisation(self, handle: Handle) -> float | None:
        """Instances of MIG have none."""
        try:
            return int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except NvmlError:
            return None

    def _has_gpu_open(self, pid: int) -> bool:
        """Whether a process of this container is known to use a GPU."""
        try:
            files = list((self._proc / str(pid) / "fd").iterdir())
        except OSError:
            return False
        return any(_target(file).startswith("/dev/nvidia") for file in files)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _has_own_pids(proc: Path) -> bool:
    """Whether this process is in a namespace of process ids; so too where that is not known."""
    try:
        return (proc / "self" / "ns" / "pid").stat().st_ino != _FIRST_PID_NAMESPACE
    except OSError:
        return True
