"""A disk of 50 MB fills up in mid-sweep: the sweep waits, goes on when there is room, and fails nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_sweep import Sweep

from experiments.disk_space import ROOM_BYTES, FullDisk, has_room, is_disk_full
from experiments.errors import UserError
from experiments.lock import sweep_lock
from experiments.patience import PatientWriter
from wsol.data.digits import generate

pytestmark = pytest.mark.timeout(300)
SIZE = 50 * 2**20

SPEC = """\
name: digits
experiment:
  task: wsddn
  data: {root: ROOT, workers: 0}
  proposals: {source: grid, count: 20, min_size_px: 8}
  model: {backbone: tiny, weights: none, roi_size: 2, fc_dim: 8}
  train: {epochs: 6, optimizer: adam, scales_px: [48], batch_size: 2}
  evaluate: {batch_size: 4, pictures: 1}
search:
  - grid: {train.lr: [1.0e-3, 3.0e-3, 1.0e-2, 3.0e-2]}
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True)
    if not made or made.returncode:
        pytest.skip("a file system of 50 MB needs the right to mount one")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(folder: Path) -> Path:
    """To the last byte."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue
    return path


def test_a_sweep_waits_for_room(tmp_path: Path, small_disk: Path) -> None:
    root = tmp_path / "data"
    generate(root, seed=0, train=8, val=4, test=1, image_px=48)
    undisturbed = Sweep(tmp_path / "undisturbed", root, SPEC)
    sweep = Sweep(small_disk, root, SPEC)
    try:
        assert undisturbed.start().end() == 0
        runner = sweep.start()
        runner.until(r"^trial 1 epoch 2/")
        filler = _fill(small_disk)
        runner.until(r"^paused: the disk is full; nothing is lost")
        filler.unlink()
        assert runner.end() == 0, runner.output + runner.errors
        assert "there is room again: going on" in runner.output
        assert " failed " not in runner.output
        assert runner.errors == ""
        assert sweep.outcome() == undisturbed.outcome()
        assert sweep.run()[1].output.count(" starts on ") == 0
    finally:
        sweep.clean_up()
        undisturbed.clean_up()


def test_a_stop_while_it_waits_keeps_everything(tmp_path: Path, small_disk: Path) -> None:
    root = tmp_path / "data"
    generate(root, seed=0, train=8, val=4, test=1, image_px=48)
    sweep = Sweep(small_disk, root, SPEC)
    try:
        runner = sweep.start()
        runner.until(r"^trial 1 epoch 2/")
        filler = _fill(small_disk)
        runner.until(r"^paused: the disk is full; nothing is lost")
        runner.process.terminate()
        assert runner.end() == 130, runner.output + runner.errors
        assert "Traceback" not in runner.output + runner.errors
        finished = sweep.results_as_written()
        again = sweep.start()
        again.until(r"^paused: the disk is full; nothing is lost")
        filler.unlink()
        assert again.end() == 0, again.output + again.errors
        written = sweep.results_as_written()
        assert {name: written[name] for name in finished} == finished
    finally:
        sweep.clean_up()


def test_room_is_tried(small_disk: Path) -> None:
    assert has_room(small_disk, ROOM_BYTES)
    assert not has_room(small_disk, SIZE + 1)
    filler = _fill(small_disk)
    assert not has_room(small_disk, 1 + 2**16)
    filler.unlink()
    assert has_room(small_disk, ROOM_BYTES)
    assert not has_room(small_disk / "missing", 1)
    assert list(small_disk.iterdir()) == []


def test_a_write_of_the_runner_is_repeated(small_disk: Path) -> None:
    filler = _fill(small_disk)
    said: list[str] = []
    writer = PatientWriter(
        FullDisk(small_disk), say=said.append, must_stop=lambda: False, sleep=lambda s: filler.unlink(missing_ok=True)
    )
    assert writer.write(lambda: (small_disk / "file").write_text("x" * 10_000)) == 10_000
    assert [line.split(":")[0] for line in said] == ["paused", "there is room again"]
    with pytest.raises(ValueError, match="another"):
        writer.write(lambda: int("another"))


def test_a_stop_ends_the_wait(small_disk: Path) -> None:
    _fill(small_disk)
    writer = PatientWriter(FullDisk(small_disk), say=lambda line: None, must_stop=lambda: True, sleep=lambda s: None)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        writer.write(lambda: (small_disk / "file").write_text("x" * 10_000))


def test_the_lock_of_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "runner.lock"
    path.touch()
    _fill(small_disk)
    with pytest.raises(UserError, match="the disk is full; nothing is lost"), sweep_lock(path):
        pytest.fail("nobody could see who holds it")


def test_the_errors_of_a_full_disk_are_known(small_disk: Path) -> None:
    _fill(small_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        (small_disk / "file").write_bytes(os.urandom(10_000))
    assert is_disk_full(raised.value)
