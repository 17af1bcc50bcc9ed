"""What is kept up report by report is what going through all configurations gives."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from experiments.knowledge import Knowledge
from experiments.pruning import Asha, Direction, Median, Pruner, Reported, Standing, mean_curve, stop_reason
from experiments.spec import SweepSpec
from experiments.standings import LastReports, Standings
from experiments.trial import TrialPlan

METRIC = "ap50_11pt/mean"
EPOCHS = 6
SPEC = f"""\
{{EXPERIMENT}}
  train: {{epochs: {EPOCHS}}}
search:
  - grid: {{train.lr: {{linspace: [0.1, 1.0, 12]}}}}
seeds: 2
"""


class Reports:
    """Every report, and the answers that going through all of them gives."""

    def __init__(self, direction: Direction) -> None:
        self.values: dict[tuple[str, int], tuple[float, float]] = {}
        self._direction = direction

    def stop_reason(
        self, pruner: Pruner, plan: TrialPlan, epoch: int, configurations: Mapping[str, Sequence[TrialPlan]]
    ) -> str | None:
        now = self.values[plan.signature, epoch][1]
        reported = {name: self._reported(plans, by=now) for name, plans in configurations.items()}
        own = reported.pop(plan.configuration).curve
        return stop_reason(pruner, epoch=epoch, own=own, others=list(reported.values()), direction=self._direction)

    def _reported(self, plans: Sequence[TrialPlan], *, by: float) -> Reported:
        curves = [
            {
                epoch: value
                for (signature, epoch), (value, time) in self.values.items()
                if signature == plan.signature and time <= by
            }
            for plan in plans
        ]
        return Reported(curve=mean_curve(curves), complete=all(EPOCHS in curve for curve in curves))


@pytest.fixture
def plans(load: Callable[[str], SweepSpec]) -> tuple[TrialPlan, ...]:
    """Twelve configurations of two replicates each."""
    return load(SPEC).plans


@pytest.mark.parametrize("pruner", [Asha(1, 2), Asha(2, 3), Median(startup_trials=2), Median(1, 1, 2)], ids=repr)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_going_through_all_configurations(
    plans: tuple[TrialPlan, ...], pruner: Pruner, direction: Direction, seed: int
) -> None:
    """Clocks of several machines differ, epochs are trained again, configurations are drawn in the midst."""
    rng = random.Random(seed)
    known, slow = Knowledge(metric=METRIC, direction=direction), Reports(direction)
    configurations: dict[str, list[TrialPlan]] = {}
    decisions = []
    done = dict.fromkeys(range(len(plans)), 0)
    for step in range(len(plans) * (EPOCHS + 1)):
        index = rng.choice([index for index, epochs in done.items() if epochs < EPOCHS][:6] or [0])
        plan = plans[index]
        for one in plans:
            if one.configuration == plan.configuration and one not in configurations.get(plan.configuration, []):
                configurations.setdefault(plan.configuration, []).append(one)
        again = done[index] and rng.random() < 0.15
        done[index] = epoch = done[index] if again else min(EPOCHS, done[index] + 1)
        value, time = rng.randint(0, 5) / 5, step + rng.uniform(-4, 4)
        known.report(plan.signature, {"epoch": epoch, "time": time, "metrics": {METRIC: value}})
        slow.values[plan.signature, epoch] = value, time
        decisions.append(known.stop_reason(pruner, plan, epoch, configurations))
        assert decisions[-1] == slow.stop_reason(pruner, plan, epoch, configurations)
    assert len(set(decisions)) > 1


def test_other_configurations_are_other_standings(plans: tuple[TrialPlan, ...]) -> None:
    known = Knowledge(metric=METRIC, direction="maximize")
    for plan, value in zip(plans[::2], (0.1, 0.9, 0.5), strict=False):
        known.report(plan.signature, {"epoch": 1, "time": 1.0, "metrics": {METRIC: value}})
    ask = {plans[0].configuration: [plans[0]], plans[2].configuration: [plans[2]]}
    assert known.stop_reason(Asha(1, 2), plans[0], 1, ask) == "asha: 0.1 at epoch 1 is not among the best 1 of 2"
    ask = {plans[0].configuration: [plans[0]]}
    assert known.stop_reason(Asha(1, 2), plans[0], 1, ask) is None


def test_a_decision_looks_at_what_has_changed_alone() -> None:
    asked: list[tuple[str, float]] = []

    def standing_of(configuration: str, by: float) -> Standing:
        asked.append((configuration, by))
        return Standing(value=float(configuration), complete=configuration != "3")

    standings = Standings(standing_of)
    for name in ("5", "3", "4", "4"):
        standings.changed(name)
    assert standings.others("4", by=9.0, later=[]) == ([3.0, 5.0], 1)
    assert sorted(asked) == [("3", math.inf), ("4", math.inf), ("5", math.inf)]
    asked.clear()
    assert standings.others("none", by=9.0, later=[]) == ([3.0, 4.0, 5.0], 2)
    assert asked == []
    assert standings.others("3", by=9.0, later=["5", "3"]) == ([4.0, 5.0], 2)
    assert asked == [("5", 9.0)]


def test_equal_values_are_told_apart_by_their_number() -> None:
    standings = Standings(lambda _configuration, _by: Standing(value=0.5, complete=False))
    for name in ("a", "b", "c"):
        standings.changed(name)
    assert standings.others("a", by=0.0, later=[]) == ([0.5, 0.5], 0)


def test_last_reports() -> None:
    heard = LastReports()
    assert heard.after(-math.inf) == []
    for configuration, time in (("a", 1.0), ("b", 3.0), ("c", 2.0), ("a", 2.5), ("b", 0.5)):
        heard.heard(configuration, time)
    assert [heard.after(time) for time in (0.0, 2.0, 2.5, 3.0)] == [["c", "a", "b"], ["a", "b"], ["b"], []]


@pytest.mark.parametrize("order", list(itertools.permutations([("a", 1.0), ("a", 2.0), ("b", 2.0)])))
def test_last_reports_in_any_order(order: Sequence[tuple[str, float]]) -> None:
    heard = LastReports()
    for configuration, time in order:
        heard.heard(configuration, time)
    assert heard.after(1.0) == ["a", "b"]
    assert heard.after(2.0) == []
