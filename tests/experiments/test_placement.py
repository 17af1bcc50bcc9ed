from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from experiments.placement import Slot, SlotPool, cpu_slots, gpu_slots, places_on_a_gpu, planned_slots


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


class TestSlotPool:
    def test_slots_go_round(self) -> None:
        pool = SlotPool(cpu_slots(2, cores=2))
        first, second = pool.take(), pool.take()
        assert first is not None
        assert second is not None
        assert (first.index, second.index, pool.take(), pool.has_room()) == (0, 1, None, False)
        pool.give_back(second)
        assert pool.has_room()
        assert pool.take() == second

    def test_alone_means_that_nothing_else_runs_or_starts_on_the_device(self) -> None:
        pool = SlotPool(cpu_slots(3, cores=3))
        first, second = pool.take(), pool.take()
        assert first is not None
        assert second is not None
        assert pool.take_alone() is None
        assert pool.take() is None, "the device is kept free from now on"
        pool.give_back(first)
        assert pool.take_alone() is None
        pool.give_back(second)
        alone = pool.take_alone()
        assert alone is not None
        assert not pool.has_room()
        assert pool.take_alone() is None
        pool.give_back(alone)
        assert [pool.take() is not None for _ in range(4)] == [True, True, True, False]

    def test_the_device_on_which_least_runs(self) -> None:
        slots = [replace(slot, index=i) for i, slot in enumerate([*gpu_slots(["a", "b"], cores=4)] * 2)]  # a b a b
        pool = SlotPool(slots)
        taken = [pool.take() for _ in range(3)]  # a b a
        assert [slot.visible_devices for slot in taken if slot] == ["a", "b", "a"]
        assert pool.take_alone() is None
        assert pool.take() is None, "b is kept free, a is full"
        assert taken[0] is not None
        pool.give_back(taken[0])
        other = pool.take()
        assert other is not None
        assert other.visible_devices == "a", "the other device goes on"
        assert taken[1] is not None
        pool.give_back(taken[1])
        alone = pool.take_alone()
        assert alone is not None
        assert alone.visible_devices == "b"

    def test_two_may_be_alone_on_two_devices(self) -> None:
        pool = SlotPool(gpu_slots(["a", "b"], cores=2))
        devices = {slot.visible_devices for slot in (pool.take_alone(), pool.take_alone()) if slot}
        assert devices == {"a", "b"}
        assert pool.take_alone() is None
