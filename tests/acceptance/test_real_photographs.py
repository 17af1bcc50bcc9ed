"""Sweeps on real photographs with ImageNet weights, from the command line to the tables."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

SPEC = """\
name: fruit
experiment:
  task: {task}
  data: {{root: {shared}/data/fruit-voc, train: train, eval: val}}
  proposals: {{source: selective_search, resize_px: 160, count: 40}}
  model:
    backbone: timm/tf_efficientnet_lite0
    weights: {shared}/weights/tf_efficientnet_lite0.safetensors
    freeze: all
    dropout: 0.0
    fc_dim: 128
    pooling: average
  train:
    epochs: {epochs}
    optimizer: adam
    lr: 1.0e-3
    weight_decay: 0.0
    batch_size: 8
    resize: square
    scales_px: [256]
  evaluate: {{every: {epochs}, batch_size: 8}}
"""


@pytest.fixture
def leaderboard(shared_dir: Path, tmp_path: Path) -> Leaderboard:
    return Leaderboard(shared_dir, tmp_path)


class Leaderboard:
    """Runs a sweep of one trial and reads its row."""

    def __init__(self, shared: Path, folder: Path) -> None:
        self.shared, self.folder = shared, folder

    def row(self, *, task: str, epochs: int) -> dict[str, str]:
        file = self.folder / "fruit.yaml"
        file.write_text(SPEC.format(task=task, shared=self.shared, epochs=epochs))
        command = [sys.executable, str(REPOSITORY / "runner.py"), str(file), "--results", str(self.folder)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "split 'train': annotations without a usable image size" in done.stdout  # said once, with their number
        with (self.folder / "fruit" / "leaderboard.csv").open(encoding="utf-8") as rows:
            (row,) = csv.DictReader(rows)
        return row


def test_a_localizer_on_frozen_imagenet_features(leaderboard: Leaderboard) -> None:
    row = leaderboard.row(task="localizer", epochs=3)
    assert float(row["cls_ap/mean"]) >= 0.95
    assert 0.0 < float(row["point_ap/mean"]) <= 1.0


def test_wsddn_on_frozen_imagenet_features(leaderboard: Leaderboard) -> None:
    """Plain two-stream heads collapse to parts here: that it runs and reports is what counts."""
    row = leaderboard.row(task="wsddn", epochs=1)
    for metric in ("ap50_11pt", "ap50_area", "corloc50", "cls_ap", "point_ap"):
        assert 0.0 <= float(row[f"{metric}/mean"]) <= 1.0
