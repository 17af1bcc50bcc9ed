"""What `ProposalSource` promises, held by every implementation."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from wsol.data.images import DataError, ImageRecord, read_image
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposal_files import ProposalFile
from wsol.data.proposal_formats import write_proposal_npz
from wsol.data.proposal_sources import SelectiveSearch, SlidingWindowGrid
from wsol.data.proposals import Proposals, ProposalSource

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (40, 25), (64, 64)]
"""(width, height)."""


def picture(width: int, height: int) -> Image.Image:
    """Coloured blobs; one colour where it is too small for several."""
    noise = np.random.default_rng(width).integers(0, 256, size=(max(1, height // 8), max(1, width // 8), 3))
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    """Images of all sizes, a constant one, and one that EXIF turns."""
    saved = []
    for width, height in SIZES:
        saved.append(ImageRecord(id=f"{width}x{height}", path=tmp_path / f"{width}x{height}.png"))
        picture(width, height).save(saved[-1].path)
    saved.append(ImageRecord(id="constant", path=tmp_path / "constant.png"))
    Image.new("RGB", (30, 20), (9, 9, 9)).save(saved[-1].path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(48, 32).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = ImageRecord(id="turned", path=tmp_path / "turned.jpg")
    return [*saved, turned, ImageRecord(id="turned", path=turned.path, apply_exif=False)]


def a_box_and_more(record: ImageRecord) -> np.ndarray:
    """Within the image, outside, beyond, twice: whatever a file may hold."""
    height, width = read_image(record).shape[:2]
    rows = [[0, 0, width, height], [-5, -5, 1, 1], [0, 0, 1, 1], [0, 0, width, height], [500, 500, 510, 510]]
    return np.array(rows, dtype=np.float32)


def npz_source(folder: Path, records: list[ImageRecord]) -> ProposalSource:
    scores = np.array([0.5, 0.25, 0.75, 0.5, 1.0], dtype=np.float32)
    by_id = {record.id: Proposals(a_box_and_more(record), scores) for record in records}
    write_proposal_npz(folder / "boxes.npz", by_id)
    return ProposalFile(path=folder / "boxes.npz")


def mat_source(folder: Path, records: list[ImageRecord]) -> ProposalSource:
    by_id = {record.id: a_box_and_more(record)[:, [1, 0, 3, 2]] + [1, 1, 0, 0] for record in records}
    boxes = np.empty((1, len(by_id)), dtype=object)
    boxes[0, :] = list(by_id.values())
    savemat(folder / "boxes.mat", {"boxes": boxes})
    return ProposalFile(path=folder / "boxes.mat", ids=tuple(by_id))


SOURCES: dict[str, Callable[[Path, list[ImageRecord]], ProposalSource]] = {
    "selective search, fast": lambda *_: SelectiveSearch(),
    "selective search, quality, resized": lambda *_: SelectiveSearch(quality="quality", resize_px=30),
    "selective search, reduced": lambda *_: SelectiveSearch(resize_px=20),
    "grid": lambda *_: SlidingWindowGrid(scales=(0.3, 0.8), aspect_ratios=(0.4, 1.0, 3.0), stride=0.4),
    ".npz with scores": npz_source,
    ".mat without ids or scores": mat_source,
}
LOOKS_AT_THE_IMAGE = [name for name in SOURCES if not name.startswith(".")]


@pytest.fixture(params=list(SOURCES))
def source(request: pytest.FixtureRequest, tmp_path: Path, records: list[ImageRecord]) -> ProposalSource:
    return SOURCES[request.param](tmp_path, records)


def digest(proposals: Proposals) -> str:
    scores = b"" if proposals.scores is None else proposals.scores.tobytes()
    return hashlib.sha256(proposals.boxes.tobytes() + scores).hexdigest()


def test_boxes_are_inside_the_image_with_an_area_and_each_once(
    source: ProposalSource, records: list[ImageRecord]
) -> None:
    for record in records:
        height, width = read_image(record).shape[:2]
        boxes = source.propose(record).boxes
        assert boxes.dtype == np.float32
        assert len(boxes) >= 1
        assert np.isfinite(boxes).all()
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width, record
        assert boxes[:, [1, 3]].max() <= height, record
        assert (boxes[:, 2] > boxes[:, 0]).all()
        assert (boxes[:, 3] > boxes[:, 1]).all()
        assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)


@pytest.mark.parametrize("name", LOOKS_AT_THE_IMAGE)
def test_the_whole_image_is_a_proposal(name: str, tmp_path: Path, records: list[ImageRecord]) -> None:
    source = SOURCES[name](tmp_path, records)
    for record in records:
        height, width = read_image(record).shape[:2]
        assert [0, 0, width, height] in source.propose(record).boxes.tolist(), record


def test_scores_come_best_first(source: ProposalSource, records: list[ImageRecord]) -> None:
    for record in records:
        proposals = source.propose(record)
        if proposals.scores is not None:
            assert (np.diff(proposals.scores) <= 0).all()


def test_the_same_again_here_and_after_pickling(source: ProposalSource, records: list[ImageRecord]) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 10_000
    assert copy.key == source.key
    for record in records:
        expected = digest(source.propose(record))
        assert digest(source.propose(record)) == expected
        assert digest(copy.propose(record)) == expected


def test_the_same_in_another_process(tmp_path: Path, records: list[ImageRecord]) -> None:
    """All sources at once: starting a process is what takes the time."""
    sources = [make(tmp_path, records) for make in SOURCES.values()]
    (tmp_path / "work.pickle").write_bytes(pickle.dumps((sources, records)))
    program = (
        "import hashlib, pickle, sys\n"
        "sources, records = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for source in sources:\n"
        "    print(source.key)\n"
        "    for record in records:\n"
        "        p = source.propose(record)\n"
        "        scores = b'' if p.scores is None else p.scores.tobytes()\n"
        "        print(hashlib.sha256(p.boxes.tobytes() + scores).hexdigest())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "work.pickle")]
    environment = {**os.environ, "PYTHONHASHSEED": "42"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    expected = []
    for source in sources:
        expected += [source.key, *(digest(source.propose(record)) for record in records)]
    assert done.stdout.splitlines() == expected


def test_a_damaged_image_is_named(source: ProposalSource, records: list[ImageRecord]) -> None:
    known = records[0]
    known.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=known.path.name):
        source.propose(known)


def test_a_cache_gives_what_the_source_gives(
    source: ProposalSource, records: list[ImageRecord], tmp_path: Path
) -> None:
    cache = ProposalCache(tmp_path / "cache", source)
    for record in records:
        for _ in range(2):
            assert digest(cache.get(record)) == digest(source.propose(record))
    assert cache.directory.exists() == source.worth_storing


def test_keys_tell_sources_apart(tmp_path: Path, records: list[ImageRecord]) -> None:
    keys = {make(tmp_path, records).key for make in SOURCES.values()}
    assert len(keys) == len(SOURCES)
