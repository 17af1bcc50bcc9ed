"""Which trial may run in which slot, by what it needs and what devices have. Pure decisions over numbers."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from experiments.slots import Slot

RESERVE = 0.05
"""Share of a device's memory that is never promised: drivers, contexts and fragments take some."""
PROBE_SHARE = 0.25
"""Of a GPU's memory at least so much must be free to try what a trial needs. It has what is free and no more, so what
runs there already is safe from it; and no GPU has to be emptied for it.
"""
FOREIGN_SHARE = 0.05
"""On an otherwise empty GPU other processes may hold so much (a screen does), and a trial that needs all may try."""
SETTLE_LOOKS = 20
"""So often a device is looked at for the memory of a trial that ended, before it is taken to be somebody else's."""
UNKNOWN_HOST_BYTES = 3 * 2**29
"""What a trial is promised of main memory before one like it was measured: 1.5 GiB."""


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


@dataclass(frozen=True)
class Need:
    """What a trial asks of a device.

    Attributes:
        device_bytes: of a GPU's memory, margin included; None: nobody knows yet.
        more_than: bytes of a GPU's memory that were too little.
        is_measured: whether a trial like it is just being seen to; it need not be tried elsewhere.
        host_bytes: of main memory, on a device without a GPU; None: nobody knows yet.
        alone: on a device where nothing else of this sweep runs.
    """

    device_bytes: int | None = None
    more_than: int = 0
    is_measured: bool = False
    host_bytes: int | None = None
    alone: bool = False


@dataclass(frozen=True)
class Place:
    """Where a trial is to run.

    Attributes:
        promised_bytes: of the device's memory, which nobody else is promised; None where memory is not known.
        is_share: whether the device has more than that.
    """

    slot: Slot
    promised_bytes: int | None = None
    is_share: bool = False


@dataclass
class _Tenant:
    """A trial on a device."""

    promised: int = 0
    used: int = 0
    shuts: bool = False
    """Nothing else of the sweep may start here: it is alone, or a probe."""
    is_probe: bool = False


@dataclass
class _Device:
    """A device with what runs on it.

    Attributes:
        tenants: by the index of the slot.
        of_others: what other sweeps were promised here and do not use yet.
        is_stale: whether a trial has ended since its memory was last read.
        settles_to: bytes that others used when a trial ended here; None once no more is used than that.
        looks: at the device since then.
    """

    key: str
    is_gpu: bool
    free: deque[Slot] = field(default_factory=deque)
    tenants: dict[int, _Tenant] = field(default_factory=dict)
    reading: Reading | None = None
    of_others: int = 0
    is_stale: bool = False
    settles_to: int | None = None
    looks: int = 0

    @property
    def is_shut(self) -> bool:
        return any(tenant.shuts for tenant in self.tenants.values())

    @property
    def usable(self) -> int:
        """Bytes that trials may have of the device in all."""
        assert self.reading is not None
        return int(self.reading.total_bytes * (1 - RESERVE))

    @property
    def available(self) -> int:
        """Bytes that can be promised to one more trial."""
        assert self.reading is not None
        promised = sum(max(tenant.promised, tenant.used) for tenant in self.tenants.values())
        return self.usable - self.foreign - self.of_others - promised

    @property
    def foreign(self) -> int:
        """Bytes that others use, or trials that have just ended."""
        assert self.reading is not None
        return max(0, self.reading.used_bytes - sum(tenant.used for tenant in self.tenants.values()))

    def look(self, reading: Reading) -> None:
        """Its memory is read."""
        self.reading, self.is_stale = reading, False
        self.looks += 1
        if self.settles_to is not None and (
            self.foreign <= self.settles_to + FOREIGN_SHARE * reading.total_bytes or self.looks >= SETTLE_LOOKS
        ):
            self.settles_to = None

    def leave(self, slot: Slot) -> None:
        """What runs in a slot has ended; its memory may be free a little later."""
        before = self.foreign if self.reading is not None else 0
        del self.tenants[slot.index]
        self.free.append(slot)
        if self.reading is not None:
            self.is_stale, self.looks = True, 0
            self.settles_to = before if self.settles_to is None else self.settles_to


