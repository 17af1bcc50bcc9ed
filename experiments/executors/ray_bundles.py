"""What a node of a Ray cluster has -> what is reserved there, and how many trials share it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_STEPS = 10_000
"""Ray counts resources in ten-thousandths. Source: docs.ray.io, ray-core/scheduling/resources (fractional)."""


@dataclass(frozen=True)
class Bundle:
    """A device as Ray reserves it: one GPU with its part of the node's cores, or all cores of a node without one.

    Attributes:
        cpus: cores; may be a fraction, and 0 beside a GPU of a node that offers no cores.
        gpus: 0 or 1.
        slots: trials that share it.
        threads: of each trial.
    """

    cpus: float
    gpus: int
    slots: int
    threads: int

    @property
    def resources(self) -> dict[str, float]:
        """For `ray.util.placement_group`, which takes nothing that is 0."""
        return {name: float(count) for name, count in (("CPU", self.cpus), ("GPU", self.gpus)) if count}

    @property
    def cpu_share(self) -> float:
        """`num_cpus` of a trial: all trials of the bundle together have no more than it."""
        return _floor(self.cpus / self.slots)

    @property
    def gpu_share(self) -> float:
        """`num_gpus` of a trial."""
        return _floor(self.gpus / self.slots)


def node_bundles(
    resources: Mapping[str, float], *, on_gpus: bool, cpu_slots: int | None = None, places: int = 1
) -> list[Bundle]:
    """What is reserved on a node.

    Args:
        resources: as `ray.nodes()` tells them; other kinds than CPU and GPU say nothing.
        on_gpus: trials run on GPUs, and nowhere else; else on cores.
        cpu_slots: trials at a time on the cores of a node; None: one a core.
        places: trials at a time on a GPU.

    Returns:
        One for each whole GPU, or one for the cores; none where the node has nothing of the kind.
    """
    cpus, gpus = resources.get("CPU", 0.0), int(resources.get("GPU", 0.0))
    if on_gpus:
        each = _floor(cpus / gpus) if gpus else 0.0
        if each > 1:
            each = float(int(each))
        threads = max(1, int(each) // places)
        return [Bundle(cpus=each, gpus=1, slots=places, threads=threads)] * gpus
    cores = int(cpus)
    if cores == 0:
        return []
    slots = cpu_slots if cpu_slots is not None else cores
    return [Bundle(cpus=float(cores), gpus=0, slots=slots, threads=max(1, cores // slots))]


def _floor(value: float) -> float:
    return int(value * _STEPS) / _STEPS
