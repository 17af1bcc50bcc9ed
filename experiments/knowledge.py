"""What is known of the trials so far, and what that makes of their configurations. No I/O.

A configuration is judged by all of its replicates: samplers, pruners and the final stage never see a single seed.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from experiments.pruning import Curve, Pruner, Reported, Standing, decided_at, decision, mean_curve, standing
from experiments.standings import LastReports, Standings
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


@dataclass(frozen=True, slots=True)
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
        self._states: Counter[TrialState] = Counter()
        self._reports: dict[str, dict[int, _Report]] = {}
        self._configurations: Mapping[str, Sequence[TrialPlan]] = {}
        """That a pruner's decision was last asked for."""
        self._noted = 0
        """How many of them are in what follows."""
        self._configuration_of: dict[str, str] = {}
        self._heard = LastReports()
        self._standings: dict[tuple[Pruner, int], Standings] = {}
        """By pruner and the epoch at which it compares."""

    @property
    def results(self) -> Mapping[str, TrialResult]:
        """Of the finished trials. Of their metrics they have the objective alone, and no config: 20,000 of those would
        fill the memory.
        """
        return self._results

    def count(self, state: TrialState) -> int:
        """How many trials ended so."""
        return self._states[state]

    def finish(self, signature: str, result: TrialResult) -> None:
        """A trial's last word."""
        self.forget(signature)
        metrics = {name: value for name, value in result.metrics.items() if name == self._metric}
        self._results[signature] = replace(result, metrics=metrics, config={})
        self._states[result.state] += 1

    def forget(self, signature: str) -> None:
        """The trial is to run again."""
        before = self._results.pop(signature, None)
        if before is not None:
            self._states[before.state] -= 1

    def report(self, signature: str, row: Mapping[str, Any]) -> None:
        """An epoch of a trial, as `metrics.jsonl` has it. One without a value of the objective says nothing."""
        value = row.get("metrics", {}).get(self._metric)
        if isinstance(value, (int, float)) and math.isfinite(value):
            report = _Report(value=float(value), time=float(row.get("time", 0.0)))
            self._reports.setdefault(signature, {})[int(row["epoch"])] = report
            self._note(signature, report)

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
        self._take_note_of(configurations)
        now = self._reports[plan.signature][epoch].time
        own = self._mean_curve(configurations[plan.configuration], until=now)
        at = decided_at(pruner, epoch=epoch, own=own)
        if at is None:
            return None
        standings = self._standings.get((pruner, at)) or self._begin_standings(pruner, at)
        competing, complete = standings.others(plan.configuration, by=now, later=self._heard.after(now))
        return decision(pruner, epoch=epoch, own=own, competing=competing, complete=complete, direction=self._direction)

    def _take_note_of(self, configurations: Mapping[str, Sequence[TrialPlan]]) -> None:
        """Of those that came since the last time. What there is of configurations in other hands is forgotten."""
        if self._configurations is not configurations:
            self._configurations = configurations
            self._configuration_of.clear()
            self._standings.clear()
            self._heard = LastReports()
            self._noted = 0
        for configuration in itertools.islice(configurations, self._noted, None):
            for plan in configurations[configuration]:
                self._configuration_of[plan.signature] = configuration
                for report in self._reports.get(plan.signature, {}).values():
                    self._note(plan.signature, report)
        self._noted = len(configurations)

    def _begin_standings(self, pruner: Pruner, at: int) -> Standings:
        def standing_of(configuration: str, until: float) -> Standing:
            plans = self._configurations[configuration]
            reported = Reported(curve=self._mean_curve(plans, until=until), complete=self._has_ended(plans, by=until))
            return standing(pruner, at=at, reported=reported)

        standings = self._standings[pruner, at] = Standings(standing_of)
        for signature in self._reports:
            if signature in self._configuration_of:
                standings.changed(self._configuration_of[signature])
        return standings

    def _note(self, signature: str, report: _Report) -> None:
        """Of a report; that of a trial in no configuration, such as one of the final stage, counts for nothing."""
        configuration = self._configuration_of.get(signature)
        if configuration is not None:
            self._heard.heard(configuration, report.time)
            for standings in self._standings.values():
                standings.changed(configuration)

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
