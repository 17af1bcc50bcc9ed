from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.devices import chosen_gpus, usable_cores, visible_gpus
from experiments.errors import UserError


class TestVisibleGpus:
    @pytest.mark.parametrize(
        ("restricted", "ids"),
        [
            ("0", ["0"]),
            ("2,0", ["2", "0"]),
            (" 2 , 0 ", ["2", "0"]),
            ("GPU-8c3f,MIG-1a/0", ["GPU-8c3f", "MIG-1a/0"]),
            ("", []),
            ("-1", []),
            ("1,-1,0", ["1"]),  # what follows an invalid entry is not visible
            ("0,,1", ["0"]),
        ],
    )
    def test_as_the_environment_restricts_them(self, restricted: str, ids: list[str]) -> None:
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": restricted}) == ids

    @pytest.mark.parametrize(
        ("script", "ids"),
        [
            ("echo 0; echo 1; echo ' 2 '", ["0", "1", "2"]),
            ("echo 'No devices were found'", []),
            ("echo 0; exit 9", []),  # the driver does not answer
            ("exit 0", []),
        ],
    )
    def test_as_the_driver_lists_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ids: list[str]
    ) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert visible_gpus({}) == ids

    def test_a_driver_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\nwhile :; do :; done\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("experiments.devices.NVIDIA_SMI_TIMEOUT_S", 0.05)
        assert visible_gpus({}) == []

    def test_no_driver(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert visible_gpus({}) == []


class TestChosenGpus:
    @pytest.mark.parametrize(
        ("option", "ids"), [("0", ["4"]), ("1,0", ["GPU-7", "4"]), (" 0 , 1 ", ["4", "GPU-7"]), ("00", ["4"])]
    )
    def test_are_positions_among_the_visible(self, option: str, ids: list[str]) -> None:
        assert chosen_gpus(option, ["4", "GPU-7"]) == ids

    @pytest.mark.parametrize(
        ("option", "given"), [("2", "2"), ("0,4", "4"), ("-1", "-1"), ("", ""), ("0,", ""), ("one", "one"), ("²", "²")]
    )
    def test_that_are_not_there(self, option: str, given: str) -> None:
        with pytest.raises(UserError, match=rf"^got '{given}' in --gpus {option}; expected positions .*: 0 to 1$"):
            chosen_gpus(option, ["0", "1"])

    def test_on_a_machine_without(self) -> None:
        with pytest.raises(UserError, match="expected positions of visible GPUs: none, this machine shows no GPU"):
            chosen_gpus("0", [])

    @pytest.mark.parametrize("option", ["0,0", "0,00"])
    def test_twice(self, option: str) -> None:
        with pytest.raises(UserError, match=rf"got GPU 0+ twice in --gpus {option}; expected each once"):
            chosen_gpus(option, ["0", "1"])


class TestUsableCores:
    def test_follow_the_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
        assert usable_cores() == 3

    def test_where_there_is_no_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert usable_cores() == 1
