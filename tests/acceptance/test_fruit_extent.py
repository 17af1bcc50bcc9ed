"""The shipped sweep on photographs of fruit: WSDDN boxes whole objects. Minutes long: behind the mark `slow`."""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_final_sweep_reaches_its_corloc_on_test(shared_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "weights").mkdir(parents=True)
    (data / "fruit-voc").symlink_to(shared_dir / "data" / "fruit-voc")
    shutil.copy(shared_dir / "weights" / "tf_efficientnet_lite0.safetensors", data / "weights")
    command = [sys.executable, str(REPOSITORY / "runner.py"), str(REPOSITORY / "sweeps" / "fruit_final.yaml")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "results" / "fruit_final" / "leaderboard.csv").open(encoding="utf-8") as rows:
        found = list(csv.DictReader(rows))
    chosen = [float(row["corloc50/mean"]) for row in found if float(row["model.size_prior"]) > 0]
    plain = [float(row["corloc50/mean"]) for row in found if float(row["model.size_prior"]) == 0]
    assert statistics.mean(chosen) >= 0.70
    assert statistics.mean(chosen) > statistics.mean(plain) + 0.2
