from __future__ import annotations

import os
from typing import Any

import pytest
from simulated_driver import IS_LOST, SimulatedDriver, SimulatedGpu, a100, in_mig_mode, mig, rtx3090

from experiments.devices import VisibleGpus, chosen_gpus, usable_cores, visible_gpus
from experiments.errors import UserError

SPLIT = in_mig_mode(1, mig(0, (3, 0)), mig(1, (5, 0)))
FOUR = [a100(0), SPLIT, a100(2), a100(3)]
OLD_NAME = f"MIG-{SPLIT.uuid}/5/0"


def visible(restricted: str | None, *gpus: SimulatedGpu, **environment: str) -> VisibleGpus:
    variables = environment if restricted is None else {"CUDA_VISIBLE_DEVICES": restricted, **environment}
    return visible_gpus(variables, SimulatedDriver(*(gpus or FOUR)))


def short(found: VisibleGpus) -> list[str]:
    """`G0` for GPU-0..., `M1` for MIG-1..."""
    return [gpu.uuid[0] + gpu.uuid[4] for gpu in found.gpus]


class TestVisibleGpus:
    @pytest.mark.parametrize(
        ("restricted", "ids"),
        [
            (None, ["G0", "M0", "M1", "G2", "G3"]),
            ("0", ["G0"]),
            ("2,0", ["G2", "G0"]),
            (" 2 , 0 ", ["G2", "G0"]),
            ("00,+2", ["G0", "G2"]),
            ("3x,2y", ["G3", "G2"]),  # as far as it is a number
            ("1", ["M0", "M1"]),
            ("0,1", ["G0", "M0", "M1"]),
            (a100(2).uuid, ["G2"]),
            ("GPU-2,GPU-0b2c", ["G2", "G0"]),
            ("GPU-1b", ["M0", "M1"]),
            (mig(1, (0, 0)).uuid, ["M1"]),
            (f"{mig(1, (0, 0)).uuid},{mig(0, (0, 0)).uuid}", ["M1", "M0"]),
            (OLD_NAME, ["M1"]),
            (f"GPU-3,{OLD_NAME}", ["G3", "M1"]),
            (f"{OLD_NAME},1", ["M1", "M0"]),
            ("2,-1,0", ["G2"]),  # what follows an invalid entry is not visible
            ("0,,2", ["G0"]),
            ("0,NoDevFiles", ["G0"]),
        ],
    )
    def test_as_the_environment_restricts_them(self, restricted: str | None, ids: list[str]) -> None:
        found = visible(restricted)
        assert short(found) == ids
        assert (found.none_because, found.warnings) == ("", ())

    @pytest.mark.parametrize(
        "entry",
        ["4", "44444444444444444444", "0000000004", "GPU-", "GPU-9", "gpu-0", "MIG-0", "MIG-GPU-1/5/0", "A100", "²"],
    )
    def test_an_entry_that_is_no_gpu_ends_the_list(self, entry: str) -> None:
        found = visible(f"2,{entry},0")
        assert short(found) == ["G2"]
        assert found.warnings == (
            f"CUDA_VISIBLE_DEVICES=2,{entry},0: {entry!r} is no GPU here, which ends the list for CUDA",
        )

    @pytest.mark.parametrize("restricted", ["", " ", "-1", "-1,0", "-2", ",0", "NoDevFiles"])
    def test_hidden_on_purpose(self, restricted: str) -> None:
        driver = SimulatedDriver(a100(0))
        found = visible_gpus({"CUDA_VISIBLE_DEVICES": restricted}, driver)
        assert found.gpus == ()
        shown = restricted or "''"
        assert found.none_because == f"CUDA_VISIBLE_DEVICES={shown} hides all GPUs"
        assert driver.calls == 0

    @pytest.mark.parametrize(
        ("restricted", "fault"),
        [
            ("4", "'4' is none of this machine's GPUs"),
            ("GPU-", "'GPU-' is none of this machine's GPUs"),
            ("cuda", "'cuda' is none of this machine's GPUs"),
            ("0,0", "'0' comes twice"),
            ("0,2,00", "'00' comes twice"),
            ("GPU-0,2,GPU-0b2c", "'GPU-0b2c' comes twice"),
            ("0,GPU-0", "'GPU-0' comes twice"),
            (f"{OLD_NAME},{OLD_NAME}", "comes twice"),
        ],
    )
    def test_hidden_by_mistake(self, restricted: str, fault: str) -> None:
        with pytest.raises(
            UserError,
            match=rf"^got CUDA_VISIBLE_DEVICES=\S+: .*{fault}, so CUDA sees no GPU; expected indices \(0 to 3\)",
        ):
            visible(restricted)

    def test_of_one_gpu(self) -> None:
        with pytest.raises(UserError, match=r"expected indices \(0\), or UUIDs"):
            visible("1", a100(0))
        assert short(visible("GPU-", a100(0))) == ["G0"]

    @pytest.mark.parametrize("restricted", [None, "1,0,2"])
    def test_one_that_is_lost_is_left_out(self, restricted: str | None) -> None:
        found = visible(restricted, a100(0), a100(1, error=IS_LOST), a100(2))
        assert short(found) == ["G0", "G2"]
        assert found.warnings == ("GPU 1: NVML: GPU is lost; it is left out",)

    def test_one_that_nobody_asks_for_may_be_lost(self) -> None:
        assert visible("2,0", a100(0), a100(1, error=IS_LOST), a100(2)).warnings == ()

    @pytest.mark.parametrize("restricted", [None, "0", "0,1"])
    def test_all_are_lost(self, restricted: str | None) -> None:
        with pytest.raises(UserError, match=r"^no GPU can be used \(GPU 0: NVML: GPU is lost.*; .*--cpu-slots N$"):
            visible(restricted, a100(0, error=IS_LOST), in_mig_mode(1))

    def test_no_driver(self) -> None:
        for restricted in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
            found = visible_gpus(restricted, SimulatedDriver())
            assert found == VisibleGpus(none_because="no NVIDIA GPU found (NVML: 0 GPUs that this process may use)")


