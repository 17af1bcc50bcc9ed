"""A fault that hits every trial is told from one that is tied to a value, with as few starts as can be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from experiments.trial import TrialPlan

STARTS = 3
"""So many trials must have failed."""


@dataclass(frozen=True)
class _Failed:
    plan: TrialPlan
    launch: int


@dataclass
class CommonFault:
    """The trials that failed since something last worked.

    A trial works when its attempt reports an epoch. That clears the failures of attempts that were launched before it:
    what was wrong with them is not wrong with all.
    """

    _failed: list[_Failed] = field(default_factory=list)

    def worked(self, launch: int) -> None:
        """An attempt got on; `launch` is its number among all launches."""
        self._failed = [failed for failed in self._failed if failed.launch > launch]

    def failed(self, plan: TrialPlan, launch: int) -> None:
        """A trial failed before it got anywhere, by a fault of the code or the data."""
        self._failed.append(_Failed(plan, launch))

    def hits_all(self, others: Iterable[TrialPlan]) -> bool:
        """Whether the fault is in everything: it hit so many trials, and no value that they share can be to blame.

        Args:
            others: trials that have not failed. One that lacks a value which all failures share may yet work.
        """
        if len(self._failed) < STARTS:
            return False
        shared = self._shared()
        return not any(shared - _values(other) for other in others)

    @property
    def count(self) -> int:
        """Trials that failed since something last worked."""
        return len(self._failed)

    def next_of(self, waiting: Sequence[TrialPlan]) -> TrialPlan:
        """The trial that tells most: the one that has least in common with those that failed. Of equal ones the first.

        Args:
            waiting: at least one.
        """
        if not self._failed:
            return waiting[0]
        bad = [_values(failed.plan) for failed in self._failed]
        return min(waiting, key=lambda plan: sum(len(_values(plan) & values) for values in bad))

    def _shared(self) -> set[tuple[str, str]]:
        return set.intersection(*(_values(failed.plan) for failed in self._failed))


def _values(plan: TrialPlan) -> set[tuple[str, str]]:
    """Swept keys with their values, as texts: a list is a value, too."""
    return {(key, repr(value)) for key, value in plan.swept.items()}
