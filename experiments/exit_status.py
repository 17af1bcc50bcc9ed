"""What the command says to the shell. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.store import TrialResult
from experiments.trial import TrialState


def exit_status(results: Mapping[str, TrialResult], *, total: int, stopped: bool, gave_up: bool = False) -> int:
    """The command's exit status: 0 every trial complete or pruned, 1 one failed or is left, 130 stopped before the end.

    Args:
        gave_up: whether something is left though nobody stopped the run.
    """
    if stopped and len(results) < total:
        return 130
    return 1 if gave_up or any(result.state is TrialState.FAIL for result in results.values()) else 0
