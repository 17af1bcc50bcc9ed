"""Where a sweep's trials may run on this machine: GPUs, else CPU slots; with the line that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.devices import VisibleGpus, chosen_gpus, core_numbers, usable_cores, visible_gpus
from experiments.disk_use import bytes_text
from experiments.gpus import Gpu
from experiments.main_memory import main_memory
from experiments.nvml import Nvml
from experiments.slots import Slot, cpu_slots, gpu_slots, places_on_a_gpu
from experiments.spec_document import Resources
from experiments.view import counted

CPU_SLOT_BYTES = 3 * 2**29
"""Main memory for a trial on the CPU where nobody says how many: 1.5 GiB."""


@dataclass(frozen=True)
class Machine:
    """What a sweep has of this machine.

    Attributes:
        slots: at least one.
        gpus: those that the slots are of; empty on the CPU.
        line: says for people what trials run on; empty where they asked for just that.
        warnings: a line each.
    """

    slots: tuple[Slot, ...]
    gpus: tuple[Gpu, ...]
    line: str
    warnings: tuple[str, ...] = ()


def this_machine(
    resources: Resources,
    *,
    gpus: str | None,
    cpus: int | None,
    environment: Mapping[str, str],
    nvml: Nvml | None = None,
) -> Machine:
    """The GPUs that are visible, or those of them that are asked for; CPU slots where there are none.

    Args:
        gpus: what `--gpus` says; None: all.
        cpus: CPU slots that `--cpu-slots` asks for; None: GPUs where there are any.
        nvml: None: the driver's library.

    Raises:
        UserError: for GPUs that are not there or cannot be used.
    """
    if cpus is not None:
        return Machine(tuple(cpu_slots(cpus, cores=usable_cores())), (), line="")
    visible = visible_gpus(environment, nvml)
    if gpus is not None:
        chosen = chosen_gpus(gpus, visible.gpus, none_because=visible.none_because)
        return _gpu_machine(chosen, visible, resources)
    if visible.gpus:
        return _gpu_machine(visible.gpus, visible, resources)
    return _cpu_machine(resources.cpu_slots, because=visible.none_because)


def _gpu_machine(gpus: Sequence[Gpu], visible: VisibleGpus, resources: Resources) -> Machine:
    cores, warnings = usable_cores(), visible.warnings
    places = places_on_a_gpu(resources.trials_per_gpu, gpus=len(gpus), cores=cores)
    alone = [gpu for gpu in gpus if gpu.one_process]
    if places > 1 and alone:
        indices = ", ".join(str(gpu.index) for gpu in alone)
        warnings += (f"GPU {indices} takes one process at a time (its compute mode): one trial at a time on each GPU",)
        places = 1
    names = [str(visible.gpus.index(gpu)) for gpu in gpus]
    slots = gpu_slots([gpu.uuid for gpu in gpus], cores=cores, places=places, names=names)
    each = f"{counted(places, 'trial')} at a time on each, with {counted(slots[0].threads, 'core')}"
    at_most = "at most " if places > 1 else ""
    return Machine(tuple(slots), tuple(gpus), f"training on {_models(names, gpus)}: {at_most}{each}", warnings)


def _models(names: Sequence[str], gpus: Sequence[Gpu]) -> str:
    """`gpu 0, 2 (NVIDIA A100, 43 GB)`, for each model."""
    by_model: dict[tuple[str, int], list[str]] = {}
    for name, gpu in zip(names, gpus, strict=True):
        by_model.setdefault((gpu.name, gpu.memory_bytes), []).append(name)
    return ", ".join(
        f"gpu {', '.join(positions)} ({model}{f', {bytes_text(memory)}' if memory else ''})"
        for (model, memory), positions in by_model.items()
    )


def _cpu_machine(setting: str | int, *, because: str) -> Machine:
    """With `auto` a slot a core, as far as memory goes."""
    cores, memory = usable_cores(), main_memory()
    total = memory.total_bytes if memory is not None else None
    fit = cores if total is None else total // CPU_SLOT_BYTES
    count = max(1, min(cores, fit)) if setting == "auto" else int(setting)
    slots = cpu_slots(count, cores=cores, usable=core_numbers())
    has = f", {bytes_text(total)} of memory" if total is not None else ""
    short = ", which is too little for a slot a core" if setting == "auto" and fit < cores else ""
    what = f"{counted(len(slots), 'slot')} of {counted(slots[0].threads, 'core')}{has}{short}"
    return Machine(tuple(slots), (), f"{because}: training on the CPU, {what}")
