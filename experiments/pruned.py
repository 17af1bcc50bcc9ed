"""Which configurations of a sweep are pruned, and why: what was decided in this run, and in earlier ones."""

from __future__ import annotations

from experiments.agenda import Agenda
from experiments.ledger import Ledger
from experiments.pruning import Pruner
from experiments.trial import TrialPlan, TrialState


class PrunedConfigurations:
    """Configurations that are pruned, each with the reason.

    What was pruned before is recalled at the start, and what was to be, and what should have been when a crash came
    between: what was reported last and not decided on gives the decision that it would have given then.
    """

    def __init__(self, pruner: Pruner | None, agenda: Agenda, ledger: Ledger) -> None:
        self._pruner, self._agenda, self._ledger = pruner, agenda, ledger
        self._reasons: dict[str, str] = {}
        self._unsettled: list[str] = []
        self._recall()

    def __contains__(self, plan: TrialPlan) -> bool:
        return plan.configuration in self._reasons and self._ledger.may_be_pruned(plan)

    def reason(self, plan: TrialPlan) -> str:
        """Why the configuration of a trial is pruned."""
        return self._reasons[plan.configuration]

    def prunes(self, plan: TrialPlan) -> bool:
        """Whether what a trial has reported last prunes its configuration. It is on record then."""
        if (reason := self._stop_reason(plan)) is None:
            return False
        self._add(plan, reason)
        self._ledger.record_decision(plan, reason)
        return True

    def unsettled(self) -> list[TrialPlan]:
        """Trials that wait and will not start, as their configuration has been pruned. Each is named once."""
        found = []
        while self._unsettled:
            replicates = self._agenda.configurations[self._unsettled.pop()]
            found += [plan for plan in replicates if self._agenda.is_waiting(plan) and plan in self]
        return found

    def _recall(self) -> None:
        for plan in self._agenda.plans.values():
            result = self._ledger.known.results.get(plan.signature)
            if result is not None and result.state is TrialState.PRUNED:
                self._add(plan, result.stop_reason)
            elif self._ledger.may_be_pruned(plan) and (decided := self._ledger.decided_before(plan)):
                self._add(plan, decided)
        for plan in self._agenda.waiting:
            if (reason := self._stop_reason(plan)) is not None:
                self._add(plan, reason)

    def _add(self, plan: TrialPlan, reason: str) -> None:
        if plan.configuration not in self._reasons:
            self._reasons[plan.configuration] = reason
            self._unsettled.append(plan.configuration)

    def _stop_reason(self, plan: TrialPlan) -> str | None:
        """Why the pruner stops a trial's configuration after what the trial reported last; None where it does not."""
        epoch = self._ledger.known.last_epoch(plan.signature)
        if self._pruner is None or epoch is None or epoch >= plan.config.train.epochs:
            return None
        if plan.configuration in self._reasons or not self._ledger.may_be_pruned(plan):
            return None
        return self._ledger.known.stop_reason(self._pruner, plan, epoch, self._agenda.configurations)
