"""What a sweep has found, in sentences for people."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report.intervals import Interval
from experiments.view import counted

MAX_NAMED = 3
"""So many configurations are named in a sentence."""


def answer(*, metric: str, split: str, name: str, value: float, interval: Interval | None, seeds: int) -> str:
    """Which configuration is best, and how good it is: the beginning of the sentence."""
    of = f"{seeds} seeds" if seeds > 1 else "one seed"
    sure = f"95 % {interval.low:.4f} to {interval.high:.4f}, " if interval is not None else ""
    return f"{name or 'the one configuration'} is best: {metric} {value:.4f} ({sure}{of}, on {split})"


def beside_others(tied: Sequence[str], *, worse: int, is_known: bool) -> str:
    """How the best compares: the end of the sentence.

    Args:
        tied: names of those that may be as good.
        worse: how many are not.
        is_known: False where nothing could be compared.
    """
    if not tied and not worse:
        return "."
    if not is_known:
        return f"; whether it is better than the {counted(len(tied) + worse, 'other')} cannot be told."
    better = f"better than {counted(worse, 'other')}" if worse else "not clearly better than any other"
    if not tied:
        return f"; {better}."
    named = ", ".join(tied[:MAX_NAMED]) + (f" and {len(tied) - MAX_NAMED} more" if len(tied) > MAX_NAMED else "")
    return f"; {better}; tied with {named}."


def more_seeds(*, first: str, second: str, seeds: float, now: int) -> str:
    """How many seeds it would take to tell two configurations apart.

    Args:
        seeds: infinite where no number of them would be enough.
        now: how many there are.
    """
    what = f"{now} seeds are too few to tell {first or 'the best'} from {second or 'the next'}"
    if seeds == float("inf"):
        return f"{what}, and more would not be enough: they differ by less than the images can tell"
    if seeds > 100:
        return f"{what}: more than 100 would be needed if they differ as they seem to"
    return f"{what}: about {max(int(seeds), now + 1)} would be needed if they differ as they seem to"
