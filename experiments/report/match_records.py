"""The figures of a sweep's trials on resampled images: computed from their detections once, then kept.

Reading detections, matching and resampling take some tenths of a second a trial, and come to the same each time. So
what comes of them is a file in the trial's folder, with the identity of all that it was made of: where that has
changed, or the file is damaged, it is made again. The trial's last attempt makes it, so that a report need not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.code_version import REPOSITORY, source_of
from experiments.report.entries import Entry
from experiments.report.resampling import Resampling, weighted_values
from experiments.store import StoredTrial
from wsol.atomic_file import pending_file
from wsol.config import DataConfig
from wsol.data.images import DataError
from wsol.data.mends import Mends
from wsol.data.prepare import data_root
from wsol.data.voc import EvaluationSplit, read_evaluation_split
from wsol.data.voc_layout import VocFolder
from wsol.detections import load_detections
from wsol.matches import UNSUPPORTED, matches
from wsol.metrics.names import Metric, parse_metric

log = logging.getLogger(__name__)

FORMAT = 1
"""Of what is kept; another one is made again."""
TOLERANCE = 1e-9
"""By so much a metric may differ from the trial's own without having been measured on other annotations."""

_DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class NoRecords(Exception):
    """A trial whose images cannot be resampled; the message says why, for people."""


@dataclass(frozen=True, eq=False)
class TrialRecord:
    """A metric of a trial.

    Attributes:
        classes: C names.
        images: I, of the split.
        shown: int64 (C,), in how many images there is something of each class to be found.
        values: float64 (C,), of the images as they are; NaN where it is undefined.
        resampled: float32 (C, columns), see `Resampling`.
    """

    classes: tuple[str, ...]
    images: int
    shown: NDArray[np.int64]
    values: NDArray[np.float64]
    resampled: NDArray[np.float32]


class RecordReader:
    """Reads the records of a sweep's complete trials, and makes those that are not there.

    Args:
        metric: its name, such as `ap50_11pt`.
    """

    def __init__(self, metric: str, resampling: Resampling) -> None:
        self._resampling = resampling
        self._metric: Metric = parse_metric(metric)
        self._weights = cache(resampling.weights)
        self._split = cache(read_evaluation_split_of)
        self._split_identity = cache(split_identity)
        self._may_write = True

    def read(self, entry: Entry) -> TrialRecord:
        """The record of a complete trial.

        Raises:
            NoRecords: where there is none, and none can be made.
        """
        assert entry.trial is not None
        return self.of_trial(entry.trial, entry.plan.config.data)

    def of_trial(self, trial: StoredTrial, data: DataConfig) -> TrialRecord:
        """The same, of a trial that was trained and measured on `data`."""
        if self._metric.family in UNSUPPORTED:
            raise NoRecords(f"images are not resampled for {self._metric.name}: {UNSUPPORTED[self._metric.family]}")
        try:
            identity = self._identity(trial, data.root, data.eval)
            path = trial.paths.record(self._metric.name)
            return _read(path, identity) or self._make(trial, data, path, identity)
        except DataError as error:
            raise NoRecords(f"the annotations of split {data.eval} cannot be read: {error}") from error

    def _identity(self, trial: StoredTrial, root: str, split: str) -> str:
        made_of = [
            *(str(FORMAT), self._metric.name, str(self._resampling), _source()),
            *_members(trial.paths.detections),
            self._split_identity(root, split),
        ]
        return _digest(made_of)

    def _make(self, trial: StoredTrial, data: DataConfig, path: Path, identity: str) -> TrialRecord:
        try:
            found = load_detections(trial.paths.detections, with_heat_maps=False)
            split = self._split(data.root, data.eval, found.classes)
            counted = matches(found, split, self._metric)
        except (OSError, ValueError) as error:
            raise NoRecords(str(error)) from error
        images = len(split.images)
        positives = counted.positives if hasattr(counted, "positives") else counted.counted
        record = TrialRecord(
            classes=found.classes,
            images=images,
            shown=np.count_nonzero(positives, axis=0),
            values=weighted_values(counted, np.ones((images, 1)))[:, 0].astype(np.float64),
            resampled=weighted_values(counted, self._weights(images)).astype(np.float32),
        )
        self._keep(path, record, identity)
        return record

    def _keep(self, path: Path, record: TrialRecord, identity: str) -> None:
        """A folder that may not be written to costs time the next time, and nothing else."""
        if not self._may_write:
            return
        try:
            with pending_file(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as pending:
                _write(pending.file, record, identity)
                pending.publish(path.name)
        except OSError as error:
            self._may_write = False
            log.warning("%s: cannot be written (%s); the next report resamples again", path, error.strerror)


def check_measured_alike(entry: Entry, record: TrialRecord, metric: str) -> None:
    """Raises NoRecords where a trial's own metric says that it was measured on other annotations."""
    own = [entry.metric(f"{metric}/{name}") for name in record.classes]
    same = np.isclose(np.array(own, np.float64), record.values, rtol=0, atol=TOLERANCE, equal_nan=True)
    if not same.all():
        name = record.classes[int(np.argmin(same))]
        raise NoRecords(f"the annotations give another {metric}/{name} than the trial's result has")


def read_evaluation_split_of(root: str, split: str, classes: tuple[str, ...]) -> EvaluationSplit:
    """The annotations of `data.eval`; raises DataError."""
    return read_evaluation_split(data_root(root), split=split, classes=classes)


def split_identity(root: str, split: str) -> str:
    """Tells whether a split's images or annotations have changed: by their names, sizes and times. Opens none of them.

    Raises:
        DataError: where the split or a file of it is not there.
    """
    folder = VocFolder(data_root(root))
    ids = folder.ids(split, Mends(root=folder.root, split=split))
    paths = [*folder.annotation_paths(ids, split=split), *folder.image_paths(ids, split=split)]
    try:
        stats = [path.stat() for path in paths]
    except OSError as error:
        raise DataError(f"got {error.filename}, which cannot be read: {error.strerror}") from error
    return _digest(
        [*ids, *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in zip(paths, stats, strict=True))]
    )


def _members(path: Path) -> list[str]:
    """The arrays of an .npz by name, checksum and size, as its directory has them; none is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [f"{member.filename} {member.CRC} {member.file_size}" for member in archive.infolist()]
    except FileNotFoundError:
        raise NoRecords(f"there is no {path.name}") from None
    except _DAMAGED as error:
        raise NoRecords(f"{path.name} is damaged ({error})") from error


@cache
def _source() -> str:
    return source_of(REPOSITORY)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")).hexdigest()


def _write(file: Any, record: TrialRecord, identity: str) -> None:
    np.savez(
        file,
        allow_pickle=False,
        identity=np.array(identity),
        classes=np.array(record.classes, dtype=np.str_),
        images=np.array(record.images),
        shown=record.shown,
        values=record.values,
        resampled=record.resampled,
    )


def _read(path: Path, identity: str) -> TrialRecord | None:
    """None where there is no such file, or it is damaged, or was made of something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["identity"]) != identity:
                return None
            return _record({name: archive[name] for name in archive.files})
    except _DAMAGED:
        return None


def _record(arrays: Mapping[str, NDArray[Any]]) -> TrialRecord:
    classes: Sequence[str] = arrays["classes"].tolist()
    return TrialRecord(
        classes=tuple(classes),
        images=int(arrays["images"]),
        shown=arrays["shown"],
        values=arrays["values"],
        resampled=arrays["resampled"],
    )
