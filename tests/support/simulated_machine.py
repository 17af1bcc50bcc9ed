"""A machine of the mind: devices with memory, trials that take some of it for a while, other people's processes."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from experiments.device_monitor import Claim
from experiments.footprint import MARGIN, Footprints, Shape, Usage
from experiments.packing import Asker, Packing
from experiments.placement import RESERVE, Place, Reading
from experiments.slots import Slot

GB = 10**9


@dataclass(frozen=True)
class Job:
    """A trial as the machine sees it.

    Attributes:
        peak: bytes that it may take from its first moment on.
        duration: of all its epochs, in seconds.
        probe_s: until it has told what it takes.
    """

    name: int
    shape: Shape
    peak: int
    duration: float
    epochs: int = 10
    probe_s: float = 1.0


class SharedClaims:
    """The promises of sweeps that share a machine."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Claim]] = {}


@dataclass
class _Claims:
    shared: SharedClaims
    sweep: str

    @property
    def of_others(self) -> Mapping[str, Claim]:
        sums: dict[str, Claim] = {}
        for sweep, claims in self.shared.of.items():
            for key, claim in claims.items() if sweep != self.sweep else ():
                before = sums.get(key, Claim(0, 0))
                sums[key] = Claim(before.promised_bytes + claim.promised_bytes, before.used_bytes + claim.used_bytes)
        return sums

    def publish(self, own: Mapping[str, Claim]) -> None:
        self.shared.of[self.sweep] = dict(own)


@dataclass
class Devices:
    """What the hardware would say: bytes in use by device, whoever uses them."""

    totals: Mapping[str, int]
    used: dict[str, int] = field(default_factory=dict)

    def take(self, key: str, amount: int) -> None:
        self.used[key] = self.used.get(key, 0) + amount
        assert self.used[key] <= self.totals[key], f"{key} is over-committed: {self.used[key]} of {self.totals[key]}"

    def free(self, key: str, amount: int) -> None:
        self.used[key] -= amount


@dataclass
class SimulatedMonitor:
    """A `DeviceMonitor` of one sweep."""

    devices: Devices
    shared: SharedClaims = field(default_factory=SharedClaims)
    sweep: str = "sweep"

    def read(self) -> Mapping[str, Reading]:
        return {key: Reading(total, self.devices.used.get(key, 0)) for key, total in self.devices.totals.items()}

    @contextmanager
    def claims(self) -> Iterator[_Claims]:
        yield _Claims(self.shared, self.sweep)


