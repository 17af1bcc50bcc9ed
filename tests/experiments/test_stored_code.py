"""code.json and the copies of the source: whole or not there, and damage is told."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import environment, stored_code
from experiments.code_version import CodeVersion, Part, source_files
from experiments.errors import UserError
from experiments.json_file import write_json
from experiments.sealed import sealed
from experiments.store import SweepStore
from experiments.stored_code import checked_snapshot, read_stored_code, store_code, stored_generation, write_stored_code


class KilledError(Exception):
    """Stands for SIGKILL."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in ("runner.py", "experiments/worker.py", "wsol/__init__.py", "wsol/data/voc.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return folder


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_code, "git", lambda *_: "")


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "results" / "sweep")


def present(repository: Path) -> CodeVersion:
    return CodeVersion(files=source_files(repository), packages={"torch": "2"}, data={"data/ImageSets": Part(1, "x")})


def test_round_trip(store: SweepStore, repository: Path) -> None:
    version = present(repository)
    assert read_stored_code(store) is None
    assert stored_generation(store) == ""
    store_code(store, version, generation="0123456789ab", repository=repository)
    stored = read_stored_code(store)
    assert stored is not None
    assert stored.version == version
    assert (stored.source, stored.generation, stored.commit) == (version.source, "0123456789ab", "")
    assert stored.since.endswith("+00:00")
    assert stored_generation(store) == "0123456789ab"


def test_the_file_is_plain_json(store: SweepStore, repository: Path) -> None:
    store_code(store, present(repository), generation="", repository=repository)
    values = json.loads(store.code.read_text())
    assert list(values) == ["source", "files", "packages", "data", "commit", "since", "generation", "checksum"]
    assert values["data"] == {"data/ImageSets": {"files": 1, "sha256": "x"}}


def test_the_copy_is_the_source(store: SweepStore, repository: Path) -> None:
    version = present(repository)
    store_code(store, version, generation="", repository=repository)
    stored = read_stored_code(store)
    assert stored is not None
    folder = checked_snapshot(store, stored)
    assert source_files(folder) == version.files
    assert (folder / "wsol" / "data" / "voc.py").read_text() == "# wsol/data/voc.py\n"
    assert sorted(os.listdir(folder.parent)) == sorted([folder.name, f"{folder.name}.diff"])


def test_a_second_source_leaves_the_first(store: SweepStore, repository: Path) -> None:
    first = present(repository)
    store_code(store, first, generation="", repository=repository)
    (repository / "wsol" / "data" / "voc.py").write_text("changed\n")
    store_code(store, present(repository), generation="0123456789ab", repository=repository)
    assert source_files(store.snapshot(first.source)) == first.files
    assert len([path for path in store.code.with_suffix("").iterdir() if path.is_dir()]) == 2


def test_the_same_source_with_another_runner(store: SweepStore, repository: Path) -> None:
    """What computes nothing is stored as it is now, too."""
    store_code(store, present(repository), generation="", repository=repository)
    (repository / "runner.py").write_text("changed\n")
    store_code(store, present(repository), generation="0123456789ab", repository=repository)
    stored = read_stored_code(store)
    assert stored is not None
    assert (checked_snapshot(store, stored) / "runner.py").read_text() == "changed\n"


