"""What a dataset yields and a model takes: one image (`Sample`), several of them (`ImageBatch`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

POSITIVE, IGNORED, NEGATIVE = 1, 0, -1
"""Values of an image-level label. Ignored: the class is seen in the image only as `difficult`."""


@dataclass(frozen=True)
class Sample:
    """One image as a network sees it, with what is known of it at image level. No ground-truth boxes.

    Attributes:
        image: float32 (3, H, W), RGB in [0, 1], not normalized, not padded.
        labels: float32 (C,), each 1 (present), 0 (ignored) or -1 (absent).
        proposals: float32 (N, 4), x1 y1 x2 y2 in pixels of `image`. N may be 0.
        proposal_scores: float32 (N,), or None where their source gives none.
        image_id: the image's name in its data set.
        scale: (x, y) factors from pixels of the original image to pixels of `image`.

    Raises:
        ValueError: for a wrong shape, a label that is none of the three, or a proposal with a corner that is
            not finite or in the wrong order. The message names the image.
    """

    image: Tensor
    labels: Tensor
    proposals: Tensor
    proposal_scores: Tensor | None
    image_id: str
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[0] != 3 or self.image.numel() == 0:
            raise ValueError(f"got image of shape {tuple(self.image.shape)} for {self.image_id}; expected (3, H, W)")
        if self.labels.ndim != 1 or not bool(torch.isin(self.labels, self.labels.new_tensor([-1, 0, 1])).all()):
            raise ValueError(f"got labels {self.labels.tolist()} for {self.image_id}; expected (C,) of 1, 0 or -1")
        self._check_proposals()

    def _check_proposals(self) -> None:
        boxes, scores = self.proposals, self.proposal_scores
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"got proposals of shape {tuple(boxes.shape)} for {self.image_id}; expected (N, 4)")
        if scores is not None and scores.shape != boxes.shape[:1]:
            raise ValueError(
                f"got proposal_scores of shape {tuple(scores.shape)} for {self.image_id}; expected ({len(boxes)},)"
            )
        good = torch.isfinite(boxes).all(1) & (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])  # (N,)
        if not bool(good.all()):
            bad = int((~good).nonzero()[0])
            raise ValueError(
                f"got proposal {bad} {boxes[bad].tolist()} for {self.image_id}; "
                "expected finite x1 y1 x2 y2 with x1 <= x2 and y1 <= y2"
            )


@dataclass(frozen=True)
class ImageBatch:
    """B images of different sizes. Nothing is padded here: a model that wants one tensor pads.

    Attributes:
        images: B tensors, float32 (3, Hi, Wi), RGB in [0, 1].
        labels: float32 (B, C) of 1, 0, -1.
        proposals: B tensors, float32 (Ni, 4), in pixels of their image.
        proposal_scores: B tensors (Ni,), or None for an image without.
        image_ids: B names.
        scales: B pairs (x, y), original pixels to pixels of the image.
    """

    images: list[Tensor]
    labels: Tensor
    proposals: list[Tensor]
    proposal_scores: list[Tensor | None]
    image_ids: list[str]
    scales: list[tuple[float, float]]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch with every tensor on `device`; copies from page-locked memory overlap with its work."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ImageBatch:
        """The same batch in page-locked memory. A DataLoader with `pin_memory` looks for this method."""
        return self._with_each(Tensor.pin_memory)

    def split(self, size: int | None) -> list[ImageBatch]:
        """The same images in batches of at most `size`, in order; None: all of them in one."""
        if size is None or size >= len(self):
            return [self]
        return [self._part(slice(start, start + size)) for start in range(0, len(self), size)]

    def _part(self, part: slice) -> ImageBatch:
        return ImageBatch(
            images=self.images[part],
            labels=self.labels[part],
            proposals=self.proposals[part],
            proposal_scores=self.proposal_scores[part],
            image_ids=self.image_ids[part],
            scales=self.scales[part],
        )

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        return replace(
            self,
            images=[change(image) for image in self.images],
            labels=change(self.labels),
            proposals=[change(boxes) for boxes in self.proposals],
            proposal_scores=[None if scores is None else change(scores) for scores in self.proposal_scores],
        )


def collate(samples: Sequence[Sample]) -> ImageBatch:
    """Makes a batch, in the order of `samples`.

    Raises:
        ValueError: for no samples, or samples with different numbers of classes.
    """
    if not samples:
        raise ValueError("got no samples; expected at least one")
    num_classes = samples[0].labels.shape[0]
    for sample in samples:
        if sample.labels.shape[0] != num_classes:
            raise ValueError(f"got {sample.labels.shape[0]} labels for {sample.image_id}; expected {num_classes}")
    return ImageBatch(
        images=[sample.image for sample in samples],
        labels=torch.stack([sample.labels.float() for sample in samples]),  # (B, C)
        proposals=[sample.proposals for sample in samples],
        proposal_scores=[sample.proposal_scores for sample in samples],
        image_ids=[sample.image_id for sample in samples],
        scales=[sample.scale for sample in samples],
    )
