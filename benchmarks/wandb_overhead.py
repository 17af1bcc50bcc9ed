"""What W&B costs a sweep when its server is unwell: wall time with the mirror over wall time without, both in this run.

    PYTHONPATH=.:tests/support python benchmarks/wandb_overhead.py --server nothing --repeats 3 --epochs 60

Runs the real command on a small generated data set, the two sides in turn, and prints the ratio of the medians. On a
machine that does other work the ratio of short sweeps says little; the processor time of runner and mirror, which other
work disturbs less, says what there is to pay: with at most half a second at the end it is all, however long the sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_servers

from wsol.data.digits import generate

REPOSITORY = Path(__file__).resolve().parent.parent
SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "500": lambda: bad_servers.server_that_answers(500),
    "429": lambda: bad_servers.server_that_answers(429),
    "garbage": lambda: bad_servers.server_that_answers(200, b"<html>\x00\xff"),
    "nothing": bad_servers.server_that_never_answers,
}
SPEC = """\
name: {name}
experiment:
  task: wsddn
  data: {{root: {root}, workers: 0}}
  proposals: {{source: grid, count: 20, min_size_px: 8}}
  model: {{backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}}
  train: {{epochs: {epochs}, optimizer: adam, scales_px: [48], batch_size: 2}}
  evaluate: {{batch_size: 4, pictures: 1}}
search: [{{grid: {{train.lr: [1.0e-3, 1.0e-2]}}}}]
tracking: {{wandb: {{mode: {mode}}}}}
"""


def sweep_s(folder: Path, root: Path, *, mode: str, epochs: int, number: int, url: str) -> tuple[float, float]:
    """Wall seconds of one sweep, which must end well, and the processor seconds of its runner and mirror.

    Attempts and wandb-core are children of others and not in the latter.
    """
    name = f"{mode}{number}"
    file = folder / f"{name}.yaml"
    file.write_text(SPEC.format(name=name, root=root, mode=mode, epochs=epochs))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40}
    began, used = time.perf_counter(), _processor_s()
    done = subprocess.run(
        [
            sys.executable,
            "runner.py",
            str(file),
            "--results",
            str(folder / "results"),
            "--cpu-slots",
            "2",
            "--no-reuse",
        ],
        cwd=REPOSITORY,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "WSOL_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - began, _processor_s() - used
    assert done.returncode == 0, done.stdout + done.stderr
    assert mode == "disabled" or "not sent yet" in done.stdout, done.stdout
    return took


def _processor_s() -> float:
    """Of all processes that have ended, below this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=list(SERVERS), default="nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {"disabled": [], "auto": []}
    with tempfile.TemporaryDirectory() as name, SERVERS[given.server]() as url:
        folder = Path(name)
        root = folder / "digits"
        generate(root, seed=0, train=16, val=8, test=1, image_px=48)
        sweep_s(folder, root, mode="disabled", epochs=1, number=99, url=url)  # proposals, files in the page cache
        for number in range(given.repeats):
            for mode in ("disabled", "auto") if number % 2 == 0 else ("auto", "disabled"):
                times[mode].append(sweep_s(folder, root, mode=mode, epochs=given.epochs, number=number, url=url))
    print({mode: [tuple(round(one, 1) for one in pair) for pair in pairs] for mode, pairs in times.items()})
    (without, used_without), (with_mirror, used_with) = (
        [statistics.median(values) for values in zip(*times[mode], strict=True)] for mode in ("disabled", "auto")
    )
    print(
        f"server {given.server}: {with_mirror / without:.3f} times as long with the mirror"
        f" ({without:.1f} s without); runner and mirror took {used_with - used_without:+.1f} s more processor time"
    )


if __name__ == "__main__":
    main()
