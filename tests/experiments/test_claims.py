"""Promises between sweeps of a machine, less what needs processes: that is in tests/faults/test_claims.py."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from experiments import claims
from experiments.claims import SharedClaims
from experiments.device_monitor import Claim

GPU, OTHER = "/GPU-0", "/GPU-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wsol-sweeps"


@pytest.fixture
def sweep(folder: Path) -> Iterator[SharedClaims]:
    made = SharedClaims(folder)
    yield made
    made.close()


@pytest.fixture
def other(folder: Path) -> Iterator[SharedClaims]:
    made = SharedClaims(folder)
    yield made
    made.close()


def promise(sweep: SharedClaims, **bytes_of: int) -> None:
    publish(
        sweep, {f"/{device}": Claim(promised_bytes=size, used_bytes=size // 2) for device, size in bytes_of.items()}
    )


def publish(sweep: SharedClaims, own: Mapping[str, Claim]) -> None:
    with sweep.taken() as taken:
        assert taken is not None
        taken.publish(own)


def seen(sweep: SharedClaims) -> dict[str, tuple[int, int]]:
    with sweep.taken() as taken:
        assert taken is not None
        return {device: (claim.promised_bytes, claim.used_bytes) for device, claim in taken.of_others.items()}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("sweep-*"))


def foreign(folder: Path, text: bytes, *, name: str = "sweep-of-another.json") -> int:
    """A living sweep's file, as whoever may write it. Returns its descriptor, on which its life depends."""
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, text)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


