"""Trials that wait for a place, in the order in which they should start: the longest first. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from experiments.footprint import Footprints, Shape
from experiments.trial import TrialPlan

_Group = tuple[Shape, int, bool]
"""A shape, the epochs that are left to train, and whether trials were begun: what they have yet to cost is the same."""


class Waiting:
    """Trials that wait. Those that cost the same form a group, so that a sweep of any size is in order at any time."""

    def __init__(self) -> None:
        self._groups: dict[_Group, OrderedDict[str, TrialPlan]] = {}  # ordered: the first of a dict is slow to find
        self._group_of: dict[str, _Group] = {}
        self._position: dict[str, int] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._group_of)

    def __iter__(self) -> Iterator[TrialPlan]:
        """In the order in which they were added."""
        plans = {signature: plan for group in self._groups.values() for signature, plan in group.items()}
        yield from sorted(plans.values(), key=lambda plan: self._position[plan.signature])

    def shape(self, plan: TrialPlan) -> Shape:
        """Of a trial that is among them."""
        return self._group_of[plan.signature][0]

    def __contains__(self, plan: TrialPlan) -> bool:
        return plan.signature in self._group_of

    def add(self, plan: TrialPlan, shape: Shape, *, epochs_left: int, is_begun: bool = False) -> None:
        """A trial that is not among them."""
        group = (shape, epochs_left, is_begun)
        self._groups.setdefault(group, OrderedDict())[plan.signature] = plan
        self._group_of[plan.signature] = group
        self._position[plan.signature] = self._added
        self._added += 1

    def remove(self, plan: TrialPlan) -> None:
        """A trial that is among them."""
        group = self._group_of.pop(plan.signature)
        del self._groups[group][plan.signature], self._position[plan.signature]
        if not self._groups[group]:
            del self._groups[group]

    def heads(self, known: Footprints) -> list[TrialPlan]:
        """The next trial of each group, the one first that should start first.

        Trials that were begun go on before others begin. Then come those of shapes that are new, since what they show
        orders the rest, then those that take longest, so that none begins when all else is over. Of equal ones the one
        first that was added first.
        """
        firsts = [(group, next(iter(plans.values()))) for group, plans in self._groups.items()]
        return [plan for _, plan in sorted(firsts, key=lambda pair: self._rank(pair[0], pair[1], known))]

    def work_s(self, known: Footprints) -> tuple[float, float] | None:
        """Seconds that they will take one after the other, and the longest alone; None where nothing is known."""
        if (mean := known.mean_epoch_s()) is None:
            return None
        total = longest = 0.0
        for (shape, epochs_left, _), plans in self._groups.items():
            each = epochs_left * (known.epoch_s(shape) or mean)
            total += each * len(plans)
            longest = max(longest, each)
        return total, longest

    def _rank(self, group: _Group, plan: TrialPlan, known: Footprints) -> tuple[bool, bool, float, int]:
        shape, epochs_left, is_begun = group
        if is_begun:
            return False, False, 0.0, self._position[plan.signature]
        epoch_s = known.epoch_s(shape) or known.mean_epoch_s() or 1.0
        return True, not known.is_new(shape), -epoch_s * epochs_left, self._position[plan.signature]
