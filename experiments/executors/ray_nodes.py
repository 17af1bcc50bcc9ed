"""Which nodes of a Ray cluster run a sweep's trials, now: nodes that join are checked, then reserved, then offered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from experiments.errors import UserError
from experiments.executors.ray_bundles import Bundle, Share, node_bundles, settled
from experiments.executors.ray_check import NodeReport, Terms, look_at_node, objection
from experiments.executors.ray_host import is_ready
from experiments.slots import Slot
from experiments.view import counted

_LOOK_EVERY_S = 1.0
_POLL_S = 0.2
_HEARD_WITHIN_S = 120.0
"""A node that has not answered by then is not used."""
_RESERVED_WITHIN_S = 10.0
"""At the start, what is free is reserved by then; the rest is used once it is."""
_AGAIN_AFTER_S = 30.0
"""A node that was lost and that Ray still has alive by then is used again."""


@dataclass
class _Device:
    """A bundle of a node: asked for, then reserved, then offered as slots."""

    bundle: Bundle
    group: PlacementGroup
    gpu: ray.ObjectRef[Any] | None = None
    """Says which GPU was reserved."""
    slots: list[Slot] = field(default_factory=list)


@dataclass
class _Node:
    """A node that could run trials.

    Attributes:
        report: what it says of itself; None: it was heard.
        devices: none before, and none on a node that is refused.
    """

    name: str
    bundles: list[Bundle]
    report: ray.ObjectRef[Any] | None
    asked_at: float
    devices: list[_Device] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to come of it any more, unless others give back what they use."""
        return self.report is None and all(device.slots for device in self.devices)


@dataclass(frozen=True)
class Place:
    """Where the attempt in a slot runs."""

    node: str
    options: dict[str, Any]
    """Of its Ray task."""


class ClusterNodes:
    """The nodes, and the slots on them.

    Args:
        terms: that each of them has to meet.
        say: takes a line for people.
        share: how much of them.
        clock: in seconds.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        say: Callable[[str], None],
        share: Share,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms, self._say, self._clock = terms, say, clock
        self._nodes: dict[str, _Node] = {}
        self._not_before: dict[str, float] = {}
        self._looked_at = -math.inf
        self._next_index = 0
        self._is_beginning = True
        self._share = settled(share, [node["Resources"] for node in _alive().values()])

    def begin(self) -> None:
        """Checks the nodes that are there and reserves what is free; waits for the first slot if need be.

        Raises:
            UserError: where a node that could run trials is not as it must be, or none is there.
        """
        patient_until, said = self._clock() + _RESERVED_WITHIN_S, False
        self.look()
        while not self.slots or (self._clock() < patient_until and not self._is_settled):
            self._expect_a_node()
            if self.expected:
                ray.wait(self.expected, timeout=_POLL_S)
            else:
                time.sleep(_POLL_S)
            self.look()
            if not self.slots and not said and self._clock() >= patient_until:
                said = True
                self._say("waiting for the Ray cluster: all of it is in use, or its nodes start slowly")
        self._is_beginning = False

    def _expect_a_node(self) -> None:
        alive = _alive()
        if any(self._bundles(node) for node in alive.values()):
            return
        kind = "GPUs" if self._share.on_gpus else "cores"
        raise UserError(
            f"got a Ray cluster of {counted(len(alive), 'node')}, none with {kind} for trials; expected one:"
            " `ray start` on a machine makes it a node, see docs/clusters.md"
        )

    @property
    def slots(self) -> list[Slot]:
        """Where trials can run now, by index."""
        return sorted((slot for device in self._devices for slot in device.slots), key=lambda slot: slot.index)

    @property
    def expected(self) -> list[ray.ObjectRef[Any]]:
        """Answers that are waited for; once one has come, `look` goes on with its node."""
        reports = [node.report for node in self._nodes.values() if node.report is not None]
        return reports + [device.gpu for device in self._devices if device.gpu is not None and not device.slots]

    def place(self, slot: Slot) -> Place | None:
        """Where a slot is; None where its node is gone."""
        for node_id, node in self._nodes.items():
            for device in node.devices:
                if slot.index in {one.index for one in device.slots}:
                    return Place(node_id, _task_options(device))
        return None

    def look(self) -> list[str]:
        """Notices nodes that came or went, and goes on with those that were asked for something.

        Returns:
            Ids of nodes that are gone.
        """
        gone: list[str] = []
        if self._clock() >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = self._clock()
            alive = _alive()
            gone = [node_id for node_id in self._nodes if node_id not in alive]
            for node_id in gone:
                self.lose(node_id)
            for node_id, node in alive.items():
                if self._is_new(node_id) and (bundles := self._bundles(node)):
                    self._nodes[node_id] = self._asked(node_id, _name(node_id, node), bundles)
        for node_id in list(self._nodes):
            self._go_on(node_id)
        return gone

    def lose(self, node_id: str) -> None:
        """A node is not used any more, at least for a while."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return
        self._not_before[node_id] = self._clock() + _AGAIN_AFTER_S
        if node.devices:
            self._say(f"node {node.name} of the Ray cluster is gone; its trials go on elsewhere")
        _give_back(node.devices)

    def close(self) -> None:
        """Gives back what is reserved."""
        _give_back(self._devices)
        self._nodes.clear()

    @property
    def _devices(self) -> list[_Device]:
        return [device for node in self._nodes.values() for device in node.devices]

    @property
    def _is_settled(self) -> bool:
        return bool(self._nodes) and all(node.is_settled for node in self._nodes.values())

    def _bundles(self, node: Mapping[str, Any]) -> list[Bundle]:
        return node_bundles(node["Resources"], self._share)

    def _is_new(self, node_id: str) -> bool:
        return node_id not in self._nodes and self._clock() >= self._not_before.get(node_id, -math.inf)

    def _asked(self, node_id: str, name: str, bundles: list[Bundle]) -> _Node:
        task = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        report = task.options(scheduling_strategy=there).remote(self._terms, node_id)
        return _Node(name=name, bundles=bundles, report=report, asked_at=self._clock())

    def _go_on(self, node_id: str) -> None:
        node = self._nodes[node_id]
        if node.report is not None:
            self._hear(node_id, node, node.report)
        for device in node.devices:
            if not device.slots and (gpu := _reserved_gpu(device)) is not None:
                device.slots = _slots(node.name, device.bundle, gpu, first=self._next_index)
                self._next_index += device.bundle.slots

    def _hear(self, node_id: str, node: _Node, report: ray.ObjectRef[Any]) -> None:
        """Takes in what a node says of itself, once it does."""
        if is_ready(report):
            try:
                reason = self._objection(node_id, report)
            except ray.exceptions.RayError:  # it is dead, or dies
                self.lose(node_id)
                return
        elif self._clock() >= node.asked_at + _HEARD_WITHIN_S:
            reason = f"no answer within {_HEARD_WITHIN_S:.0f} s; expected a node that works: start its Ray again"
        else:
            return
        node.report = None
        if not reason:
            node.devices = [_asked_for(bundle, node_id) for bundle in node.bundles]
        elif self._is_beginning:
            raise UserError(f"node {node.name} of the Ray cluster cannot be used: {reason}")
        else:
            self._say(f"warning: node {node.name} of the Ray cluster is not used: {reason}")

    def _objection(self, node_id: str, report: ray.ObjectRef[Any]) -> str:
        try:
            found: NodeReport = ray.get(report)
        except ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            return (
                f"what runs here does not run there ({last}); expected the checkout {self._terms.repository} and the"
                " same packages on every node"
            )
        return objection(self._terms, found, node=node_id)


