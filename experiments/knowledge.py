"""What is known of the trials so far, and what that makes of their configurations. No I/O.

A configuration is judged by all of its replicates: samplers, pruners and the final stage never see a single seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.pruning import Curve, Pruner, Reported, mean_curve, stop_reason
from experiments.store import TrialResult
from experiments.trial import TrialPlan, TrialState


@dataclass(frozen=True)
class Outcome:
    """What has come of a configuration.

    Attributes:
        state: COMPLETE when all replicates are, PRUNED or FAIL when one of them is, else RUNNING.
        value: mean of the objective over the replicates; of COMPLETE alone.
        curve: mean over the replicates at each epoch that has been reported.
    """

    state: TrialState
    value: float | None = None
    curve: Curve = field(default_factory=dict)


@dataclass(frozen=True)
class _Report:
    value: float
    time: float


class Knowledge:
    """Results and reports, by the trials' signatures.

    Args:
        metric: the objective.
        direction: of the objective.
    """

    def __init__(self, *, metric: str, direction: Literal["maximize", "minimize"]) -> None:
        self._metric = metric
        self._direction = direction
        self._results: dict[str, TrialResult] = {}
        self._reports: dict[str, dict[int, _Report]] = {}

    @property
    def results(self) -> Mapping[str, TrialResult]:
        """Of the finished trials."""
        return self._results

    def finish(self, signature: str, result: TrialResult) -> None:
        """A trial's last word."""
        self._results[signature] = result

    def forget(self, signature: str) -> None:
        """The trial is to run again."""
        self._results.pop(signature, None)

    def report(self, signature: str, row: Mapping[str, Any]) -> None:
        """An epoch of a trial, as `metrics.jsonl` has it. One without a value of the objective says nothing."""
        value = row.get("metrics", {}).get(self._metric)
        if isinstance(value, (int, float)) and math.isfinite(value):
            report = _Report(value=float(value), time=float(row.get("time", 0.0)))
            self._reports.setdefault(signature, {})[int(row["epoch"])] = report

    def objective(self, signature: str) -> float | None:
        """The objective of a complete trial; None where it is undefined, and for every other trial."""
        result = self._results.get(signature)
        if result is None or result.state is not TrialState.COMPLETE:
            return None
        return result.metrics.get(self._metric)

    def last_epoch(self, signature: str) -> int | None:
        """The last one whose objective a trial has reported."""
        return max(self._reports.get(signature, {}), default=None)

    def outcome(self, plans: Sequence[TrialPlan]) -> Outcome:
        """What has come of a configuration.

        Args:
            plans: all of its replicates.
        """
        states = {
            self._results[plan.signature].state if plan.signature in self._results else TrialState.RUNNING
            for plan in plans
        }
        if TrialState.PRUNED in states:
            return Outcome(TrialState.PRUNED, curve=self._mean_curve(plans, until=math.inf))
        if TrialState.FAIL in states:
            return Outcome(TrialState.FAIL)
        if states != {TrialState.COMPLETE}:
            return Outcome(TrialState.RUNNING)
        values = [self.objective(plan.signature) for plan in plans]
        defined = [value for value in values if value is not None]
        if len(defined) < len(values):
            return Outcome(TrialState.FAIL)
        return Outcome(TrialState.COMPLETE, value=statistics.fmean(defined))

    def stop_reason(
        self, pruner: Pruner, plan: TrialPlan, epoch: int, configurations: Mapping[str, Sequence[TrialPlan]]
    ) -> str | None:
        """Whether a trial's report of an epoch stops its configuration, and why.

        Only what was reported up to then counts, by the times in the reports, so that the answer is the same
        whenever it is asked.

        Args:
            epoch: that the trial has reported.
            configurations: all of the search, by `TrialPlan.configuration`.
        """
        now = self._reports[plan.signature][epoch].time
        others = [
            Reported(curve=self._mean_curve(plans, until=now), complete=self._has_ended(plans, by=now))
            for configuration, plans in configurations.items()
            if configuration != plan.configuration
        ]
        own = self._mean_curve(configurations[plan.configuration], until=now)
        return stop_reason(pruner, epoch=epoch, own=own, others=others, direction=self._direction)

    def _has_ended(self, plans: Sequence[TrialPlan], *, by: float) -> bool:
        """Whether every replicate had reported its last epoch by then. When its result was noted is not known later."""
        return all(
            (report := self._reports.get(plan.signature, {}).get(plan.config.train.epochs)) is not None
            and report.time <= by
            for plan in plans
        )

    def _mean_curve(self, plans: Sequence[TrialPlan], *, until: float) -> dict[int, float]:
        """Of the replicates' reports up to a time."""
        return mean_curve(
            [
                {epoch: report.value for epoch, report in self._reports[plan.signature].items() if report.time <= until}
                for plan in plans
                if plan.signature in self._reports
            ]
        )
