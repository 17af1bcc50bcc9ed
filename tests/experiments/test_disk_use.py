"""What a sweep weighs: sums by kind, hard links once, sizes as people read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import disk_use
from experiments.disk_use import FileOnDisk, bytes_by_kind, bytes_text, file_kind, files_in, weigh, weight_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1249, "1.2 kB"),
        (9949, "9.9 kB"),
        (9951, "10 kB"),
        (999_499, "999 kB"),
        (999_501, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (45_000_000_000_000, "45 TB"),
        (9_000_000_000_000_000, "9000 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert bytes_text(size) == text


def test_a_sum_by_kind_counts_a_file_once() -> None:
    files = [
        FileOnDisk("checkpoints", 5, (1, 1)),
        FileOnDisk("other", 5, (1, 1)),  # the same file under another name
        FileOnDisk("checkpoints", 7, (1, 2)),
        FileOnDisk("other", 2, (2, 1)),  # of another device
    ]
    assert bytes_by_kind(files) == {"checkpoints": 12, "other": 2}
    assert bytes_by_kind([]) == {}


def test_the_text() -> None:
    assert weight_text({"checkpoints": 1_100_000_000, "other": 100_000_000}) == "1.2 GB, of which checkpoints 1.1 GB"
    assert weight_text({}) == "0 B, of which checkpoints 0 B"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("trials/0000-01234567/checkpoint/checkpoint-1.pt", "checkpoints"),
        ("trials/0000-01234567/checkpoint/.checkpoint.pending", "checkpoints"),
        ("trials/0000-01234567/result.json", "other"),
        ("trials/0000-01234567/images/a.jpg", "other"),
        ("predictions/checkpoint/x/a.png", "other"),
        ("checkpoint", "other"),
        ("study.db", "other"),
    ],
)
def test_kinds(path: str, kind: str) -> None:
    assert file_kind(Path(path)) == kind


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    checkpoints = tmp_path / "trials" / "0000-01234567" / "checkpoint"
    checkpoints.mkdir(parents=True)
    (checkpoints / "a.pt").write_bytes(b"12345")
    os.link(checkpoints / "a.pt", checkpoints / "b.pt")
    (tmp_path / "study.db").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path)
    assert weigh(tmp_path) == {"checkpoints": 5, "other": 3}
    assert sorted((file.size, file.is_shared) for file in files_in(checkpoints)) == [(5, True), (5, True)]
    assert weigh(tmp_path / "missing") == {}


def test_a_file_that_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_bytes(b"1")

    def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        yield str(folder), [], ["gone", "there"]

    monkeypatch.setattr(disk_use.os, "walk", walk)
    assert weigh(tmp_path) == {"other": 1}
