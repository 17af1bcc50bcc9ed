"""Filling the cache with real processes: their work, their faults, their end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposal_fill import FillReport, fill
from wsol.data.proposal_sources import SelectiveSearch, SlidingWindowGrid

REPOSITORY = Path(__file__).resolve().parents[3]

DOUBLES = '''
"""Sources for the processes of a test. They are in a module of their own because a fresh process must import them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsol.data.proposals import Proposals


@dataclass
class Double:
    folder: Path
    key: str = "double/1"
    worth_storing: bool = True

    def propose(self, record):
        if record.id == "broken":
            return 1 / 0
        if record.id == "full":
            raise OSError(28, "No space left on device", "somewhere")
        if record.id == "mask":
            raise ValueError(f"SIGINT blocked: {signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])}")
        if record.id == "deadly":
            os._exit(7)
        if record.id.startswith("slow"):
            with (self.folder / f"{record.id} is alive").open("w") as pipe:  # blocks until the test reads it
                pipe.write(str(os.getpid()))
            with (self.folder / f"{record.id} may go on").open() as pipe:
                pipe.read()
        return Proposals(np.array([[0, 0, 1, 1]], dtype=np.float32))


class Log:
    """A source that notes in a file, atomically, for which images it was asked."""

    key = "log/1"
    worth_storing = True

    def __init__(self, path):
        self.path = path

    def propose(self, record):
        with self.path.open("a") as stream:
            stream.write(f"{record.id}\\n")
        return Proposals(np.array([[0, 0, 1, 1]], dtype=np.float32))