@pytest.mark.parametrize("instant", ["os.rename", "experiments.stored_code.write_json"])
def test_a_kill_in_the_midst_leaves_what_was_said_before(
    store: SweepStore, repository: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    def kill(*_: Any) -> None:
        raise KilledError("killed")

    first = present(repository)
    store_code(store, first, generation="", repository=repository)
    (repository / "wsol" / "data" / "voc.py").write_text("changed\n")
    with monkeypatch.context() as killing:
        killing.setattr(instant, kill)
        with pytest.raises(KilledError, match="killed"):
            store_code(store, present(repository), generation="0123456789ab", repository=repository)
    stored = read_stored_code(store)
    assert stored is not None
    assert stored.version == first
    checked_snapshot(store, stored)
    store_code(store, present(repository), generation="0123456789ab", repository=repository)
    assert stored_generation(store) == "0123456789ab"
    assert not list(store.code.with_suffix("").glob(".*"))


def test_a_file_that_is_changed_at_this_very_time(store: SweepStore, repository: Path) -> None:
    version = present(repository)
    (repository / "wsol" / "data" / "voc.py").write_text("changed\n")
    with pytest.raises(UserError, match=r"wsol/data/voc\.py was changed while it was stored"):
        store_code(store, version, generation="", repository=repository)
    assert read_stored_code(store) is None


class TestDamage:
    @pytest.fixture(autouse=True)
    def _stored(self, store: SweepStore, repository: Path) -> None:
        store_code(store, present(repository), generation="", repository=repository)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00", '{"source": 3}'])
    def test_of_the_file(self, store: SweepStore, content: str) -> None:
        store.code.write_text(content)
        with pytest.raises(UserError, match=r"code\.json: damaged.*bring it back.*--code new"):
            read_stored_code(store)

    def test_of_one_letter(self, store: SweepStore) -> None:
        text = store.code.read_text()
        assert text.count('"torch": "2"') == 1
        store.code.write_text(text.replace('"torch": "2"', '"torch": "3"'))
        with pytest.raises(UserError, match=r"code\.json: damaged"):
            stored_generation(store)

    def test_a_file_that_cannot_be_read(self, store: SweepStore) -> None:
        store.code.unlink()
        store.code.mkdir()
        with pytest.raises(UserError, match=r"code\.json: cannot be read \(Is a directory\).*--code new"):
            read_stored_code(store)

    @pytest.mark.parametrize(
        "changes", [{"source": "f" * 64}, {"generation": "../../elsewhere"}, {"files": {"wsol/a.py": "0"}}]
    )
    def test_of_what_it_says(self, store: SweepStore, changes: dict[str, Any]) -> None:
        """With a checksum that fits."""
        write_json(store.code, sealed({**json.loads(store.code.read_text()), **changes}))
        with pytest.raises(UserError, match=r"code\.json: damaged"):
            stored_generation(store)

    @pytest.mark.parametrize("damage", ["changed", "gone", "all gone"])
    def test_of_the_copy(self, store: SweepStore, damage: str) -> None:
        stored = read_stored_code(store)
        assert stored is not None
        file = store.snapshot(stored.source) / "wsol" / "data" / "voc.py"
        if damage == "changed":
            file.write_text("changed\n")
        elif damage == "gone":
            file.unlink()
        else:
            shutil.rmtree(store.snapshot(stored.source))
        with pytest.raises(UserError, match="is not as it was stored.*--code new"):
            checked_snapshot(store, stored)

    def test_a_copy_is_mended_when_it_is_stored_again(self, store: SweepStore, repository: Path) -> None:
        stored = read_stored_code(store)
        assert stored is not None
        (store.snapshot(stored.source) / "runner.py").unlink()
        store_code(store, present(repository), generation="", repository=repository)
        checked_snapshot(store, stored)

    def test_it_is_replaced_whole(self, store: SweepStore) -> None:
        stored = read_stored_code(store)
        assert stored is not None
        write_stored_code(store, replace(stored, generation="0123456789ab"))
        assert read_stored_code(store) == replace(stored, generation="0123456789ab")


class TestGit:
    def git(self, folder: Path, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return environment.git(*identity, *arguments)

    def test_the_commit_and_what_differs_from_it(
        self, store: SweepStore, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environment, "_REPOSITORY", repository)
        monkeypatch.setattr(stored_code, "git", environment.git)
        self.git(repository, "init", "--quiet")
        self.git(repository, "add", ".")
        self.git(repository, "commit", "--quiet", "--no-gpg-sign", "--no-verify", "-m", "first")
        (repository / "wsol" / "data" / "voc.py").write_text("changed\n")
        (repository / "wsol" / "new.py").write_text("")
        (repository / "notes.txt").write_text("")
        version = present(repository)
        store_code(store, version, generation="", repository=repository)
        stored = read_stored_code(store)
        assert stored is not None
        assert len(stored.commit) == 40
        lines = store.snapshot(version.source, ".diff").read_text().splitlines()
        assert lines[0] == "untracked: wsol/new.py"
        assert lines[-2:] == ["-# wsol/data/voc.py", "+changed"]

    def test_without_git_there_is_nothing_to_say(self, store: SweepStore, repository: Path) -> None:
        version = present(repository)
        store_code(store, version, generation="", repository=repository)
        assert store.snapshot(version.source, ".diff").read_text() == ""

    def test_a_copy_within_another_repository_is_not_spoken_for(
        self, store: SweepStore, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environment, "_REPOSITORY", repository / "wsol")
        monkeypatch.setattr(stored_code, "git", environment.git)
        self.git(repository, "init", "--quiet", "..")
        store_code(store, present(repository), generation="", repository=repository)
        stored = read_stored_code(store)
        assert stored is not None
        assert stored.commit == ""
