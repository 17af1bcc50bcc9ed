from __future__ import annotations

import pytest

from experiments.placement import Slot, cpu_slots, gpu_slots


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


@pytest.mark.parametrize(
    ("count", "cores", "slots", "threads"), [(None, 4, 4, 1), (None, 1, 1, 1), (1, 4, 1, 4), (3, 8, 3, 2), (9, 2, 9, 1)]
)
def test_cpu_slots(count: int | None, cores: int, slots: int, threads: int) -> None:
    found = cpu_slots(count, cores=cores)
    assert found == [Slot(index=index, visible_devices="", threads=threads) for index in range(slots)]
    assert [slot.label for slot in found] == [f"cpu {index}" for index in range(slots)]
