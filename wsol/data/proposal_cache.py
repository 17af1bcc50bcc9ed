"""Proposals on disk, found by content: computed once, shared by all trials and sweeps. Torch-free."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import uuid
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.data.images import DataError, ImageRecord
from wsol.data.proposals import BoxArray, Proposals, ProposalSource

_DAMAGED = (
    *(ValueError, TypeError, EOFError, KeyError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error),
)
"""What numpy raises on a file that is no whole .npz. The archive's checksums find changed bytes."""

_log = logging.getLogger("wsol.data")


class ProposalCache:
    """One file for each image and source, named by a hash of the image file's bytes, `apply_exif` and `source.key`.

    A moved or renamed image is found again; a changed one is computed again; nothing has to be deleted by hand.
    Processes may use one directory at once: a file appears whole or not at all, and two that compute the same thing
    write the same. Sources that are not worth storing are asked directly, and leave no files.

    Args:
        directory: made when it is needed.
        source: of the proposals.
    """

    def __init__(self, directory: Path, source: ProposalSource) -> None:
        self.directory = directory
        self.source = source

    def get(self, record: ImageRecord) -> Proposals:
        """The proposals of one image, from the directory where they are there, else computed and stored.

        A damaged file is replaced, with a warning.

        Raises:
            DataError: from the source, or when the image is no readable file.
            OSError: when the directory cannot be read or written.
        """
        if not self.source.worth_storing:
            return self.source.propose(record)
        path = self._path(record)
        stored = _read(path, record)
        if stored is not None:
            return stored
        proposals = self.source.propose(record)
        _write(path, proposals)
        return proposals

    def holds(self, record: ImageRecord) -> bool:
        """Whether `get` will find a file, or needs none.

        Raises:
            DataError: when the image is no readable file.
        """
        return not self.source.worth_storing or self._path(record).exists()

    def _path(self, record: ImageRecord) -> Path:
        digest = hashlib.sha256(f"{self.source.key}\n{record.apply_exif}\n".encode())
        digest.update(_read_bytes(record.path))
        name = digest.hexdigest()
        return self.directory / name[:2] / f"{name[2:]}.npz"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"got {error.strerror!r} for {path}; expected an image file") from error


def _read(path: Path, record: ImageRecord) -> Proposals | None:
    """None where there is no file, or (with a warning) a damaged one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            boxes = archive["boxes"]
            if boxes.dtype not in (np.uint16, np.float32):
                raise ValueError(f"boxes of {boxes.dtype}")
            return Proposals(boxes.astype(np.float32), archive["scores"] if "scores" in archive.files else None)
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        _log.warning("%s is damaged (%s): the proposals of %s are computed again", path, error, record.path)
        return None


def _write(path: Path, proposals: Proposals) -> None:
    """Whole or not at all. Not flushed to the disk: after a power failure a cut file is noticed and replaced."""
    arrays: dict[str, npt.NDArray[Any]] = {"boxes": _compact(proposals.boxes)}
    if proposals.scores is not None:
        arrays["scores"] = proposals.scores
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _compact(boxes: BoxArray) -> npt.NDArray[np.uint16] | BoxArray:
    """Half the bytes where nothing is lost: whole pixels in the range of uint16."""
    whole = bool(((boxes >= 0) & (boxes <= np.iinfo(np.uint16).max) & (boxes == np.rint(boxes))).all())
    return boxes.astype(np.uint16) if whole else boxes