class TestSums:
    def test_of_all_others_and_not_of_oneself(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        third = SharedClaims(folder)
        promise(sweep, a=10, b=4)
        promise(other, a=6)
        promise(third, a=2, c=8)
        assert seen(sweep) == {"/a": (8, 4), "/c": (8, 4)}
        assert seen(other) == {"/a": (12, 6), "/b": (4, 2), "/c": (8, 4)}
        third.close()
        assert seen(sweep) == {"/a": (6, 3)}

    def test_alone(self, folder: Path, sweep: SharedClaims) -> None:
        assert seen(sweep) == {}
        promise(sweep, a=10)
        assert seen(sweep) == {}
        assert len(files(folder)) == 1

    def test_a_promise_replaces_the_one_before(self, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, a=10, b=10)
        promise(sweep, a=1)
        assert seen(other) == {"/a": (1, 0)}
        promise(sweep)
        assert seen(other) == {}

    def test_one_that_gets_shorter_leaves_nothing_behind(self, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, **{f"gpu-{number:0100}": number for number in range(64)})
        assert len(seen(other)) == 64
        promise(sweep, a=3)
        assert seen(other) == {"/a": (3, 1)}

    def test_many_sweeps(self, folder: Path, sweep: SharedClaims) -> None:
        others = [SharedClaims(folder) for _ in range(20)]
        for number, made in enumerate(others):
            promise(made, a=number)
        assert seen(sweep)["/a"][0] == sum(range(20))
        for made in others:
            made.close()
        assert seen(sweep) == {}
        assert files(folder) == []

    def test_closed_ones_may_begin_again(self, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, a=1)
        sweep.close()
        sweep.close()
        assert seen(other) == {}
        promise(sweep, a=2)
        assert seen(other) == {"/a": (2, 1)}


class TestFiles:
    def test_are_for_everybody(self, folder: Path, sweep: SharedClaims) -> None:
        before = os.umask(0o077)
        try:
            promise(sweep, a=1)
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
        assert [stat.S_IMODE(file.stat().st_mode) for file in files(folder)] == [0o644]
        assert stat.S_IMODE((folder / "README").stat().st_mode) == 0o644
        assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left of the making"

    def test_of_the_dead_are_removed(self, folder: Path, sweep: SharedClaims) -> None:
        descriptor = foreign(folder_of(sweep, folder), b'{"devices": {"/a": {"promised_bytes": 5, "used_bytes": 1}}}')
        assert seen(sweep) == {"/a": (5, 1)}
        os.close(descriptor)
        assert seen(sweep) == {}
        assert files(folder) == []

    def test_written_anew_need_no_room(self, folder: Path, sweep: SharedClaims) -> None:
        promise(sweep, a=1)
        (file,) = files(folder)
        before = file.stat().st_size
        promise(sweep, a=2**40, b=2**40)
        assert (before, file.stat().st_size) == (4096, 4096)

    def test_that_a_cleaner_took_come_back(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, a=1)
        for file in files(folder):
            file.unlink()
        promise(sweep, a=2)
        assert seen(other) == {"/a": (2, 1)}
        assert len(files(folder)) == 1

    def test_a_folder_that_was_taken_comes_back(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, a=1)
        folder.rename(folder.with_name("elsewhere"))
        assert seen(other) == {}
        promise(sweep, a=2)
        assert seen(other) == {"/a": (2, 1)}

    def test_a_folder_that_is_taken_while_one_waits(
        self, folder: Path, sweep: SharedClaims, other: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock of a folder that nobody finds any more is none."""
        promise(other, a=1)
        lock, moved = claims._lock, False

        def lock_late(descriptor: int, *, until: float) -> bool:
            nonlocal moved
            if not moved:
                moved = True
                folder.rename(folder.with_name("elsewhere"))
            return lock(descriptor, until=until)

        monkeypatch.setattr(claims, "_lock", lock_late)
        promise(sweep, a=2)
        assert [len(files(path)) for path in (folder, folder.with_name("elsewhere"))] == [1, 1]

    def test_a_new_folder_does_not_take_the_place_of_another_ones(
        self, folder: Path, sweep: SharedClaims, other: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two sweeps find none, and both make one."""
        make = claims._make

        def make_late(path: Path) -> None:
            monkeypatch.setattr(claims, "_make", make)
            promise(other, a=7)
            make(path)

        monkeypatch.setattr(claims, "_make", make_late)
        assert seen(sweep) == {"/a": (7, 3)}
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def test_are_in_the_folder_for_temporary_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        sweep = SharedClaims()
        promise(sweep, a=1)
        assert len(files(tmp_path / "wsol-sweeps")) == 1
        sweep.close()


def folder_of(sweep: SharedClaims, folder: Path) -> Path:
    """The folder, once there is one."""
    seen(sweep)
    return folder


LIVE = {"promised_bytes": 5, "used_bytes": 1}


class TestWhatOthersWrite:
    """Anybody on the machine may write there."""

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"\0" * 5000,
            b"\xff\xfe",
            b"[]",
            b"{}",
            b'{"devices": []}',
            b'{"devices": {"/a": {"promised_bytes": "5", "used_bytes": 1}}}',
            b'{"devices": {"/a": {"promised_bytes": 5.5, "used_bytes": 1}}}',
            b'{"devices": {"/a": {"promised_bytes": NaN, "used_bytes": 1}}}',
            b'{"devices": {"/a": {"promised_bytes": 5}}}',
            b'{"devices": {"/a": null}}',
            b'{"devices": {"/a": {"promised_bytes": 5, "used_bytes": 1}}',
            b'{"devices": ' * 20_000,
            json.dumps({"devices": {"/" + 200 * "a": LIVE}}).encode(),
            json.dumps({"devices": {f"/{number}": LIVE for number in range(201)}}).encode(),
            json.dumps({"devices": {"/a": LIVE}}).encode() + b" " * 65536 + b"!",
            json.dumps({"note": "x" * 65536, "devices": {"/a": LIVE}}).encode(),
        ],
        ids=range(17),
    )
    def test_rubbish_counts_for_nothing(
        self, folder: Path, sweep: SharedClaims, other: SharedClaims, text: bytes
    ) -> None:
        promise(other, a=4)
        descriptor = foreign(folder, text)
        expected = {"/a": (9, 3)} if text.endswith(b"!") else {"/a": (4, 2)}
        assert seen(sweep) == expected
        os.close(descriptor)

    def test_less_than_nothing_is_nothing(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(other, a=4)
        descriptor = foreign(folder, b'{"devices": {"/a": {"promised_bytes": -100, "used_bytes": -1}}}')
        assert seen(sweep) == {"/a": (4, 2)}
        os.close(descriptor)

    def test_keys_of_later_versions_are_passed_over(self, folder: Path, sweep: SharedClaims) -> None:
        text = json.dumps({"later": 1, "devices": {"/a": LIVE | {"later": []}}}).encode()
        descriptor = foreign(folder_of(sweep, folder), text)
        assert seen(sweep) == {"/a": (5, 1)}
        os.close(descriptor)

    def test_what_is_no_file_of_a_sweep(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(other, a=4)
        secret = folder.parent / "secret"
        secret.write_text("not to be removed")
        (folder / "sweep-link.json").symlink_to(secret)
        (folder / "sweep-dangling.json").symlink_to("/nowhere")
        (folder / "sweep-folder.json").mkdir()
        os.mkfifo(folder / "sweep-pipe.json")
        (folder / "notes.txt").write_text("by hand")
        before = set(folder.iterdir())
        assert seen(sweep) == {"/a": (4, 2)}
        assert set(folder.iterdir()) == before
        assert secret.exists()

    def test_one_that_may_not_be_read(
        self, folder: Path, sweep: SharedClaims, other: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promise(other, a=4)
        descriptor = foreign(folder, b"{}")
        really = os.open

        def refuse(path: str, *arguments: int, **keywords: int) -> int:
            if path == "sweep-of-another.json":
                raise PermissionError(13, "Permission denied")
            return really(path, *arguments, **keywords)

        monkeypatch.setattr(os, "open", refuse)
        assert seen(sweep) == {"/a": (4, 2)}
        os.close(descriptor)

    def test_of_too_many_files_some_are_read(
        self, folder: Path, sweep: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "_MAX_FILES", 10)
        text = json.dumps({"devices": {"/a": LIVE}}).encode()
        folder_of(sweep, folder)
        descriptors = [foreign(folder, text, name=f"sweep-{number}.json") for number in range(20)]
        assert 0 < seen(sweep)["/a"][0] <= 50
        for descriptor in descriptors:
            os.close(descriptor)


class TestAnOddFolder:
    """It counts as none, and one warning says so."""

    @pytest.fixture(params=["link", "file", "private", "not sticky", "no parent", "dangling"])
    def odd(self, request: pytest.FixtureRequest, folder: Path) -> Path:
        kind = request.param
        if kind in ("link", "dangling"):
            target = folder.with_name("target")
            if kind == "link":
                target.mkdir()
                target.chmod(0o1777)
            folder.symlink_to(target)
        elif kind == "file":
            folder.touch()
        elif kind in ("private", "not sticky"):
            folder.mkdir()
            folder.chmod(0o700 if kind == "private" else 0o777)
        else:
            return folder / "deeper"
        return folder

    def test_is_not_used(self, odd: Path, caplog: pytest.LogCaptureFixture) -> None:
        sweep, other = SharedClaims(odd), SharedClaims(odd)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                promise(sweep, a=1)
                assert seen(sweep) == {}
        (line,) = caplog.messages
        assert line.startswith(f"{odd} cannot be used (")
        assert seen(other) == {}
        assert [path for path in odd.parent.rglob("sweep-*") if path.is_file()] == []

    def test_a_disk_that_is_full(
        self,
        sweep: SharedClaims,
        other: SharedClaims,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        promise(sweep, a=1)
        promise(sweep, a=1)
        assert [line.partition(" cannot be used ")[2][:26] for line in caplog.messages] == [
            "(No space left on device):"
        ]


class TestTurns:
    def test_one_at_a_time(self, folder: Path, sweep: SharedClaims) -> None:
        hasty = SharedClaims(folder, wait_s=0.0)
        with sweep.taken() as taken:
            assert taken is not None
            with hasty.taken() as second:
                assert second is None
        with hasty.taken() as second:
            assert second is not None

    def test_once_in_vain_it_is_tried_without_waiting(
        self, folder: Path, sweep: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patient = SharedClaims(folder, wait_s=0.01)
        naps: list[float] = []
        with sweep.taken():
            with patient.taken() as second:
                assert second is None
            monkeypatch.setattr(time, "sleep", naps.append)
            with patient.taken() as second:
                assert second is None
            assert claims._POLL_S not in naps
        with patient.taken() as second:
            assert second is not None
        with sweep.taken(), patient.taken() as second:
            assert second is None
        assert claims._POLL_S in naps, "then it waits again"

    def test_no_sweep_has_two_turns_where_another_one_waits(
        self, sweep: SharedClaims, other: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        naps: list[float] = []
        monkeypatch.setattr(time, "sleep", naps.append)
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        seen(sweep)
        seen(other)
        assert naps == [0.0, 0.0]
        seen(sweep)
        assert naps[2:] == [pytest.approx(claims._PAUSE_S)]
        monkeypatch.setattr(time, "monotonic", lambda: 1001.0)
        seen(sweep)
        assert naps[3:] == [0.0]

    def test_an_error_inside_gives_it_back(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        with pytest.raises(RuntimeError, match="inside"), sweep.taken():
            raise RuntimeError("inside")
        assert seen(other) == {}

    def test_nothing_stays_open(self, folder: Path, sweep: SharedClaims, other: SharedClaims) -> None:
        promise(sweep, a=1)
        seen(other)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            promise(sweep, a=1)
            seen(other)
            with sweep.taken(), SharedClaims(folder, wait_s=0.0).taken():
                pass
        assert len(os.listdir("/proc/self/fd")) == before
        assert not os.get_inheritable(sweep._file or 0)

    def test_where_there_are_no_such_locks(
        self, folder: Path, sweep: SharedClaims, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims.os, "name", "nt")
        with sweep.taken() as taken:
            monkeypatch.undo()
            assert taken is not None
            taken.publish({"/a": Claim(1, 1)})
            assert taken.of_others == {}
        assert not folder.exists()
