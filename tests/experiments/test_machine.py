"""Where trials may run on this machine, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest
from simulated_driver import GIB, IS_LOST, SimulatedDriver, SimulatedGpu, a100, in_mig_mode, mig, rtx3090

from experiments import gpus, machine
from experiments.errors import UserError
from experiments.machine import CPU_SLOT_BYTES, Machine, this_machine
from experiments.placement import Reading
from experiments.spec_document import Resources

EXCLUSIVE = pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine, "core_numbers", lambda: [10, 11, 12, 13, 14, 15, 16, 17])
    monkeypatch.setattr(machine, "main_memory", lambda: Reading(total_bytes=64 * 10**9, used_bytes=0))


def found(
    *there: SimulatedGpu, visible: str | None = None, resources: dict[str, Any] | None = None, **options: Any
) -> Machine:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    asked = {"gpus": None, "cpus": None} | options
    return this_machine(
        Resources.model_validate(resources or {}), **asked, environment=environment, nvml=SimulatedDriver(*there)
    )


def places(machine: Machine) -> list[tuple[str, str, int]]:
    return [(slot.label, slot.visible_devices[:5], slot.threads) for slot in machine.slots]


class TestGpus:
    def test_every_visible_one_by_its_uuid(self) -> None:
        got = found(a100(0), a100(1), a100(2), visible="2,1", resources={"trials_per_gpu": 1})
        assert places(got) == [("gpu 0", "GPU-2", 4), ("gpu 1", "GPU-1", 4)]
        assert [slot.visible_devices for slot in got.slots] == [gpu.uuid for gpu in got.gpus]
        assert (
            got.line == "training on gpu 0, 1 (NVIDIA A100-SXM4-80GB, 86 GB): 1 trial at a time on each, with 4 cores"
        )
        assert got.warnings == ()

    def test_several_places_each(self) -> None:
        got = found(a100(0), rtx3090(1), resources={"trials_per_gpu": 3})
        assert places(got) == [("gpu 0", "GPU-0", 1), ("gpu 1", "GPU-1", 1)] * 3
        assert [slot.index for slot in got.slots] == list(range(6))
        assert got.line == (
            "training on gpu 0 (NVIDIA A100-SXM4-80GB, 86 GB), gpu 1 (NVIDIA GeForce RTX 3090, 26 GB): at most 3 trials"
            " at a time on each, with 1 core"
        )

    def test_auto_leaves_each_trial_two_cores(self) -> None:
        assert places(found(a100(0))) == [("gpu 0", "GPU-0", 2)] * 4
        assert places(found(a100(0), a100(1))) == [("gpu 0", "GPU-0", 2), ("gpu 1", "GPU-1", 2)] * 2

    def test_chosen_ones_keep_the_names_by_which_they_are_chosen(self) -> None:
        got = found(a100(0), a100(1), a100(2), gpus="2,0", resources={"trials_per_gpu": 1})
        assert places(got) == [("gpu 2", "GPU-2", 4), ("gpu 0", "GPU-0", 4)]

    def test_instances(self) -> None:
        got = found(in_mig_mode(0, mig(0, (3, 0)), mig(1, (4, 0))), resources={"trials_per_gpu": 1})
        assert places(got) == [("gpu 0", "MIG-0", 4), ("gpu 1", "MIG-1", 4)]

    def test_without_a_word_on_memory(self) -> None:
        got = found(a100(0, unsupported={"nvmlDeviceGetMemoryInfo"}), resources={"trials_per_gpu": 1})
        assert got.line == "training on gpu 0 (NVIDIA A100-SXM4-80GB): 1 trial at a time on each, with 8 cores"

    def test_one_that_takes_one_process_at_a_time(self) -> None:
        got = found(a100(0), a100(1, compute_mode=EXCLUSIVE))
        assert places(got) == [("gpu 0", "GPU-0", 4), ("gpu 1", "GPU-1", 4)]
        assert got.warnings == (
            "GPU 1 takes one process at a time (its compute mode): one trial at a time on each GPU",
        )
        assert found(a100(0), a100(1, compute_mode=EXCLUSIVE), resources={"trials_per_gpu": 1}).warnings == ()
        assert len(found(a100(0), a100(1, compute_mode=EXCLUSIVE), gpus="0").slots) == 4

    def test_cpu_slots_of_the_spec_are_for_machines_without(self) -> None:
        assert [gpu.index for gpu in found(a100(0), resources={"cpu_slots": 4}).gpus] == [0]

    def test_what_is_wrong_with_one_is_a_warning(self) -> None:
        assert found(a100(0), a100(1, error=IS_LOST)).warnings == ("GPU 1: NVML: GPU is lost; it is left out",)

    @pytest.mark.parametrize(
        ("visible", "reason"),
        [(None, r"no NVIDIA GPU found \(NVML: 0 GPUs .+\)"), ("-1", "CUDA_VISIBLE_DEVICES=-1 hides all GPUs")],
    )
    def test_that_are_not_there(self, visible: str | None, reason: str) -> None:
        with pytest.raises(UserError, match=rf"^got '0' in --gpus 0; expected positions of .*: none, {reason}$"):
            found(visible=visible, gpus="0")

    def test_a_driver_that_does_not_answer_is_no_reason_for_the_cpu(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "nvidia0").touch()
        monkeypatch.setitem(gpus.machine_cards.__kwdefaults__, "dev", tmp_path)
        broken = SimulatedDriver(fault=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        asked: dict[str, Any] = {"gpus": None, "environment": {}, "nvml": broken}
        with pytest.raises(UserError, match="does not answer though there is .*version mismatch.*--cpu-slots N$"):
            this_machine(Resources(), cpus=None, **asked)
        assert len(this_machine(Resources(), cpus=3, **asked).slots) == 3


class TestCpu:
    @pytest.mark.parametrize(("count", "expected"), [("auto", [("", 1)] * 8), (3, [("", 2)] * 3), (16, [("", 1)] * 16)])
    def test_slots_of_the_spec(self, count: str | int, expected: list[tuple[str, int]]) -> None:
        got = found(resources={"cpu_slots": count})
        assert [(slot.visible_devices, slot.threads) for slot in got.slots] == expected
        assert got.gpus == ()

    def test_is_said(self) -> None:
        assert found().line == (
            "no NVIDIA GPU found (NVML: 0 GPUs that this process may use): training on the CPU, 8 slots of 1 core, 64"
            " GB of memory"
        )
        assert found(a100(0), visible="").line == (
            "CUDA_VISIBLE_DEVICES='' hides all GPUs: training on the CPU, 8 slots of 1 core, 64 GB of memory"
        )

    def test_the_command_line_wins(self) -> None:
        got = found(a100(0), resources={"cpu_slots": 4}, cpus=1)
        assert [(slot.label, slot.threads) for slot in got.slots] == [("cpu 0", 8)]
        assert got.line == "", "it is what was asked for"

    @pytest.mark.parametrize(
        ("memory", "slots"),
        [
            (None, 8),
            (8 * CPU_SLOT_BYTES, 8),
            (8 * CPU_SLOT_BYTES - 1, 7),
            (3 * CPU_SLOT_BYTES, 3),
            (CPU_SLOT_BYTES - 1, 1),
            (0, 1),
        ],
    )
    def test_auto_goes_as_far_as_memory(self, monkeypatch: pytest.MonkeyPatch, memory: int | None, slots: int) -> None:
        reading = None if memory is None else Reading(total_bytes=memory, used_bytes=0)
        monkeypatch.setattr(machine, "main_memory", lambda: reading)
        got = found()
        assert len(got.slots) == slots
        assert got.line.endswith("too little for a slot a core") == (slots < 8)
        assert ("of memory" in got.line) == (memory is not None)

    def test_what_is_asked_for_is_not_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "main_memory", lambda: Reading(total_bytes=2 * GIB, used_bytes=0))
        got = found(resources={"cpu_slots": 4})
        assert len(got.slots) == 4
        assert got.line.endswith("4 slots of 2 cores, 2.1 GB of memory")
