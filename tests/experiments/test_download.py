"""`runner.py data voc2007`, against archives served here. The download itself is tested in tests/wsol/data."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import runner
from experiments import download as module
from wsol.data import voc2007
from wsol.data.voc2007 import Archive

VOC = "VOCdevkit/VOC2007"


def tar(file: Path, *members: str) -> None:
    with tarfile.open(file, mode="w") as archive:
        for member in members:
            info = tarfile.TarInfo(f"{VOC}/{member}")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two archives on a loopback server, in the place of the real ones."""
    folder = tmp_path / "served"
    folder.mkdir()
    tar(folder / "trainval.tar", "JPEGImages/1.jpg", "ImageSets/Main/train.txt")
    tar(folder / "test.tar", "JPEGImages/2.jpg", "ImageSets/Main/test.txt")
    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    archives = tuple(
        Archive(
            name=file.name,
            md5=hashlib.md5(file.read_bytes()).hexdigest(),
            urls=(f"http://127.0.0.1:{http.server_address[1]}/{file.name}",),
        )
        for file in (folder / "trainval.tar", folder / "test.tar")
    )

    def download(root: Path, **options: Any) -> Path:
        return voc2007.download(root, archives=archives, sleep=lambda seconds: None, **options)

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "download", download)
    monkeypatch.setattr(module, "is_complete", lambda root: voc2007.is_complete(root, archives=archives))
    yield folder
    http.shutdown()
    thread.join()
    http.server_close()


def test_download_and_once_more(served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    folder = root / VOC
    assert runner.main(["data", "voc2007", "--root", str(root)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder} is complete; name it in a sweep as  data: {{root: {folder}}}\n"
    assert "trainval.tar" in shown.err
    assert "test.tar" in shown.err
    assert (folder / "JPEGImages/2.jpg").read_text() == "hello"
    for file in served.iterdir():
        file.unlink()
    assert runner.main(["data", "voc2007", "--root", str(root)]) == 0
    assert capsys.readouterr() == (f"{folder} is complete, nothing to do\n", "")


def test_a_download_that_fails_can_be_repeated(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = (served / "test.tar").rename(tmp_path / "away.tar")
    assert runner.main(["data", "voc2007", "--root", str(tmp_path / "data")]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if line.startswith("error: ") and "test.tar" in line]
    assert "Traceback" not in shown.err
    away.rename(served / "test.tar")
    assert runner.main(["data", "voc2007", "--root", str(tmp_path / "data")]) == 0


class TestBar:
    def test_a_bar_a_step(self, capsys: pytest.CaptureFixture[str]) -> None:
        bar = module._Bar()
        bar.show("one", 0, 2048)
        bar.show("one", 2048, 2048)
        bar.show("two", 512, None)
        bar.close()
        bar.close()
        shown = capsys.readouterr().err
        assert "one: 100%" in shown
        assert re.search(r"two: 512(\.0)?B", shown)
