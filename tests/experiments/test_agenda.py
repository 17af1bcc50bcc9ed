"""Which trial comes next, and how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from sweep_folders import METRIC, Sweep, finished, result

from experiments.agenda import Agenda
from experiments.footprint import Footprints
from experiments.ledger import Ledger
from experiments.spec import SweepSpec
from experiments.store import read_config, write_result
from experiments.trial import TrialPlan, TrialState

Load = Callable[[str], SweepSpec]

SPEC = """\
{EXPERIMENT}
search:
  - sample: {train.lr: {float: [0.5, 0.6]}}
    sampler: random
    trials: 2
  - grid: {train.lr: [0.2, 0.1]}
  - sample: {model.refinement: {int: [0, 3]}}
    sampler: random
    trials: 3
  - zip: {train.lr: [0.9]}
seeds: 2
final: {train: trainval, eval: test, seeds: 3}
"""
FEW = """\
{EXPERIMENT}
search:
  - sample: {model.refinement: {int: [0, 2]}}
    sampler: random
    trials: 3
  - grid: {model.refinement: [1]}
"""
"""The grid has one of the three."""


@pytest.fixture
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("results"), "sweep")


def agenda_of(spec: SweepSpec, sweep: Sweep) -> tuple[Agenda, Ledger]:
    ledger = sweep.ledger()
    return Agenda(spec, ledger), ledger


def next_plan(agenda: Agenda) -> TrialPlan | None:
    """The trial that starts next, where nothing is known of what trials cost."""
    plans = agenda.candidates(Footprints())
    if not plans:
        return None
    agenda.take(plans[0])
    return plans[0]


def started(agenda: Agenda, ledger: Ledger) -> Iterator[TrialPlan]:
    """The next trials, each of which gets its folder."""
    while (plan := next_plan(agenda)) is not None:
        ledger.take_up(plan)
        yield plan


def complete(ledger: Ledger, plans: Iterable[TrialPlan]) -> None:
    for plan in plans:
        note(ledger, plan, TrialState.COMPLETE)


def note(ledger: Ledger, plan: TrialPlan, state: TrialState) -> None:
    trial = ledger.trial(plan)
    assert trial is not None
    write_result(trial.paths, result(plan, state))
    ledger.note(plan, result(plan, state))


def block_of(plan: TrialPlan) -> str:
    if plan.draw is None:
        return f"listed {plan.config.train.lr}"
    return "lr" if "train.lr" in plan.swept else "refinement"


class TestOrder:
    def test_listed_ones_first_then_one_sampled_block_after_the_other(self, load: Load, sweep: Sweep) -> None:
        agenda, ledger = agenda_of(load(SPEC), sweep)
        plans = list(started(agenda, ledger))
        names = ["listed 0.2", "listed 0.1", "listed 0.9", "lr", "lr", "refinement", "refinement", "refinement"]
        assert [block_of(plan) for plan in plans] == [name for name in names for _ in (0, 1)]
        assert [plan.config.seed for plan in plans] == [0, 1] * 8
        assert all(one.configuration == two.configuration for one, two in zip(plans[::2], plans[1::2], strict=True))

    def test_nothing_is_drawn_before_its_turn(self, load: Load, sweep: Sweep) -> None:
        """The sampler is to know as much as it can."""
        agenda, _ = agenda_of(load(SPEC), sweep)
        for _ in range(6):
            next_plan(agenda)
        assert {block_of(plan) for plan in agenda.plans.values()} == {"listed 0.2", "listed 0.1", "listed 0.9"}
        next_plan(agenda)
        assert [block_of(plan) for plan in agenda.waiting] == ["lr"]

    def test_a_restart_goes_on_with_what_was_begun(self, load: Load, sweep: Sweep) -> None:
        """All trials without a result come again, in the same order, and then the same draws."""
        spec = load(SPEC)
        agenda, ledger = agenda_of(spec, sweep)
        plans = list(started(agenda, ledger))
        other = Sweep(sweep.store.folder.parent, "other")
        agenda, ledger = agenda_of(spec, other)
        begun = [plan for plan, _ in zip(started(agenda, ledger), range(9), strict=False)]
        assert begun == plans[:9]
        complete(ledger, begun[:3])
        agenda, ledger = agenda_of(spec, other)
        assert agenda.waiting == plans[3:10]
        assert list(started(agenda, ledger)) == plans[3:]

    def test_finished_ones_do_not_come_again_whatever_their_end(self, load: Load, sweep: Sweep) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4]}\n")
        for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)):
            finished(sweep, spec.plans[number], state, number=number)
        agenda, _ = agenda_of(spec, sweep)
        assert agenda.waiting == [spec.plans[3]]


class TestTotal:
    def test_counts_what_is_not_drawn_yet_and_the_final_stage(self, load: Load, sweep: Sweep) -> None:
        agenda, ledger = agenda_of(load(SPEC), sweep)
        assert agenda.total == 2 * (3 + 2 + 3) + 3
        for _ in started(agenda, ledger):
            assert agenda.total == 19
        complete(ledger, list(agenda.plans.values()))
        assert agenda.begin_final_stage() == ""
        assert agenda.total == 19

    def test_of_one_configuration(self, load: Load, sweep: Sweep) -> None:
        agenda, _ = agenda_of(load("{EXPERIMENT}\n"), sweep)
        assert (agenda.total, agenda.search_is_over) == (1, False)

    def test_does_not_count_what_a_small_space_does_not_have(self, load: Load, sweep: Sweep) -> None:
        agenda, ledger = agenda_of(load(FEW), sweep)
        assert agenda.total == 1 + 3
        assert agenda.exhausted() == []
        plans = list(started(agenda, ledger))
        assert sorted(plan.value("model.refinement") for plan in plans) == [0, 1, 2]
        assert agenda.total == 3
        assert agenda.search_is_over
        assert agenda.exhausted() == ["search[0]: the sweep has every configuration of its space after 2 of 3 trials"]


class TestToPrepare:
    def test_what_waits_and_the_corners_of_what_is_sampled(self, load: Load, sweep: Sweep) -> None:
        spec = load(SPEC)
        agenda, ledger = agenda_of(spec, sweep)
        prepared = agenda.to_prepare()
        assert prepared[:6] == list(spec.plans)
        assert {plan.config.train.lr for plan in prepared[6:]} >= {0.5, 0.6}
        assert {plan.value("model.refinement") for plan in prepared[6:]} >= {0, 3}
        complete(ledger, list(started(agenda, ledger)))
        assert agenda.to_prepare() == []

    def test_nothing_where_nothing_is_left(self, load: Load, sweep: Sweep) -> None:
        spec = load("{EXPERIMENT}\n")
        finished(sweep, spec.plans[0], TrialState.COMPLETE)
        assert agenda_of(spec, sweep)[0].to_prepare() == []


class TestFinalStage:
    def searched(self, spec: SweepSpec, sweep: Sweep) -> Agenda:
        """An agenda all of whose search is complete."""
        agenda, ledger = agenda_of(spec, sweep)
        complete(ledger, started(agenda, ledger))
        return agenda

    def test_waits_once(self, load: Load, sweep: Sweep) -> None:
        agenda = self.searched(load(SPEC), sweep)
        assert agenda.search_is_over
        assert agenda.begin_final_stage() == agenda.begin_final_stage() == ""
        assert [(plan.stage, plan.config.seed, plan.config.data.eval) for plan in agenda.waiting] == [
            ("final", seed, "test") for seed in (2, 3, 4)
        ]
        assert agenda.winner_text() == f"lr=0.2 ({METRIC} 0.5000, mean of 2 seeds)"  # of equal ones the first

    def test_there_is_none_without_final(self, load: Load, sweep: Sweep) -> None:
        agenda = self.searched(load(SPEC.partition("final:")[0]), sweep)
        assert agenda.begin_final_stage() == ""
        assert agenda.waiting == []

    def test_waits_for_a_failed_trial(self, load: Load, sweep: Sweep) -> None:
        agenda, ledger = agenda_of(load(SPEC), sweep)
        plans = list(started(agenda, ledger))
        complete(ledger, plans[1:])
        note(ledger, plans[0], TrialState.FAIL)
        assert agenda.begin_final_stage().startswith("1 trial of the search failed and might still be the best")
        assert agenda.waiting == []
        assert agenda.total == 19

    def test_has_no_winner_where_all_are_pruned(self, load: Load, sweep: Sweep) -> None:
        agenda, ledger = agenda_of(load(SPEC), sweep)
        for plan in started(agenda, ledger):
            note(ledger, plan, TrialState.PRUNED)
        assert agenda.begin_final_stage() == "no configuration of the search is complete"

    def test_of_one_configuration_and_one_seed_in_words(self, load: Load, sweep: Sweep) -> None:
        agenda = self.searched(load("{EXPERIMENT}\nfinal: {train: trainval, eval: test, seeds: 1}\n"), sweep)
        agenda.begin_final_stage()
        assert agenda.winner_text() == f"the one configuration ({METRIC} 0.5000, seed 0)"

    def test_earlier_trials_are_those_for_another_configuration(self, load: Load, sweep: Sweep) -> None:
        spec = load(SPEC)
        agenda, ledger = agenda_of(spec, sweep)
        complete(ledger, started(agenda, ledger))
        agenda.begin_final_stage()
        complete(ledger, started(agenda, ledger))
        assert agenda_and_earlier(spec, sweep) == []
        fewer = load(SPEC.replace("seeds: 3}", "seeds: 1}"))
        assert agenda_and_earlier(fewer, sweep) == []
        without = load(SPEC.replace("[0.2, 0.1]", "[0.1]"))
        assert agenda_and_earlier(without, sweep) == [0.2, 0.2, 0.2]


def agenda_and_earlier(spec: SweepSpec, sweep: Sweep) -> list[float]:
    """The learning rates of final trials for another configuration, in the next run of the command."""
    agenda, _ = agenda_of(spec, sweep)
    assert agenda.begin_final_stage() == ""
    return [read_config(trial)["train"]["lr"] for trial in agenda.earlier_final_trials()]
