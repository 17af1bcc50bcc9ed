"""File layouts of proposals: the published MATLAB files, and .npz. Described in docs/proposals.md. Torch-free."""

from __future__ import annotations

import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from wsol.atomic_file import pending_file
from wsol.boxes import from_voc
from wsol.data.images import DataError
from wsol.data.proposals import BoxArray, Proposals, ScoreArray

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_DAMAGED = (
    *(OSError, ValueError, TypeError, EOFError, KeyError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, struct.error),
)
"""What numpy raises on a file that is no whole .npz."""


def read_proposal_file(path: Path, *, ids: Sequence[str] | None = None) -> dict[str, Proposals]:
    """All proposals in a file, by image id, in the order of the file.

    Args:
        path: `.mat` or `.npz`.
        ids: as in `ProposalFile`.

    Returns:
        Boxes converted to 0-based continuous corners, not clipped (the file does not know the images' sizes), each
        with a width and a height above 0.

    Raises:
        DataError: naming file, field and image, when it cannot be read or has another layout.
    """
    if not path.is_file():
        raise DataError(f"got {path}, which is no file; expected a .mat or .npz with proposals")
    if path.suffix == ".mat":
        return _read_mat(path, ids)
    if path.suffix == ".npz":
        if ids is not None:
            raise DataError(f"got ids for {path}, which has its own; expected none")
        return _read_npz(path)
    raise DataError(f"got {path}; expected a name ending in .mat or .npz")


def write_proposal_npz(path: Path, proposals: Mapping[str, Proposals]) -> None:
    """Writes the .npz layout: `ids`, `offsets`, `boxes`, and `scores` where there are. Replaces the file at once.

    Equal proposals give equal bytes.

    Args:
        path: ending in `.npz`; its folder exists.
        proposals: by image id, either all with scores or all without.

    Raises:
        ValueError: for another suffix, or where only some have scores.
    """
    if path.suffix != ".npz":
        raise ValueError(f"got {path}; expected a name ending in .npz")
    values = list(proposals.values())
    arrays: dict[str, npt.NDArray[Any]] = {
        "ids": np.array(list(proposals), dtype=np.str_),
        "offsets": np.cumsum([0, *(len(value.boxes) for value in values)], dtype=np.int64),
        "boxes": np.concatenate([np.empty((0, 4), np.float32), *(value.boxes for value in values)]),
    }
    scores = [value.scores for value in values if value.scores is not None]
    if scores and len(scores) < len(values):
        raise ValueError(f"got scores for {len(scores)} of {len(values)} images; expected them for all or none")
    if scores:
        arrays["scores"] = np.concatenate(scores)
    with pending_file(path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")) as pending:
        np.savez_compressed(pending.file, allow_pickle=False, **arrays)
        pending.publish(path.name)


def _read_npz(path: Path) -> dict[str, Proposals]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("ids", "offsets", "boxes", "scores") if name in archive.files}
    except _DAMAGED as error:
        raise DataError(f"got a damaged or unreadable file in {path} ({error}); expected .npz") from error
    for name in ("ids", "offsets", "boxes"):
        if name not in arrays:
            raise DataError(f"got no array {name!r} in {path}; expected ids, offsets, boxes and, optional, scores")
    ids, offsets, boxes = arrays["ids"], arrays["offsets"], arrays["boxes"]
    scores = arrays.get("scores")
    _check_npz(path, ids, offsets, boxes, scores)
    pieces = list(zip(offsets[:-1], offsets[1:], strict=True))
    return _by_id(
        path,
        [str(image_id) for image_id in ids],
        [_as_float32(path, str(ids[i]), boxes[start:end]) for i, (start, end) in enumerate(pieces)],
        None if scores is None else [scores[start:end] for start, end in pieces],
    )


def _check_npz(
    path: Path,
    ids: npt.NDArray[Any],
    offsets: npt.NDArray[Any],
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any] | None,
) -> None:
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise DataError(f"got {ids.dtype} {ids.shape} for ids in {path}; expected strings (images,)")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise DataError(f"got {boxes.dtype} {boxes.shape} for boxes in {path}; expected numbers (N, 4)")
    if offsets.shape != (len(ids) + 1,) or offsets.dtype.kind not in "iu":
        got = f"got {offsets.dtype} {offsets.shape} for offsets in {path}"
        raise DataError(f"{got}; expected integers ({len(ids) + 1},), one more than ids")
    signed = offsets.astype(np.int64)
    if signed[0] != 0 or signed[-1] != len(boxes) or (np.diff(signed) < 0).any():
        raise DataError(f"got other offsets in {path}; expected them to rise from 0 to the {len(boxes)} boxes")
    if scores is not None and (scores.shape != (len(boxes),) or scores.dtype.kind not in "iuf"):
        raise DataError(f"got {scores.dtype} {scores.shape} for scores in {path}; expected numbers ({len(boxes)},)")


