"""When a sweep will be over, about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from experiments.agenda import Agenda
from experiments.footprint import Footprints
from experiments.live_trial import LiveTrial
from experiments.packing import Packing
from experiments.trial import TrialPlan

RECKON_EVERY_S, RECKON_SHARE = 30.0, 0.01
"""All trials count, so it is not reckoned anew each time that one ends: not before so long, or such a part of what was
left, has passed."""


class Outlook:
    """What is left of a sweep, by what trials were seen to cost.

    Args:
        epochs_done: of a trial that runs.
        clock: in seconds.
    """

    def __init__(
        self,
        agenda: Agenda,
        packing: Packing,
        known: Footprints,
        *,
        epochs_done: Callable[[TrialPlan], int],
        clock: Callable[[], float],
    ) -> None:
        self._agenda, self._packing, self._known = agenda, packing, known
        self._epochs_done, self._clock = epochs_done, clock
        self._last: float | None = None
        self._reckoned_at = 0.0

    def left_s(self, running: Iterable[LiveTrial]) -> float | None:
        """Seconds until all is over; None where nothing is known."""
        now = self._clock()
        if self._last is None or now >= self._reckoned_at + max(RECKON_EVERY_S, RECKON_SHARE * self._last):
            self._last, self._reckoned_at = self._reckon(running), now
        return self._last

    def _reckon(self, running: Iterable[LiveTrial]) -> float | None:
        mean = self._known.mean_epoch_s() or 0.0
        to_go = [
            (live.plan.config.train.epochs - self._epochs_done(live.plan)) * (self._known.epoch_s(live.shape) or mean)
            for live in running
        ]
        shapes = {self._agenda.shape(plan) for plan in self._agenda.heads(self._known)}
        return left_s(self._agenda.work_s(self._known), to_go, self._packing.parallel(shapes))


def left_s(waiting: tuple[float, float] | None, running: Sequence[float], parallel: int) -> float | None:
    """Seconds until all is over, about; None where nothing is known.

    Args:
        waiting: see `Agenda.work_s`.
        running: seconds that each running trial has yet to go.
        parallel: trials at the same time.
    """
    if waiting is None:
        return None
    return max(waiting[1], max(running, default=0.0), (waiting[0] + sum(running)) / parallel)
