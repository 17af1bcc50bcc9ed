"""Which GPUs and cores this process may use, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from experiments.errors import UserError

NVIDIA_SMI_TIMEOUT_S = 20.0


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES, one a GPU: what that variable names where it is set, else all of the machine.

    CUDA's own rule holds: an invalid entry (-1) ends the list.
    """
    restricted = environment.get("CUDA_VISIBLE_DEVICES")
    if restricted is None:
        return _machine_gpus()
    ids: list[str] = []
    for part in restricted.split(","):
        gpu = part.strip()
        if not gpu or gpu.startswith("-"):
            break
        ids.append(gpu)
    return ids


def _machine_gpus() -> list[str]:
    """Indices of the GPUs that the driver's own tool lists; none where there is no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(
            [command, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip().isdigit()]


def chosen_gpus(option: str, visible: list[str]) -> list[str]:
    """The GPUs that `--gpus` names, as positions among the visible ones (0 is the first).

    Raises:
        UserError: for a position that is no number, not there, or given twice.
    """
    chosen: list[str] = []
    for part in option.split(","):
        if not part.strip().isdecimal() or int(part) >= len(visible):
            there = f"0 to {len(visible) - 1}" if visible else "none, this machine shows no GPU"
            raise UserError(f"got {part.strip()!r} in --gpus {option}; expected positions of visible GPUs: {there}")
        gpu = visible[int(part)]
        if gpu in chosen:
            raise UserError(f"got GPU {part.strip()} twice in --gpus {option}; expected each once")
        chosen.append(gpu)
    return chosen


def usable_cores() -> int:
    """Cores that this process may run on (its affinity, where the system has one)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