def gpus(totals: Sequence[int], *, places: int) -> tuple[list[Slot], dict[str, int]]:
    """Slots of GPUs with so much memory, and the memory by `Slot.device`."""
    slots = [
        Slot(index=gpu * places + place, visible_devices=f"GPU-{gpu}", threads=1)
        for gpu in range(len(totals))
        for place in range(places)
    ]
    return slots, {slot.device: totals[slot.index // places] for slot in slots}


@dataclass
class History:
    """What happened.

    Attributes:
        makespan: when the last job ended.
        passed: for each job, completions between its becoming the next in order and its start, at most.
        together: most jobs at a time.
    """

    makespan: float = 0.0
    passed: dict[int, int] = field(default_factory=dict)
    together: int = 0
    ran_out: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)


class SimulatedSweep:
    """Runs jobs by `Packing`, on a clock of its own. Several may take turns on one machine: `step` each.

    Args:
        linger_s: the memory of a job is freed so long after its end.
    """

    def __init__(
        self, jobs: Sequence[Job], slots: Sequence[Slot], monitor: SimulatedMonitor, *, linger_s: float = 0.0
    ) -> None:
        self.history = History()
        self.known = Footprints()
        self._packing = Packing(slots, known=self.known, monitor=monitor)
        self._devices = monitor.devices
        self._jobs = {job.name: job for job in jobs}
        self._waiting = list(jobs)
        self._alone: list[Job] = []
        self._linger_s = linger_s
        self._events: list[tuple[float, int, str, Job]] = []
        self._order = itertools.count()
        self._slot_of: dict[int, Slot] = {}
        self._head: tuple[int, int] | None = None
        self._completions = 0
        self.now = 0.0

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._alone and not self._events

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    @property
    def next_at(self) -> float:
        return self._events[0][0] if self._events else self.now

    def fill(self) -> None:
        with self._packing.looking():
            while self._waiting or self._alone:
                self._waiting.sort(key=self._rank)
                self._note_head()
                jobs = [*self._alone, *self._firsts()]
                alone = [True] * len(self._alone) + [False] * len(self._waiting)
                found = self._packing.first_that_fits(
                    [Asker(job.name, job.shape, alone=one) for job, one in zip(jobs, alone, strict=False)]
                )
                if found is None:
                    return
                self._start(jobs[found[0]], found[1])

    def step(self) -> None:
        """The next thing happens."""
        self.now, _, what, job = heapq.heappop(self._events)
        if what == "freed":
            self._devices.free(job.shape[0], job.peak)
        elif what == "measured":
            self._packing.measured(job.name, Usage(device_bytes=job.peak, host_bytes=0, step_s=0.1))
        elif what == "epoch":
            self.known.note_epoch(job.shape, job.duration / job.epochs)
        elif what == "oom":
            self._run_out(job)
        else:
            self._end(job)

    def run(self) -> History:
        self.fill()
        while not self.is_over:
            assert self._events, "nothing runs, and something waits"
            self.step()
            while self._events and self._events[0][0] == self.now:
                self.step()
            self.fill()
        return self.history

    def _rank(self, job: Job) -> tuple[bool, float, int]:
        epoch_s = self.known.epoch_s(job.shape) or self.known.mean_epoch_s() or 1.0
        return not self.known.is_new(job.shape), -epoch_s * job.epochs, job.name

    def _firsts(self) -> list[Job]:
        """As `Waiting.heads`: one of each group."""
        firsts: dict[tuple[Shape, int], Job] = {}
        for job in self._waiting:
            firsts.setdefault((job.shape, job.epochs), job)
        return list(firsts.values())

    def _note_head(self) -> None:
        if not self._waiting:
            return
        head = self._waiting[0].name
        if self._head is None or self._head[0] != head:
            self._head = (head, self._completions)

    def _start(self, job: Job, place: Place) -> None:
        slot = place.slot
        assert place.promised_bytes is not None
        if self._head is not None and self._head[0] == job.name:
            self.history.passed[job.name] = self._completions - self._head[1]
        (self._alone if job in self._alone else self._waiting).remove(job)
        self._slot_of[job.name] = slot
        if job.peak > place.promised_bytes:  # its process may not take more
            self._devices.take(slot.device, place.promised_bytes)
            self._after(job.probe_s / 2, "oom", replace(job, peak=place.promised_bytes))
            return
        self._devices.take(slot.device, job.peak)
        self.history.order.append(job.name)
        self.history.together = max(self.history.together, len(self._slot_of))
        self._after(min(job.probe_s, job.duration), "measured", job)
        self._after(job.duration / job.epochs, "epoch", job)
        self._after(job.duration, "ended", job)

    def _run_out(self, job: Job) -> None:
        slot = self._slot_of.pop(job.name)
        has_more = self._packing.had_too_little(job.name)
        self._packing.ended(job.name)
        self._devices.free(slot.device, job.peak)
        (self._waiting if has_more else self._alone).append(self._jobs[job.name])
        self.history.ran_out.append(job.name)

    def _end(self, job: Job) -> None:
        slot = self._slot_of.pop(job.name)
        self._packing.ended(job.name)
        self.known.note_trial(job.shape, epochs=job.epochs, duration_s=job.duration)
        self._completions += 1
        self.history.makespan = self.now
        freed = Job(job.name, (slot.device,), job.peak, 0.0)
        if self._linger_s:
            self._after(self._linger_s, "freed", freed)
        else:
            self._devices.free(slot.device, job.peak)

    def _after(self, seconds: float, what: str, job: Job) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what, job))


def best_fit(jobs: Sequence[Job], totals: Mapping[str, int], *, places: int) -> float:
    """The makespan of one who knows all times and needs beforehand, and keeps to the same margins.

    The longest first, each on the device that it leaves with least room, others pass where one does not fit.
    """
    need: dict[Shape, float] = {}
    for job in jobs:
        need[job.shape] = max(need.get(job.shape, 0.0), job.peak * MARGIN)
    free = {key: total * (1 - RESERVE) for key, total in totals.items()}
    left = dict.fromkeys(totals, places)
    ends: list[tuple[float, int, str, Job]] = []
    waiting = sorted(jobs, key=lambda job: -job.duration)
    now, order = 0.0, itertools.count()
    while waiting or ends:
        for job in list(waiting):
            fitting = [key for key in free if free[key] >= need[job.shape] and left[key]]
            if fitting:
                key = min(fitting, key=free.__getitem__)
                free[key] -= need[job.shape]
                left[key] -= 1
                heapq.heappush(ends, (now + job.duration, next(order), key, job))
                waiting.remove(job)
        now, _, key, job = heapq.heappop(ends)
        free[key] += need[job.shape]
        left[key] += 1
    return now


def random_jobs(rng: random.Random, *, largest: int) -> list[Job]:
    """As sweeps are: a few shapes, of each many trials that take about the same."""
    jobs: list[Job] = []
    for shape in range(rng.randint(1, 6)):
        peak, duration = rng.uniform(0.02, 0.8) * largest, rng.uniform(600, 20_000)
        epochs = rng.randint(2, 30)
        for _ in range(rng.randint(1, 40)):
            jobs.append(
                Job(
                    name=len(jobs),
                    shape=(f"shape {shape}",),
                    peak=int(peak * rng.uniform(0.96, 1.0)),
                    duration=duration * rng.uniform(0.9, 1.1),
                    epochs=epochs,
                    probe_s=rng.uniform(1, 20),
                )
            )
    rng.shuffle(jobs)
    return [Job(index, job.shape, job.peak, job.duration, job.epochs, job.probe_s) for index, job in enumerate(jobs)]
