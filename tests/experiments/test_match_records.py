"""What is kept of trials' figures on resampled images: made once, made again where anything it rests on has changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_sweep import Size, make

from experiments.report import match_records
from experiments.report.entries import Entry, entries
from experiments.report.match_records import NoRecords, RecordReader, TrialRecord, check_measured_alike
from experiments.report.resampling import Resampling
from experiments.spec import load_spec
from experiments.store import SweepStore
from wsol.detections import load_detections, save_detections
from wsol.matches import matches

METRIC = "ap50_11pt"
RESAMPLING = Resampling(resamples=20, splits=2)
SIZE = Size(rates=2, decays=1, seeds=2, images=20, classes=3, detections_per_image=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder, SIZE)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "sweep")
    file = tmp_path / "sweep" / "sweep.yaml"
    file.write_text(file.read_text().replace(str(made), str(tmp_path / "sweep")))
    return tmp_path / "sweep"


@pytest.fixture
def store(folder: Path) -> SweepStore:
    return SweepStore(folder / "results" / "sweep")


@pytest.fixture
def entry(folder: Path, made: Path, store: SweepStore) -> Entry:
    """The first trial, as the made folder has it, with its data where they are now."""
    plan = load_spec(folder / "sweep.yaml").plans[0]
    return replace(entries(load_spec(made / "sweep.yaml"), store)[0], plan=plan)


@pytest.fixture
def made_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a trial's detections are matched."""
    times: list[str] = []

    def counting(*arguments: object) -> object:
        times.append("matched")
        return matches(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(match_records, "matches", counting)
    return times


def read(store: SweepStore, entry: Entry, metric: str = METRIC, resampling: Resampling = RESAMPLING) -> TrialRecord:
    """By a reader of its own, as another run of the command would have it."""
    return RecordReader(metric, resampling).read(entry)


def same(one: TrialRecord, other: TrialRecord) -> bool:
    return one.classes == other.classes and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("images", "shown", "values", "resampled")
    )


def test_a_record(store: SweepStore, entry: Entry) -> None:
    record = read(store, entry)
    assert record.classes == ("aeroplane", "bicycle", "bird")
    assert record.images == 20
    assert record.resampled.shape == (3, 24)
    assert (record.shown >= 6).all()
    check_measured_alike(entry, record, METRIC)
    assert np.abs(record.resampled[:, :20].mean(axis=1) - record.values).max() < 0.2


