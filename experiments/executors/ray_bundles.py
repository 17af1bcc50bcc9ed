"""What a node of a Ray cluster has -> what is reserved there, and how many trials share it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_STEPS = 10_000
"""Ray counts resources in ten-thousandths. Source: docs.ray.io, ray-core/scheduling/resources (fractional)."""


@dataclass(frozen=True)
class Share:
    """How much of a cluster a sweep takes: trials at a time.

    Attributes:
        on_gpus: they run on GPUs alone; None: where a node has one when the sweep begins. A cluster is never used as
            both: the same trial would not give the same result.
        cpu_slots: on a node's cores; None: one a core.
        places: on a GPU.
        threads: of each trial, on whatever node, since results depend on it; None: as many as the node with the fewest
            cores a trial has when the sweep begins.
    """

    on_gpus: bool | None = None
    cpu_slots: int | None = None
    places: int = 1
    threads: int | None = None


def settled(share: Share, nodes: Sequence[Mapping[str, float]]) -> Share:
    """What the nodes that are there decide is decided, for those as well that join.

    Args:
        nodes: the resources of each.
    """
    if share.on_gpus is None:
        share = replace(share, on_gpus=any(resources.get("GPU", 0.0) >= 1 for resources in nodes))
    threads = [bundle.threads for resources in nodes for bundle in node_bundles(resources, share)]
    return replace(share, threads=min(threads, default=None))


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


def node_bundles(resources: Mapping[str, float], share: Share) -> list[Bundle]:
    """What is reserved on a node.

    Args:
        resources: as `ray.nodes()` tells them; other kinds than CPU and GPU say nothing.
        share: of which it is decided whether GPUs are used.

    Returns:
        One for each whole GPU, or one for the cores; none where the node has nothing of the kind.
    """
    assert share.on_gpus is not None
    cpus, gpus = resources.get("CPU", 0.0), int(resources.get("GPU", 0.0))
    if not share.on_gpus:
        return _of_cores(int(cpus), share)
    each = _floor(cpus / gpus) if gpus else 0.0
    if each > 1:
        each = float(int(each))
    threads = share.threads or max(1, int(each) // share.places)
    return [Bundle(cpus=each, gpus=1, slots=share.places, threads=threads)] * gpus


def _of_cores(cores: int, share: Share) -> list[Bundle]:
    slots = share.cpu_slots if share.cpu_slots is not None else cores
    if share.threads is not None and share.threads > 1:
        slots = min(slots, cores // share.threads)
    if cores == 0 or slots == 0:
        return []
    return [Bundle(cpus=float(cores), gpus=0, slots=slots, threads=share.threads or max(1, cores // slots))]


def _floor(value: float) -> float:
    return int(value * _STEPS) / _STEPS
