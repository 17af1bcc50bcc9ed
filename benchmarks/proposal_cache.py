"""What the proposal cache saves: selective search on an image against finding the stored answer.

Both sides in the same run, on the same generated images, one process. Prints milliseconds an image and one ratio.
Seconds are those of the processor, however busy the machine. Run: `python benchmarks/proposal_cache.py`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsol.data.digits import generate
from wsol.data.images import ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposal_sources import SelectiveSearch
from wsol.data.proposals import Proposals

REPEATS_OF_A_HIT = 20


def make_records(folder: Path, count: int) -> list[ImageRecord]:
    generate(folder, seed=0, train=count, val=0, test=0, image_px=128)
    return [ImageRecord(id=path.stem, path=path) for path in sorted((folder / "JPEGImages").iterdir())]


def milliseconds(propose: Callable[[ImageRecord], Proposals], records: Sequence[ImageRecord]) -> float:
    """Of the processor, an image."""
    start = time.process_time()
    for record in records:
        propose(record)
    return 1000 * (time.process_time() - start) / len(records)


def check_equal(records: Sequence[ImageRecord], cache: ProposalCache) -> int:
    """Boxes in all, the same from both sides."""
    boxes = 0
    for record in records:
        stored, computed = cache.get(record).boxes, cache.source.propose(record).boxes
        if not np.array_equal(stored, computed):
            raise RuntimeError(f"the cache gives other boxes for {record.path} than selective search")
        boxes += len(stored)
    return boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="default: %(default)s")
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as temporary:
        records = make_records(Path(temporary) / "digits", images)
        source = SelectiveSearch()
        cache = ProposalCache(Path(temporary) / "cache", source)
        boxes = check_equal(records, cache)  # fills the cache, and starts OpenCV
        computing_ms = milliseconds(source.propose, records)
        finding_ms = min(milliseconds(cache.get, records) for _ in range(REPEATS_OF_A_HIT))
        size = sum(path.stat().st_size for path in cache.directory.rglob("*.npz"))
    print(f"{images} images of 128 x 128 px, {boxes / images:.0f} boxes and {size / images / 1000:.1f} kB each")
    print(f"selective search (fast) {computing_ms:.1f} ms, from the cache {finding_ms:.2f} ms")
    print(f"ratio {computing_ms / finding_ms:.0f}")


if __name__ == "__main__":
    main()
