"""Which trials a sweep has and which of them comes next: those of grids and zips, sampled ones, the final stage."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.final_stage import best_configuration, by_configuration, held_back_by
from experiments.footprint import Footprints, Shape, shape_of
from experiments.ledger import Ledger
from experiments.search import BlockSearch, related_points
from experiments.seed_rounds import later_plans
from experiments.spec import SweepSpec
from experiments.store import StoredTrial
from experiments.sweep_plan import drawn_before, next_draw, search_plans, stored_configuration
from experiments.trial import TrialPlan
from experiments.view import configuration_text
from experiments.waiting import Waiting


class Agenda:
    """The trials of a sweep in the order in which they start.

    The first are those that the spec lists, the longest first as far as that is known, then what samplers draw, block
    after block, each as late as it can be, so that the sampler knows as much as it can.
    """

    def __init__(self, spec: SweepSpec, ledger: Ledger) -> None:
        self._spec, self._ledger = spec, ledger
        self._waiting = Waiting()
        self._shapes: dict[Shape, Shape] = {}
        self._shape_of: dict[str, Shape] = {}
        self._final_left = len(spec.final_seeds)
        self._winner: TrialPlan | None = None
        self.plans: dict[str, TrialPlan] = {}
        """All that are known, by signature."""
        self.configurations: dict[str, list[TrialPlan]] = {}
        """The replicates of each configuration of the search."""
        drawn = drawn_before(spec, ledger.stored)
        listed = by_configuration(spec.plans).values()
        self._blocks = [
            BlockSearch(
                block,
                drawn=drawn[index],
                related=related_points(block, listed),
                next_draw=next_draw(block, ledger.stored),
                direction=spec.objective.direction,
            )
            for index, block in enumerate(spec.blocks)
        ]
        self._add(search_plans(spec, drawn))
        if self.search_is_over:
            self._begin_round()

    @property
    def total(self) -> int:
        """Trials in all, those included that are not chosen yet."""
        open_budget = sum(block.open_budget for block in self._blocks) * len(self._spec.seeds)
        return len(self.plans) + open_budget + self._final_left

    @property
    def waiting(self) -> list[TrialPlan]:
        """Trials that are known and not started by this run yet."""
        return list(self._waiting)

    @property
    def search_is_over(self) -> bool:
        """Whether nothing of the search is left to start."""
        return not self._waiting and not any(block.open_budget for block in self._blocks)

    def to_prepare(self) -> list[TrialPlan]:
        """The trials that wait; for those that are yet to be drawn, some that stand for all of them."""
        corners = self._spec.corners[len(self._spec.plans) :] if any(b.open_budget for b in self._blocks) else ()
        return [*self._waiting, *corners]

    def candidates(self, known: Footprints) -> list[TrialPlan]:
        """The next trial of each shape, the one first that should start first; none where nothing is left to start.

        Args:
            known: of what trials cost.
        """
        while not self._waiting:
            if not self._draw() and not self._begin_round():
                return []
        return self._waiting.heads(known)

    def heads(self, known: Footprints) -> list[TrialPlan]:
        """The same without asking a sampler for more."""
        return self._waiting.heads(known)

    def take(self, plan: TrialPlan) -> None:
        """A trial that waits starts, or will never do."""
        self._waiting.remove(plan)

    def shape(self, plan: TrialPlan) -> Shape:
        """Of a trial of the sweep, as it was when it became known."""
        return self._shape_of[plan.signature]

    def is_waiting(self, plan: TrialPlan) -> bool:
        """Whether it is known and not started by this run yet."""
        return plan in self._waiting

    def work_s(self, known: Footprints) -> tuple[float, float] | None:
        """See `Waiting.work_s`; what is not chosen yet is taken to cost the mean."""
        work, mean = self._waiting.work_s(known), known.mean_epoch_s()
        if work is None or mean is None or not self.plans:
            return None
        unchosen = self.total - len(self.plans)
        each = mean * next(iter(self.plans.values())).config.train.epochs
        return work[0] + unchosen * each, max(work[1], each if unchosen else 0.0)

    def exhausted(self) -> list[str]:
        """A line for each sampled block whose space had fewer configurations left than it was to try."""
        return [
            f"search[{block.block.path[1]}]: the sweep has every configuration of its space after {len(block.drawn)} of"
            f" {block.block.trials} trials"
            for block in self._blocks
            if block.is_exhausted
        ]

    def begin_final_stage(self) -> str:
        """Lets the trials of the final stage wait, once nothing of the search is left. Again, it does nothing.

        Returns:
            Why there is no final stage yet; empty where there is one.
        """
        if self._spec.final is None or self._winner is not None:
            return ""
        best = best_configuration(self.configurations, self._ledger.known, direction=self._spec.objective.direction)
        if reason := held_back_by(self.plans.values(), self._ledger.known):
            return reason
        if best is None:
            return "no configuration of the search is complete"
        self._final_left, self._winner = 0, best
        self._add(self._spec.final_plans(best))
        return ""

    def winner_text(self) -> str:
        """The configuration that the final stage is for, in words; call it after `begin_final_stage` found one."""
        assert self._winner is not None
        replicates = self.configurations[self._winner.configuration]
        value = self._ledger.known.outcome(replicates).value
        of = f"mean of {len(replicates)} seeds" if len(replicates) > 1 else f"seed {replicates[0].config.seed}"
        name = configuration_text(self._winner) or "the one configuration"
        return f"{name} ({self._spec.objective.metric} {value:.4f}, {of})"

    def earlier_final_trials(self) -> list[StoredTrial]:
        """Trials of the final stage that were for another configuration: the split that tells was looked at then."""
        now = {plan.configuration for plan in self.plans.values() if plan.stage == "final"}
        return [t for t in self._ledger.stored if t.stage == "final" and stored_configuration(t) not in now]

    def _draw(self) -> bool:
        """Lets a sampler choose a configuration; False where no budget is left. It need not have a trial to run."""
        for block in self._blocks:
            if not block.open_budget:
                continue
            drawn = block.draw(lambda plan: plan.configuration in self.configurations, self._ledger.known.outcome)
            if drawn is not None:
                self._add(drawn.plans)
                return True
        return False

    def _begin_round(self) -> bool:
        """Lets the trials wait whose seeds the results ask for; False where they ask for none, or not all have come."""
        known = self._ledger.known
        while self._spec.later_seeds and self._winner is None and len(known.results) >= len(self.plans):
            due = later_plans(self._spec, self.configurations, known)
            new = [plan for plan in due if plan.signature not in self.plans]
            if not new:
                return False
            self._add(new)
            if self._waiting:
                return True
        return False

    def _add(self, plans: Iterable[TrialPlan]) -> None:
        """Takes up plans; those that are finished already, here or in another sweep, do not wait."""
        for plan in plans:
            self.plans[plan.signature] = plan
            if plan.stage == "search":
                self.configurations.setdefault(plan.configuration, []).append(plan)
            self._ledger.reconcile(plan)
            if plan.signature not in self._ledger.known.results:
                is_begun = self._ledger.trial(plan) is not None
                self._shape_of[plan.signature] = shape = self._shape(plan)
                self._waiting.add(plan, shape, epochs_left=self._epochs_left(plan), is_begun=is_begun)

    def _shape(self, plan: TrialPlan) -> Shape:
        trial = self._ledger.trial(plan)
        shape = shape_of(plan.config.model_dump(mode="json"), trial.images_at_a_time if trial is not None else None)
        return self._shapes.setdefault(shape, shape)  # one object for all trials of a shape

    def _epochs_left(self, plan: TrialPlan) -> int:
        return max(1, plan.config.train.epochs - (self._ledger.known.last_epoch(plan.signature) or 0))
