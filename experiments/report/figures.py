"""The figures of a sweep's configurations, with their images resampled where that can be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experiments.report.class_choice import ClassFigures
from experiments.report.entries import Entry
from experiments.report.intervals import Estimates, Floats, Resampled, estimate
from experiments.report.leaderboard import class_names
from experiments.report.match_records import NoRecords, TrialRecord, check_measured_alike
from experiments.report.resampling import Resampling

MEAN = "mean"

ReadRecord = Callable[[Entry], TrialRecord]
"""Raises NoRecords."""


@dataclass(frozen=True, eq=False)
class Figures:
    """A metric of K configurations with all their seeds.

    Attributes:
        metric: its name, such as `ap50_11pt`.
        groups: of each configuration the complete trials.
        records: of every trial, in the order of the groups; None where images are not resampled.
        resampling: of the images.
    """

    metric: str
    groups: Sequence[Sequence[Entry]]
    records: Sequence[TrialRecord] | None
    resampling: Resampling

    @cached_property
    def classes(self) -> list[str]:
        """The classes in their order."""
        return class_names([entry for group in self.groups for entry in group])

    @cached_property
    def _estimates(self) -> dict[str, tuple[list[int], Estimates]]:
        return {}

    def estimates(self, name: str) -> tuple[list[int], Estimates]:
        """Of one figure, `mean` or a class: which configurations have it for every seed, and what is known of them."""
        if name not in self._estimates:
            self._estimates[name] = self._estimate(name)
        return self._estimates[name]

    def _estimate(self, name: str) -> tuple[list[int], Estimates]:
        values = [self._values(group, name) for group in self.groups]
        defined = [index for index, one in enumerate(values) if not np.isnan(one).any()]
        return defined, estimate([values[index] for index in defined], self._resampled(name, defined))

    def by_class(self) -> ClassFigures | None:
        """All classes that every trial has a value of; None where images are not resampled."""
        if self.records is None:
            return None
        values = np.stack([record.values for record in self.records])
        defined = np.flatnonzero(~np.isnan(values).any(axis=0))
        count = self.resampling.resamples
        return ClassFigures(
            values=values[:, defined],
            resampled=self._stacked[:, defined, :count],
            halves=self._stacked[:, defined, count:],
            configuration=np.repeat(np.arange(len(self.groups)), [len(group) for group in self.groups]),
            factor=self.resampling.variance_factor(self.records[0].images),
        )

    @cached_property
    def _stacked(self) -> NDArray[np.float32]:
        """(T, C, columns)."""
        assert self.records is not None
        return np.stack([record.resampled for record in self.records])

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        """(T, B): over the classes that are defined."""
        assert self.records is not None
        defined = ~np.isnan(self.records[0].values)
        mean: NDArray[np.float32] = self._stacked[:, defined, : self.resampling.resamples].mean(axis=1)
        return mean

    def _values(self, group: Sequence[Entry], name: str) -> Floats:
        return np.array([entry.metric(f"{self.metric}/{name}") for entry in group], np.float64)  # None becomes NaN

    def _resampled(self, name: str, defined: Sequence[int]) -> Resampled | None:
        if self.records is None or not defined:
            return None
        record = self.records[0]
        if name == MEAN:
            values, images = self._mean, record.images
        else:
            label = record.classes.index(name)
            values = self._stacked[:, label, : self.resampling.resamples]
            images = int(record.shown[label])
        ends = np.cumsum([len(group) for group in self.groups])
        parts = np.split(values, ends[:-1])
        return Resampled([parts[index] for index in defined], images, self.resampling.variance_factor(images))


def figures(
    groups: Sequence[Sequence[Entry]], metric: str, *, read: ReadRecord, resampling: Resampling
) -> tuple[Figures, str]:
    """The figures of configurations.

    Args:
        groups: of each configuration the complete trials.
        metric: its name, without `/mean`.

    Returns:
        The figures, and why images are not resampled; empty where they are.
    """
    records, reason = _records([entry for group in groups for entry in group], metric, read)
    return Figures(metric=metric, groups=groups, records=records, resampling=resampling), reason


def _records(entries: Sequence[Entry], metric: str, read: ReadRecord) -> tuple[list[TrialRecord] | None, str]:
    """Either of all trials or of none: a configuration without would be compared by another measure than the others."""
    if len(found := dict.fromkeys((e.plan.config.data.root, e.plan.config.data.eval) for e in entries)) > 1:
        return None, f"the trials are measured on different images ({' and '.join(split for _, split in found)})"
    records, missing = [], Counter[str]()
    first_missing: dict[str, int] = {}
    for entry in entries:
        assert entry.trial is not None
        try:
            record = read(entry)
            check_measured_alike(entry, record, metric)
        except NoRecords as error:
            missing[str(error)] += 1
            first_missing.setdefault(str(error), entry.trial.number)
            continue
        records.append(record)
    if not missing:
        if len({record.classes for record in records}) > 1:
            return None, "the trials have different classes"
        return records, ""
    reason, count = missing.most_common(1)[0]
    where = f"trial {first_missing[reason]}" + (f" and {count - 1} more" if count > 1 else "")
    return None, f"{reason} ({where})"
