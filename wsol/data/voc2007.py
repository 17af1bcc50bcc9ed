"""Downloads PASCAL VOC 2007: resumable, checked by MD5, extracted so that it is whole or not there. In its root:

- `<archive>.part`: what has arrived of an archive; the next call goes on behind it.
- `<archive>`: whole and checked.
- `.voc2007-extracting`: thrown away and made again by the next call.
- `VOCdevkit/VOC2007`: whole; it is renamed to this place when everything is in it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsol.data.resumable_download import Download, DownloadError, OnProgress, ignore_progress

__all__ = ["VOC2007_ARCHIVES", "Archive", "DownloadError", "OnProgress", "download", "is_complete"]

_LOGGER = logging.getLogger("wsol.data")
_MARKER = ".downloaded.json"


@dataclass(frozen=True)
class Archive:
    """A tar file with a part of VOCdevkit/VOC2007."""

    name: str
    md5: str
    urls: tuple[str, ...]
    """Tried in this order."""


def _official(name: str, md5: str) -> Archive:
    hosts = (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007",
        "https://pjreddie.com/media/files",
    )
    return Archive(name=name, md5=md5, urls=tuple(f"{host}/{name}" for host in hosts))


VOC2007_ARCHIVES = (
    _official("VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64"),
    _official("VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f"),
)
"""Source: torchvision/datasets/voc.py (names, MD5, first address)."""


def download(
    root: Path,
    *,
    archives: Sequence[Archive] = VOC2007_ARCHIVES,
    on_progress: OnProgress | None = None,
    keep_archives: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    timeout_s: float = 60.0,
) -> Path:
    """Puts VOC 2007 under `root`. Does nothing where it is complete; goes on where an earlier call stopped.

    Args:
        root: made if it is not there. Needs about 2 GB while it runs, 1 GB in the end.
        archives: all are extracted into one folder.
        on_progress: called for every chunk that arrives and every file that is extracted.
        keep_archives: leave the tar files in `root`.
        sleep: pauses (seconds) between two requests to an address.
        timeout_s: longest silence of a server.

    Returns:
        `root/VOCdevkit/VOC2007`.

    Raises:
        DownloadError: whatever went wrong. What has arrived is kept.
    """
    target = root / "VOCdevkit" / "VOC2007"
    report = on_progress or ignore_progress
    _check_python()
    with _faults_explained(root):
        if is_complete(root, archives=archives):
            _LOGGER.info("%s is complete, nothing to do", target)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one_process(root):
            _check_free(target)
            paths = [root / archive.name for archive in archives]
            for path, archive in zip(paths, archives, strict=True):
                Download(
                    path=path,
                    md5=archive.md5,
                    urls=archive.urls,
                    on_progress=report,
                    sleep=sleep,
                    timeout_s=timeout_s,
                ).run()
            _extract(paths, archives=archives, target=target, work=root / ".voc2007-extracting", report=report)
            if not keep_archives:
                for path in paths:
                    path.unlink()
    return target


def is_complete(root: Path, *, archives: Sequence[Archive] = VOC2007_ARCHIVES) -> bool:
    """Whether `download` put these archives into `root/VOCdevkit/VOC2007`. Reads one small file."""
    try:
        marker = json.loads((root / "VOCdevkit" / "VOC2007" / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and {archive.md5 for archive in archives} <= set(marker.get("md5", ()))


def _check_python() -> None:
    if not hasattr(tarfile, "data_filter"):
        raise DownloadError(
            "got a Python whose tarfile cannot refuse unsafe archives (it has no `data` filter);"
            " expected Python 3.11.4 or later"
        )


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise DownloadError(
            f"got a folder {target} that this command did not finish; expected none."
            " Use it as data.root if it is a VOC 2007 of your own, or move it away"
        )


@contextmanager
def _faults_explained(root: Path) -> Iterator[None]:
    """Errors of the file system as DownloadError. (Those of the network do not come this far.)"""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"got a full disk at {root} ({error.strerror}); expected about 2 GB of room."
                " What has arrived is kept: make room, and the same command goes on"
            ) from error
        raise DownloadError(f"got {error} with {root}; expected a folder that can be written to") from error


@contextmanager
def _only_one_process(root: Path) -> Iterator[None]:
    """Two processes would append to the same file. The lock is gone with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows; there the MD5 tells a file that two have written
        yield
        return
    with (root / ".voc2007.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"got another download at work in {root}; expected none: wait for it") from error
        yield


def _extract(
    paths: Sequence[Path], *, archives: Sequence[Archive], target: Path, work: Path, report: OnProgress
) -> None:
    """Extracts all archives beside the target and renames the result, so that the target is whole or not there."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        for path in paths:
            _extract_one(path, into=work, report=report)
        made = work / "VOCdevkit" / "VOC2007"
        if not made.is_dir():
            names = ", ".join(path.name for path in paths)
            raise DownloadError(f"got no folder VOCdevkit/VOC2007 in {names}; expected VOC 2007")
        marker = {"archives": [archive.name for archive in archives], "md5": [archive.md5 for archive in archives]}
        (made / _MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        if hasattr(os, "sync"):
            os.sync()  # before the rename: after a power cut, a folder of this name must have its files
        made.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _extract_one(path: Path, *, into: Path, report: OnProgress) -> None:
    total = path.stat().st_size

    def checked(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        report(f"extract {path.name}", min(member.offset_data + member.size, total), total)
        _refuse_unsafe(member, archive=path)
        return tarfile.data_filter(member, destination)

    try:
        with tarfile.open(path, mode="r:") as archive:
            archive.extractall(into, filter=checked)
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError(f"got a broken or unsafe archive {path} ({error}); expected VOC 2007") from error


def _refuse_unsafe(member: tarfile.TarInfo, *, archive: Path) -> None:
    """Stricter than tarfile's `data` filter, which allows links that stay inside and mends absolute names.

    Raises:
        DownloadError: the member is no file or folder below VOCdevkit; VOC has no others.
    """
    parts = PurePosixPath(member.name).parts
    if not (member.isreg() or member.isdir()) or parts[:1] != ("VOCdevkit",) or ".." in parts:
        kind = "link" if member.issym() or member.islnk() else "device" if member.isdev() else "path"
        raise DownloadError(
            f"got an unsafe {kind} {member.name!r} in {archive}; expected files and folders below VOCdevkit"
        )