class Placement:
    """Which trial may run where, by what it needs and by what devices have. Never promises memory that is not there.

    Memory counts on devices that `observe` was told of. On others the number of slots is all that limits.

    Args:
        slots: all there are.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._devices: dict[str, _Device] = {}
        self._with_free: dict[str, _Device] = {}
        """Those with a free slot, the one first that has been asked least recently."""
        self._slots: dict[int, Slot] = {}
        self._reserved: dict[Hashable, str] = {}
        self._order: list[tuple[int, int, int, str]] | None = None
        """A heap of the devices with a free slot, by how `place` prefers them; None where something has changed."""
        self.set_slots(slots)

    @property
    def size(self) -> int:
        """Slots in all."""
        return len(self._slots)

    def set_slots(self, slots: Sequence[Slot]) -> None:
        """Machines came or went. What ran on a slot that is gone ends, and gives nothing back."""
        self._order = None
        present = {slot.index: slot for slot in slots}
        for index in self._slots.keys() - present.keys():
            device = self._devices[self._slots[index].device]
            device.tenants.pop(index, None)
            device.free = deque(slot for slot in device.free if slot.index != index)
        for index in present.keys() - self._slots.keys():
            slot = present[index]
            device = self._devices.setdefault(slot.device, _Device(slot.device, is_gpu=bool(slot.visible_devices)))
            device.free.append(slot)
        self._slots = present
        kept = {slot.device for slot in slots}
        self._devices = {key: device for key, device in self._devices.items() if key in kept}
        self._with_free = {key: device for key, device in self._devices.items() if device.free}
        self._reserved = {asker: key for asker, key in self._reserved.items() if key in kept}

    def observe(self, readings: Mapping[str, Reading], of_others: Mapping[str, int] = MappingProxyType({})) -> None:
        """What devices are like now. One that could be read before and cannot any more takes no trial until it can.

        Args:
            of_others: bytes that other sweeps were promised and do not use yet.
        """
        self._order = None
        for key, device in self._with_free.items():  # the others take nobody, whatever is free of them
            if (reading := readings.get(key)) is not None:
                device.look(reading)
            elif device.reading is not None:
                device.is_stale = True
            device.of_others = of_others.get(key, 0)

    def has_room(self) -> bool:
        """Whether a slot is free on a device that is open; memory may forbid it nevertheless."""
        reserved = set(self._reserved.values())
        return any(not device.is_shut and key not in reserved for key, device in self._with_free.items())

    def place(self, need: Need, asker: Hashable = None) -> Place | None:
        """A slot for a trial; None where there is none now.

        Of the devices that have room it takes the one on which least runs, of these the one that is left with the
        least memory, of these the one that was asked least recently.

        Args:
            asker: whom a device may be reserved for.
        """
        own = self._with_free.get(self._reserved.get(asker, ""))
        device = own if own is not None and _fits(own, need) else self._first_that_fits(need)
        if device is None:
            return None
        self._reserved.pop(asker, None)
        place = self._take(device, need)
        self._put_in_order(device)
        return place

    def reserve(self, need: Need, asker: Hashable) -> None:
        """Keeps a device free from now on until `place` has found a slot for `asker`: the one with most to give.

        That is the one with most memory left, or on which least runs where it must be alone or memory is not known.
        """
        taken = set(self._reserved.values())
        able = [
            device
            for device in self._devices.values()
            if device.key not in taken and not any(one.shuts and not one.is_probe for one in device.tenants.values())
        ]
        able = [device for device in able if _could_fit(device, need)] or able
        if able and asker not in self._reserved:
            self._reserved[asker] = min(able, key=lambda one: _taken(one, need)).key

    def forget(self, asker: Hashable) -> None:
        """Nothing is kept free for `asker` any more."""
        self._reserved.pop(asker, None)

    def measured(self, slot: Slot, used: int, promised: int | None) -> None:
        """A trial has been seen to take so much. A probe lets others in.

        Args:
            promised: what it, and others like it, may grow to.
        """
        tenant = self._tenant(slot)
        if tenant is None:
            return
        tenant.used = max(tenant.used, used)
        if promised is not None and (tenant.is_probe or not tenant.shuts):
            tenant.promised = promised if tenant.is_probe else max(promised, tenant.promised)
            tenant.shuts = tenant.is_probe = False
        self._order = None

    def give_back(self, slot: Slot) -> None:
        """The trial in a slot has ended. Its device is used again once a reading shows that its memory is free."""
        device = self._devices.get(slot.device)
        if device is not None and slot.index in device.tenants:
            device.leave(slot)
            self._order = None
            self._with_free.pop(slot.device, None)
            self._with_free[slot.device] = device

    def promises(self, devices: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Bytes promised and bytes used of some devices; those whose memory is not known, or unused, are missing."""
        return {
            key: (
                sum(max(tenant.promised, tenant.used) for tenant in device.tenants.values()),
                sum(tenant.used for tenant in device.tenants.values()),
            )
            for key in devices
            if (device := self._devices.get(key)) is not None and device.reading is not None and device.tenants
        }

    def roomiest(self, need: Need) -> tuple[Slot, int, int] | None:
        """Where nothing runs: a slot of the device with most memory left, that, and what a trial would need of it."""
        found = max(
            (device for device in self._devices.values() if device.reading is not None),
            key=lambda device: device.available,
            default=None,
        )
        if found is None or found.reading is None:
            return None
        asked = _asked(found, need)
        least = asked if asked is not None else int(PROBE_SHARE * found.reading.total_bytes)
        return found.free[0], max(0, found.available), least

    def capacity(self, need: Need) -> int:
        """How many such trials could run at the same time, if nothing else did."""
        return sum(_capacity(device, need) for device in self._devices.values())

    def _first_that_fits(self, need: Need) -> _Device | None:
        """Of the devices that are kept free for nobody. Many trials that start at once need not look at all of them."""
        if self._order is None:
            self._order = [self._preference(position, key) for position, key in enumerate(self._with_free)]
            heapq.heapify(self._order)
        kept = set(self._reserved.values())
        passed: list[tuple[int, int, int, str]] = []
        found: _Device | None = None
        while self._order and found is None:
            passed.append(heapq.heappop(self._order))
            device = self._with_free[passed[-1][-1]]
            if device.key not in kept and _fits(device, need):
                found = device
        for entry in passed:
            heapq.heappush(self._order, entry)
        return found

    def _put_in_order(self, device: _Device) -> None:
        """A trial has been placed there. Its old entry is the first, unless it was kept free for that trial."""
        if self._order and self._order[0][-1] == device.key:
            position = heapq.heappop(self._order)[2]
            if device.free:
                heapq.heappush(self._order, self._preference(position, device.key))
        else:
            self._order = None

    def _preference(self, position: int, key: str) -> tuple[int, int, int, str]:
        device = self._with_free[key]
        return len(device.tenants), device.available if device.reading is not None else 0, position, key

    def _tenant(self, slot: Slot) -> _Tenant | None:
        device = self._devices.get(slot.device)
        return device.tenants.get(slot.index) if device is not None else None

    def _take(self, device: _Device, need: Need) -> Place:
        slot = device.free.popleft()
        if not device.free:
            del self._with_free[device.key]
        if device.reading is None:
            device.tenants[slot.index] = _Tenant(shuts=need.alone)
            return Place(slot)
        asked = _asked(device, need)
        is_probe = asked is None and not need.alone
        takes_all = asked is None or need.alone
        promised = max(0, device.available) if takes_all else min(asked or 0, max(0, device.available))
        is_share = promised < device.usable * (1 - FOREIGN_SHARE)
        device.tenants[slot.index] = _Tenant(promised=promised, shuts=takes_all, is_probe=is_probe)
        return Place(slot, promised, is_share)


