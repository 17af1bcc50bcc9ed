"""A trial that the running command works on, from its first attempt to its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.failures import Failure, NextStep
from experiments.footprint import Shape, shape_of
from experiments.store import StoredTrial
from experiments.trial import TrialPlan


@dataclass
class LiveTrial:
    """A trial between the start of its first attempt in this run of the command and its end.

    Attributes:
        shape: what its cost depends on, as it runs now.
        attempts_before: in earlier runs of the command.
        launch: number of its present attempt among all launches of this run.
        got_on: whether its present attempt has reported an epoch.
        is_alone: whether it has had too little memory, and has a device for itself from now on.
        failures: of its attempts in this run.
    """

    plan: TrialPlan
    trial: StoredTrial
    shape: Shape
    attempts_before: int
    attempts_now: int = 0
    launch: int = 0
    got_on: bool = False
    is_alone: bool = False
    failures: list[Failure] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """Of all runs of the command."""
        return self.attempts_before + self.attempts_now

    @property
    def images_at_a_time(self) -> int:
        """Most that go through the model at once."""
        train, evaluate = self.plan.config.train, self.plan.config.evaluate
        return self.trial.images_at_a_time or max(train.batch_size, evaluate.batch_size)

    def limit_images_at_a_time(self, limited: StoredTrial) -> None:
        """More did not fit into memory; its folder says so."""
        self.trial = limited
        self.shape = shape_of(self.plan.config.model_dump(mode="json"), limited.images_at_a_time)


def goes_on(live: LiveTrial, step: NextStep) -> str:
    """What follows for a trial whose attempt gave no result, for people."""
    if step is NextStep.ALONE:
        return "starts again, alone on its device"
    if step is NextStep.FEWER_AT_A_TIME:
        return f"starts again, alone on its device, {live.images_at_a_time} images at a time"
    if step is NextStep.WHEN_THERE_IS_ROOM:
        return "waits for room"
    if step is NextStep.LATER:
        return f"ended {len(live.failures)} times without getting on and is left; it continues with the same command"
    return "starts again"