class TestIsMade:
    def test_once(self, store: SweepStore, entry: Entry, made_again: list[str]) -> None:
        first = read(store, entry)
        assert same(read(store, entry), first)
        assert len(made_again) == 1

    def test_to_the_same_bytes(self, store: SweepStore, entry: Entry) -> None:
        assert entry.trial is not None
        path = entry.trial.paths.record(METRIC)
        read(store, entry)
        before = path.read_bytes()
        path.unlink()
        read(store, entry)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[:100],
            lambda content: content[:-30],
            lambda content: content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :],
            lambda content: b"no zip at all",
        ],
        ids=["empty", "head", "no directory", "a byte", "other"],
    )
    def test_again_where_it_is_damaged(
        self, store: SweepStore, entry: Entry, made_again: list[str], damage: Callable[[bytes], bytes]
    ) -> None:
        assert entry.trial is not None
        first = read(store, entry)
        path = entry.trial.paths.record(METRIC)
        path.write_bytes(damage(path.read_bytes()))
        assert same(read(store, entry), first)
        assert len(made_again) == 2
        read(store, entry)
        assert len(made_again) == 2

    def test_again_for_other_resamples(self, store: SweepStore, entry: Entry, made_again: list[str]) -> None:
        read(store, entry)
        assert read(store, entry, resampling=Resampling(resamples=21, splits=2)).resampled.shape == (3, 25)
        assert len(made_again) == 2

    def test_for_each_metric(self, store: SweepStore, entry: Entry, made_again: list[str]) -> None:
        first = read(store, entry)
        assert not same(read(store, entry, "corloc50"), first)
        assert same(read(store, entry), first)
        assert len(made_again) == 2

    def test_again_for_other_detections(self, store: SweepStore, entry: Entry) -> None:
        assert entry.trial is not None
        first = read(store, entry)
        path = entry.trial.paths.detections
        found = load_detections(path)
        fewer = replace(found.detections[0], boxes=found.detections[0].boxes + 100)
        save_detections(path, replace(found, detections=(fewer, *found.detections[1:])))
        assert not same(read(store, entry), first)

    def test_again_for_other_annotations(self, store: SweepStore, entry: Entry, folder: Path) -> None:
        first = read(store, entry)
        file = folder / "data" / "Annotations" / "000000.xml"
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
        os.utime(file, ns=(1, 1))
        again = read(store, entry)
        assert not same(again, first)
        with pytest.raises(NoRecords, match=f"the annotations give another {METRIC}/aeroplane than the trial's result"):
            check_measured_alike(entry, again, METRIC)

    def test_again_for_another_source(
        self, store: SweepStore, entry: Entry, made_again: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read(store, entry)
        monkeypatch.setattr(match_records, "_source", lambda: "another")
        read(store, entry)
        assert len(made_again) == 2


class TestIsNotMade:
    def test_without_detections(self, store: SweepStore, entry: Entry) -> None:
        assert entry.trial is not None
        entry.trial.paths.detections.unlink()
        with pytest.raises(NoRecords, match=r"there is no detections\.npz"):
            read(store, entry)

    def test_of_damaged_detections(self, store: SweepStore, entry: Entry) -> None:
        assert entry.trial is not None
        path = entry.trial.paths.detections
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(NoRecords, match=r"detections\.npz is damaged"):
            read(store, entry)

    def test_without_annotations(self, store: SweepStore, entry: Entry, folder: Path) -> None:
        shutil.rmtree(folder / "data" / "Annotations")
        with pytest.raises(NoRecords, match="the annotations of split val cannot be read: got no folder Annotations"):
            read(store, entry)

    def test_for_a_metric_that_images_have_no_share_in(self, store: SweepStore, entry: Entry) -> None:
        with pytest.raises(NoRecords, match="images are not resampled for maxboxacc_v2: it would take"):
            read(store, entry, "maxboxacc_v2")


def test_a_folder_that_cannot_be_written_to_is_a_warning(
    store: SweepStore, entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    assert entry.trial is not None
    entry.trial.paths.record(METRIC).mkdir()
    reader = RecordReader(METRIC, RESAMPLING)
    first = reader.read(entry)
    assert same(reader.read(entry), first)
    assert len(caplog.records) == 1
    assert "cannot be written (Is a directory); the next report resamples again" in caplog.text


KILLED = """\
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from experiments.report import match_records
from experiments.report.entries import entries
from experiments.report.match_records import RecordReader
from experiments.report.resampling import Resampling
from experiments.spec import load_spec
from experiments.store import SweepStore

folder = Path(sys.argv[1])
write = match_records._write

def dying(file, *rest):
    write(file, *rest)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

match_records._write = dying
spec = load_spec(folder / "sweep.yaml")
store = SweepStore(folder / "results" / "sweep")
RecordReader("ap50_11pt", Resampling(resamples=20, splits=2)).read(entries(spec, store)[0])
"""


def test_a_report_that_is_killed_leaves_no_half_record(made: Path, tmp_path: Path) -> None:
    """The data stay where they were made, so that the killed process finds the trial by its signature."""
    shutil.copytree(made, tmp_path / "sweep")
    store = SweepStore(tmp_path / "sweep" / "results" / "sweep")
    repository = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "sweep"), repository], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list(store.folder.glob("trials/*/*resampled*"))
    assert [path.name.startswith(".") for path in left] == [True]
    assert left == store.temporary()
    entry = entries(load_spec(tmp_path / "sweep" / "sweep.yaml"), store)[0]
    check_measured_alike(entry, read(store, entry), METRIC)
