from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from simulated_machine import GB, gpus

from experiments.placement import FOREIGN_SHARE, RESERVE, SETTLE_LOOKS, Need, Place, Placement, Reading, _fits
from experiments.slots import Slot, cpu_slots, deal_cores, gpu_slots, places_on_a_gpu, planned_slots


def test_a_gpu_is_a_slot_and_the_cores_are_shared() -> None:
    slots = gpu_slots(["0", "GPU-8c3f"], cores=7)
    assert slots == [
        Slot(index=0, visible_devices="0", threads=3),
        Slot(index=1, visible_devices="GPU-8c3f", threads=3),
    ]
    assert [slot.label for slot in slots] == ["gpu 0", "gpu GPU-8c3f"]


@pytest.mark.parametrize(("gpus", "cores", "threads"), [(1, 1, 1), (1, 16, 16), (8, 4, 1), (4, 4, 1)])
def test_threads_of_a_gpu(gpus: int, cores: int, threads: int) -> None:
    slots = gpu_slots([str(index) for index in range(gpus)], cores=cores)
    assert [slot.threads for slot in slots] == [threads] * gpus


def test_no_gpu() -> None:
    assert gpu_slots([], cores=4) == []
    assert gpu_slots([], cores=4, places=3) == []


@pytest.mark.parametrize(("places", "cores", "threads"), [(1, 8, 4), (2, 8, 2), (2, 7, 1), (4, 8, 1), (8, 2, 1)])
def test_several_places_on_a_gpu(places: int, cores: int, threads: int) -> None:
    slots = gpu_slots(["GPU-a", "GPU-b"], cores=cores, places=places, names=["0", "2"])
    assert [slot.label for slot in slots] == ["gpu 0", "gpu 2"] * places, "one on each before a second on any"
    assert [slot.visible_devices for slot in slots] == ["GPU-a", "GPU-b"] * places
    assert [slot.index for slot in slots] == list(range(2 * places))
    assert {slot.threads for slot in slots} == {threads}
    assert len({slot.device for slot in slots}) == 2


@pytest.mark.parametrize(
    ("setting", "gpus", "cores", "places"),
    [
        ("auto", 1, 1, 1),
        ("auto", 1, 3, 1),
        ("auto", 1, 4, 2),
        ("auto", 2, 7, 1),
        ("auto", 2, 8, 2),
        ("auto", 1, 15, 7),
        ("auto", 1, 16, 8),
        ("auto", 1, 128, 8),
        ("auto", 8, 4, 1),
        (1, 1, 64, 1),
        (12, 4, 1, 12),
    ],
)
def test_how_many_places(setting: Literal["auto"] | int, gpus: int, cores: int, places: int) -> None:
    assert places_on_a_gpu(setting, gpus=gpus, cores=cores) == places


@pytest.mark.parametrize(
    ("count", "cores", "slots", "threads"), [(None, 4, 4, 1), (None, 1, 1, 1), (1, 4, 1, 4), (3, 8, 3, 2), (9, 2, 9, 1)]
)
def test_cpu_slots(count: int | None, cores: int, slots: int, threads: int) -> None:
    found = cpu_slots(count, cores=cores)
    assert found == [Slot(index=index, visible_devices="", threads=threads) for index in range(slots)]
    assert [slot.label for slot in found] == [f"cpu {index}" for index in range(slots)]


@pytest.mark.parametrize(
    ("usable", "slots", "dealt"),
    [
        ([0, 1, 2, 3], 2, [(0, 1), (2, 3)]),
        ([3, 0, 2, 1], 4, [(0,), (1,), (2,), (3,)]),
        ([0, 1, 2, 3, 4, 5, 6, 7], 3, [(0, 1, 2), (3, 4, 5), (6, 7)]),
        ([4, 5, 9], 1, [(4, 5, 9)]),
        ([8, 8, 2], 2, [(2,), (8,)]),
        ([0, 1], 3, [(), (), ()]),
        ([0, 0], 2, [(), ()]),
        ([], 1, [()]),
    ],
)
def test_cores_are_dealt_once_and_evenly(usable: list[int], slots: int, dealt: list[tuple[int, ...]]) -> None:
    assert deal_cores(usable, slots) == dealt