class TestOrder:
    """CUDA alone counts the fastest GPU first."""

    @pytest.mark.parametrize(
        ("restricted", "gpus", "environment", "warned"),
        [
            ("0", [rtx3090(0), a100(1)], {}, True),
            ("0", [rtx3090(0), a100(1)], {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, True),
            ("0", [rtx3090(0), a100(1)], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, False),
            ("GPU-0", [rtx3090(0), a100(1)], {}, False),
            (None, [rtx3090(0), a100(1)], {}, False),
            ("0", [a100(0), a100(1)], {}, False),
            ("0", [a100(0)], {}, False),
        ],
    )
    def test_an_index_among_different_models(
        self, restricted: str | None, gpus: list[SimulatedGpu], environment: dict[str, str], warned: bool
    ) -> None:
        found = visible(restricted, *gpus, **environment)
        assert found.gpus[0].index == 0
        assert bool(found.warnings) == warned

    def test_the_warning_says_which_are_taken(self) -> None:
        (warning,) = visible("1,0", rtx3090(0), a100(1)).warnings
        assert warning.startswith("CUDA_VISIBLE_DEVICES=1,0 names GPUs by index on a machine with different ones")
        assert "so GPU 1 (NVIDIA A100-SXM4-80GB), 0 (NVIDIA GeForce RTX 3090); other programs" in warning


class TestChosenGpus:
    THERE = visible("2,GPU-0", a100(0), a100(1), rtx3090(2)).gpus

    @pytest.mark.parametrize(
        ("option", "indices"), [("0", [2]), ("1,0", [0, 2]), (" 0 , 1 ", [2, 0]), ("00", [2]), ("1", [0])]
    )
    def test_are_positions_among_the_visible(self, option: str, indices: list[int]) -> None:
        assert [gpu.index for gpu in chosen_gpus(option, self.THERE)] == indices

    @pytest.mark.parametrize(
        ("option", "given"),
        [("3", "3"), ("0,4", "4"), ("-1", "-1"), ("", ""), ("0,", ""), ("one", "one"), ("²", "²"), ("9" * 5000, "9")],
    )
    def test_that_are_not_there(self, option: str, given: str) -> None:
        with pytest.raises(UserError, match=rf"^got '{given}9*' in --gpus {option}; expected positions .*: 0 to 1$"):
            chosen_gpus(option, self.THERE)

    @pytest.mark.parametrize(
        ("option", "position"), [("2", 0), ("GPU-0", 1), ("A100", 1), ("rtx 3090", 0), (a100(0).uuid, 1)]
    )
    def test_what_was_meant(self, option: str, position: int) -> None:
        with pytest.raises(UserError, match=rf"expected positions of visible GPUs: 0 to 1; did you mean {position}\?$"):
            chosen_gpus(option, self.THERE)

    @pytest.mark.parametrize("option", ["NVIDIA", "GPU"])
    def test_what_may_be_any_is_not_guessed(self, option: str) -> None:
        with pytest.raises(UserError, match=r": 0 to 1$"):
            chosen_gpus(option, self.THERE)

    def test_of_one(self) -> None:
        with pytest.raises(UserError, match=r"expected positions of visible GPUs: 0; did you mean 0\?$"):
            chosen_gpus("2", self.THERE[:1])

    @pytest.mark.parametrize(
        ("reason", "text"),
        [({}, "this machine shows no GPU"), ({"none_because": "they are hidden"}, "they are hidden")],
    )
    def test_on_a_machine_without(self, reason: dict[str, Any], text: str) -> None:
        with pytest.raises(UserError, match=f"expected positions of visible GPUs: none, {text}$"):
            chosen_gpus("0", [], **reason)

    @pytest.mark.parametrize("option", ["0,0", "0,00"])
    def test_twice(self, option: str) -> None:
        with pytest.raises(UserError, match=rf"got GPU 0+ twice in --gpus {option}; expected each once"):
            chosen_gpus(option, self.THERE)


class TestUsableCores:
    def test_follow_the_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
        assert usable_cores() == 3

    def test_where_there_is_no_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert usable_cores() == 1