'''


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    folder = tmp_path / "modules"
    folder.mkdir()
    name = f"doubles_{abs(hash(tmp_path))}"
    (folder / f"{name}.py").write_text(DOUBLES)
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name)  # type: ignore[return-value]


def images(folder: Path, names: list[str]) -> list[ImageRecord]:
    saved = []
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        noise = np.random.default_rng(number).integers(0, 256, size=(3, 4, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((32, 24), Image.Resampling.BICUBIC).save(path)
        saved.append(ImageRecord(id=name, path=path))
    return saved


def numbered(folder: Path, count: int) -> list[ImageRecord]:
    return images(folder, [f"image{number}" for number in range(count)])


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_everything_is_there_afterwards(tmp_path: Path, workers: int) -> None:
    records = numbered(tmp_path, 7)
    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    before = cache.get(records[2])
    steps: list[tuple[int, int]] = []
    report = fill(cache, records, workers=workers, on_progress=lambda *step: steps.append(step))
    assert report == FillReport(computed=6, found=1)
    assert steps == [(done, 7) for done in range(1, 8)]
    assert all(cache.holds(record) for record in records)
    for record in records:
        np.testing.assert_array_equal(cache.get(record).boxes, cache.source.propose(record).boxes)
    np.testing.assert_array_equal(cache.get(records[2]).boxes, before.boxes)
    assert multiprocessing.active_children() == []


def test_nothing_is_started_where_nothing_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = numbered(tmp_path, 3)
    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    fill(cache, records, workers=0)
    monkeypatch.setattr(multiprocessing, "get_context", None)
    steps: list[tuple[int, int]] = []
    report = fill(cache, records, workers=4, on_progress=lambda *step: steps.append(step))
    assert report == FillReport(computed=0, found=3)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert fill(cache, [], workers=4) == FillReport(computed=0, found=0)


def test_sources_that_are_not_stored_need_nothing(tmp_path: Path) -> None:
    source = SlidingWindowGrid(scales=(0.5,), aspect_ratios=(1.0,), stride=0.5)
    cache = ProposalCache(tmp_path / "cache", source)
    assert fill(cache, numbered(tmp_path, 2), workers=2) == FillReport(computed=0, found=2)
    assert not cache.directory.exists()


def test_the_same_image_under_two_names_is_computed_once(tmp_path: Path) -> None:
    record = numbered(tmp_path, 1)[0]
    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    assert fill(cache, [record, record, record], workers=0) == FillReport(computed=1, found=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(tmp_path: Path, workers: int) -> None:
    records = numbered(tmp_path, 6)
    records[4].path.write_bytes(b"no image")
    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    with pytest.raises(DataError, match=r"got a damaged or unreadable image in .*image4\.png"):
        fill(cache, records, workers=workers)
    assert multiprocessing.active_children() == []


def test_any_other_fault_names_the_image_and_shows_where(tmp_path: Path, doubles: type) -> None:
    cache = ProposalCache(tmp_path / "cache", doubles.Double(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"got ZeroDivisionError \(division by zero\) from .*broken\.png") as raised:
        fill(cache, images(tmp_path, ["good", "broken"]), workers=1)
    assert "return 1 / 0" in "".join(raised.value.__notes__)


def test_a_full_disk_is_no_fault_of_the_data(tmp_path: Path, doubles: type) -> None:
    cache = ProposalCache(tmp_path / "cache", doubles.Double(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left on device: 'somewhere'") as raised:
        fill(cache, images(tmp_path, ["full"]), workers=1)
    assert raised.value.errno == 28


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_is_noticed_and_its_image_named(tmp_path: Path, doubles: type, workers: int) -> None:
    cache = ProposalCache(tmp_path / "cache", doubles.Double(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"got exit status 7 from the process .* the proposals of .*deadly\.png"):
        fill(cache, images(tmp_path, ["a", "deadly", "b"]), workers=workers)
    assert multiprocessing.active_children() == []


def test_a_failing_callback_leaves_no_processes(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("the terminal is gone")

    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        fill(cache, numbered(tmp_path, 4), workers=2, on_progress=fail)
    assert multiprocessing.active_children() == []


def test_processes_never_see_an_interrupt(tmp_path: Path, doubles: type) -> None:
    """Not even while they start: they would print a trace each. This process is as it was afterwards."""
    cache = ProposalCache(tmp_path / "cache", doubles.Double(tmp_path))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="SIGINT blocked: True"):
        fill(cache, images(tmp_path, ["mask"]), workers=1)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_negative_number_of_processes_is_refused(tmp_path: Path) -> None:
    cache = ProposalCache(tmp_path / "cache", SelectiveSearch())
    with pytest.raises(ValueError, match="got workers=-1; expected 0 or more"):
        fill(cache, [], workers=-1)


FILL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from doubles import Double, Log
from wsol.data.images import ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposal_fill import fill

if __name__ == "__main__":
    folder, source = Path(sys.argv[2]), sys.argv[3]
    records = [ImageRecord(id=path.stem, path=path) for path in sorted(folder.glob("*.png"))]
    source = Double(folder) if source == "Double" else Log(folder / source)
    print("ready", flush=True)
    sys.stdin.readline()
    print(fill(ProposalCache(folder / "cache", source), records, workers=2), "cv2" in sys.modules)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "doubles.py").write_text(DOUBLES)
    (tmp_path / "fill_cache.py").write_text(FILL)
    return tmp_path / "fill_cache.py"


def start(script: Path, source: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(script), str(script.parent), str(script.parent), source],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")


def test_two_processes_fill_one_directory_at_once(tmp_path: Path, script: Path) -> None:
    records = numbered(tmp_path, 60)
    both = [start(script, "first log"), start(script, "second log")]
    for process in both:
        go(process)
    outputs = [process.communicate(timeout=120) for process in both]
    assert [(process.returncode, errors) for process, (_, errors) in zip(both, outputs, strict=True)] == [(0, "")] * 2
    asked = [(tmp_path / log).read_text().split() for log in ("first log", "second log") if (tmp_path / log).exists()]
    assert set().union(*asked) == {record.id for record in records}
    assert all(len(set(ids)) == len(ids) for ids in asked)
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(files) == 60
    assert all(path.suffix == ".npz" and not path.name.startswith(".") for path in files)
    for output, _ in outputs:
        assert "computed=" in output
        assert output.endswith("False\n"), "the parent imported OpenCV"


SLOW = ["slow1", "slow2"]


def slow_fill(folder: Path, script: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A parent whose two processes are in the middle of an image, and their ids."""
    for name in SLOW:
        os.mkfifo(folder / f"{name} is alive")
        os.mkfifo(folder / f"{name} may go on")
    images(folder, SLOW)
    process = start(script, "Double")
    go(process)
    return process, [int((folder / f"{name} is alive").read_text()) for name in SLOW]


def test_an_interrupt_stops_at_once_and_leaves_no_processes(tmp_path: Path, script: Path) -> None:
    process, workers = slow_fill(tmp_path, script)
    assert all(is_running(pid) for pid in workers)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: all of them get it
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert errors.count("KeyboardInterrupt") == 1, "the processes print no trace of their own"
    assert not any(is_running(pid) for pid in workers)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_when_the_parent_is_killed_its_processes_end_in_the_midst_of_an_image(tmp_path: Path, script: Path) -> None:
    process, workers = slow_fill(tmp_path, script)
    assert all(is_running(pid) for pid in workers)
    process.kill()
    process.wait(timeout=30)
    assert process.stderr is not None
    errors = process.stderr.read()  # ends when the last process that could write there has ended
    assert errors == ""
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    process.communicate()
