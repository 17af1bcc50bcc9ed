"""The download of VOC 2007, against servers and archives made here."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wsol.data.voc2007 import VOC2007_ARCHIVES, Archive, DownloadError, download, is_complete

REPOSITORY = Path(__file__).resolve().parents[3]
Answer = Callable[[BaseHTTPRequestHandler], None]


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


VOC = "VOCdevkit/VOC2007"
TRAINVAL = tar((f"{VOC}/JPEGImages/1.jpg", b"1" * 300_000), (f"{VOC}/ImageSets/Main/train.txt", b"1"))
TEST = tar((f"{VOC}/JPEGImages/2.jpg", b"2" * 1000), (f"{VOC}/ImageSets/Main/test.txt", b"2"))
FILES = ["ImageSets/Main/test.txt", "ImageSets/Main/train.txt", "JPEGImages/1.jpg", "JPEGImages/2.jpg"]


class Server:
    """Answers each path with its list of answers, in turn; the last one stays. Remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers["Range"]))
                answers = server.answers.get(self.path, [status(404)])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{path}"

    def archive(self, name: str, content: bytes, *paths: str) -> Archive:
        return Archive(name=name, md5=hashlib.md5(content).hexdigest(), urls=tuple(self.url(path) for path in paths))

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def serve(
    content: bytes,
    *,
    ranges: bool = True,
    cut_after: int | None = None,
    kind: str = "application/x-tar",
    length: bool = True,
    shift: int = 0,
) -> Answer:
    """Sends `content`; with `cut_after`, ends the connection after so many bytes of the answer."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"] if ranges else None
        start = int(asked.removeprefix("bytes=").rstrip("-")) + shift if asked else 0
        if asked and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Type", kind)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][:cut_after])

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def archives(server: Server) -> tuple[Archive, ...]:
    """Both archives, on a server that does all it should."""
    server.answers = {"/a": [serve(TRAINVAL)], "/b": [serve(TEST)]}
    return server.archive("a.tar", TRAINVAL, "/a"), server.archive("b.tar", TEST, "/b")


class Clock:
    """A sleep that only remembers."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_official_archives() -> None:
    assert [(archive.name, archive.md5) for archive in VOC2007_ARCHIVES] == [
        ("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
        ("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
    ]
    assert VOC2007_ARCHIVES[0].urls == (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
        "https://pjreddie.com/media/files/VOCtrainval_06-Nov-2007.tar",
    )


# --- what it does ---------------------------------------------------------------------------------


def test_both_archives_end_in_one_folder(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    steps: list[tuple[str, int, int | None]] = []
    root = tmp_path / "new" / "data"
    voc = download(root, archives=archives, on_progress=lambda *step: steps.append(step))
    assert voc == root / "VOCdevkit" / "VOC2007"
    assert files_in(voc) == [".downloaded.json", *FILES]
    assert (voc / "JPEGImages" / "1.jpg").read_bytes() == b"1" * 300_000
    assert sorted(path.name for path in root.iterdir()) == [".voc2007.lock", "VOCdevkit"]
    assert steps[0] == ("download a.tar", 0, len(TRAINVAL))
    assert ("download a.tar", len(TRAINVAL), len(TRAINVAL)) in steps
    assert list(dict.fromkeys(step for step, _, _ in steps)) == [
        "download a.tar",
        "download b.tar",
        "extract a.tar",
        "extract b.tar",
    ]
    assert all(total is not None and done <= total for _, done, total in steps)


def test_a_second_call_does_nothing_and_says_so(
    tmp_path: Path, archives: tuple[Archive, ...], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    assert not is_complete(tmp_path, archives=archives)
    download(tmp_path, archives=archives)
    assert is_complete(tmp_path, archives=archives)
    asked = len(server.asked)
    before = files_in(tmp_path)
    with caplog.at_level(logging.INFO, logger="wsol.data"):
        download(tmp_path, archives=archives)
    assert len(server.asked) == asked
    assert files_in(tmp_path) == before
    assert caplog.messages == [f"{tmp_path / 'VOCdevkit' / 'VOC2007'} is complete, nothing to do"]


def test_other_years_stay(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    other = tmp_path / "VOCdevkit" / "VOC2012" / "x"
    other.mkdir(parents=True)
    download(tmp_path, archives=archives)
    assert other.is_dir()


def test_archives_can_be_kept_and_are_then_used(tmp_path: Path, archives: tuple[Archive, ...], server: Server) -> None:
    voc = download(tmp_path, archives=archives, keep_archives=True)
    assert (tmp_path / "a.tar").read_bytes() == TRAINVAL
    voc.rename(tmp_path / "moved")
    server.answers = {}
    assert files_in(download(tmp_path, archives=archives, keep_archives=True)) == [".downloaded.json", *FILES]


def test_a_damaged_archive_of_an_earlier_call_is_fetched_again(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    (tmp_path / "a.tar").write_bytes(TRAINVAL.replace(b"1111", b"1011", 1))
    voc = download(tmp_path, archives=archives)
    assert (voc / "JPEGImages" / "1.jpg").read_bytes() == b"1" * 300_000


# --- resuming -------------------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(tmp_path: Path, server: Server, archives: tuple[Archive, ...]) -> None:
    server.answers["/a"] = [serve(TRAINVAL, cut_after=1000), serve(TRAINVAL, cut_after=2000), serve(TRAINVAL)]
    clock = Clock()
    download(tmp_path, archives=archives, sleep=clock)
    assert [asked for path, asked in server.asked if path == "/a"] == [None, "bytes=1000-", "bytes=3000-"]
    assert clock.pauses == [1.0, 1.0]  # each request brought something


def test_an_interrupted_call_is_resumed_by_the_next(
    tmp_path: Path, server: Server, archives: tuple[Archive, ...]
) -> None:
    def interrupt(step: str, done: int, total: int | None) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="^$"):
        download(tmp_path, archives=archives, on_progress=interrupt)
    kept = (tmp_path / "a.tar.part").stat().st_size
    assert 0 < kept < len(TRAINVAL)
    download(tmp_path, archives=archives)
    assert [asked for path, asked in server.asked if path == "/a"] == [None, f"bytes={kept}-"]


def test_a_part_that_is_whole_needs_no_server(tmp_path: Path, server: Server, archives: tuple[Archive, ...]) -> None:
    (tmp_path / "a.tar.part").write_bytes(TRAINVAL)
    download(tmp_path, archives=archives)
    assert [path for path, _ in server.asked] == ["/b"]


def test_without_range_support_it_starts_over(tmp_path: Path, server: Server, archives: tuple[Archive, ...]) -> None:
    server.answers["/a"] = [serve(TRAINVAL, ranges=False, cut_after=5000), serve(TRAINVAL, ranges=False)]
    assert files_in(download(tmp_path, archives=archives, sleep=Clock())) == [".downloaded.json", *FILES]


def test_without_range_support_and_always_cut_it_gives_up(tmp_path: Path, server: Server) -> None:
    server.answers["/a"] = [serve(TRAINVAL, ranges=False, cut_after=5000)]
    clock = Clock()
    with pytest.raises(DownloadError, match=r"ended after 5000 of \d+ bytes; 4 requests in a row brought nothing new"):
        download(tmp_path, archives=[server.archive("a.tar", TRAINVAL, "/a")], sleep=clock)
    assert clock.pauses == [1.0, 2.0, 4.0, 8.0]  # the first request did bring something


def test_without_a_length_the_md5_decides(tmp_path: Path, server: Server, archives: tuple[Archive, ...]) -> None:
    server.answers["/a"] = [serve(TRAINVAL, length=False)]
    steps: list[int | None] = []
    download(tmp_path, archives=archives, on_progress=lambda step, done, total: steps.append(total))
    assert steps[0] is None


@pytest.mark.parametrize("earlier", [b"x" * 1000, b"x" * len(TRAINVAL), b"x" * (len(TRAINVAL) + 1)])
def test_a_part_of_another_file_is_started_over(
    tmp_path: Path, server: Server, archives: tuple[Archive, ...], earlier: bytes
) -> None:
    """The server's file was changed since, or the part came from elsewhere: as long, shorter, longer than the file."""
    (tmp_path / "a.tar.part").write_bytes(earlier)
    download(tmp_path, archives=archives, sleep=Clock())
    assert [asked for path, asked in server.asked if path == "/a"] == [f"bytes={len(earlier)}-", None]


def test_a_range_that_was_not_asked_for_is_refused(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.tar.part").write_bytes(TRAINVAL[:1000])
    server.answers["/a"] = [serve(TRAINVAL, shift=1)]
    message = r"got the range '1001-\d+'; expected one from 1000\n1000 bytes of it are kept"
    with pytest.raises(DownloadError, match=message):
        download(tmp_path, archives=[server.archive("a.tar", TRAINVAL, "/a")])


# --- servers that fail ----------------------------------------------------------------------------


def test_busy_servers_are_asked_again_with_growing_pauses(
    tmp_path: Path, server: Server, archives: tuple[Archive, ...]
) -> None:
    server.answers["/a"] = [status(503), status(500), status(429), serve(TRAINVAL)]
    clock = Clock()
    download(tmp_path, archives=archives, sleep=clock)
    assert clock.pauses == [2.0, 4.0, 8.0]


def test_the_next_address_is_tried_and_goes_on(tmp_path: Path, server: Server) -> None:
    """404 is not asked twice; what a dying server sent is completed by the next."""
    archive = server.archive("a.tar", TRAINVAL, "/none", "/dying", "/good")
    server.answers = {"/dying": [serve(TRAINVAL, cut_after=1000), status(500)], "/good": [serve(TRAINVAL)]}
    download(tmp_path, archives=[archive], sleep=Clock())
    assert [path for path, _ in server.asked] == ["/none", *["/dying"] * 5, "/good"]
    assert server.asked[-1] == ("/good", "bytes=1000-")


def test_an_address_where_nobody_listens(tmp_path: Path, server: Server) -> None:
    md5 = hashlib.md5(TRAINVAL).hexdigest()
    archive = Archive(name="a.tar", md5=md5, urls=("http://127.0.0.1:9/a", server.url("/a")))
    server.answers["/a"] = [serve(TRAINVAL)]
    clock = Clock()
    download(tmp_path, archives=[archive], sleep=clock)
    assert clock.pauses == [2.0, 4.0, 8.0]


def test_a_silent_server_is_given_up(tmp_path: Path, server: Server) -> None:
    released = threading.Event()

    def silence(handler: BaseHTTPRequestHandler) -> None:
        released.wait(10)

    server.answers["/a"] = [silence]
    with pytest.raises(DownloadError, match=r"timed out.*4 requests in a row brought nothing new"):
        download(tmp_path, archives=[server.archive("a.tar", TRAINVAL, "/a")], sleep=Clock(), timeout_s=0.05)
    released.set()


def test_when_all_fail_the_error_names_each_and_the_way_on(tmp_path: Path, server: Server) -> None:
    archive = server.archive("a.tar", TRAINVAL, "/none", "/cut")
    server.answers["/cut"] = [serve(TRAINVAL, cut_after=1000), status(503)]
    with pytest.raises(DownloadError, match=r"got no a\.tar from any address:\n") as caught:
        download(tmp_path, archives=[archive], sleep=Clock())
    lines = str(caught.value).splitlines()
    assert lines[1] == f"  {server.url('/none')}: HTTP 404 Not Found"
    assert lines[2].startswith(f"  {server.url('/cut')}: HTTP 503 Service Unavailable; 4 requests")
    assert lines[3] == "1000 bytes of it are kept, and the same command goes on where this one stopped"


def test_a_login_page_does_not_destroy_what_has_arrived(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.tar.part").write_bytes(TRAINVAL[:1000])
    server.answers["/a"] = [serve(b"<html>log in</html>", ranges=False, kind="text/html; charset=utf-8")]
    with pytest.raises(DownloadError, match="got a web page; expected a file"):
        download(tmp_path, archives=[server.archive("a.tar", TRAINVAL, "/a")])
    assert (tmp_path / "a.tar.part").read_bytes() == TRAINVAL[:1000]


def test_a_wrong_md5_is_removed_and_nothing_extracted(tmp_path: Path, server: Server) -> None:
    archive = server.archive("a.tar", TRAINVAL, "/a")
    server.answers["/a"] = [serve(TEST)]
    with pytest.raises(DownloadError, match=rf"got MD5 {hashlib.md5(TEST).hexdigest()}; expected {archive.md5}"):
        download(tmp_path, archives=[archive])
    assert files_in(tmp_path) == [".voc2007.lock"]
    assert len(server.asked) == 1


def test_a_wrong_md5_is_not_asked_for_for_ever(tmp_path: Path, server: Server) -> None:
    archive = server.archive("a.tar", TRAINVAL, "/a")
    (tmp_path / "a.tar.part").write_bytes(b"x" * 10)
    server.answers["/a"] = [serve(TEST, cut_after=100), serve(TEST), serve(TEST, cut_after=100), serve(TEST)]
    with pytest.raises(DownloadError, match="The file was removed"):
        download(tmp_path, archives=[archive], sleep=Clock())
    assert len(server.asked) == 4


# --- extraction -----------------------------------------------------------------------------------


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


INSIDE = "VOCdevkit/VOC2007/x"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../evil.txt", b"x")], r"unsafe path '\.\./evil\.txt' in .*a\.tar"),
        ([("VOCdevkit/../../evil.txt", b"x")], "unsafe path"),
        ([("VOCdevkit/VOC2007/../../../evil.txt", b"x")], "unsafe path"),
        ([("/tmp/evil.txt", b"x")], "unsafe path '/tmp/evil.txt'"),
        ([("elsewhere/evil.txt", b"x")], "unsafe path 'elsewhere/evil.txt'"),
        ([special(INSIDE, tarfile.SYMTYPE, "../../.."), (f"{INSIDE}/evil.txt", b"x")], f"unsafe link '{INSIDE}'"),
        ([special(INSIDE, tarfile.SYMTYPE, "/etc")], "unsafe link"),
        ([special(INSIDE, tarfile.SYMTYPE, "harmless")], "unsafe link"),
        ([special(INSIDE, tarfile.LNKTYPE, "../../../../etc/passwd")], "unsafe link"),
        ([special(INSIDE, tarfile.CHRTYPE)], "unsafe device"),
        ([special(INSIDE, tarfile.FIFOTYPE)], "unsafe device"),
    ],
)
def test_unsafe_members_are_refused(
    tmp_path: Path, server: Server, members: list[tuple[str, bytes] | tarfile.TarInfo], message: str
) -> None:
    content = tar(("VOCdevkit/VOC2007/JPEGImages/1.jpg", b"1"), *members)
    server.answers["/a"] = [serve(content)]
    root = tmp_path / "deep" / "root"
    with pytest.raises(DownloadError, match=message):
        download(root, archives=[server.archive("a.tar", content, "/a")])
    assert files_in(tmp_path) == ["deep/root/.voc2007.lock", "deep/root/a.tar"]
    assert not (root / "VOCdevkit" / "VOC2007").exists()
    assert not is_complete(root)


def test_setuid_and_world_writable_modes_are_dropped(tmp_path: Path, server: Server) -> None:
    info = tarfile.TarInfo("VOCdevkit/VOC2007/JPEGImages/1.jpg")
    info.mode = 0o6777
    content = tar(info)
    server.answers["/a"] = [serve(content)]
    voc = download(tmp_path, archives=[server.archive("a.tar", content, "/a")])
    assert (voc / "JPEGImages" / "1.jpg").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize("content", [b"", b"no tar" * 200, TRAINVAL[:1000]])
def test_broken_archives_are_named(tmp_path: Path, server: Server, content: bytes) -> None:
    server.answers["/a"] = [serve(content)]
    with pytest.raises(DownloadError, match=r"broken or unsafe archive .*a\.tar"):
        download(tmp_path, archives=[server.archive("a.tar", content, "/a")])
    assert not (tmp_path / "VOCdevkit" / "VOC2007").exists()


def test_an_archive_without_voc2007_is_named(tmp_path: Path, server: Server) -> None:
    content = tar(("VOCdevkit/VOC2012/x", b"1"))
    server.answers["/a"] = [serve(content)]
    with pytest.raises(DownloadError, match=r"no folder VOCdevkit/VOC2007 in a\.tar"):
        download(tmp_path, archives=[server.archive("a.tar", content, "/a")])


def test_python_without_the_data_filter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(DownloadError, match=r"no `data` filter.*expected Python 3\.11\.4"):
        download(tmp_path / "root")
    assert not (tmp_path / "root").exists()


KILLED = """
import hashlib, os, sys
from pathlib import Path
from wsol.data.voc2007 import Archive, download
root = Path(sys.argv[1])
archives = [Archive(name=n, md5=hashlib.md5((root / n).read_bytes()).hexdigest(), urls=()) for n in ("a.tar", "b.tar")]
def die(step, done, total):
    if step == "extract b.tar" and done > 1000:
        os._exit(9)
download(root, archives=archives, on_progress=die)
"""


def test_an_extraction_that_was_killed_is_redone(tmp_path: Path, archives: tuple[Archive, ...], server: Server) -> None:
    (tmp_path / "a.tar").write_bytes(TRAINVAL)
    (tmp_path / "b.tar").write_bytes(TEST)
    died = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert died.returncode == 9
    left = tmp_path / ".voc2007-extracting" / "VOCdevkit" / "VOC2007"
    assert (left / "JPEGImages" / "1.jpg").is_file()
    (left / "JPEGImages" / "stale.jpg").write_bytes(b"")
    assert not is_complete(tmp_path, archives=archives)
    assert not (tmp_path / "VOCdevkit" / "VOC2007").exists()
    assert files_in(download(tmp_path, archives=archives)) == [".downloaded.json", *FILES]
    assert server.asked == []
    assert not (tmp_path / ".voc2007-extracting").exists()


# --- the folder -----------------------------------------------------------------------------------


def test_a_folder_of_the_users_own_is_not_touched(
    tmp_path: Path, archives: tuple[Archive, ...], server: Server
) -> None:
    own = tmp_path / "VOCdevkit" / "VOC2007"
    own.mkdir(parents=True)
    (own / "mine.txt").write_text("x")
    with pytest.raises(DownloadError, match="that this command did not finish; expected none"):
        download(tmp_path, archives=archives)
    assert files_in(own) == ["mine.txt"]
    assert server.asked == []


@pytest.mark.parametrize("marker", ["", "[]", "{", '{"md5": []}', '{"md5": ["0"]}'])
def test_a_marker_that_says_something_else_is_not_complete(
    tmp_path: Path, archives: tuple[Archive, ...], marker: str
) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    folder.mkdir(parents=True)
    (folder / ".downloaded.json").write_text(marker)
    assert not is_complete(tmp_path, archives=archives)


def test_two_downloads_into_one_folder(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    refused: list[str] = []

    def again(step: str, done: int, total: int | None) -> None:
        if not refused:
            refused.append("pending")
            with pytest.raises(DownloadError, match="another download at work") as caught:
                download(tmp_path, archives=archives)
            refused.append(str(caught.value))

    assert files_in(download(tmp_path, archives=archives, on_progress=again)) == [".downloaded.json", *FILES]
    assert len(refused) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_while_downloading(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    (tmp_path / "a.tar.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"got a full disk at .*expected about 2 GB of room.*same command goes on"):
        download(tmp_path, archives=archives)


def test_a_full_disk_while_extracting(
    tmp_path: Path, archives: tuple[Archive, ...], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(DownloadError, match="got a full disk"):
            download(tmp_path, archives=archives)
    assert files_in(tmp_path) == [".voc2007.lock", "a.tar", "b.tar"]
    asked = len(server.asked)
    assert files_in(download(tmp_path, archives=archives)) == [".downloaded.json", *FILES]
    assert len(server.asked) == asked


def test_a_root_that_is_a_file(tmp_path: Path, archives: tuple[Archive, ...]) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DownloadError, match="expected a folder that can be written to"):
        download(tmp_path / "file", archives=archives)
