"""Devices -> slots. A slot is a place where one trial may run. Pure decisions over numbers."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True)
class Reading:
    """What a device's memory is like at a moment.

    Attributes:
        total_bytes: it has.
        used_bytes: by all processes, whoever started them.
        by_process: bytes of the process ids that use it; None where the system does not tell.
        utilisation: share of the last moments in which it computed, 0 to 1; None where nobody tells.
    """

    total_bytes: int
    used_bytes: int
    by_process: Mapping[int, int] | None = None
    utilisation: float | None = None


class SlotPool:
    """Which slots are free, and which device is to be had alone.

    Args:
        slots: all there are, at least one.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._free = deque(slots)
        self._busy: Counter[str] = Counter({slot.visible_devices: 0 for slot in slots})
        self._reserved: str | None = None
        self._closed: set[str] = set()

    def has_room(self) -> bool:
        """Whether `take` would give a slot."""
        return self._next() is not None

    def take(self) -> Slot | None:
        """A slot, the one that has been free longest; None where there is none."""
        slot = self._next()
        if slot is not None:
            self._occupy(slot)
        return slot

    def take_alone(self) -> Slot | None:
        """A slot of a device on which nothing runs, and nothing will until it is given back.

        Where there is none, the device on which least runs is kept free from now on: ask again.
        """
        open_devices = [device for device in self._busy if device not in self._closed]
        if not open_devices:
            return None
        device = self._reserved if self._reserved is not None else min(open_devices, key=self._busy.__getitem__)
        if self._busy[device]:
            self._reserved = device
            return None
        self._reserved = None
        slot = next(slot for slot in self._free if slot.visible_devices == device)
        self._occupy(slot)
        self._closed.add(device)
        return slot

    def give_back(self, slot: Slot) -> None:
        """The trial in a slot has ended."""
        self._free.append(slot)
        self._busy[slot.visible_devices] -= 1
        self._closed.discard(slot.visible_devices)

    def _next(self) -> Slot | None:
        shut = {*self._closed, self._reserved}
        return next((slot for slot in self._free if slot.visible_devices not in shut), None)

    def _occupy(self, slot: Slot) -> None:
        self._free.remove(slot)
        self._busy[slot.visible_devices] += 1


def gpu_slots(gpus: Sequence[str], *, cores: int) -> list[Slot]:
    """One slot a GPU, the cores shared evenly."""
    threads = max(1, cores // max(1, len(gpus)))
    return [Slot(index=index, visible_devices=gpu, threads=threads) for index, gpu in enumerate(gpus)]


def cpu_slots(count: int | None, *, cores: int) -> list[Slot]:
    """`count` slots (None: one a core), the cores shared evenly."""
    slots = count if count is not None else cores
    return [Slot(index=index, visible_devices="", threads=max(1, cores // slots)) for index in range(slots)]


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
