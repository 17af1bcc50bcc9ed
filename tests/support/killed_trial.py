"""A trial in a process of its own that is killed at a chosen moment: what a power cut or `kill -9` may leave."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wsol import checkpoint, training
from wsol.config import ExperimentConfig
from wsol.training import EpochRecord, Watch, fit

MOMENTS = ("step", "fsync", "replace", "saved")
"""Before a step of the optimizer; before a checkpoint's bytes are on disk, before it has its name, after both."""


def train(config: ExperimentConfig, folder: Path, moment: str | None, count: int) -> None:
    """Trains with a checkpoint after each step and leaves `outcome` in `folder`.

    Args:
        moment: where it kills itself; None: nowhere.
        count: so many such moments pass before.
    """
    if moment is not None:
        _kill_at(moment, count)
    training._Checkpoints.after_step = lambda self, progress: self.save(progress)  # type: ignore[method-assign]
    records: list[EpochRecord] = []
    result = fit(
        config,
        checkpoint_dir=folder / "checkpoint",
        device=torch.device("cpu"),
        on_epoch=records.append,
        watch=Watch(lambda: False),
        threads=1,
    )
    left = {
        "model": checkpoint.load_latest(folder / "checkpoint"),
        "metrics": result.metrics,
        "losses": records[-1].losses,
    }
    (folder / "outcome").write_bytes(pickle.dumps(left))


def _kill_at(moment: str, count: int) -> None:
    left = [count]

    def killing(original: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = original(*args, **options) if after else None
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return result if after else original(*args, **options)

        return call

    if moment == "step":
        torch.optim.SGD.step = killing(torch.optim.SGD.step)  # type: ignore[method-assign]
    elif moment == "saved":
        checkpoint.save = killing(checkpoint.save, after=True)
    else:
        setattr(os, moment, killing(getattr(os, moment)))