def _asked(device: _Device, need: Need) -> int | None:
    """Bytes that a trial asks of a device; None: unknown, so nothing else may start there while it shows them."""
    if device.is_gpu:
        return need.device_bytes
    return need.host_bytes if need.host_bytes is not None else UNKNOWN_HOST_BYTES


def _fits(device: _Device, need: Need) -> bool:
    if not device.free or device.is_shut or device.is_stale or (need.alone and device.tenants):
        return False
    if device.reading is None:
        return True
    if not device.is_gpu and not device.tenants:
        return True  # how much main memory there is, is never quite known: something always runs
    asked = _asked(device, need)
    if asked is None:
        least = max(PROBE_SHARE * device.reading.total_bytes, need.more_than + 1)
        has_some = device.available >= least and not need.is_measured
        return device.settles_to is None and (has_some or _is_empty(device))
    return device.available >= asked or _is_empty(device)  # where a trial needs more than any GPU has, it may try


def _taken(device: _Device, need: Need) -> tuple[int, int]:
    """How far a device is from being free for a trial."""
    if need.alone or device.reading is None:
        return len(device.tenants), 0
    return 0, -device.available


def _is_empty(device: _Device) -> bool:
    """Whether a trial would have all of a GPU, but for what other processes hold nearly everywhere (a screen)."""
    return not device.tenants and device.available >= device.usable * (1 - FOREIGN_SHARE)


def _could_fit(device: _Device, need: Need) -> bool:
    """Whether a trial would fit if nothing of this sweep ran there."""
    asked = _asked(device, need)
    return device.reading is None or asked is None or device.usable >= asked


def _capacity(device: _Device, need: Need) -> int:
    slots = len(device.free) + len(device.tenants)
    asked = _asked(device, need)
    if device.reading is None or not asked:
        return slots
    return min(slots, max(1, device.usable // asked))
