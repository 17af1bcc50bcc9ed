"""Which configuration the final stage is for, and whether it may begin. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from experiments.failures import FailureKind
from experiments.knowledge import Knowledge
from experiments.trial import TrialPlan, TrialState

_SETTLED = frozenset({FailureKind.NON_FINITE_LOSS, FailureKind.OUT_OF_MEMORY})
"""Failures that tell something of the configuration. Any other may be mended, and the trial then turn out the best."""


def by_configuration(plans: Iterable[TrialPlan]) -> dict[str, list[TrialPlan]]:
    """The replicates of each configuration, in the order in which the plans come."""
    found: dict[str, list[TrialPlan]] = {}
    for plan in plans:
        found.setdefault(plan.configuration, []).append(plan)
    return found


def best_configuration(
    configurations: Mapping[str, Sequence[TrialPlan]], known: Knowledge, *, direction: Literal["maximize", "minimize"]
) -> TrialPlan | None:
    """A replicate of the configuration with the best mean, of equal ones of the first; None where none is complete."""
    sign = 1.0 if direction == "maximize" else -1.0
    best: tuple[float, TrialPlan] | None = None
    for plans in configurations.values():
        value = known.outcome(plans).value
        if value is not None and (best is None or sign * value > best[0]):
            best = (sign * value, plans[0])
    return best[1] if best else None


def held_back_by(plans: Iterable[TrialPlan], known: Knowledge) -> str:
    """Why the final stage may not begin though nothing of the search runs any more; empty where it may."""
    failed = [
        known.results[plan.signature].stop_reason
        for plan in plans
        if plan.signature in known.results and known.results[plan.signature].state is TrialState.FAIL
    ]
    open_ones = sum(reason not in _SETTLED for reason in failed)
    if not open_ones:
        return ""
    return (
        f"{open_ones} trial{'s' if open_ones > 1 else ''} of the search failed and might still be the best; the final"
        " stage begins when they have run (--retry-failed) or are no longer in the spec"
    )
