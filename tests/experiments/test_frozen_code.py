"""When a sweep goes on, when it asks, and what is written then."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import frozen_code
from experiments.code_version import CodeVersion, Part, present_version
from experiments.errors import UserError
from experiments.frozen_code import SNAPSHOT, Choice, admit, generation, refusal, run_stored_source
from experiments.metrics_file import append_metrics
from experiments.store import SweepStore
from experiments.stored_code import read_stored_code, store_code, write_stored_code

VERSION = present_version([])


def with_(version: CodeVersion, **files: str) -> CodeVersion:
    """With other contents of some modules of wsol."""
    return replace(version, files={**version.files, **{f"wsol/{name}.py": text for name, text in files.items()}})


OTHER_SOURCE = with_(VERSION, training="other")
OTHER_PACKAGES = replace(VERSION, packages={**VERSION.packages, "torch": "0.1"})
OTHER_DATA = replace(VERSION, data={"data/JPEGImages": Part(4, "b")})


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "results" / "sweep")


def begin(store: SweepStore) -> None:
    """A trial has come to the end of an epoch."""
    append_metrics(store.create_trial(0, "ab" * 32, {}).paths, {"epoch": 1, "duration_s": 1.0})


@pytest.fixture
def begun(store: SweepStore) -> SweepStore:
    """A sweep with a trial, trained with the present source."""
    store_code(store, replace(VERSION, data={"data/JPEGImages": Part(3, "a")}), generation="")
    begin(store)
    return store


def contents(store: SweepStore) -> dict[str, tuple[bytes, int]]:
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in store.folder.rglob("*") if f.is_file()}


def damage(store: SweepStore) -> None:
    store.code.write_text("{")


def outdate(store: SweepStore) -> None:
    """As if another source were stored; the copy is not looked at."""
    stored = read_stored_code(store)
    assert stored is not None
    write_stored_code(store, replace(stored, files=OTHER_SOURCE.files, source=OTHER_SOURCE.source))


class TestWhereNothingWasTrained:
    """Trials failed at once, by a bug say, which is mended now."""

    def test_the_present_source_becomes_the_sweeps(self, store: SweepStore) -> None:
        store_code(store, VERSION, generation="")
        trial = store.create_trial(0, "ab" * 32, {})
        assert refusal(store, OTHER_SOURCE, None) == ""
        outdate(store)
        assert generation(store, VERSION, "new") == ""
        admit(store, VERSION, choice=None, code="")
        stored = read_stored_code(store)
        assert stored is not None
        assert stored.source == VERSION.source
        trial.paths.checkpoint.mkdir()
        assert "training.py changed" in refusal(store, OTHER_SOURCE, None)


class TestRefusal:
    @pytest.mark.parametrize("choice", [None, "keep", "new"])
    def test_nothing_has_changed(self, begun: SweepStore, choice: Choice | None) -> None:
        assert refusal(begun, VERSION, choice) == ""

    @pytest.mark.parametrize(
        ("version", "what"),
        [
            (OTHER_SOURCE, "wsol/training.py changed"),
            (OTHER_PACKAGES, f"torch {VERSION.packages['torch']} -> 0.1"),
            (OTHER_DATA, "data/JPEGImages: 3 -> 4 files"),
        ],
    )
    def test_says_what_has_changed_and_the_two_ways(self, begun: SweepStore, version: CodeVersion, what: str) -> None:
        text = refusal(begun, version, None)
        stored = read_stored_code(begun)
        assert stored is not None
        assert f"has changed since {stored.since}: {what}; nothing was started" in text
        assert "--code keep" in text
        assert "--code new" in text
        assert ("(packages and data stay as they are now)" in text) == (version is not OTHER_SOURCE)

    def test_a_few_are_shown(self, begun: SweepStore) -> None:
        many = with_(VERSION, **{f"new{index}": "x" for index in range(7)})
        assert "wsol/new0.py is new, wsol/new1.py is new, wsol/new2.py is new, wsol/new3.py is new and 3 more;" in (
            refusal(begun, many, None)
        )

    def test_new_is_never_refused(self, begun: SweepStore) -> None:
        assert refusal(begun, OTHER_SOURCE, "new") == ""
        damage(begun)
        assert refusal(begun, OTHER_SOURCE, "new") == ""

    def test_keep_takes_other_packages_and_data_and_no_other_source(self, begun: SweepStore) -> None:
        assert refusal(begun, OTHER_PACKAGES, "keep") == refusal(begun, OTHER_DATA, "keep") == ""
        assert "the stored source is not what runs" in refusal(begun, OTHER_SOURCE, "keep")

    @pytest.mark.parametrize("choice", [None, "keep"])
    def test_a_damaged_file(self, begun: SweepStore, choice: Choice | None) -> None:
        damage(begun)
        with pytest.raises(UserError, match="damaged"):
            refusal(begun, VERSION, choice)

    def test_before_the_first_trial_there_is_nothing_to_protect(self, store: SweepStore) -> None:
        assert refusal(store, VERSION, None) == ""
        store_code(store, VERSION, generation="")
        assert refusal(store, OTHER_SOURCE, None) == ""


class TestGeneration:
    def test_there_is_none_at_the_beginning(self, store: SweepStore) -> None:
        for choice in (None, "new"):
            assert generation(store, VERSION, choice) == ""  # type: ignore[arg-type]

    def test_it_stays_without_new(self, begun: SweepStore) -> None:
        store_code(begun, VERSION, generation="0123456789ab")
        assert generation(begun, OTHER_SOURCE, None) == "0123456789ab"
        assert generation(begun, OTHER_PACKAGES, "keep") == "0123456789ab"

    def test_new_begins_one_where_something_has_changed(self, begun: SweepStore) -> None:
        assert generation(begun, VERSION, "new") == ""
        found = {generation(begun, version, "new") for version in (OTHER_SOURCE, OTHER_PACKAGES, OTHER_DATA)}
        assert found == {OTHER_SOURCE.fingerprint, OTHER_PACKAGES.fingerprint, OTHER_DATA.fingerprint}
        assert len(found) == 3

    def test_new_begins_one_where_nobody_knows(self, store: SweepStore) -> None:
        begin(store)
        assert generation(store, VERSION, "new") == VERSION.fingerprint
        damage(store)
        assert generation(store, VERSION, "new") == VERSION.fingerprint


class TestAdmit:
    def test_the_first_run_stores(self, store: SweepStore, caplog: pytest.LogCaptureFixture) -> None:
        admit(store, VERSION, choice=None, code="")
        stored = read_stored_code(store)
        assert stored is not None
        assert (stored.version, stored.generation) == (VERSION, "")
        assert caplog.text == ""

    def test_what_never_began_may_begin_with_another_source(self, store: SweepStore) -> None:
        """The first run found a fault in the data, say."""
        admit(store, VERSION, choice=None, code="")
        outdate(store)
        admit(store, VERSION, choice=None, code="")
        stored = read_stored_code(store)
        assert stored is not None
        assert stored.version == VERSION

    def test_an_older_sweep_is_adopted_with_a_warning(
        self, store: SweepStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        begin(store)
        with caplog.at_level(logging.WARNING):
            admit(store, VERSION, choice=None, code="")
        assert "begun before sources were stored; the present one counts as its own" in caplog.text
        assert read_stored_code(store) is not None

    @pytest.mark.parametrize("choice", [None, "keep", "new"])
    def test_nothing_is_written_where_nothing_has_changed(
        self, begun: SweepStore, choice: Choice | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = contents(begun)
        admit(begun, VERSION, choice=choice, code="")
        assert contents(begun) == before
        assert caplog.text == ""

    @pytest.mark.parametrize("version", [OTHER_SOURCE, OTHER_PACKAGES, OTHER_DATA])
    def test_nothing_is_written_where_it_asks(self, begun: SweepStore, version: CodeVersion) -> None:
        before = contents(begun)
        with pytest.raises(UserError, match="has changed since"):
            admit(begun, version, choice=None, code="")
        assert contents(begun) == before

    def test_keep_says_what_it_cannot_keep(self, begun: SweepStore, caplog: pytest.LogCaptureFixture) -> None:
        before = contents(begun)
        with caplog.at_level(logging.WARNING):
            admit(begun, OTHER_PACKAGES, choice="keep", code="")
        (record,) = caplog.records
        assert "what cannot be kept has changed since" in record.getMessage()
        assert "torch" in record.getMessage()
        assert contents(begun) == before

    def test_new_stores_the_present_one_beside(self, begun: SweepStore) -> None:
        outdate(begun)
        code = generation(begun, VERSION, "new")
        admit(begun, VERSION, choice="new", code=code)
        stored = read_stored_code(begun)
        assert stored is not None
        assert (stored.version, stored.generation) == (VERSION, VERSION.fingerprint)
        assert refusal(begun, VERSION, None) == ""
        assert generation(begun, VERSION, "new") == code, "the second time it is nothing new"

    def test_new_mends_a_damaged_file(self, begun: SweepStore) -> None:
        damage(begun)
        admit(begun, VERSION, choice="new", code=VERSION.fingerprint)
        stored = read_stored_code(begun)
        assert stored is not None
        assert stored.generation == VERSION.fingerprint

    def test_data_that_a_spec_gains_are_remembered_beside_the_others(self, begun: SweepStore) -> None:
        admit(begun, replace(VERSION, data={"new/JPEGImages": Part(1, "n")}), choice=None, code="")
        stored = read_stored_code(begun)
        assert stored is not None
        assert stored.data == {"data/JPEGImages": Part(3, "a"), "new/JPEGImages": Part(1, "n")}

    def test_a_run_that_was_overtaken(self, begun: SweepStore) -> None:
        store_code(begun, VERSION, generation="0123456789ab")
        with pytest.raises(UserError, match="another run has just begun all trials anew"):
            admit(begun, VERSION, choice=None, code="")


class TestRunStoredSource:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        monkeypatch.setattr(os, "execve", lambda *arguments: found.append(arguments))
        monkeypatch.delenv(SNAPSHOT, raising=False)
        monkeypatch.setenv("PYTHONPATH", "elsewhere")
        return found

    def test_in_its_place_with_the_same_command_line(
        self, begun: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        run_stored_source(begun, ["spec.yaml", "--code", "keep"])
        ((program, command, environment),) = calls
        folder = str(begun.snapshot(VERSION.source).resolve())
        assert program == sys.executable
        assert command == [sys.executable, os.path.join(folder, "runner.py"), "spec.yaml", "--code", "keep"]
        assert environment["PYTHONPATH"] == os.pathsep.join([folder, "elsewhere"])
        assert (environment["PYTHONSAFEPATH"], environment[SNAPSHOT]) == ("1", folder)
        assert environment.keys() >= os.environ.keys()

    @pytest.mark.parametrize("said", ["option", "environment"])
    def test_a_storage_goes_on_in_the_environment(
        self, begun: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, said: str
    ) -> None:
        """It may have a password, and others see a command line."""
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        url = "postgresql://me:s3cr3t@h/db"
        monkeypatch.setenv("WSOL_STORAGE", "postgresql://other" if said == "option" else url)
        if said == "option":
            run_stored_source(begun, ["--storage", url, "spec.yaml"], storage=url)
        else:
            run_stored_source(begun, ["spec.yaml"])
        ((_, command, environment),) = calls
        assert command[2:] == ["spec.yaml"]
        assert environment["WSOL_STORAGE"] == url

    def test_a_source_from_before_there_was_a_storage(
        self, begun: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        stored = read_stored_code(begun)
        assert stored is not None
        files = {name: digest for name, digest in stored.files.items() if name != "experiments/storage_url.py"}
        write_stored_code(begun, replace(stored, files=files))
        with pytest.raises(UserError, match="the source that is stored with this sweep knows no --storage and no WSOL"):
            run_stored_source(begun, ["--storage", "url", "spec.yaml"], storage="url")
        monkeypatch.setenv("WSOL_STORAGE", "url")
        with pytest.raises(UserError, match="expected neither with --code keep"):
            run_stored_source(begun, ["spec.yaml"])
        monkeypatch.setenv("WSOL_STORAGE", "")
        run_stored_source(begun, ["spec.yaml"])
        assert len(calls) == 1

    def test_not_where_it_is_the_present_one(self, begun: SweepStore, calls: list[tuple[Any, ...]]) -> None:
        run_stored_source(begun, [])
        assert calls == []

    def test_not_where_none_is_stored_or_nothing_was_begun(
        self, store: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        run_stored_source(store, [])
        store_code(store, VERSION, generation="")
        run_stored_source(store, [])
        assert calls == []

    def test_not_twice(self, begun: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        monkeypatch.setenv(SNAPSHOT, "somewhere")
        run_stored_source(begun, [])
        assert calls == []

    def test_not_a_damaged_one(
        self, begun: SweepStore, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_code, "source_of", lambda _: "another")
        (begun.snapshot(VERSION.source) / "wsol" / "training.py").write_text("")
        with pytest.raises(UserError, match=r"wsol/training\.py is not as it was stored"):
            run_stored_source(begun, [])
        damage(begun)
        with pytest.raises(UserError, match="bring it back"):
            run_stored_source(begun, [])
        assert calls == []
