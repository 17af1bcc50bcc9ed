"""One file from one of several addresses, by HTTP: resumed where it stopped, checked by MD5.

What has arrived is in `<name>.part`, and the next call goes on behind it; `<name>` is whole and checked.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOGGER = logging.getLogger("wsol.data")
_CHUNK_BYTES = 1 << 18
_MAX_TRIES = 4
"""Requests in a row to one address that bring nothing new. One that brings something starts the count again."""

OnProgress = Callable[[str, int, int | None], None]
"""Called with (what is being done, bytes done, bytes in all or None where the server does not say)."""


class DownloadError(RuntimeError):
    """Something could not be fetched or extracted. The message says why and what to do."""


class _TryAgain(Exception):
    """A fault of a request that may pass."""


class _AddressFailed(Exception):
    """An address is given up."""


def ignore_progress(step: str, done: int, total: int | None) -> None:
    """An OnProgress that does nothing."""


@dataclass(frozen=True)
class Download:
    """A file to be fetched into a folder.

    Attributes:
        path: where it shall lie, whole. What arrives is kept in `<path>.part` until then.
        md5: of the whole file, hexadecimal.
        urls: tried in this order.
        on_progress: called for every chunk.
        sleep: pauses, in seconds, between two requests to one address.
        timeout_s: longest silence of a server.
    """

    path: Path
    md5: str
    urls: Sequence[str]
    on_progress: OnProgress = ignore_progress
    sleep: Callable[[float], None] = time.sleep
    timeout_s: float = 60.0

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def arrived(self) -> int:
        """Bytes in `part`."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> None:
        """Fetches the file, unless it is there; goes on where an earlier run stopped.

        Raises:
            DownloadError: no address gave it. What has arrived is kept.
            OSError: the folder cannot be written to, or the disk is full. Likewise.
        """
        if self.path.is_file():
            if _md5(self.path) == self.md5:
                return
            _LOGGER.warning("%s has another MD5 than expected, fetching it again", self.path)
            self.path.unlink()
        if not (self.part.is_file() and _md5(self.part) == self.md5):  # an earlier run may have been ended here
            self._fetch_part()
        self.part.replace(self.path)

    def _fetch_part(self) -> None:
        """Makes `part` whole and right, from one address after the other."""
        reasons = []
        for url in self.urls:
            try:
                self._fetch_from(url)
            except _AddressFailed as failure:
                _LOGGER.warning("%s: %s", url, failure)
                reasons.append(f"  {url}: {failure}")
            else:
                return
        kept = f"{self.arrived} bytes of it are kept, and the" if self.arrived else "The"
        raise DownloadError(
            "\n".join([f"got no {self.path.name} from any address:", *reasons])
            + f"\n{kept} same command goes on where this one stopped"
        )

    def _fetch_from(self, url: str) -> None:
        """Makes `part` whole and right, from one address.

        Raises:
            _AddressFailed: refused, no progress in _MAX_TRIES requests, or a wrong MD5 (then `part` is removed).
        """
        mixed = self.arrived > 0
        while True:
            self._receive_all(url)
            got = _md5(self.part)
            if got == self.md5:
                return
            self.part.unlink()
            if not mixed:
                raise _AddressFailed(f"got MD5 {got}; expected {self.md5}. The file was removed")
            # Its beginning came from an earlier run, so from another address or another file: once more, whole.
            _LOGGER.warning("%s: wrong MD5 after going on with an earlier download, starting over", url)
            mixed = False

    def _receive_all(self, url: str) -> None:
        """Requests until the server has nothing more to send."""
        most, tries = self.arrived, 0
        while True:
            try:
                self._receive(url)
            except _TryAgain as fault:
                tries = 0 if self.arrived > most else tries + 1
                most = max(most, self.arrived)
                if tries >= _MAX_TRIES:
                    raise _AddressFailed(f"{fault}; {tries} requests in a row brought nothing new") from fault
                pause_s = 2.0**tries
                _LOGGER.warning("%s: %s; next request in %g s", url, fault, pause_s)
                self.sleep(pause_s)
            else:
                return

    def _receive(self, url: str) -> None:
        """One request: appends to `part` what is missing, or writes it anew where the server cannot resume.

        Raises:
            _TryAgain: the connection failed or ended early.
            _AddressFailed: the server refused in a way that will not pass.
        """
        offset = self.arrived
        request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
        try:
            response = urllib.request.urlopen(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(f"no connection ({error or type(error).__name__})") from error
        with response:
            start, total = _span(response, offset=offset)
            self._copy(response, start=start, total=total)

    def _refusal(self, error: urllib.error.HTTPError) -> _TryAgain | _AddressFailed:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # It was not whole: `run` has looked. So the file there is another than the one it began with.
            self.part.unlink(missing_ok=True)
            return _TryAgain("the file there is shorter than what has arrived of it, starting over")
        text = f"HTTP {error.code} {error.reason}"
        passing = error.code in (408, 425, 429) or error.code >= 500
        return _TryAgain(text) if passing else _AddressFailed(text)

    def _copy(self, response: http.client.HTTPResponse, *, start: int, total: int | None) -> None:
        done = start
        step = f"download {self.path.name}"
        self.on_progress(step, done, total)
        with self.part.open("ab" if start else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                self.on_progress(step, done, total)
        if total is not None and done < total:  # read(n) returns an early end of the connection as the end of the file
            raise _TryAgain(f"the connection ended after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    # Here, so that the network's errors and the disk's, all OSError, stay apart.
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(f"the connection broke ({error or type(error).__name__})") from error


def _span(response: http.client.HTTPResponse, *, offset: int) -> tuple[int, int | None]:
    """(where the answer begins in the file: `offset` or 0, size of the whole file or None).

    Raises:
        _AddressFailed: it is a web page, or a range that nobody asked for.
    """
    if response.headers.get_content_type() == "text/html":
        raise _AddressFailed("got a web page; expected a file")  # a login page, a parked domain
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    sent, _, total = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    if sent.partition("-")[0] != str(offset):
        raise _AddressFailed(f"got the range {sent!r}; expected one from {offset}")
    return offset, int(total) if total.isdecimal() else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
