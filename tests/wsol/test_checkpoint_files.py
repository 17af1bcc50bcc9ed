"""Which files of a checkpoint folder nobody needs, and their removal. No torch: the bytes are any."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wsol.checkpoint_files import PENDING, checkpoint_files, file_name, is_whole, parse, remove, superfluous


def make(folder: Path, number: int, *, weights_alone: bool = False, damaged: bool = False) -> Path:
    data = f"{number} {weights_alone}".encode()
    name = file_name(number, hashlib.sha256(data).hexdigest(), weights_alone=weights_alone)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"other" if damaged else data)
    return folder / name


@pytest.mark.parametrize("weights_alone", [False, True])
def test_names_round_trip(weights_alone: bool) -> None:
    name = file_name(12, "ab" * 32, weights_alone=weights_alone)
    file = parse(Path("folder") / name)
    assert file is not None
    assert (file.number, file.weights_alone, file.sha256, file.path.name) == (12, weights_alone, "ab" * 32, name)


@pytest.mark.parametrize(
    "name", ["checkpoint-12-" + "a" * 64 + ".pt", "model-000012-" + "a" * 64 + ".pt", "x.pt", PENDING, ""]
)
def test_other_names(name: str) -> None:
    assert parse(Path("folder") / name) is None


def test_files_come_by_age_and_weights_after_their_checkpoint(tmp_path: Path) -> None:
    paths = [make(tmp_path, 9), make(tmp_path, 10), make(tmp_path, 10, weights_alone=True), make(tmp_path, 1_000_000)]
    (tmp_path / PENDING).write_bytes(b"half")
    assert [file.path for file in checkpoint_files(tmp_path)] == paths
    assert checkpoint_files(tmp_path / "missing") == []


def test_whole(tmp_path: Path) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2, damaged=True)
    make(tmp_path, 3).unlink()
    gone = parse(tmp_path / file_name(3, "0" * 64))
    assert gone is not None
    assert [is_whole(file) for file in [*checkpoint_files(tmp_path), gone]] == [True, False, False]


class TestSuperfluous:
    def test_all_but_the_newest(self, tmp_path: Path) -> None:
        old, older = make(tmp_path, 2), make(tmp_path, 1)
        make(tmp_path, 3)
        assert superfluous(tmp_path) == [older, old]

    def test_a_single_one_is_not_even_read(self, tmp_path: Path) -> None:
        make(tmp_path, 1, damaged=True)
        assert superfluous(tmp_path) == []

    def test_a_damaged_one_goes_and_the_one_before_stays(self, tmp_path: Path) -> None:
        make(tmp_path, 1)
        damaged = make(tmp_path, 2, damaged=True)
        assert superfluous(tmp_path) == [damaged]

    def test_nothing_where_none_is_whole(self, tmp_path: Path) -> None:
        make(tmp_path, 1, damaged=True)
        make(tmp_path, 2, damaged=True)
        assert superfluous(tmp_path) == []

    def test_weights_are_nothing_to_go_on_from(self, tmp_path: Path) -> None:
        make(tmp_path, 1)
        weights = make(tmp_path, 2, weights_alone=True)
        assert superfluous(tmp_path) == [weights]

    def test_weights_without_a_checkpoint_stay(self, tmp_path: Path) -> None:
        make(tmp_path, 1, weights_alone=True)
        make(tmp_path, 2, weights_alone=True)
        assert superfluous(tmp_path) == []

    def test_nothing_there(self, tmp_path: Path) -> None:
        assert superfluous(tmp_path / "missing") == []


def test_removal_takes_the_leftover_along(tmp_path: Path) -> None:
    make(tmp_path, 1)
    newest = make(tmp_path, 2)
    (tmp_path / PENDING).write_bytes(b"half")
    remove(tmp_path, superfluous(tmp_path))
    assert list(tmp_path.iterdir()) == [newest]


def test_removal_of_a_leftover_alone(tmp_path: Path) -> None:
    (tmp_path / PENDING).write_bytes(b"half")
    remove(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "missing", [])


def test_removal_that_was_killed_is_done_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2)
    newest = make(tmp_path, 3)
    calls: list[object] = []

    def unlink(path: object, **options: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt("killed")
        os.remove(str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            remove(tmp_path, superfluous(tmp_path))
    assert newest.exists()
    assert len(list(tmp_path.iterdir())) == 2
    remove(tmp_path, superfluous(tmp_path))
    assert list(tmp_path.iterdir()) == [newest]
