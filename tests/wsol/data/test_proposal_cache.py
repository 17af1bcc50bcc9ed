"""The cache on disk: found by content, whole or not there, nothing lost."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsol.data import proposal_cache
from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposals import Proposals

SOME = Proposals(np.array([[0, 0, 3, 3], [1, 2, 3, 4]], dtype=np.float32))


@dataclass
class CountingSource:
    """Answers always the same, and notes for which images it was asked."""

    answer: Proposals = SOME
    key: str = "counting/1"
    worth_storing: bool = True
    asked: list[str] = field(default_factory=list)

    def propose(self, record: ImageRecord) -> Proposals:
        self.asked.append(record.id)
        return self.answer


def image(folder: Path, name: str = "a", value: int = 0) -> ImageRecord:
    path = folder / f"{name}.png"
    Image.new("RGB", (8, 8), (value, value, value)).save(path)
    return ImageRecord(id=name, path=path)


def files(cache: ProposalCache) -> list[Path]:
    return [path for path in cache.directory.rglob("*") if path.is_file()]


def assert_same(one: Proposals, other: Proposals) -> None:
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert one.boxes.dtype == other.boxes.dtype == np.float32
    assert (one.scores is None) == (other.scores is None)
    if one.scores is not None:
        np.testing.assert_array_equal(one.scores, other.scores)


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "cache", CountingSource())
    record = image(tmp_path)
    assert not cache.holds(record)
    first = cache.get(record)
    assert cache.holds(record)
    assert_same(cache.get(record), first)
    assert_same(first, SOME)
    assert cache.source.asked == ["a"]
    assert [len(path.relative_to(cache.directory).parts) for path in files(cache)] == [2]


def test_the_content_counts_and_the_name_does_not(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "cache", CountingSource())
    cache.get(image(tmp_path, "a", 1))
    cache.get(image(tmp_path, "copy", 1))
    assert cache.source.asked == ["a"]
    cache.get(image(tmp_path, "a", 2))
    assert cache.source.asked == ["a", "a"]


def test_the_key_and_the_orientation_count(tmp_path: Path) -> None:
    record = image(tmp_path)
    first = CountingSource()
    ProposalCache(tmp_path / "cache", first).get(record)
    ProposalCache(tmp_path / "cache", first).get(ImageRecord(record.id, record.path, apply_exif=False))
    assert first.asked == ["a", "a"]
    second = CountingSource(key="counting/2")
    ProposalCache(tmp_path / "cache", second).get(record)
    assert second.asked == ["a"]


@pytest.mark.parametrize(
    "boxes",
    [
        np.empty((0, 4)),
        [[0, 0, 65535, 1]],
        [[0, 0, 65536, 1]],
        [[-1, 0, 4, 4]],
        [[0.1, 0, 4, 4], [0, 0, 1 / 3, 4]],
        [[0, 0, 1e30, 1]],
    ],
)
@pytest.mark.parametrize("scored", [True, False])
def test_nothing_is_lost(tmp_path: Path, boxes: list[list[float]], scored: bool) -> None:
    array = np.array(boxes, dtype=np.float32)
    answer = Proposals(array, np.linspace(-1, 1 / 3, len(array)).astype(np.float32) if scored else None)
    cache = ProposalCache(tmp_path / "cache", CountingSource(answer))
    record = image(tmp_path)
    cache.get(record)
    assert_same(cache.get(record), answer)
    assert len(cache.source.asked) == 1


def test_whole_pixels_take_less_room(tmp_path: Path) -> None:
    corners = np.random.default_rng(0).integers(0, 500, size=(2000, 4)).astype(np.float32)
    cache = ProposalCache(tmp_path / "cache", CountingSource(Proposals(corners)))
    cache.get(image(tmp_path))
    assert files(cache)[0].stat().st_size < 2000 * 4 * 2


def damaged(whole: bytes) -> dict[str, bytes]:
    middle = len(whole) // 2
    pickled = b"\x80\x04N."
    changes = {f"cut at {length}": whole[:length] for length in range(0, len(whole), 40)}
    changes["changed byte"] = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    changes["zeros"] = bytes(len(whole))
    changes["npy"] = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }".ljust(128)
    changes["pickle"] = pickled
    return changes


def test_a_damaged_file_is_replaced_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = np.random.default_rng(0).random((20, 4)).astype(np.float32)
    cache = ProposalCache(tmp_path / "cache", CountingSource(Proposals(boxes)))
    record = image(tmp_path)
    cache.get(record)
    [path] = files(cache)
    whole = path.read_bytes()
    for what, content in damaged(whole).items():
        path.write_bytes(content)
        cache.source.asked.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="wsol.data"):
            np.testing.assert_array_equal(cache.get(record).boxes, boxes, err_msg=what)
        assert cache.source.asked == ["a"], what
        assert len(caplog.records) == 1, what
        assert str(path) in caplog.text
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"boxes": np.zeros((3, 5), np.uint16)},
        {"boxes": np.zeros((3, 4))},
        {"boxes": np.zeros((3, 4), np.uint16), "scores": np.zeros(2, np.float32)},
        {"boxes": np.array([{}], dtype=object)},
    ],
)
def test_a_sound_file_with_other_arrays_is_replaced(
    tmp_path: Path, arrays: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    cache = ProposalCache(tmp_path / "cache", CountingSource())
    record = image(tmp_path)
    cache.get(record)
    np.savez(files(cache)[0], allow_pickle=True, **arrays)
    assert_same(cache.get(record), SOME)
    assert cache.source.asked == ["a", "a"]
    assert "is damaged" in caplog.text


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stream: object, **_: object) -> None:
        stream.write(b"half a file")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    cache = ProposalCache(tmp_path / "cache", CountingSource())
    record = image(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(proposal_cache.np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space left on device"):
            cache.get(record)
    assert files(cache) == []
    assert not cache.holds(record)
    assert_same(cache.get(record), SOME)


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its final name there is nothing until the last byte is written."""
    cache = ProposalCache(tmp_path / "cache", CountingSource())
    record = image(tmp_path)
    replace, seen = os.replace, []

    def checking(source: Path, target: Path) -> None:
        seen.append((cache.holds(record), Path(source).parent == Path(target).parent))
        replace(source, target)

    monkeypatch.setattr(proposal_cache.os, "replace", checking)
    cache.get(record)
    assert seen == [(False, True)]
    assert len(files(cache)) == 1


def test_sources_that_are_not_worth_it_leave_no_files(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "cache", CountingSource(worth_storing=False))
    record = image(tmp_path)
    assert cache.holds(record)
    assert_same(cache.get(record), SOME)
    cache.get(record)
    assert cache.source.asked == ["a", "a"]
    assert not cache.directory.exists()


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "cache", CountingSource())
    with pytest.raises(DataError, match=r"got 'No such file or directory' for .*gone\.png; expected an image file"):
        cache.get(ImageRecord(id="gone", path=tmp_path / "gone.png"))
