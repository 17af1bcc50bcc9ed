"""Which trials were mirrored to the end, so that no run is opened again for nothing.

Only a memory: without it every run is opened once more, found complete and finished again. A line a trial is appended,
so that a sweep of many trials costs no more a trial than one of few.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from experiments.store import TrialPaths


@dataclass
class SentTrials:
    """What was mirrored to the end.

    Attributes:
        file: takes a line for each.
        place: where the runs are; what was sent elsewhere counts for nothing here.
    """

    file: Path
    place: str
    _digests: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            lines = self.file.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn, or nothing
        except FileNotFoundError:
            return
        for line in lines:
            try:
                place, run_id, digest = json.loads(line)
            except (ValueError, TypeError):
                continue  # a damaged line: the run is opened once more
            if place == self.place:
                self._digests[run_id] = digest

    def has(self, run_id: str, digest: str) -> bool:
        """Whether a trial was sent as it is now."""
        return self._digests.get(run_id) == digest

    def add(self, run_id: str, digest: str) -> None:
        """Notes that a trial was sent, on disk before it returns."""
        line = json.dumps([self.place, run_id, digest]) + "\n"
        with self.file.open("a+b") as file:
            if file.tell() and not _ends_with_newline(file.fileno()):
                line = "\n" + line  # a kill left a torn line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._digests[run_id] = digest

    def forget(self, run_id: str) -> None:
        """Has a trial sent again, by this process."""
        self._digests.pop(run_id, None)


def result_stamp(paths: TrialPaths) -> tuple[int, int] | None:
    """Changes, without reading, whenever the trial's result is written; None while it has none."""
    try:
        status = paths.result.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def result_digest(paths: TrialPaths) -> str | None:
    """Changes whenever the trial's result does; None while it has none."""
    try:
        return hashlib.sha256(paths.result.read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return None


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 1, size - 1) == b"\n"
