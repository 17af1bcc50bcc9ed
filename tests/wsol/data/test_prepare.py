"""What trials share, made and checked before they start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsol.data import digits
from wsol.data.images import DataError
from wsol.data.prepare import data_root, prepare, proposal_source
from wsol.data.proposal_sources import SelectiveSearch, SlidingWindowGrid
from wsol.data.proposals import ProposalSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    digits.generate(tmp_path / "data", seed=0, train=3, val=2, test=0, image_px=32)
    return tmp_path / "data"


def _ids(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


def _source(name: str, **changes: object) -> ProposalSource:
    values: dict[str, object] = {
        "quality": "fast",
        "resize_px": None,
        "file": None,
        "grid_scales": (0.5,),
        "grid_aspect_ratios": (1.0,),
        "grid_stride": 0.5,
    }
    return proposal_source(source=name, **(values | changes))  # type: ignore[arg-type]


def test_sources_are_made_of_their_keys() -> None:
    assert _source("selective_search", quality="quality", resize_px=50) == SelectiveSearch(
        quality="quality", resize_px=50
    )
    assert _source("grid", grid_scales=(0.2,)) == SlidingWindowGrid(scales=(0.2,), aspect_ratios=(1.0,), stride=0.5)
    with pytest.raises(DataError, match=r"got no proposals\.file"):
        _source("file")


def test_a_root_is_a_folder_or_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "DEFAULTS", {"seed": 0, "train": 1, "val": 0, "test": 0, "image_px": 32})
    assert data_root("some/folder") == Path("some/folder")
    generated = data_root("digits")
    assert generated.is_relative_to(tmp_path)
    assert (generated / "ImageSets" / "Main" / "train.txt").is_file()


def test_images_of_two_splits_are_done_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSOL_CACHE", str(tmp_path / "cache"))
    progress: list[tuple[int, int]] = []
    for _ in range(2):
        prepare(
            root=str(root),
            train="trainval",
            evaluate="val",
            classes="auto",
            source=_source("selective_search"),
            workers=0,
            on_progress=lambda done, total: progress.append((done, total)),
        )
    assert progress == 2 * [(done, 5) for done in range(1, 6)]
    assert sum(path.is_file() for path in (tmp_path / "cache").rglob("*")) == 5


def test_an_image_that_a_file_of_proposals_does_not_have_is_missed_at_once(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    *known, missing = _ids(root, "trainval")
    boxes = np.tile(np.array([[0, 0, 9, 9]], dtype=np.float32), (len(known), 1))
    np.savez(path, ids=np.array(known), offsets=np.arange(len(known) + 1), boxes=boxes)
    with pytest.raises(DataError, match=f"image id '{missing}', which .*boxes.npz lacks"):
        prepare(
            root=str(root),
            train="train",
            evaluate="val",
            classes="auto",
            source=_source("file", file=str(path)),
            workers=0,
        )


def test_every_annotation_is_read(root: Path) -> None:
    last = _ids(root, "val")[-1]
    (root / "Annotations" / f"{last}.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=f"{last}.xml"):
        prepare(root=str(root), train="train", evaluate="val", classes="auto", source=None, workers=0)


def test_torch_is_not_needed() -> None:
    program = "import sys, wsol.data.prepare; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