def _read_mat(path: Path, given_ids: Sequence[str] | None) -> dict[str, Proposals]:
    variables = _load_mat(path)
    if "boxes" not in variables:
        raise DataError(f"got no variable 'boxes' in {path}; expected a cell array with one K x 4 matrix an image")
    boxes = _cells(path, "boxes", variables.pop("boxes"))
    ids = _ids(path, variables.get("images"), given_ids, len(boxes))
    corners = [_corners(path, image_id, matrix) for image_id, matrix in zip(ids, boxes, strict=True)]
    scores = None
    if "boxScores" in variables:
        scores = [np.ravel(cell) for cell in _cells(path, "boxScores", variables["boxScores"])]
        if len(scores) != len(boxes):
            raise DataError(f"got {len(scores)} cells in 'boxScores' in {path}; expected {len(boxes)}, as in 'boxes'")
    return _by_id(path, ids, corners, scores)


def _load_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat  # half a second that only users of .mat pay

    try:
        variables: dict[str, Any] = loadmat(path, variable_names=["images", "boxes", "boxScores"])
    except NotImplementedError as error:
        raise DataError(
            f"got MATLAB 7.3 (HDF5) in {path}; expected version 7 or lower: in MATLAB, save it with save(..., '-v7')"
        ) from error
    except Exception as error:  # on damaged files scipy raises a dozen types, its own and those of what it calls
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"got a damaged or unreadable file in {path} ({reason}); expected a MATLAB file") from error
    return variables


def _cells(path: Path, name: str, value: Any) -> list[npt.NDArray[Any]]:
    """The cells of a 1xN or Nx1 cell array."""
    if value.dtype != object or value.ndim != 2 or (value.size and min(value.shape) != 1):
        raise DataError(f"got {value.dtype} {value.shape} for {name!r} in {path}; expected a 1 x N or N x 1 cell array")
    return list(value.ravel())


def _ids(path: Path, images: Any, given: Sequence[str] | None, count: int) -> list[str]:
    """Ids from the file's `images`, or those given where it has none; one a cell of `boxes`."""
    if images is not None and given is not None:
        raise DataError(f"got ids for {path}, which has its own in 'images'; expected none")
    if images is None and given is None:
        raise DataError(
            f"got no variable 'images' in {path}; expected ids. The boxes of this layout are in the order of a split"
            " file: convert it with that file's ids, see docs/proposals.md"
        )
    ids = list(given) if given is not None else _file_ids(path, images)
    if len(ids) != count:
        what = "'images'" if given is None else "the split file"
        raise DataError(f"got {count} cells in 'boxes' and {len(ids)} ids in {what} in {path}; expected as many")
    return ids


def _file_ids(path: Path, images: Any) -> list[str]:
    """Ids from a cell array of strings, or a char matrix, less white space and an image's suffix."""
    cells = list(images.ravel()) if images.dtype.kind == "U" else _cells(path, "images", images)
    ids = []
    for number, cell in enumerate(cells, start=1):
        text = np.asarray(cell)
        if text.dtype.kind != "U" or text.size != 1:
            raise DataError(f"got {text.dtype} {text.shape} in images{{{number}}} in {path}; expected an id string")
        name = PurePosixPath(text.item().strip())
        ids.append(name.stem if name.suffix.lower() in _IMAGE_SUFFIXES else str(name))
    return ids


def _corners(path: Path, image_id: str, matrix: npt.NDArray[Any]) -> BoxArray:
    """[y1 x1 y2 x2], 1-based and inclusive -> x1 y1 x2 y2, 0-based and continuous."""
    if matrix.size == 0:
        return np.empty((0, 4), dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != 4 or matrix.dtype.kind not in "iuf":
        raise DataError(
            f"got {matrix.dtype} {matrix.shape} for the boxes of image {image_id!r} in {path}; expected K x 4 numbers"
        )
    return from_voc(_as_float32(path, image_id, matrix)[:, [1, 0, 3, 2]])


def _by_id(
    path: Path, ids: list[str], boxes: list[BoxArray], scores: list[npt.NDArray[Any]] | None
) -> dict[str, Proposals]:
    proposals: dict[str, Proposals] = {}
    for index, image_id in enumerate(ids):
        if image_id in proposals:
            raise DataError(f"got image id {image_id!r} twice in {path}; expected each once")
        _check_boxes(path, image_id, boxes[index])
        image_scores = None if scores is None else _checked_scores(path, image_id, scores[index], len(boxes[index]))
        proposals[image_id] = Proposals(boxes[index], image_scores)
    return proposals


def _as_float32(path: Path, image_id: str, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():  # NaN is no less than anything
        raise DataError(
            f"got a box or a score that is not finite for image {image_id!r} in {path}; expected numbers in the range"
            " of float32"
        )
    return numbers.astype(np.float32)


def _check_boxes(path: Path, image_id: str, boxes: BoxArray) -> None:
    good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"got box {boxes[row].tolist()} (x1 y1 x2 y2, 0-based) in row {row + 1} of image {image_id!r} in {path};"
            " expected x1 < x2 and y1 < y2"
        )


def _checked_scores(path: Path, image_id: str, scores: npt.NDArray[Any], count: int) -> ScoreArray:
    if scores.shape != (count,) or scores.dtype.kind not in "iuf":
        if count == 0 and scores.size == 0:
            return np.empty(0, np.float32)
        got = f"got {scores.dtype} {scores.shape} for the scores of image {image_id!r} in {path}"
        raise DataError(f"{got}; expected {count} numbers, one a box")
    return _as_float32(path, image_id, scores)
