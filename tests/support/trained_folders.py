"""Folders of checkpoints as a training leaves them, made by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from wsol import checkpoint
from wsol.checkpoint_files import checkpoint_files


def trained(folder: Path, *numbers: int, value: float = 1.0) -> None:
    """Checkpoints with an optimizer as large as the model, the last two of them kept."""
    for number in numbers or (1, 2):
        state = {
            "model": {"weight": torch.full((1000,), value)},
            "identity": {"value": value},
            "optimizer": {"state": {0: {"exp_avg": torch.full((1000,), float(number))}}},
            "schedule": {},
        }
        checkpoint.save(folder, state, number=number)


def kinds(folder: Path) -> str:
    """What is in a folder, oldest first: c for a checkpoint, w for weights alone."""
    return "".join("w" if file.weights_alone else "c" for file in checkpoint_files(folder))
