"""One trial, killed -9 at random moments and started again each time, comes to the same bits."""

from __future__ import annotations

import pickle
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from killed_trial import MOMENTS, train
from torch import Tensor

from experiments.executors.local import warm_context
from wsol.config import ExperimentConfig
from wsol.data.digits import generate

KILLS = 20

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    generate(folder, seed=0, train=12, val=6, test=0, image_px=64)
    return folder


def _config(root: Path, task: str) -> ExperimentConfig:
    """Everything random is on: order, scales, mirroring, one more factor, a subset of proposals, dropout."""
    return ExperimentConfig.model_validate(
        {
            "task": task,
            "data": {"root": str(root), "workers": 1},
            "proposals": {"source": "grid", "count": 12, "min_size_px": 10},
            "model": {"backbone": "tiny", "weights": "none", "roi_size": 3, "fc_dim": 16, "hidden_channels": 8},
            "train": {
                "epochs": 5,
                "lr": 0.01,
                "batch_size": 2,
                "scales_px": (48, 56, 64),
                "rescale": (0.7, 1.4),
            },
            "evaluate": {"every": 2, "batch_size": 4},
        }
    )


def _run(config: ExperimentConfig, folder: Path, moment: str | None = None, count: int = 0) -> int:
    """The process's exit code."""
    folder.mkdir(exist_ok=True)
    process = warm_context().Process(target=train, args=(config, folder, moment, count))  # type: ignore[attr-defined]
    process.start()
    process.join()
    return int(process.exitcode)


def _bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items() if key != "seconds"}
    return [_bits(item) for item in value] if isinstance(value, list | tuple) else value


def _outcome(folder: Path) -> Any:
    return _bits(pickle.loads((folder / "outcome").read_bytes()))


@pytest.mark.parametrize("task", ["wsddn", "localizer"])
def test_a_trial_killed_at_twenty_moments_ends_with_the_same_bits(root: Path, tmp_path: Path, task: str) -> None:
    config = _config(root, task)
    assert _run(config, tmp_path / "whole") == 0
    moments = random.Random(task)
    kills = 0
    while kills < KILLS:
        code = _run(config, tmp_path / "killed", moments.choice(MOMENTS), moments.randint(0, 4))
        if code == 0:  # it came to its end before the moment: once more, from the start
            assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "whole")
            (tmp_path / "killed").rename(tmp_path / f"ended{kills}")
            continue
        assert code == -signal.SIGKILL
        kills += 1
    assert _run(config, tmp_path / "killed") == 0
    assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "whole")