def test_cpu_slots_have_cores_of_their_own_and_all_the_same_threads() -> None:
    slots = cpu_slots(3, cores=8, usable=range(8))
    assert [slot.cores for slot in slots] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert {slot.threads for slot in slots} == {2}, "a result depends on them"
    assert [slot.cores for slot in cpu_slots(None, cores=2, usable=[5, 7])] == [(5,), (7,)]
    assert [slot.cores for slot in cpu_slots(3, cores=2, usable=[0, 1])] == [(), (), ()]


class TestPlannedSlots:
    @pytest.mark.parametrize(
        ("durations", "slots", "placed", "end"),
        [
            ([], 1, [], 0.0),
            ([], 3, [], 0.0),
            ([5.0], 1, [0], 5.0),
            ([5.0], 3, [0], 5.0),
            ([1.0, 2.0, 3.0], 1, [0, 0, 0], 6.0),
            ([1.0, 1.0, 1.0, 1.0, 1.0], 2, [0, 1, 0, 1, 0], 3.0),  # ties: the lowest slot
            ([3.0, 1.0, 1.0, 1.0], 2, [0, 1, 1, 1], 3.0),
            ([3.0, 1.0, 1.0, 1.0, 1.0], 2, [0, 1, 1, 1, 0], 4.0),
            ([1.0, 9.0, 1.0], 2, [0, 1, 0], 9.0),  # the last to end is not the last to start
            ([0.0, 0.0, 2.0], 2, [0, 0, 0], 2.0),
        ],
    )
    def test_each_on_the_slot_that_is_free_first(
        self, durations: list[float], slots: int, placed: list[int], end: float
    ) -> None:
        assert planned_slots(durations, slots=slots) == (placed, end)

    def test_against_a_slow_loop(self) -> None:
        random_ = random.Random(0)
        for _ in range(300):
            slots = random_.randrange(1, 6)
            durations = [float(random_.randrange(5)) for _ in range(random_.randrange(12))]
            assert planned_slots(durations, slots=slots) == slowly_planned(durations, slots)


def slowly_planned(durations: Sequence[float], slots: int) -> tuple[list[int], float]:
    """Second by second: whoever is next starts on the lowest slot where nothing runs. Durations are whole."""
    left = [0.0] * slots
    placed: list[int] = []
    second = 0
    while len(placed) < len(durations) or any(left):
        while len(placed) < len(durations) and 0.0 in left:
            slot = left.index(0.0)
            left[slot] = durations[len(placed)]
            placed.append(slot)
        if any(left):
            second += 1
            left = [max(0.0, one - 1.0) for one in left]
    return placed, float(second)


GPU = "/GPU-0"


def gpu_placement(*totals: int, places: int = 4) -> Placement:
    """Of GPUs with so many bytes each, all free."""
    slots, of = gpus(totals, places=places)
    placement = Placement(slots)
    placement.observe({key: Reading(total, 0) for key, total in of.items()})
    return placement


def usable(total: int) -> int:
    return int(total * (1 - RESERVE))


def device_of(place: Place | None) -> str:
    assert place is not None
    return place.slot.device


