"""Which GPUs and cores this process may use, without importing torch. NVIDIA's GPUs alone: for AMD's see HIP."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from experiments.errors import UserError, did_you_mean, shown
from experiments.gpus import WAY_OUT, Card, Gpu, machine_cards
from experiments.nvml import Nvml, nvml_library

_HIDDEN_ON_PURPOSE = re.compile(r"-\d+|NoDevFiles|")
"""Entries by which people and batch systems hide all GPUs; NoDevFiles is Slurm's."""


@dataclass(frozen=True)
class VisibleGpus:
    """What CUDA would see.

    Attributes:
        gpus: in CUDA's order.
        none_because: for people, why there are none; empty where there are.
        warnings: a line each.
    """

    gpus: tuple[Gpu, ...] = ()
    none_because: str = ""
    warnings: tuple[str, ...] = ()


def visible_gpus(environment: Mapping[str, str], nvml: Nvml | None = None) -> VisibleGpus:
    """The GPUs that CUDA would see, in its order: those that CUDA_VISIBLE_DEVICES names, else all of the machine.

    As CUDA reads that variable, an entry that names no GPU ends the list, and one that comes twice hides everything.
    One thing is not CUDA's: of the MIG instances that are visible a process sees one alone; as every attempt is a
    process of its own, each instance counts here.

    Sources: CUDA programming guide, environment variables
    (https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html: indices, UUIDs and
    their beginnings, MIG, what ends the list); `torch.cuda._parse_visible_devices` (an entry twice, `1x` is 1); MIG
    user guide, CUDA device enumeration (one instance a process).

    Args:
        nvml: None: the driver's library.

    Raises:
        UserError: where the variable hides every GPU by a mistake, the driver does not answer, or no GPU can be used.
    """
    restriction = environment.get("CUDA_VISIBLE_DEVICES")
    if restriction is not None and _HIDDEN_ON_PURPOSE.fullmatch(restriction.split(",")[0].strip()):
        return VisibleGpus(none_because=f"CUDA_VISIBLE_DEVICES={restriction or shown(restriction)} hides all GPUs")
    machine = machine_cards(nvml or nvml_library())
    if not machine.cards:
        return VisibleGpus(none_because=f"no NVIDIA GPU found ({machine.none_because})")
    named, warnings = (machine.cards, []) if restriction is None else _named(restriction, machine.cards)
    gpus = _parts(named)
    faults = [f"GPU {item.index}: {item.fault}" for item in named if isinstance(item, Card) and item.fault]
    if not gpus:
        raise UserError(f"no GPU can be used ({'; '.join(faults)}); {WAY_OUT}")
    warnings += [f"{fault}; it is left out" for fault in faults]
    if restriction is not None and (line := _order_warning(restriction, environment, machine.cards, gpus)):
        warnings.append(line)
    return VisibleGpus(tuple(gpus), warnings=tuple(warnings))


def _named(restriction: str, cards: Sequence[Card]) -> tuple[Sequence[Card | Gpu], list[str]]:
    """What CUDA_VISIBLE_DEVICES names, at least one, and a warning where some of it names none.

    Raises:
        UserError: where CUDA would see none, by a mistake.
    """
    refused = partial(_refusal, restriction, cards)
    named: list[Card | Gpu] = []
    for entry in (part.strip() for part in restriction.split(",")):
        found = _of_entry(entry, cards)
        if found is None and not named:
            raise refused(f"{shown(entry)} is none of this machine's GPUs")
        if found is None:
            on_purpose = _HIDDEN_ON_PURPOSE.fullmatch(entry)
            warning = f"CUDA_VISIBLE_DEVICES={restriction}: {shown(entry)} is no GPU here, which ends the list for CUDA"
            return named, [] if on_purpose else [warning]
        if found in named:
            raise refused(f"{shown(entry)} comes twice")
        named.append(found)
    return named, []


