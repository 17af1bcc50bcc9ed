from __future__ import annotations

import pytest

from experiments.executors.ray_bundles import Bundle, Share, node_bundles, settled


class TestCores:
    def test_a_slot_a_core(self) -> None:
        (bundle,) = node_bundles({"CPU": 4.0, "memory": 1e9}, Share(on_gpus=False))
        assert bundle == Bundle(cpus=4.0, gpus=0, slots=4, threads=1)
        assert bundle.resources == {"CPU": 4.0}
        assert (bundle.cpu_share, bundle.gpu_share) == (1.0, 0.0)

    @pytest.mark.parametrize(
        ("slots", "threads", "share"), [(1, 4, 4.0), (2, 2, 2.0), (3, 1, 1.3333), (4, 1, 1.0), (5, 1, 0.8)]
    )
    def test_cpu_slots(self, slots: int, threads: int, share: float) -> None:
        (bundle,) = node_bundles({"CPU": 4.0}, Share(on_gpus=False, cpu_slots=slots))
        assert (bundle.slots, bundle.threads, bundle.cpu_share) == (slots, threads, share)
        assert bundle.cpu_share * bundle.slots <= bundle.cpus

    @pytest.mark.parametrize("resources", [{}, {"CPU": 0.0}, {"CPU": 0.5}, {"GPU": 1.0}])
    def test_none(self, resources: dict[str, float]) -> None:
        assert node_bundles(resources, Share(on_gpus=False)) == []

    def test_gpus_beside_them_are_left_alone(self) -> None:
        assert node_bundles({"CPU": 2.0, "GPU": 2.0}, Share(on_gpus=False)) == [
            Bundle(cpus=2.0, gpus=0, slots=2, threads=1)
        ]


class TestGpus:
    def test_one_a_gpu_with_its_part_of_the_cores(self) -> None:
        bundles = node_bundles({"CPU": 16.0, "GPU": 3.0}, Share(on_gpus=True))
        assert bundles == [Bundle(cpus=5.0, gpus=1, slots=1, threads=5)] * 3
        assert bundles[0].resources == {"CPU": 5.0, "GPU": 1.0}
        assert (bundles[0].cpu_share, bundles[0].gpu_share) == (5.0, 1.0)

    @pytest.mark.parametrize(("places", "gpu_share", "threads"), [(2, 0.5, 4), (3, 0.3333, 2), (16, 0.0625, 1)])
    def test_shared(self, places: int, gpu_share: float, threads: int) -> None:
        (bundle,) = node_bundles({"CPU": 8.0, "GPU": 1.0}, Share(on_gpus=True, places=places))
        assert (bundle.slots, bundle.gpu_share, bundle.threads) == (places, gpu_share, threads)
        assert bundle.gpu_share * places <= 1
        assert bundle.cpu_share * places <= 8

    def test_fewer_cores_than_gpus(self) -> None:
        assert (
            node_bundles({"CPU": 1.0, "GPU": 3.0}, Share(on_gpus=True))
            == [Bundle(cpus=0.3333, gpus=1, slots=1, threads=1)] * 3
        )

    def test_no_cores(self) -> None:
        (bundle,) = node_bundles({"GPU": 1.0}, Share(on_gpus=True))
        assert bundle.resources == {"GPU": 1.0}
        assert bundle.cpu_share == 0.0

    @pytest.mark.parametrize("resources", [{}, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 0.5}])
    def test_none(self, resources: dict[str, float]) -> None:
        assert node_bundles(resources, Share(on_gpus=True)) == []


class TestSettled:
    """A trial's result may not depend on its node."""

    @pytest.mark.parametrize(("gpus", "on_gpus"), [(0.0, False), (0.5, False), (1.0, True), (8.0, True)])
    def test_gpus_where_there_is_one(self, gpus: float, on_gpus: bool) -> None:
        assert settled(Share(), [{"CPU": 8.0}, {"CPU": 8.0, "GPU": gpus}]).on_gpus is on_gpus

    def test_what_is_asked_for_holds(self) -> None:
        assert settled(Share(on_gpus=False), [{"CPU": 8.0, "GPU": 1.0}]).on_gpus is False
        assert settled(Share(on_gpus=True), [{"CPU": 8.0}]).on_gpus is True

    @pytest.mark.parametrize(("cpu_slots", "threads"), [(None, 1), (1, 3), (2, 1), (8, 1)])
    def test_threads_of_the_node_with_the_fewest(self, cpu_slots: int | None, threads: int) -> None:
        share = settled(Share(cpu_slots=cpu_slots), [{"CPU": 16.0}, {"CPU": 3.0}, {}])
        assert share.threads == threads
        assert node_bundles({"CPU": 16.0}, share)[0].threads == threads

    def test_a_smaller_node_that_joins_has_fewer_slots(self) -> None:
        share = settled(Share(cpu_slots=2), [{"CPU": 8.0}])
        assert share.threads == 4
        slots = [
            [bundle.slots for bundle in node_bundles({"CPU": cores}, share)] for cores in (3.0, 4.0, 7.0, 8.0, 64.0)
        ]
        assert slots == [[], [1], [1], [2], [2]]

    def test_gpus_of_different_nodes(self) -> None:
        share = settled(Share(places=2), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0}])
        assert share.threads == 2
        assert node_bundles({"CPU": 16.0, "GPU": 1.0}, share) == [Bundle(cpus=16.0, gpus=1, slots=2, threads=2)]

    def test_no_nodes(self) -> None:
        assert settled(Share(), []) == Share(on_gpus=False)
