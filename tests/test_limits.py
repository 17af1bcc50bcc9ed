"""What the command may cost besides the training itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsol.data.digits import generate

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_RUNNER_MIB = 300

SPEC = """\
name: digits
experiment:
  task: localizer
  data: {root: ROOT}
  model: {backbone: tiny, weights: none, hidden_channels: 8}
  train: {epochs: 1, scales_px: [48], batch_size: 4}
search:
  - grid: {train.lr: [1.0e-5, 1.0e-4]}
"""

PROGRAM = """
import json, re, sys, runner
from pathlib import Path
if __name__ == "__main__":
    status = runner.main(sys.argv[1:])
    peak_kib = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    print("\\n" + json.dumps([status, peak_kib, sorted({"torch", "cv2", "wandb"} & sys.modules.keys())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_runner_itself_stays_small(tmp_path: Path) -> None:
    """Measured over a whole sweep, in the runner's process alone. (`ru_maxrss` would count the test's process too.)"""
    generate(tmp_path / "data", seed=0, train=8, val=4, test=1, image_px=48)
    (tmp_path / "spec.yaml").write_text(SPEC.replace("ROOT", str(tmp_path / "data")))
    (tmp_path / "measured.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "measured.py", "spec.yaml", "--cpu-slots", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    status, peak_kib, heavy = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stdout
    assert done.stdout.count(" complete: ") == 2
    assert peak_kib / 1024 < MAX_RUNNER_MIB
    assert heavy == []