def _parts(named: Sequence[Card | Gpu]) -> list[Gpu]:
    found = [gpu for item in named for gpu in (item.parts if isinstance(item, Card) else (item,))]
    return list(dict.fromkeys(found))


def _refusal(restriction: str, cards: Sequence[Card], fault: str) -> UserError:
    return UserError(
        f"got CUDA_VISIBLE_DEVICES={restriction}: {fault}, so CUDA sees no GPU; expected indices"
        f" ({_numbers(len(cards))}), or UUIDs as `nvidia-smi -L` lists them, each once; {WAY_OUT}"
    )


def _of_entry(entry: str, cards: Sequence[Card]) -> Card | Gpu | None:
    """What one entry names: a GPU, or an instance of one in MIG mode."""
    if entry.startswith("MIG-"):
        of_parts = {name: gpu for card in cards for gpu in card.parts if gpu.is_mig for name in _mig_names(gpu)}
        return of_parts.get(entry)
    if entry.startswith("GPU-"):
        of_prefix = [card for card in cards if card.uuid.startswith(entry)]
        return of_prefix[0] if len(of_prefix) == 1 else None
    index = re.match(r"\+?0*(\d{1,9})", entry, re.ASCII)
    return next((card for card in cards if index and card.index == int(index[1])), None)


def _mig_names(gpu: Gpu) -> tuple[str, str]:
    """The instance's own UUID (drivers from R470 on), and the older name that is made of its GPU's."""
    return gpu.uuid, f"MIG-{gpu.parent_uuid}/{gpu.instance}"


def _order_warning(
    restriction: str, environment: Mapping[str, str], cards: Sequence[Card], gpus: Sequence[Gpu]
) -> str | None:
    """CUDA alone counts the fastest GPU first; where all are alike, that changes nothing."""
    by_index = not re.search("GPU-|MIG-", restriction)
    alike = len({card.name for card in cards if card.name}) < 2
    if not by_index or alike or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return None
    taken = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
    return (
        f"CUDA_VISIBLE_DEVICES={restriction} names GPUs by index on a machine with different ones: taken as nvidia-smi"
        f" counts, so GPU {taken}; other programs count the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set"
    )


def chosen_gpus(option: str, visible: Sequence[Gpu], *, none_because: str = "") -> list[Gpu]:
    """The GPUs that `--gpus` names, as positions among the visible ones (0 is the first).

    Raises:
        UserError: for a position that is no number, not there, or given twice.
    """
    chosen: list[Gpu] = []
    for part in (entry.strip() for entry in option.split(",")):
        if not re.fullmatch(r"0*\d{1,9}", part, re.ASCII) or int(part) >= len(visible):
            there = _numbers(len(visible)) if visible else f"none, {none_because or 'this machine shows no GPU'}"
            raise UserError(
                f"got {part!r} in --gpus {option}; expected positions of visible GPUs: {there}{_meant(part, visible)}"
            )
        gpu = visible[int(part)]
        if gpu in chosen:
            raise UserError(f"got GPU {part} twice in --gpus {option}; expected each once")
        chosen.append(gpu)
    return chosen


def _numbers(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"


def _meant(part: str, visible: Sequence[Gpu]) -> str:
    """The position of the GPU that the machine counts so, or that is called so, where there is just one."""
    near = [
        str(position)
        for position, gpu in enumerate(visible)
        if part and (part == str(gpu.index) or gpu.uuid.startswith(part) or _calls(part, gpu.name))
    ]
    return did_you_mean(near[0], near) if len(near) == 1 else ""


def _calls(part: str, name: str) -> bool:
    """Whether it is a piece of a model's name, such as `A100` or `3090`."""
    return len(part) > 2 and part.lower() in name.lower()


def usable_cores() -> int:
    """Cores that this process may run on (its affinity, where the system has one)."""
    return len(core_numbers()) or os.cpu_count() or 1


def core_numbers() -> list[int]:
    """Their numbers, ascending; none where the system does not bind processes to cores."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
