"""How the time to load a spec grows with the trials that it asks for: a grid of 1,000 cells and one of 10,000.

Prints both times and their ratio, which is 10 when a cell costs the same in both. The times are of the processor, so
that other work on the machine counts little. Run: `python benchmarks/spec_expansion.py`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from experiments.spec import load_spec

COUNTS = 100
"""Values of the second axis."""


def spec_text(cells: int) -> str:
    """A grid over learning rates and `COUNTS` proposal counts."""
    rates = ", ".join(f"{(index + 1) * 1e-6:.6e}" for index in range(cells // COUNTS))
    counts = ", ".join(str(index + 1) for index in range(COUNTS))
    return (
        "experiment:\n  task: wsddn\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\n"
        f"search:\n  - grid:\n      train.lr: [{rates}]\n      proposals.count: [{counts}]\n"
    )


def load_s(file: Path, *, cells: int, repeats: int) -> float:
    """The shortest of some repeats, in seconds of processor time."""
    file.write_text(spec_text(cells), "utf-8")
    durations = []
    for _ in range(repeats):
        start = time.process_time()
        spec = load_spec(file)
        durations.append(time.process_time() - start)
        assert len(spec.plans) == cells
    return min(durations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="the shortest counts (default: %(default)s)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.yaml"
        small_s, large_s = (load_s(file, cells=cells, repeats=repeats) for cells in (1_000, 10_000))
    for cells, seconds in ((1_000, small_s), (10_000, large_s)):
        print(f"{cells:6,} cells: {seconds:.3f} s, {seconds / cells * 1e6:.0f} us a cell")
    print(f"ratio {large_s / small_s:.1f} for 10 times the cells")


if __name__ == "__main__":
    main()
