"""Images to batches: what is drawn, in which order, by which processes.

An item is asked for by a `Draw`, which holds all that makes it random, so items do not depend on which process makes
them, on how many there are or on what was asked before. A pass is a list of draws. Continuing a training in the midst
of an epoch therefore needs two numbers and nothing else: the epoch and the batches of it that are done.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wsol.data.batch import ImageBatch, Sample, collate
from wsol.data.images import DataError, ImageRecord, image_size, read_image
from wsol.data.proposals import Proposals, select
from wsol.data.transforms import (
    ResizeMode,
    View,
    draw_view,
    flip_boxes,
    flip_image,
    resize_image,
    resized_size,
    scale_boxes,
)
from wsol.parent_death import die_with_parent, leave_stopping_to_parent
from wsol.seeding import generator

LOOKED_AT = 256
"""So many images of a split are looked at for those that take most memory: it may take seconds, not minutes."""

ProposeBoxes = Callable[[ImageRecord], Proposals]
"""The proposals of an image, in pixels of the original. Must pickle: loader processes call it."""


@dataclass(frozen=True)
class SelectedProposals:
    """What one trial keeps of the proposals that all trials share. See `wsol.data.proposals.select`.

    Attributes:
        propose: gives all proposals of an image.
        count: at most so many; None: all.
        min_size_px: smaller ones are dropped, in pixels of the original image.
        seed: the random subset of an image depends on this and the image's id: it is the same in each epoch.
        needs_scores: whether the trial has a use for the proposals' scores.
    """

    propose: ProposeBoxes
    count: int | None
    min_size_px: float
    seed: int
    needs_scores: bool = False

    def __call__(self, record: ImageRecord) -> Proposals:
        """The proposals of an image.

        Raises:
            DataError: for proposals without scores where they are needed.
        """
        proposals = self.propose(record)
        if self.needs_scores and proposals.scores is None:
            raise DataError(
                f"got proposals without scores for image {record.id}; expected scores, or model.box_scores: none"
            )
        rng = generator(self.seed, "proposals", record.id)
        return select(proposals, count=self.count, min_size_px=self.min_size_px, rng=rng)


@dataclass(frozen=True)
class ImageData:
    """The images of one split, with what is known of them at image level. It holds no ground-truth boxes.

    Attributes:
        images: I records.
        labels: int8 (I, C) of 1 (present), 0 (ignored), -1 (absent).
        propose: None for models without proposals; their samples have none.
        resize: what a view's scale means.
        max_side_px: limit of the longer side for `resize: shorter`.
    """

    images: Sequence[ImageRecord]
    labels: NDArray[np.int8]
    propose: ProposeBoxes | None
    resize: ResizeMode
    max_side_px: int

    def sample(self, index: int, view: View) -> Sample:
        """Decodes image `index` and shows it as `view` says, its proposals with it.

        Raises:
            DataError: if the image cannot be read. The message names the file.
        """
        record = self.images[index]
        pixels = read_image(record)  # (H, W, 3)
        height, width = pixels.shape[:2]
        size = resized_size(
            width=width, height=height, scale_px=view.scale_px, mode=self.resize, max_side_px=self.max_side_px
        )
        image = resize_image(pixels, size=size)  # (3, h, w)
        scale = (size[0] / width, size[1] / height)
        boxes, scores = self._proposals(record, scale)
        if view.flip:
            image, boxes = flip_image(image), flip_boxes(boxes, width=size[0])
        return Sample(
            image=image,
            labels=torch.from_numpy(self.labels[index].astype(np.float32)),
            proposals=torch.from_numpy(boxes),
            proposal_scores=scores,
            image_id=record.id,
            scale=scale,
        )

    def demand(self, index: int, view: View) -> tuple[int, int, int, int]:
        """What image `index` asks for as `view` shows it: proposals, pixels, and pixels wide and high."""
        record = self.images[index]
        width, height = image_size(record)
        size = resized_size(
            width=width, height=height, scale_px=view.scale_px, mode=self.resize, max_side_px=self.max_side_px
        )
        proposals = 0 if self.propose is None else len(self.propose(record).boxes)
        return proposals, size[0] * size[1], *size

    def _proposals(self, record: ImageRecord, scale: tuple[float, float]) -> tuple[NDArray[np.float32], Tensor | None]:
        """Boxes (N, 4) in pixels of the resized image, and scores (N,) or None."""
        if self.propose is None:
            return np.zeros((0, 4), dtype=np.float32), None
        proposals = self.propose(record)
        scores = None if proposals.scores is None else torch.from_numpy(proposals.scores.astype(np.float32))
        return scale_boxes(proposals.boxes, scale=scale), scores


@dataclass(frozen=True)
class Augmentation:
    """What may change from epoch to epoch in how a training image is shown.

    Attributes:
        scales_px: one is drawn for each image.
        flip: whether half of the images are mirrored.
        rescale: range of a factor that is drawn for each batch and multiplies its scales; None: no such factor.
        seed: of all that is drawn.
    """

    scales_px: Sequence[int]
    flip: bool
    rescale: tuple[float, float] | None
    seed: int

    def view(self, *, epoch: int, index: int, batch: int) -> View:
        """The view of image `index` in `epoch`, in batch number `batch`: the same whoever asks, and whenever."""
        rng = generator(self.seed, "augmentation", epoch, index)
        view = draw_view(rng, scales_px=self.scales_px, flip=self.flip)
        if self.rescale is None:
            return view
        factor = generator(self.seed, "rescale", epoch, batch).uniform(*self.rescale)
        return replace(view, scale_px=max(1, round(view.scale_px * factor)))


@dataclass(frozen=True)
class Draw:
    """One item of a pass: image `index` of the training or of the evaluation split, and how it is shown."""

    training: bool
    index: int
    view: View


@dataclass(frozen=True)
class TwoSplits(Dataset[Sample]):
    """Both splits of a trial behind one key, so that the same loader processes serve training and evaluation."""

    training: ImageData
    evaluation: ImageData

    def __getitem__(self, draw: Draw) -> Sample:
        return (self.training if draw.training else self.evaluation).sample(draw.index, draw.view)


class _Pass(Sampler[list[Draw]]):
    """The draws of the next pass, a list for each batch. A DataLoader reads its sampler anew for every pass."""

    def __init__(self) -> None:
        self.batches: list[list[Draw]] = []

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class BatchLoader:
    """Batches of both splits, made ahead of time by `workers` processes, or as they are asked for without any.

    The processes start and end with this object, serve all passes, and also end with the process that owns it,
    whatever ends that. One pass at a time: starting another one ends the one before.
    """

    def __init__(
        self,
        data: TwoSplits,
        *,
        augmentation: Augmentation,
        evaluation_views: Sequence[View],
        batch_size: int,
        evaluation_batch_size: int,
        seed: int,
        workers: int,
        pin_memory: bool,
    ) -> None:
        """Args:
        augmentation: how training images are shown.
        evaluation_views: how each evaluation image is shown, at least once.
        batch_size: images a training batch; the last one of an epoch may be smaller.
        evaluation_batch_size: images an evaluation batch.
        seed: of the order of the training images.
        workers: 0 or more processes.
        pin_memory: batches lie in page-locked memory, from where copies to a GPU overlap with its work.
        """
        self._data = data
        self._augmentation = augmentation
        self._evaluation_views = list(evaluation_views)
        self._batch_size = batch_size
        self._evaluation_batch_size = evaluation_batch_size
        self._seed = seed
        self._pass = _Pass()
        self._loader: DataLoader[Sample] = DataLoader(
            data,
            batch_sampler=self._pass,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            multiprocessing_context=worker_context() if workers else None,
            worker_init_fn=_begin_worker if workers else None,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # it is drawn from at every pass: not from the global one
        )
        self._batches([])  # a pass over nothing starts the processes, in the moment for which their start was chosen

    @property
    def batches_per_epoch(self) -> int:
        """Training batches an epoch."""
        return math.ceil(len(self._data.training.images) / self._batch_size)

    def training_epoch(self, epoch: int, *, after: int = 0) -> Iterator[ImageBatch]:
        """Every training image once, in an order drawn from (seed, epoch); the first `after` batches are left out."""
        order = generator(self._seed, "order", epoch).permutation(len(self._data.training.images)).tolist()
        return self._batches(
            [
                [Draw(True, index, self._augmentation.view(epoch=epoch, index=index, batch=batch)) for index in indices]
                for batch, indices in enumerate(_split(order, self._batch_size))
                if batch >= after
            ]
        )

    def evaluation_pass(self, indices: Sequence[int] | None = None) -> Iterator[list[tuple[View, ImageBatch]]]:
        """Some evaluation images in that order (None: every one once); each item has the same images in every view."""
        views = self._evaluation_views
        if indices is None:
            indices = range(len(self._data.evaluation.images))
        batches = self._batches(
            [
                [Draw(False, index, view) for index in some]
                for some in _split(list(indices), self._evaluation_batch_size)
                for view in views
            ]
        )
        for first in batches:
            yield list(zip(views, [first, *islice(batches, len(views) - 1)], strict=True))

    def demanding_images(self, count: int) -> list[int]:
        """Evaluation images that should take most memory, `count` or as many as fill a batch, if there are so many."""
        wanted = max(count, self._evaluation_batch_size)
        return demanding_images(self._data.evaluation, view=self._evaluation_views[0], count=wanted)

    def _batches(self, batches: list[list[Draw]]) -> Iterator[ImageBatch]:
        self._pass.batches = batches
        return iter(self._loader)


def demanding_images(data: ImageData, *, view: View, count: int) -> list[int]:
    """The images of a split that should take most memory: those of most proposals, of most pixels, the widest, the
    highest, in turn, as `view` shows them. No image is decoded.

    Returns:
        At most `count` indices, out of at most LOOKED_AT images at even distances in the split.

    Raises:
        DataError: if an image or its proposals cannot be read.
    """
    images = len(data.images)
    looked_at = [images * number // LOOKED_AT for number in range(LOOKED_AT)] if images > LOOKED_AT else range(images)
    demands = {index: data.demand(index, view) for index in looked_at}
    rankings = [sorted(demands, key=lambda index: demands[index][what], reverse=True) for what in range(4)]
    return list(dict.fromkeys(index for ranks in zip(*rankings, strict=True) for index in ranks))[:count]


def _split(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _begin_worker(_number: int) -> None:
    die_with_parent()
    leave_stopping_to_parent()


def worker_context() -> BaseContext:
    """How loader processes start: `fork` where that is safe, else `forkserver`, else (not on Linux) `spawn`.

    A fork copies the locks of other threads as they are, held or not; with one thread there are none. It is at once
    there, shares memory, session and log with this process. A fork server imports everything anew, in seconds.
    """
    if _thread_count() == 1:
        return multiprocessing.get_context("fork")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


def _thread_count() -> int | None:
    """Threads of this process, those of C libraries (OpenMP, BLAS, CUDA) included; None where it cannot be known."""
    tasks = Path("/proc/self/task")
    return sum(1 for _ in tasks.iterdir()) if tasks.is_dir() else None
