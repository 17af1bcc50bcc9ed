"""Trials into devices while a sweep runs: what they were seen to take decides where they go."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.device_monitor import Claim, Claims, DeviceMonitor
from experiments.disk_use import bytes_text
from experiments.footprint import Footprints, Shape, Usage
from experiments.placement import Need, Place, Placement
from experiments.slots import Slot

PATIENCE = 2
"""A trial that is next in order and fits nowhere lets others pass while so many trials end; then a device is kept free
for it."""

ROUNDS = 2
"""After so many completions a slot nobody passes any more, on whatever device: every trial starts some time."""


@dataclass(frozen=True)
class Asker:
    """A trial that may start.

    Attributes:
        name: tells it from others.
        alone: it must have a device for itself.
    """

    name: Hashable
    shape: Shape
    alone: bool = False


@dataclass
class _Run:
    """An attempt in its place.

    Attributes:
        is_measured: whether it has told what it takes.
    """

    place: Place
    shape: Shape
    is_measured: bool = False

    @property
    def is_on_gpu(self) -> bool:
        return bool(self.place.slot.visible_devices)


class Packing:
    """Where trials of a sweep run.

    Args:
        slots: all there are.
        known: what trials cost, as far as that was seen; it learns here.
        monitor: tells of memory; None: only the number of slots limits.
    """

    def __init__(self, slots: Sequence[Slot], *, known: Footprints, monitor: DeviceMonitor | None) -> None:
        self.known = known
        self._placement = Placement(slots)
        self._monitor = monitor
        self._running: dict[Hashable, _Run] = {}
        self._completions = 0
        self._blocked: tuple[Hashable, int] | None = None
        """Who was next in order and fitted nowhere, and how many trials had ended then."""
        self._changed: set[str] = set()
        """Devices of which other sweeps do not know yet what this one has."""
        self._claims: dict[str, Claim] = {}

    def has_room(self) -> bool:
        """Whether a slot is free; memory may forbid it nevertheless."""
        return self._placement.has_room()

    def must_publish(self) -> bool:
        """Whether other sweeps do not know yet what this one has."""
        return self._monitor is not None and bool(self._changed)

    @contextlib.contextmanager
    def looking(self) -> Iterator[bool]:
        """Around a choice: memory is read anew, no other sweep can be promised any, and what is promised is published.

        Yields:
            Whether anything may be placed; not where another sweep holds everybody up.
        """
        if self._monitor is None:
            yield True
            return
        with self._monitor.claims() as claims:
            if claims is None:
                yield False
                return
            self._placement.observe(self._monitor.read(), _unused(claims))
            yield True
            if self._changed:
                claims.publish(self._present_claims())

    def first_that_fits(self, askers: Sequence[Asker]) -> tuple[int, Place] | None:
        """The first of some trials that finds a place, and the place; None where none does.

        For one that must be alone a device is kept free from now on. The first of the others that finds none lets those
        behind it pass while `PATIENCE` trials end; then a device is kept free for it, too.

        Args:
            askers: in the order in which they should start.
        """
        found = None
        for position, asker in enumerate(askers):
            if position > 0 and self._lets_nobody_pass(askers[0]):
                break
            need = self._need(asker.shape, alone=asker.alone)
            if asker.alone:
                self._placement.reserve(need, asker.name)
            if (place := self._placement.place(need, asker.name)) is not None:
                self._changed.add(place.slot.device)
                self.known.note_start(asker.shape)
                self._running[asker.name] = _Run(place, asker.shape)
                found = (position, place)
                break
        if found is None or found[0] > 0:
            self._note_blocked(askers if found is None else askers[: found[0]])
        return found

    def _lets_nobody_pass(self, first: Asker) -> bool:
        if self._blocked is None or self._blocked[0] != first.name:
            return False
        return self._completions - self._blocked[1] >= PATIENCE + ROUNDS * self._placement.size

    def _note_blocked(self, passed: Sequence[Asker]) -> None:
        first = next((asker for asker in passed if not asker.alone), None)
        if first is None:
            return
        if self._blocked is None or self._blocked[0] != first.name:
            self._blocked = (first.name, self._completions)
        elif self._completions - self._blocked[1] >= PATIENCE:
            self._placement.reserve(self._need(first.shape), first.name)

    def measured(self, name: Hashable, usage: Usage) -> None:
        """An attempt has taken so much. What others of its shape were promised grows with it."""
        run = self._running[name]
        before = self._promise(run)
        self.known.note_usage(run.shape, usage)
        promise = self._promise(run)
        run.is_measured = True
        self._changed.add(run.place.slot.device)
        self._placement.measured(run.place.slot, usage.device_bytes if run.is_on_gpu else usage.host_bytes, promise)
        if promise != before:
            for other in self._running.values():
                if other.shape == run.shape and other.is_on_gpu == run.is_on_gpu:
                    self._placement.measured(other.place.slot, 0, promise)
                    self._changed.add(other.place.slot.device)

    def had_too_little(self, name: Hashable) -> bool:
        """An attempt ran out of a GPU's memory. Returns whether it would have more elsewhere, or later."""
        run = self._running[name]
        if run.place.promised_bytes is None or not run.is_on_gpu:
            return False
        self.known.note_too_little(run.shape, run.place.promised_bytes)
        return run.place.is_share

    def ended(self, name: Hashable) -> None:
        """An attempt is over."""
        slot = self._running.pop(name).place.slot
        self._placement.give_back(slot)
        self._changed.add(slot.device)
        self._completions += 1

    def set_slots(self, slots: Sequence[Slot]) -> None:
        """Machines came or went."""
        self._placement.set_slots(slots)

    def parallel(self, shapes: Iterable[Shape]) -> int:
        """How many trials of such shapes may run at the same time, about."""
        return max(1, max((self._placement.capacity(self._need(shape)) for shape in shapes), default=1))

    def why_not(self, shape: Shape) -> str:
        """Why a trial finds no place while nothing runs, for people."""
        if not self._placement.size:
            return "there is no machine to run on"
        if (found := self._placement.roomiest(self._need(shape))) is None:
            return "other sweeps of this machine do not give way"
        slot, left, needed = found
        return (
            f"other processes hold too much memory; the next trial needs {bytes_text(needed)}, {slot.label} has"
            f" {bytes_text(left)} left"
        )

    def forget(self, asker: Hashable) -> None:
        """Who asked for a place will not run."""
        self._placement.forget(asker)

    def _present_claims(self) -> Mapping[str, Claim]:
        """Of all devices; only those that have changed are looked at."""
        present = {key: Claim(*sums) for key, sums in self._placement.promises(self._changed).items()}
        for key in self._changed:
            self._claims.pop(key, None)
        self._claims |= present
        self._changed.clear()
        return self._claims

    def _need(self, shape: Shape, *, alone: bool = False) -> Need:
        device_bytes = self.known.device_bytes(shape)
        return Need(
            device_bytes=device_bytes,
            more_than=self.known.too_little(shape),
            is_measured=device_bytes is None
            and any(run.shape == shape and run.is_on_gpu and not run.is_measured for run in self._running.values()),
            host_bytes=self.known.host_bytes(shape),
            alone=alone,
        )

    def _promise(self, run: _Run) -> int | None:
        return self.known.device_bytes(run.shape) if run.is_on_gpu else self.known.host_bytes(run.shape)


def _unused(claims: Claims) -> dict[str, int]:
    """What others were promised beyond what they are seen to use: a reading shows the rest."""
    return {key: max(0, claim.promised_bytes - claim.used_bytes) for key, claim in claims.of_others.items()}
