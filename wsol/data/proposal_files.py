"""Proposals read from one file for a whole data set: the source. The layouts are in `proposal_formats`. Torch-free."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from wsol.boxes import clip
from wsol.data.images import DataError, ImageRecord, image_size
from wsol.data.proposal_formats import read_proposal_file
from wsol.data.proposals import BoxArray, Proposals, first_of_equal

_log = logging.getLogger("wsol.data")


@dataclass(frozen=True, kw_only=True)
class ProposalFile:
    """Proposals from a file, clipped to the image. Scores where the file has them.

    The file is read at the first use, once in a process, whatever number of objects point to it.

    Args:
        path: `.mat` or `.npz`; layouts in docs/proposals.md.
        ids: image ids in the order of the file, for `.mat` files without `images` (the Fast R-CNN layout, in the
            order of the split file). For a file with ids it must be None.
    """

    path: Path
    ids: tuple[str, ...] | None = None

    @property
    def key(self) -> str:
        """Hash of the file's content, and of the ids given."""
        ids = "" if self.ids is None else f" ids={hashlib.sha256(chr(10).join(self.ids).encode()).hexdigest()}"
        return f"file/1 sha256={_content_hash(self.path, *_stamp(self.path))}{ids}"

    @property
    def worth_storing(self) -> bool:
        """False: they are stored already."""
        return False

    def propose(self, record: ImageRecord) -> Proposals:
        """See `ProposalSource`. What is outside the image is cut off, with one warning a file and process.

        Raises:
            DataError: when the file cannot be read, has another layout, or lacks the image's id.
        """
        content = _load(self.path, *_stamp(self.path), self.ids)
        if record.id not in content.proposals:
            example = next(iter(content.proposals), None)
            raise DataError(
                f"got image id {record.id!r}, which {self.path} lacks; expected one of its {len(content.proposals)} ids"
                f" (the first is {example!r}). A file must hold the images of all splits in use."
            )
        stored = content.proposals[record.id]
        boxes = content.clip_to_image(stored.boxes, record)
        order = np.arange(len(boxes)) if stored.scores is None else np.argsort(-stored.scores, kind="stable")
        order = order[(boxes[order, 2] > boxes[order, 0]) & (boxes[order, 3] > boxes[order, 1])]
        order = order[first_of_equal(boxes[order])]
        return Proposals(boxes[order], None if stored.scores is None else stored.scores[order])


@dataclass
class _Content:
    """A file in memory, and whether its user was told that its boxes do not fit the images."""

    path: Path
    proposals: dict[str, Proposals]
    warned: bool = False

    def clip_to_image(self, boxes: BoxArray, record: ImageRecord) -> BoxArray:
        width, height = image_size(record)
        clipped: BoxArray = clip(boxes, width=width, height=height).astype(np.float32, copy=False)
        outside = int((clipped != boxes).any(axis=1).sum())
        if outside and not self.warned:
            self.warned = True
            _log.warning(
                "%s: %d of %d boxes of image %s reach outside its %d x %d px and are clipped (a file for other images,"
                " or in another layout?); for further images of this file this is not said again",
                *(self.path, outside, len(boxes), record.id, width, height),
            )
        return clipped


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when the file is replaced: (mtime in ns, size)."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"got {error.strerror!r} for {path}; expected a .mat or .npz with proposals") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _load(path: Path, mtime_ns: int, size: int, ids: tuple[str, ...] | None) -> _Content:
    return _Content(path, read_proposal_file(path, ids=ids))


@lru_cache(maxsize=2)
def _content_hash(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
