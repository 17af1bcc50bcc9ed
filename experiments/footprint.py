"""What trials take of a machine: memory and time, as attempts measure it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What an attempt has taken so far.

    Attributes:
        device_bytes: peak of the GPU memory of its process; 0 on the CPU.
        host_bytes: peak of the main memory of its process and its loader processes, pages shared with others
            counted by their share; 0 where that is not known.
        step_s: median seconds of a training step, loading included; 0 before there was one.
    """

    device_bytes: int
    host_bytes: int
    step_s: float


def overall(usages: Iterable[Usage]) -> Usage | None:
    """What a trial took, from what it had taken by the end of each epoch; None where that was not measured."""
    found = list(usages)
    if not found:
        return None
    steps = [usage.step_s for usage in found if usage.step_s > 0]
    return Usage(
        device_bytes=max(usage.device_bytes for usage in found),
        host_bytes=max(usage.host_bytes for usage in found),
        step_s=statistics.median(steps) if steps else 0.0,
    )
