"""This machine's memory as it is now, and what its sweeps have promised of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from experiments.claims import SharedClaims
from experiments.device_monitor import Claims
from experiments.gpu_memory import GpuMemory
from experiments.gpus import Gpu
from experiments.main_memory import main_memory
from experiments.nvml import Nvml
from experiments.placement import Reading

HOST = "/cpu"
"""`Slot.device` of this machine's CPU slots: the main memory."""


class LocalMonitor:
    """A `DeviceMonitor` of the main memory and some GPUs.

    Args:
        gpus: those that the slots are of.
        nvml: None: the driver's library.
        shared: None: with all sweeps of the machine.
    """

    def __init__(
        self, gpus: Sequence[Gpu] = (), nvml: Nvml | None = None, *, shared: SharedClaims | None = None
    ) -> None:
        self._gpus = GpuMemory(gpus, nvml)
        self._shared = shared or SharedClaims()

    def read(self) -> Mapping[str, Reading]:
        """See `DeviceMonitor`."""
        host = main_memory()
        return {**self._gpus.read(), **({HOST: host} if host is not None else {})}

    @contextlib.contextmanager
    def claims(self) -> Iterator[Claims | None]:
        """See `DeviceMonitor`."""
        with self._shared.taken() as claims:
            yield claims

    def close(self) -> None:
        """This sweep promises nothing any more."""
        self._shared.close()
