"""How long a sweep's statistics take: 500 trials (125 configurations of 4 seeds) x 20 classes x 400 images.

Prints the seconds of the first time, which matches and resamples every trial, of a second time, which finds that done,
and what they are of the time it takes to read the trials' results alone. Run: `python benchmarks/report_speed.py
[FOLDER]`; a folder that `finished_sweep.py` has made before is taken as it is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from finished_sweep import Size, make

from experiments.report.entries import entries
from experiments.report.statistics import sweep_statistics
from experiments.spec import load_spec
from experiments.store import SweepStore


def seconds(what: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary)
            make(folder, Size())
        spec = load_spec(folder / "sweep.yaml")
        store = SweepStore(folder / "results" / spec.name)
        for record in store.folder.glob("trials/*/resampled-*.npz"):
            record.unlink()
        reading = seconds(lambda: entries(spec, store))
        found = entries(spec, store)
        first = seconds(lambda: sweep_statistics(spec, found))
        second = seconds(lambda: sweep_statistics(spec, found))
        print(f"{len(found)} trials: results read in {reading:.2f} s")
        print(f"statistics: the first time {first:.1f} s, then {second:.2f} s")
        print(f"then / reading: {second / reading:.2f}")


if __name__ == "__main__":
    main()
