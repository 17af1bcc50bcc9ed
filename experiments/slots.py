"""Devices -> slots. A slot is a place where one trial may run. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_AUTO_PLACES = 8


@dataclass(frozen=True)
class Slot:
    """One place for one trial.

    Attributes:
        index: 0-based, different for all slots of a sweep, and what the terminal calls it.
        visible_devices: the value of CUDA_VISIBLE_DEVICES for an attempt here; empty: CPU only.
        threads: CPU threads an attempt may use.
        cores: to which an attempt here is bound; empty: it may run on any.
        node: the machine that it is on, where there are several; empty: this one.
        gpu_name: what the terminal calls the GPU, such as its position; empty: as CUDA_VISIBLE_DEVICES does.
    """

    index: int
    visible_devices: str
    threads: int
    cores: tuple[int, ...] = ()
    node: str = ""
    gpu_name: str = ""

    @property
    def device(self) -> str:
        """The key of the device that it is a share of: slots of one device have the same memory."""
        return f"{self.node}/{self.visible_devices or 'cpu'}"

    @property
    def label(self) -> str:
        """For people."""
        where = f"gpu {self.gpu_name or self.visible_devices}" if self.visible_devices else f"cpu {self.index}"
        return f"{where} of {self.node}" if self.node else where


def places_on_a_gpu(setting: Literal["auto"] | int, *, gpus: int, cores: int) -> int:
    """Trials at the same time on each of `gpus` GPUs at most, as `resources.trials_per_gpu` says.

    auto: as many as leave each two cores, which is what it takes to feed one, and no more than eight.
    """
    return min(MAX_AUTO_PLACES, max(1, cores // max(1, gpus) // 2)) if setting == "auto" else setting


def gpu_slots(gpus: Sequence[str], *, cores: int, places: int = 1, names: Sequence[str] = ()) -> list[Slot]:
    """`places` slots a GPU, the cores shared evenly; the first of every GPU, then the second of every GPU, and so on.

    Args:
        gpus: values of CUDA_VISIBLE_DEVICES.
        names: what to call each; empty: as `gpus`.
    """
    threads = max(1, cores // max(1, len(gpus) * places))
    called = list(zip(gpus, names or [""] * len(gpus), strict=True)) * places
    return [
        Slot(index=index, visible_devices=gpu, threads=threads, gpu_name=name)
        for index, (gpu, name) in enumerate(called)
    ]


def cpu_slots(count: int | None, *, cores: int, usable: Sequence[int] = ()) -> list[Slot]:
    """`count` slots (None: one a core), the cores shared evenly.

    All have the same number of threads, since results depend on it: a trial's may not depend on its slot.

    Args:
        cores: how many there are.
        usable: their numbers, to bind each slot to its share of them; empty: none is bound.
    """
    slots = count if count is not None else cores
    threads = max(1, cores // slots)
    return [
        Slot(index=index, visible_devices="", threads=threads, cores=own)
        for index, own in enumerate(deal_cores(usable, slots))
    ]


def deal_cores(usable: Sequence[int], slots: int) -> list[tuple[int, ...]]:
    """Each slot's own cores: neighbours in ascending order, as evenly as can be, the first slots one more.

    Where there are more slots than cores nobody gets any: bound to one core each, some trials would share one for as
    long as they last, while others had theirs alone or had left it.

    Args:
        usable: numbers of cores, in any order; those given twice count once.
        slots: at least 1.
    """
    cores = sorted(set(usable))
    size, larger = divmod(len(cores), slots)
    if size == 0:
        return [()] * slots
    ends = [size * slot + min(slot, larger) for slot in range(slots + 1)]
    return [tuple(cores[start:end]) for start, end in itertools.pairwise(ends)]


def planned_slots(durations: Sequence[float], *, slots: int) -> tuple[list[int], float]:
    """Where trials would run that take so long: each, in order, on the slot that is free first, of several the lowest.

    Args:
        durations: in any unit, at least 0.
        slots: at least 1.

    Returns:
        For each trial the position of its slot, and when the last one ends.
    """
    free_at = [(0.0, slot) for slot in range(slots)]
    placed = []
    for duration in durations:
        start, slot = heapq.heappop(free_at)
        placed.append(slot)
        heapq.heappush(free_at, (start + duration, slot))
    return placed, max(end for end, _ in free_at)