class TestSlots:
    """Where no memory is known."""

    def test_slots_go_round(self) -> None:
        placement = Placement(cpu_slots(2, cores=2))
        first, second = placement.place(Need()), placement.place(Need())
        assert first is not None
        assert second is not None
        assert (first.slot.index, second.slot.index, placement.place(Need()), placement.has_room()) == (
            0,
            1,
            None,
            False,
        )
        assert first.promised_bytes is None
        placement.give_back(second.slot)
        assert placement.has_room()
        assert placement.place(Need()) == second

    def test_alone_means_that_nothing_else_runs_or_starts_on_the_device(self) -> None:
        placement = Placement(cpu_slots(3, cores=3))
        first, second = placement.place(Need()), placement.place(Need())
        assert first is not None
        assert second is not None
        alone = Need(alone=True)
        placement.reserve(alone, "x")
        assert placement.place(alone, "x") is None
        assert placement.place(Need()) is None, "the device is kept free from now on"
        placement.give_back(first.slot)
        assert placement.place(alone, "x") is None
        placement.give_back(second.slot)
        has_it = placement.place(alone, "x")
        assert has_it is not None
        assert not placement.has_room()
        assert placement.place(alone, "y") is None
        placement.give_back(has_it.slot)
        assert [placement.place(Need()) is not None for _ in range(4)] == [True, True, True, False]

    def test_the_device_on_which_least_runs_is_kept_free(self) -> None:
        slots = [replace(slot, index=i) for i, slot in enumerate([*gpu_slots(["a", "b"], cores=4)] * 2)]  # a b a b
        placement = Placement(slots)
        taken = [placement.place(Need()) for _ in range(3)]
        assert [one.slot.visible_devices for one in taken if one] == ["a", "b", "a"]
        placement.reserve(Need(alone=True), "x")
        assert placement.place(Need()) is None, "b is kept free, a is full"
        assert taken[0] is not None
        placement.give_back(taken[0].slot)
        assert device_of(placement.place(Need())) == "/a", "the other device goes on"
        assert taken[1] is not None
        placement.give_back(taken[1].slot)
        assert device_of(placement.place(Need(alone=True), "x")) == "/b"

    def test_two_may_be_alone_on_two_devices(self) -> None:
        placement = Placement(gpu_slots(["a", "b"], cores=2))
        assert {device_of(placement.place(Need(alone=True), one)) for one in "xy"} == {"/a", "/b"}
        assert placement.place(Need(alone=True), "z") is None

    def test_who_will_not_run_keeps_nothing_free(self) -> None:
        placement = Placement(gpu_slots(["a"], cores=2))
        placement.reserve(Need(), "x")
        assert not placement.has_room()
        placement.forget("x")
        placement.forget("never asked")
        assert placement.has_room()
        assert placement.place(Need()) is not None

    def test_no_slot_at_all(self) -> None:
        placement = Placement([])
        placement.reserve(Need(), "x")
        assert (placement.has_room(), placement.place(Need(), "x"), placement.capacity(Need())) == (False, None, 0)


class TestSlotsChange:
    def test_what_joins_is_used(self) -> None:
        slots = gpu_slots(["a", "b"], cores=2)
        placement = Placement(slots[:1])
        assert placement.place(Need()) is not None
        assert not placement.has_room()
        placement.set_slots(slots)
        assert device_of(placement.place(Need())) == "/b"

    def test_what_is_gone_is_not_used_any_more_nor_given_back(self) -> None:
        slots = gpu_slots(["a", "b"], cores=2)
        placement = Placement(slots)
        on_a = placement.place(Need())
        assert on_a is not None
        placement.set_slots(slots[1:])
        placement.give_back(on_a.slot)
        placement.measured(on_a.slot, 5, 5)
        assert device_of(placement.place(Need())) == "/b"
        assert placement.place(Need()) is None

    def test_a_device_kept_free_is_gone_with_its_machine(self) -> None:
        slots = gpu_slots(["a", "b"], cores=2)
        placement = Placement(slots)
        placement.reserve(Need(alone=True), "x")  # a
        placement.set_slots(slots[1:])
        assert device_of(placement.place(Need())) == "/b"

    def test_a_part_of_a_device_goes(self) -> None:
        slots, _ = gpus([GB], places=3)
        placement = Placement(slots)
        placement.set_slots(slots[1:])
        assert [one.slot.index for one in (placement.place(Need()), placement.place(Need())) if one] == [1, 2]
        assert placement.place(Need()) is None


