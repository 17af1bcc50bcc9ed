"""How many seeds each configuration gets where a spec says `seeds: {start: 3, until_decided: 10}`. Pure.

Every configuration has the first seeds. Then, round after round, those that may still be the best get one more, until
one is left, or those that are left would not be told apart by the last seed either. What comes of it depends on the
results alone, seed by seed, so a restart comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.knowledge import Knowledge
from experiments.spec import SweepSpec
from experiments.trial import TrialPlan, TrialState

if TYPE_CHECKING:
    from experiments.report.intervals import Estimates

_DRAWS = 4_000
_LEVELS = (0.05, 0.0294, 0.0221, 0.0182, 0.0158, 0.0142, 0.0130, 0.0120, 0.0112, 0.0106)
"""Of each of so many looks that come to 0.05 together. Source: S. J. Pocock, Biometrika 64(2), 1977, table 1; for looks
after equal steps from the beginning on. Here the first comes later, so that they are more alike and come to less."""


def level_of_a_look(spec: SweepSpec) -> float:
    """At which configurations are compared before each round, and in the report, so that all come to 0.05 at most."""
    looks = len(spec.later_seeds) + 1
    return _LEVELS[looks - 1] if looks <= len(_LEVELS) else _LEVELS[0] / looks


def later_plans(
    spec: SweepSpec, configurations: Mapping[str, Sequence[TrialPlan]], known: Knowledge
) -> list[TrialPlan]:
    """The trials with later seeds that results so far ask for, those that have run included.

    Args:
        configurations: of the search, each with its replicates; those with later seeds may be among them.
        known: of every one of their trials with a first seed the result; else nothing is asked for.
    """
    if not spec.later_seeds:
        return []
    first = {key: [plan for plan in plans if plan.config.seed in spec.seeds] for key, plans in configurations.items()}
    if any(plan.signature not in known.results for plans in first.values() for plan in plans):
        return []
    sign = 1.0 if spec.objective.direction == "maximize" else -1.0
    contenders = [key for key, plans in first.items() if known.outcome(plans).state is TrialState.COMPLETE]
    replicates = {key: list(first[key]) for key in contenders}
    found: list[TrialPlan] = []
    for seed in spec.later_seeds:
        values = [[_value(plan, known) * sign for plan in replicates[key]] for key in contenders]
        contenders = [contenders[index] for index in still_open(values, last=_last(spec), level=level_of_a_look(spec))]
        if not contenders:
            break
        plans = [spec.replicate(first[key][0], seed) for key in contenders]
        found += plans
        if any(plan.signature not in known.results for plan in plans):
            break  # the round is not over
        complete = [known.outcome([plan]).state is TrialState.COMPLETE for plan in plans]
        for key, plan in zip(contenders, plans, strict=True):
            replicates[key].append(plan)
        contenders = [key for key, is_complete in zip(contenders, complete, strict=True) if is_complete]
    return found


def _value(plan: TrialPlan, known: Knowledge) -> float:
    value = known.objective(plan.signature)
    assert value is not None, "a complete configuration has its values"
    return value


def _last(spec: SweepSpec) -> int:
    return len(spec.seeds) + len(spec.later_seeds)


def still_open(values: Sequence[Sequence[float]], *, last: int, level: float) -> list[int]:
    """Which configurations get one more seed: the indices of those that may be the best.

    None where one of them alone may be, and where those that may be are so near to each other that they would not be
    told apart with the last seed either, unless luck has hidden more than a standard error of their difference.

    Args:
        values: of each configuration one a seed, more is better, as many for all and at least two.
        last: how many seeds there may be.
        level: of this look.
    """
    import numpy as np

    from experiments.report.comparison import corrected_p_values
    from experiments.report.intervals import estimate

    if len(values) < 2:
        return []
    found = estimate([np.array(one, np.float64) for one in values], None)
    best = int(np.argmax(found.means))
    p_values = corrected_p_values(found, best, generator=np.random.default_rng(0), draws=_DRAWS)
    contenders = [index for index in range(len(values)) if index == best or p_values[index] > level]
    could_be_told = any(
        _may_be_told(found, best, index, last=last, level=level) for index in contenders if index != best
    )
    return contenders if could_be_told else []


def _may_be_told(found: Estimates, best: int, other: int, *, last: int, level: float) -> bool:
    """Whether a difference could be called one with the last seed, if it is a standard error more than it seems."""
    from scipy.special import ndtri

    count = len(found.means)
    critical = -float(ndtri(level / (count * (count - 1))))
    of_one_seed = float(found.seed_variance[best] + found.seed_variance[other])
    apart = float(found.means[best] - found.means[other]) + (of_one_seed / float(found.seeds[best])) ** 0.5
    return bool(apart**2 > critical**2 * of_one_seed / last)
