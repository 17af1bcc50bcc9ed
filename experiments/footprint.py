"""What trials take of a machine, memory and time, as attempts measure it. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SHAPE_KEYS = (
    "task",
    "data.root",
    "data.train",
    "data.eval",
    "data.workers",
    "proposals.source",
    "proposals.count",
    "model.backbone",
    "model.freeze",
    "model.stride",
    "model.roi_size",
    "model.fc_dim",
    "model.context",
    "model.refinement",
    "model.head",
    "model.hidden_channels",
    "train.optimizer",
    "train.batch_size",
    "train.resize",
    "train.scales_px",
    "train.max_side_px",
    "train.pad_square",
    "evaluate.every",
    "evaluate.batch_size",
    "evaluate.scales_px",
    "evaluate.flip",
)
"""What memory and the duration of an epoch depend on, as far as a config says it."""

MARGIN = 1.1
"""A trial is promised so many times the most that one of its shape has taken."""

Shape = tuple[str, ...]
"""Trials of one shape should cost the same."""


@dataclass(frozen=True)
class Usage:
    """What an attempt has taken so far.

    Attributes:
        device_bytes: peak of the GPU memory of its process; 0 on the CPU.
        host_bytes: peak of the main memory of its process and its loader processes, pages shared with others
            counted by their share; 0 where that is not known.
        step_s: median seconds of a training step, loading included; 0 before there was one.
    """

    device_bytes: int
    host_bytes: int
    step_s: float


def overall(usages: Iterable[Usage]) -> Usage | None:
    """What a trial took, from what it had taken by the end of each epoch; None where that was not measured."""
    found = list(usages)
    if not found:
        return None
    steps = [usage.step_s for usage in found if usage.step_s > 0]
    return Usage(
        device_bytes=max(usage.device_bytes for usage in found),
        host_bytes=max(usage.host_bytes for usage in found),
        step_s=statistics.median(steps) if steps else 0.0,
    )


def shape_of(config: Mapping[str, Any], images_at_a_time: int | None = None) -> Shape:
    """The shape of a trial.

    Args:
        config: resolved, as JSON has it.
        images_at_a_time: see `AttemptRequest`.
    """
    return (*(repr(_value(config, key)) for key in SHAPE_KEYS), repr(images_at_a_time))


@dataclass
class _OfShape:
    """What is known of one shape: of trials that ended, and of epochs of those that run."""

    device_bytes: int = 0
    too_little: int = 0
    host_bytes: int = 0
    of_trials: list[float] = field(default_factory=list)
    epochs: int = 0
    epochs_s: float = 0.0
    epoch_s: float | None = None
    """What an epoch takes, by all that."""


class Footprints:
    """What is known of all shapes."""

    def __init__(self) -> None:
        self._known: dict[Shape, _OfShape] = {}
        self._begun: set[Shape] = set()
        self._mean_epoch_s: float | None = None
        self.trials = 0
        """That have ended."""

    def note_start(self, shape: Shape) -> None:
        """A trial starts, so that something will be known of its shape."""
        self._begun.add(shape)

    def is_new(self, shape: Shape) -> bool:
        """Whether no trial of it was ever seen, and none has been started either."""
        return shape not in self._begun and self.epoch_s(shape) is None

    def note_usage(self, shape: Shape, usage: Usage) -> None:
        """A trial has taken so much."""
        known = self._of(shape)
        known.device_bytes = max(known.device_bytes, usage.device_bytes)
        known.host_bytes = max(known.host_bytes, usage.host_bytes)

    def note_too_little(self, shape: Shape, device_bytes: int) -> None:
        """A trial that had so much of a GPU's memory ran out of it."""
        known = self._of(shape)
        known.too_little = max(known.too_little, device_bytes)

    def note_epoch(self, shape: Shape, duration_s: float) -> None:
        """An epoch of a trial that runs. It counts until a trial of the shape has ended: not every epoch is like it."""
        known = self._of(shape)
        known.epochs += 1
        known.epochs_s += duration_s
        if not known.of_trials:
            known.epoch_s = known.epochs_s / known.epochs
        self._mean_epoch_s = None

    def note_trial(self, shape: Shape, *, epochs: int, duration_s: float) -> None:
        """A trial has ended, after at least one epoch."""
        known = self._of(shape)
        self.trials += 1
        known.of_trials = [*known.of_trials[-_KEPT + 1 :], duration_s / epochs]
        known.epoch_s = statistics.median(known.of_trials)
        self._mean_epoch_s = None

    def device_bytes(self, shape: Shape) -> int | None:
        """What to promise a trial of a GPU's memory; None where none like it was measured on one."""
        known = self._known.get(shape)
        return _with_margin(max(known.device_bytes, known.too_little)) if known and known.device_bytes else None

    def too_little(self, shape: Shape) -> int:
        """The most of a GPU's memory with which a trial ran out of it."""
        return self._known[shape].too_little if shape in self._known else 0

    def host_bytes(self, shape: Shape) -> int | None:
        """The same of main memory."""
        return _with_margin(self._known[shape].host_bytes) if shape in self._known else None

    def epoch_s(self, shape: Shape) -> float | None:
        """Seconds of an epoch; None where none like it has been seen."""
        return self._known[shape].epoch_s if shape in self._known else None

    def mean_epoch_s(self) -> float | None:
        """Mean over the shapes, for one that is unlike any."""
        if self._mean_epoch_s is None:
            known = [one.epoch_s for one in self._known.values() if one.epoch_s is not None]
            self._mean_epoch_s = statistics.fmean(known) if known else None
        return self._mean_epoch_s

    def _of(self, shape: Shape) -> _OfShape:
        return self._known.setdefault(shape, _OfShape())


_KEPT = 101
"""Trials of a shape whose median counts."""


def _with_margin(peak: int) -> int | None:
    return math.ceil(round(peak * MARGIN, 3)) if peak else None


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