def possible_slots(share: Share) -> list[Slot]:
    """Those of a cluster that nobody else uses, whose nodes are all as they must be."""
    nodes = _alive()
    share = settled(share, [node["Resources"] for node in nodes.values()])
    slots: list[Slot] = []
    for node_id, node in nodes.items():
        for position, bundle in enumerate(node_bundles(node["Resources"], share)):
            gpu = str(position) if bundle.gpus else ""
            slots += _slots(_name(node_id, node), bundle, gpu, first=len(slots))
    return slots


def _name(node_id: str, node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']}-{node_id[:6]}"


def _slots(name: str, bundle: Bundle, gpu: str, *, first: int) -> list[Slot]:
    return [
        Slot(index=first + position, visible_devices=gpu, threads=bundle.threads, node=name)
        for position in range(bundle.slots)
    ]


def _alive() -> dict[str, dict[str, Any]]:
    """The nodes by id."""
    every = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node for node in every if node["Alive"]}


def _asked_for(bundle: Bundle, node_id: str) -> _Device:
    group = placement_group(
        [bundle.resources], strategy="STRICT_PACK", bundle_label_selector=[{"ray.io/node-id": node_id}]
    )
    return _Device(bundle, group)


def _reserved_gpu(device: _Device) -> str | None:
    """The GPU of a device that is reserved, empty for cores; None before."""
    if device.gpu is None:
        if not device.group.wait(0):
            return None
        if not device.bundle.gpus:
            return ""
        task = ray.remote(num_cpus=0, num_gpus=1, max_retries=0, max_calls=0)(_gpu_here)
        device.gpu = task.options(scheduling_strategy=_within(device)).remote()
    if not is_ready(device.gpu):
        return None
    try:
        gpu: str = ray.get(device.gpu)
    except ray.exceptions.RayError:  # the node dies, or its worker did
        device.gpu = None
        return None
    return gpu


def _gpu_here() -> str:
    return ",".join(str(gpu) for gpu in ray.get_gpu_ids())


def _within(device: _Device) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(device.group, placement_group_bundle_index=0)


def _task_options(device: _Device) -> dict[str, Any]:
    return {
        "num_cpus": device.bundle.cpu_share,
        "num_gpus": device.bundle.gpu_share,
        "scheduling_strategy": _within(device),
    }


def _give_back(devices: Iterable[_Device]) -> None:
    for device in devices:
        remove_placement_group(device.group)
