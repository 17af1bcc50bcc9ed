"""What all trials on one data set share, made or checked before the first of them starts. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from wsol.cache_dir import cache_dir
from wsol.data.digits import digits_root
from wsol.data.images import DataError, ImageRecord
from wsol.data.proposal_cache import ProposalCache
from wsol.data.proposal_files import ProposalFile
from wsol.data.proposal_fill import fill
from wsol.data.proposal_sources import SelectiveSearch, SlidingWindowGrid
from wsol.data.proposals import ProposalSource
from wsol.data.voc import check_layout, read_evaluation_split, read_image_level_split, resolve_classes

DIGITS = "digits"
"""The `root` that stands for the generated data set."""


def data_root(root: str) -> Path:
    """The folder of a data set: `root` itself, or that of the generated digits, made if it is not there yet."""
    return digits_root(cache_dir()) if root == DIGITS else Path(root)


def proposal_source(
    *,
    source: Literal["selective_search", "grid", "file"],
    quality: Literal["fast", "quality"],
    resize_px: int | None,
    file: str | None,
    grid_scales: tuple[float, ...],
    grid_aspect_ratios: tuple[float, ...],
    grid_stride: float,
) -> ProposalSource:
    """What makes the proposals. The keywords are keys of a trial's config, see there; only some apply to a source."""
    if source == "selective_search":
        return SelectiveSearch(quality=quality, resize_px=resize_px)
    if source == "grid":
        return SlidingWindowGrid(scales=grid_scales, aspect_ratios=grid_aspect_ratios, stride=grid_stride)
    if file is None:
        raise DataError("got no proposals.file; expected a .mat or .npz with proposals.source: file")
    return ProposalFile(path=Path(file))


def shared_proposals(source: ProposalSource) -> ProposalCache:
    """The proposals that all trials and sweeps of this user share."""
    return ProposalCache(cache_dir() / "proposals", source)


def prepare(
    *,
    root: str,
    train: str,
    evaluate: str,
    classes: Literal["voc", "auto"] | tuple[str, ...],
    source: ProposalSource | None,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generates the digits if they are asked for, checks the data set, and computes the proposals that are missing.

    Afterwards no trial on this data finds a fault that shows in the data set's text files, or computes proposals.

    Args:
        root: the folder of a data set in VOC layout, or `digits`.
        train: the split for training.
        evaluate: the split for evaluation.
        classes: `voc`, `auto` or names.
        source: of the proposals; None where no trial uses any.
        workers: processes that compute proposals; 0 computes in this one.
        on_progress: called with (images done, images in all) while proposals are computed.

    Raises:
        DataError: for a fault in the data; the message names the file.
        OSError: where the cache cannot be written.
    """
    folder = data_root(root)
    check_layout(folder, splits=(train, evaluate), boxes_in=(evaluate,))
    names = resolve_classes(folder, classes, train)
    seen = read_image_level_split(folder, split=train, classes=names)
    measured = read_evaluation_split(folder, split=evaluate, classes=names)
    if source is None:
        return
    records = list(dict.fromkeys(seen.images + measured.images))  # each once, splits may overlap
    if source.worth_storing:
        fill(shared_proposals(source), records, workers=workers, on_progress=on_progress)
    else:
        _ask_for_each(source, records, on_progress)


def _ask_for_each(
    source: ProposalSource, records: list[ImageRecord], on_progress: Callable[[int, int], None] | None
) -> None:
    """Nothing is stored, but an image that a file of proposals does not have is missed now, not in mid-training."""
    for done, record in enumerate(records, start=1):
        source.propose(record)
        if on_progress is not None:
            on_progress(done, len(records))
