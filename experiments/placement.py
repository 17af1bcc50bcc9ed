"""Devices -> slots. A slot is a place where one trial may run. Pure decisions over numbers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """One place for one trial.

    Attributes:
        index: 0-based, and what the terminal calls it.
        visible_devices: the value of CUDA_VISIBLE_DEVICES for an attempt here; empty: CPU only.
        threads: CPU threads an attempt may use.
    """

    index: int
    visible_devices: str
    threads: int

    @property
    def label(self) -> str:
        """For people."""
        return f"gpu {self.visible_devices}" if self.visible_devices else f"cpu {self.index}"


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
