"""The kernel kills an attempt for want of memory: it is told from any other SIGKILL, and starts again alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_sweep import Sweep

from wsol.data.digits import generate

pytestmark = pytest.mark.timeout(300)
CGROUPS = Path("/sys/fs/cgroup")

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 10, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 2, lr: 1.0e-3, scales_px: [48], batch_size: 4}
  evaluate: {batch_size: 4, pictures: 0}
seeds: 3
"""


@pytest.fixture
def limited() -> Iterator[Path]:
    """A control group of 2 GB."""
    own = (
        [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()] if CGROUPS.exists() else []
    )
    for _, controllers, path in own:
        limit = {"": "memory.max", "memory": "memory.limit_in_bytes"}.get(controllers)
        group = CGROUPS / controllers / path.lstrip("/") / f"wsol-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if limit is not None and (group / limit).exists():
                (group / limit).write_text(str(2 * 2**30))
                yield group
                return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("limiting memory needs the right to make control groups")


def test_the_kernels_kill(tmp_path: Path, limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    generate(root, seed=0, train=8, val=4, test=1, image_px=48)
    sweep = Sweep(tmp_path, root, SPEC)
    monkeypatch.setenv("FAULTS", json.dumps({"1": ["eats"], "2": ["killed"]}))
    join = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
    try:
        runner = sweep.start(
            before=(sys.executable, "-c", join, str(limited / "cgroup.procs")), command=("-m", "faulty_runner")
        )
        assert runner.end() == 0, runner.output + runner.errors
    finally:
        sweep.clean_up()
    by_kernel = "its process was ended by SIGKILL, by the kernel, as memory ran out"
    assert f"trial 1 starts again, alone on its device: {by_kernel}" in runner.output
    assert "trial 2 starts again: its process was ended by SIGKILL\n" in runner.output + "\n"
    assert {row["trial"]: (row["state"], row["attempts"]) for row in sweep.rows()} == {
        "0": ("COMPLETE", "1"),
        "1": ("COMPLETE", "2"),
        "2": ("COMPLETE", "2"),
    }
