"""Which GPUs the machine has, as NVML tells: whole ones, and the instances of those in MIG mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml

from experiments.errors import UserError
from experiments.nvml import Handle, Nvml, NvmlError, nvml_code, nvml_text

WAY_OUT = "to train on the CPU instead: --cpu-slots N"
_NOBODY_THERE = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_CAUSES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "a container needs the driver's `utility` capability"
    " (NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated and the old one is still loaded: restart the"
    " machine, or the container",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidia*",
}


@dataclass(frozen=True)
class Gpu:
    """One that a process can have: a GPU, or an instance of a GPU in MIG mode.

    Attributes:
        uuid: what CUDA_VISIBLE_DEVICES takes; the index as text where the driver tells no UUID.
        index: 0-based, of the GPU (for an instance: of the one that it is a part of), as nvidia-smi counts: in the
            order of the PCI bus.
        name: the model.
        memory_bytes: 0 where the driver does not tell, as on GPUs that have the host's memory.
        parent_uuid: of the GPU that an instance is a part of; empty for a GPU.
        instance: `GPU instance/compute instance` of a part, its numbers within the GPU; empty for a GPU.
        one_process: whether it takes one process at a time and no more (compute mode EXCLUSIVE_PROCESS).
    """

    uuid: str
    index: int
    name: str
    memory_bytes: int
    parent_uuid: str = ""
    instance: str = ""
    one_process: bool = False

    @property
    def is_mig(self) -> bool:
        """Whether it is an instance of a GPU in MIG mode."""
        return bool(self.parent_uuid)

    @property
    def device(self) -> str:
        """The key of its slots on this machine, see `Slot.device`."""
        return f"/{self.uuid}"


@dataclass(frozen=True)
class Card:
    """A GPU of the machine with what processes can have of it.

    Attributes:
        name: the model; empty where it does not answer.
        parts: itself; in MIG mode its instances; empty where it cannot be used.
        fault: why it cannot be used; empty where it can.
    """

    index: int
    uuid: str
    name: str
    parts: tuple[Gpu, ...]
    fault: str = ""


@dataclass(frozen=True)
class Cards:
    """All GPUs that this process may use, in the order of the PCI bus. `none_because`: why there are none, if so."""

    cards: tuple[Card, ...] = ()
    none_because: str = ""


def machine_cards(nvml: Nvml, *, dev: Path = Path("/dev")) -> Cards:
    """The GPUs of this machine. GPUs that this process may not open (they are another job's) do not count.

    Raises:
        UserError: where there seem to be GPUs, but the driver does not answer.
    """
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except NvmlError as error:
        nodes = sorted(dev.glob("nvidia[0-9]*"))
        if nvml_code(error) in _NOBODY_THERE and not nodes:
            return Cards(none_because=nvml_text(error))
        raise UserError(_driver_fault(error, nodes)) from None
    cards = tuple(_cards(nvml, count))
    return Cards(cards, none_because="" if cards else "NVML: 0 GPUs that this process may use")


def _driver_fault(error: Exception, nodes: list[Path]) -> str:
    there = f" though there is {nodes[0]}" if nodes else ""
    cause = f"; {_CAUSES[nvml_code(error)]}" if nvml_code(error) in _CAUSES else ""
    return f"the NVIDIA driver does not answer{there} ({nvml_text(error)}){cause}; {WAY_OUT}"


def _cards(nvml: Nvml, count: int) -> Iterator[Card]:
    index = 0
    for position in range(count):
        try:
            card = _card(nvml, nvml.nvmlDeviceGetHandleByIndex(position), index)
        except NvmlError as error:
            if nvml_code(error) == pynvml.NVML_ERROR_NO_PERMISSION:
                continue
            card = Card(index=index, uuid="", name="", parts=(), fault=nvml_text(error))
        index += 1
        yield card


def _card(nvml: Nvml, handle: Handle, index: int) -> Card:
    uuid, name = _uuid(nvml, handle) or str(index), nvml.nvmlDeviceGetName(handle)
    if _is_in_mig_mode(nvml, handle):
        parts = tuple(_instances(nvml, handle, index=index, uuid=uuid))
        fault = "" if parts else "in MIG mode, without an instance"
        return Card(index=index, uuid=uuid, name=name, parts=parts, fault=fault)
    mode = _compute_mode(nvml, handle)
    if mode == pynvml.NVML_COMPUTEMODE_PROHIBITED:
        return Card(index=index, uuid=uuid, name=name, parts=(), fault="its compute mode is PROHIBITED")
    gpu = Gpu(
        uuid=uuid,
        index=index,
        name=name,
        memory_bytes=_memory(nvml, handle),
        one_process=mode == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS,
    )
    return Card(index=index, uuid=uuid, name=name, parts=(gpu,))


def _instances(nvml: Nvml, card: Handle, *, index: int, uuid: str) -> Iterator[Gpu]:
    """The MIG instances of a GPU that this process may use. Places without one, and those of others, are errors."""
    for position in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, position)
            instance = f"{nvml.nvmlDeviceGetGpuInstanceId(handle)}/{nvml.nvmlDeviceGetComputeInstanceId(handle)}"
            yield Gpu(
                uuid=nvml.nvmlDeviceGetUUID(handle),
                index=index,
                name=nvml.nvmlDeviceGetName(handle),
                memory_bytes=_memory(nvml, handle),
                parent_uuid=uuid,
                instance=instance,
            )
        except NvmlError:
            continue


def _uuid(nvml: Nvml, handle: Handle) -> str:
    try:
        return nvml.nvmlDeviceGetUUID(handle)
    except NvmlError as error:
        if nvml_code(error) == pynvml.NVML_ERROR_NOT_SUPPORTED:
            return ""
        raise


def _is_in_mig_mode(nvml: Nvml, handle: Handle) -> bool:
    """A GPU without MIG, and a driver that is older than it, do not know the question."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except NvmlError:
        return False


def _compute_mode(nvml: Nvml, handle: Handle) -> int:
    try:
        return nvml.nvmlDeviceGetComputeMode(handle)
    except NvmlError:
        return int(pynvml.NVML_COMPUTEMODE_DEFAULT)


def _memory(nvml: Nvml, handle: Handle) -> int:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except NvmlError as error:
        if nvml_code(error) == pynvml.NVML_ERROR_NOT_SUPPORTED:
            return 0
        raise
