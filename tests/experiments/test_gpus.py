from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest
from simulated_driver import GIB, IS_LOST, NO_PERMISSION, NOT_SUPPORTED, SimulatedDriver, a100, in_mig_mode, mig

from experiments.errors import UserError
from experiments.gpus import Card, Gpu, machine_cards


def cards(*gpus: Any, dev: Path = Path("/nowhere")) -> tuple[Card, ...]:
    return machine_cards(SimulatedDriver(*gpus), dev=dev).cards


def test_gpus_with_their_models_and_memory() -> None:
    first, second = cards(a100(0), a100(1, name="NVIDIA T4", total=16 * GIB))
    assert first.parts == (Gpu(uuid=a100(0).uuid, index=0, name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB),)
    assert second == Card(
        index=1,
        uuid=a100(1).uuid,
        name="NVIDIA T4",
        parts=(Gpu(uuid=a100(1).uuid, index=1, name="NVIDIA T4", memory_bytes=16 * GIB),),
    )
    assert first.parts[0].device == f"/{a100(0).uuid}"
    assert not first.parts[0].is_mig


def test_the_instances_of_a_gpu_in_mig_mode() -> None:
    split = in_mig_mode(1, mig(0, (3, 0)), None, mig(1, (4, 0), error=NO_PERMISSION), mig(2, (5, 1)))
    _, card = cards(a100(0), split)
    assert [part.uuid for part in card.parts] == [mig(0, (3, 0)).uuid, mig(2, (5, 1)).uuid]
    assert [part.instance for part in card.parts] == ["3/0", "5/1"]
    assert {(part.parent_uuid, part.index, part.memory_bytes, part.is_mig) for part in card.parts} == {
        (split.uuid, 1, 10 * GIB, True)
    }


def test_mig_mode_without_an_instance() -> None:
    (card,) = cards(in_mig_mode(0, None, None))
    assert (card.parts, card.fault) == ((), "in MIG mode, without an instance")


def test_a_gpu_that_fell_off_the_bus_keeps_its_place() -> None:
    found = cards(a100(0), a100(1, error=IS_LOST), a100(2))
    assert [(card.index, len(card.parts), card.fault) for card in found] == [
        (0, 1, ""),
        (1, 0, "NVML: GPU is lost"),
        (2, 1, ""),
    ]


def test_gpus_of_other_jobs_do_not_count() -> None:
    found = cards(a100(0, error=NO_PERMISSION), a100(1))
    assert [(card.index, card.uuid) for card in found] == [(0, a100(1).uuid)]


@pytest.mark.parametrize(
    ("mode", "parts", "one_process"),
    [
        (pynvml.NVML_COMPUTEMODE_DEFAULT, 1, [False]),
        (pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, 1, [True]),
        (pynvml.NVML_COMPUTEMODE_PROHIBITED, 0, []),
    ],
)
def test_compute_modes(mode: int, parts: int, one_process: list[bool]) -> None:
    (card,) = cards(a100(0, compute_mode=mode))
    assert len(card.parts) == parts
    assert [gpu.one_process for gpu in card.parts] == one_process
    assert ("PROHIBITED" in card.fault) == (parts == 0)


def test_what_a_gpu_does_not_support() -> None:
    (card,) = cards(a100(0, unsupported={"nvmlDeviceGetMigMode", "nvmlDeviceGetComputeMode"}))
    assert card.parts == cards(a100(0))[0].parts
    (of_the_host,) = cards(a100(0, unsupported={"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUUID"}))
    assert [(gpu.uuid, gpu.memory_bytes) for gpu in of_the_host.parts] == [("0", 0)]


@pytest.mark.parametrize("call", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUUID"])
def test_one_that_is_lost_while_it_is_asked(call: str) -> None:
    (card,) = cards(a100(0, errors={call: pynvml.NVMLError(IS_LOST)}))
    assert (card.parts, card.fault) == ((), "NVML: GPU is lost")


class TestWithoutADriver:
    @pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
    def test_no_gpu(self, tmp_path: Path, code: int) -> None:
        (tmp_path / "nvidiactl").touch()  # no GPU: the module's own
        found = machine_cards(SimulatedDriver(fault=code), dev=tmp_path)
        assert found.cards == ()
        assert found.none_because == f"NVML: {pynvml.NVMLError(code)}"

    def test_a_driver_without_a_gpu(self) -> None:
        assert machine_cards(SimulatedDriver()).none_because == "NVML: 0 GPUs that this process may use"
        hidden = machine_cards(SimulatedDriver(a100(0, error=NO_PERMISSION)))
        assert hidden.none_because == "NVML: 0 GPUs that this process may use"

    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "; a container needs the driver's `utility` capability"),
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "; to train on the CPU"),
            (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "; the driver was updated and the old one is still loaded"),
            (pynvml.NVML_ERROR_NO_PERMISSION, "; this user may not open /dev/nvidia"),
            (pynvml.NVML_ERROR_UNKNOWN, "; to train on the CPU"),
        ],
    )
    def test_gpus_that_cannot_be_asked_are_a_fault(self, tmp_path: Path, code: int, cause: str) -> None:
        (tmp_path / "nvidia0").touch()
        words = rf"\(NVML: {str(pynvml.NVMLError(code)).rstrip('.')}\)"
        with pytest.raises(
            UserError,
            match=rf"^the NVIDIA driver does not answer though there is \S+/nvidia0 {words}{cause}.*--cpu-slots",
        ):
            machine_cards(SimulatedDriver(fault=code), dev=tmp_path)

    def test_other_faults_are_so_without_a_device_node(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^the NVIDIA driver does not answer \(NVML: Insufficient Permissions\)"):
            machine_cards(SimulatedDriver(fault=NO_PERMISSION), dev=tmp_path)

    def test_not_supported_is_one_of_them(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"NVML: Not Supported\); to train on the CPU instead: --cpu-slots N$"):
            machine_cards(SimulatedDriver(fault=NOT_SUPPORTED), dev=tmp_path)