class TestMemory:
    def test_to_the_byte(self) -> None:
        total = 1000
        fits = Need(device_bytes=usable(total) // 2)
        placement = gpu_placement(total)
        assert placement.place(fits) is not None
        assert placement.place(replace(fits, device_bytes=usable(total) // 2 + 1)) is None
        assert placement.place(fits) is not None
        assert placement.place(Need(device_bytes=1)) is None

    def test_others_processes_and_promises_lower_what_is_free(self) -> None:
        placement = gpu_placement(1000)
        placement.observe({GPU: Reading(1000, 300)}, {GPU: 200})
        assert placement.place(Need(device_bytes=usable(1000) - 500 + 1)) is None
        found = placement.place(Need(device_bytes=usable(1000) - 500))
        assert found is not None
        assert (found.promised_bytes, found.is_share) == (450, True)

    def test_what_a_trial_uses_itself_is_not_counted_twice(self) -> None:
        placement = gpu_placement(1000)
        first = placement.place(Need(device_bytes=400))
        assert first is not None
        placement.measured(first.slot, 350, 400)
        placement.observe({GPU: Reading(1000, 350)})
        assert placement.place(Need(device_bytes=551)) is None
        assert placement.place(Need(device_bytes=550)) is not None

    def test_a_trial_that_grows_beyond_its_promise_takes_room(self) -> None:
        placement = gpu_placement(1000)
        first = placement.place(Need(device_bytes=400))
        assert first is not None
        placement.measured(first.slot, 500, 600)
        placement.observe({GPU: Reading(1000, 500)})
        assert placement.place(Need(device_bytes=351)) is None
        placement.measured(first.slot, 100, 100)  # a promise is not taken back, nor a peak
        assert placement.promises([GPU]) == {GPU: (600, 500)}
        assert placement.place(Need(device_bytes=350)) is not None

    def test_a_device_is_used_again_when_its_memory_is_really_free(self) -> None:
        placement = gpu_placement(1000)
        first = placement.place(Need(device_bytes=600))
        assert first is not None
        placement.measured(first.slot, 600, 600)
        placement.give_back(first.slot)
        assert placement.place(Need(device_bytes=600)) is None, "nobody has looked since"
        placement.observe({GPU: Reading(1000, 600)})
        assert placement.place(Need(device_bytes=600)) is None, "the driver has not freed it"
        placement.observe({GPU: Reading(1000, 50)})
        assert placement.place(Need(device_bytes=600)) is not None

    def test_a_device_that_cannot_be_read_any_more_takes_nothing_until_it_can(self) -> None:
        placement = gpu_placement(1000)
        placement.observe({})
        assert placement.place(Need(device_bytes=1)) is None
        placement.observe({GPU: Reading(1000, 0)})
        assert placement.place(Need(device_bytes=1)) is not None

    def test_more_than_any_gpu_has_may_be_tried_on_an_empty_one(self) -> None:
        placement = gpu_placement(1000)
        placement.observe({GPU: Reading(1000, 400)})
        assert placement.place(Need(device_bytes=5000)) is None
        placement.observe({GPU: Reading(1000, 10)})  # a screen
        found = placement.place(Need(device_bytes=5000))
        assert found is not None
        assert (found.promised_bytes, found.is_share) == (940, False)

    def test_least_runs_then_least_is_left_over(self) -> None:
        placement = gpu_placement(1000, 500, 800)
        order = [device_of(placement.place(Need(device_bytes=300))) for _ in range(4)]
        assert order == ["/GPU-1", "/GPU-2", "/GPU-0", "/GPU-2"]

    def test_whoever_waits_for_much_is_kept_the_device_with_most_left(self) -> None:
        placement = gpu_placement(1000, 1000)
        taken = [placement.place(Need(device_bytes=size)) for size in (300, 400, 300)]
        assert [device_of(one) for one in taken] == ["/GPU-0", "/GPU-1", "/GPU-1"]
        big = Need(device_bytes=800)
        assert placement.place(big, "big") is None
        placement.reserve(big, "big")  # GPU-0 has 650 left, GPU-1 250
        assert placement.place(Need(device_bytes=400)) is None
        assert device_of(placement.place(Need(device_bytes=200))) == "/GPU-1"
        assert taken[0] is not None
        placement.give_back(taken[0].slot)
        placement.observe({GPU: Reading(1000, 0), "/GPU-1": Reading(1000, 0)})
        assert placement.place(Need(device_bytes=100)) is None
        assert device_of(placement.place(big, "big")) == GPU
        assert device_of(placement.place(Need(device_bytes=100))) == GPU, "nothing is kept free any more"


@pytest.mark.parametrize("seed", range(20))
def test_against_a_slow_look_at_all_devices(seed: int) -> None:
    """Whatever came before: least runs, then least is left over."""
    rng = random.Random(seed)
    totals = [rng.choice([900, 1000]) for _ in range(8)]
    placement = gpu_placement(*totals, places=3)
    running: list[Place] = []
    seen = 0
    for _ in range(400):
        if running and rng.random() < 0.3:
            placement.give_back(running.pop(rng.randrange(len(running))).slot)
        if rng.random() < 0.2:
            placement.observe(
                {f"/GPU-{i}": Reading(total, rng.choice([0, 100, 300])) for i, total in enumerate(totals)}
            )
        if running and rng.random() < 0.3:
            placement.measured(rng.choice(running).slot, 10, rng.choice([100, 450]))
        if rng.random() < 0.1:
            placement.reserve(Need(device_bytes=400), rng.randrange(3))
        need, asker = Need(device_bytes=rng.choice([100, 250, 400])), rng.randrange(6)
        kept = {key for name, key in placement._reserved.items() if name != asker}
        best = min(
            (
                (len(device.tenants), device.available)
                for key, device in placement._devices.items()
                if key not in kept and key != placement._reserved.get(asker) and _fits(device, need)
            ),
            default=None,
        )
        own = placement._devices.get(placement._reserved.get(asker, ""))
        if own is not None and _fits(own, need):
            best = (len(own.tenants), own.available)
        place = placement.place(need, asker)
        if place is not None:
            device = placement._devices[place.slot.device]
            assert best == (len(device.tenants) - 1, device.available + need.device_bytes)  # type: ignore[operator]
            running.append(place)
            seen += 1
        else:
            assert best is None
            placement.forget(asker)
    assert seen > 30


class TestProbe:
    """A trial of which nobody knows what it needs."""

    def test_it_has_an_empty_device_until_it_is_measured(self) -> None:
        placement = gpu_placement(1000)
        probe = placement.place(Need())
        assert probe is not None
        assert (probe.promised_bytes, probe.is_share) == (usable(1000), False)
        assert placement.promises([GPU]) == {GPU: (usable(1000), 0)}, "another sweep is to see it"
        assert placement.place(Need()) is None
        assert placement.place(Need(device_bytes=1)) is None
        placement.measured(probe.slot, 200, 220)
        placement.observe({GPU: Reading(1000, 200)})
        assert placement.promises([GPU]) == {GPU: (220, 200)}
        assert placement.place(Need(device_bytes=731)) is None
        assert placement.place(Need(device_bytes=730)) is not None

    def test_beside_others_it_has_what_is_free_and_no_more(self) -> None:
        placement = gpu_placement(1000)
        assert placement.place(Need(device_bytes=700)) is not None
        probe = placement.place(Need())
        assert probe is not None
        assert (probe.promised_bytes, probe.is_share) == (250, True)
        assert placement.place(Need(device_bytes=1)) is None

    @pytest.mark.parametrize(("taken", "fits"), [(700, True), (701, False)])
    def test_some_must_be_free(self, taken: int, fits: bool) -> None:
        placement = gpu_placement(1000)
        assert placement.place(Need(device_bytes=taken)) is not None
        assert (placement.place(Need()) is not None) == fits

    def test_more_than_what_was_too_little(self) -> None:
        placement = gpu_placement(1000)
        assert placement.place(Need(device_bytes=500)) is not None
        assert placement.place(Need(more_than=450)) is None
        assert placement.place(Need(more_than=449)) is not None

    def test_while_another_of_its_kind_is_measured_only_an_empty_device_is_worth_it(self) -> None:
        placement = gpu_placement(1000, 1000)
        assert placement.place(Need(device_bytes=100)) is not None
        assert device_of(placement.place(Need(is_measured=True))) == "/GPU-1"
        assert placement.place(Need(is_measured=True)) is None

    def test_it_waits_for_the_memory_of_whatever_ended_before(self) -> None:
        placement = gpu_placement(1000)
        first = placement.place(Need(device_bytes=600))
        assert first is not None
        placement.measured(first.slot, 600, 600)
        placement.observe({GPU: Reading(1000, 600)})
        placement.give_back(first.slot)
        for _ in range(SETTLE_LOOKS - 1):
            placement.observe({GPU: Reading(1000, 600)})
            assert placement.place(Need()) is None
        placement.observe({GPU: Reading(1000, 600)})
        found = placement.place(Need())
        assert found is not None, "it is somebody else's, then"
        assert found.promised_bytes == 350

    def test_it_starts_as_soon_as_that_is_free(self) -> None:
        placement = gpu_placement(1000)
        first = placement.place(Need(device_bytes=600))
        assert first is not None
        placement.measured(first.slot, 600, 600)
        placement.give_back(first.slot)
        placement.observe({GPU: Reading(1000, int(FOREIGN_SHARE * 1000) + 1)})
        assert placement.place(Need()) is None
        placement.observe({GPU: Reading(1000, int(FOREIGN_SHARE * 1000))})
        assert placement.place(Need()) is not None

    def test_one_that_ends_unmeasured_leaves_its_device_open(self) -> None:
        placement = gpu_placement(1000)
        probe = placement.place(Need())
        assert probe is not None
        placement.give_back(probe.slot)
        placement.observe({GPU: Reading(1000, 0)})
        assert placement.place(Need(device_bytes=900)) is not None

    def test_one_that_is_alone_for_good_stays_alone_when_measured(self) -> None:
        placement = gpu_placement(1000)
        alone = placement.place(Need(device_bytes=300, alone=True))
        assert alone is not None
        assert alone.promised_bytes == usable(1000)
        placement.measured(alone.slot, 300, 330)
        assert placement.place(Need(device_bytes=1)) is None


class TestMainMemory:
    """Devices without a GPU: slots of the CPU."""

    CPU = "/cpu"

    def test_what_is_not_known_yet_is_taken_for_a_fair_amount(self) -> None:
        placement = Placement(cpu_slots(4, cores=4))
        placement.observe({self.CPU: Reading(4 * 2**30, 0)})
        assert [placement.place(Need()) is not None for _ in range(3)] == [True, True, False]

    def test_measured_trials_take_what_they_need(self) -> None:
        placement = Placement(cpu_slots(4, cores=4))
        placement.observe({self.CPU: Reading(1000, 0)})
        assert [placement.place(Need(host_bytes=300)) is not None for _ in range(4)] == [True, True, True, False]

    def test_something_always_runs(self) -> None:
        placement = Placement(cpu_slots(2, cores=2))
        placement.observe({self.CPU: Reading(1000, 990)})
        first = placement.place(Need(host_bytes=5000))
        assert first is not None
        assert placement.place(Need(host_bytes=1)) is None
        placement.give_back(first.slot)
        placement.observe({self.CPU: Reading(1000, 990)})
        assert placement.place(Need(host_bytes=5000)) is not None


class TestCapacity:
    def test_slots_or_memory_whichever_is_less(self) -> None:
        placement = gpu_placement(1000, 500, places=4)
        assert placement.capacity(Need(device_bytes=10)) == 8
        assert placement.capacity(Need(device_bytes=300)) == 3 + 1
        assert placement.capacity(Need(device_bytes=5000)) == 2
        assert placement.capacity(Need()) == 8
        assert placement.place(Need(device_bytes=300)) is not None
        assert placement.capacity(Need(device_bytes=300)) == 4, "those that run count"
