from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.dry_run import MAX_ROWS, print_dry_run
from experiments.reuse import Library
from experiments.slots import cpu_slots
from experiments.spec import SweepSpec
from experiments.store import StoredTrial, SweepStore, TrialResult, write_result
from experiments.trial import TrialPlan, TrialState

Load = Callable[[str], SweepSpec]
SLOTS = cpu_slots(2, cores=2)


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "results" / "sweep")


def shown(spec: SweepSpec, store: SweepStore, *, library: Library | None = None) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None, soft_wrap=True)
    with console.capture() as text:
        print_dry_run(console, spec, store, SLOTS, library=library)
    return text.get()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def stored(store: SweepStore, plan: TrialPlan, *, number: int) -> StoredTrial:
    config = plan.config.model_dump(mode="json")
    return store.create_trial(number, plan.signature, config, stage=plan.stage, draw=plan.draw, code="code")


def complete(store: SweepStore, plan: TrialPlan, *, number: int, value: float = 0.5, seconds: float = 12.0) -> None:
    config = plan.config.model_dump(mode="json")
    result = TrialResult(
        plan.signature, TrialState.COMPLETE, "", 1, {"ap50_11pt/mean": value}, plan.config.train.epochs, seconds
    )
    write_result(stored(store, plan, number=number).paths, replace(result, config=config, code="code"))


def test_the_trials_in_the_order_they_would_run(load: Load, store: SweepStore) -> None:
    spec = load(
        "question: Which? [red]\n{EXPERIMENT}\nsearch:\n"
        "  - grid: {train.lr: [0.1, 0.10], proposals.count: [20, null]}\nseeds: [4, 2]\n"
    )
    complete(store, spec.plans[0], number=0)
    stored(store, spec.plans[1], number=1)
    text = shown(spec, store)
    assert text.splitlines()[:3] == [
        f"sweep sweep: 4 trials (1 COMPLETE, 1 RUNNING, 2 WAITING) in {store.folder}",
        "Which? [red]",
        "4 cells ask for a trial that another cell asks for already; each trial runs once",
    ]
    assert rows(text) == [
        ["0", "COMPLETE", "0.1", "20", "4", ""],
        ["1", "RUNNING", "0.1", "20", "2", "cpu 0"],
        ["-", "WAITING", "0.1", "null", "4", "cpu 1"],
        ["-", "WAITING", "0.1", "null", "2", "cpu 0"],
    ]
    assert text.endswith("dry run: nothing was started\n")


@pytest.mark.parametrize(("trials", "more"), [(MAX_ROWS, None), (MAX_ROWS + 1, "... and 1 more")])
def test_a_long_list_is_cut(load: Load, store: SweepStore, trials: int, more: str | None) -> None:
    text = shown(load(f"{{EXPERIMENT}}\nseeds: {trials}\n"), store)
    assert len(rows(text)) == MAX_ROWS
    assert ("more" in text) == (more is not None)
    assert more is None or more in text


def test_seeds_until_it_is_decided(load: Load, store: SweepStore) -> None:
    text = shown(load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\nseeds: {until_decided: 10}\n"), store)
    assert "6 trials (6 WAITING)" in text
    assert (
        "seeds: 3 to 10 for each configuration, more than 3 for those that may be the best, until it is decided" in text
    )


def test_a_single_trial(load: Load, store: SweepStore) -> None:
    text = shown(load("{EXPERIMENT}\n"), store)
    assert text.startswith("sweep sweep: 1 trial (1 WAITING)")
    assert rows(text) == [["-", "WAITING", "0", "cpu 0"]]


def test_what_is_excluded_and_why(load: Load, store: SweepStore) -> None:
    text = shown(
        load(
            "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2], proposals.count: [10, 20]}\n"
            "    exclude: [{train.lr: 0.1, proposals.count: 20}]\n    only: [{train.lr: {max: 0.1}}]\n"
        ),
        store,
    )
    assert "1 cell excluded by search[0].exclude[0]: {train.lr: 0.1, proposals.count: 20}\n" in text
    assert "2 cells excluded by search[0].only: not {train.lr: {max: 0.1}}\n" in text
    assert [row[2:4] for row in rows(text)] == [["0.1", "10"]]


def test_what_a_sampler_never_asks_for(load: Load, store: SweepStore) -> None:
    block = (
        "{EXPERIMENT}\nsearch:\n  - sample: {train.lr: {float: [0.1, 0.2]}, proposals.count: {choice: [10, 20]}}\n"
        "    trials: 2\n    exclude: [{proposals.count: 20, train.lr: {min: 0.15}}]\n"
        "    only: [{proposals.count: 10}, {proposals.count: 20}]\n"
    )
    text = shown(load(block), store)
    assert "search[0]: tpe never asks for {proposals.count: 20, train.lr: {min: 0.15}} (exclude[0])\n" in text
    assert "search[0]: tpe asks only for {proposals.count: 10} or {proposals.count: 20}\n" in text


def test_what_a_trial_does_not_read_is_left_empty(load: Load, store: SweepStore) -> None:
    spec = load(
        "experiment:\n  task: localizer\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\nsearch:\n"
        "  - grid: {model.pooling: [max, topk], model.topk: {values: [2, 3], when: {model.pooling: topk}}}\n"
    )
    assert [row[2:4] for row in rows(shown(spec, store))] == [["max", ""], ["topk", "2"], ["topk", "3"]]


class TestTime:
    def test_from_trials_like_these(self, load: Load, store: SweepStore) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4]}\n")
        complete(store, spec.plans[0], number=0, seconds=120.0)
        assert "3 trials to run on 2 slots (cpu 0, cpu 1): about 4 min, judging by 1 finished trial\n" in shown(
            spec, store
        )

    def test_nothing_is_known(self, load: Load, store: SweepStore) -> None:
        text = shown(load("{EXPERIMENT}\n"), store)
        assert "1 trial to run on 2 slots (cpu 0, cpu 1); no time estimate: no trial like these has finished" in text

    def test_nothing_is_left(self, load: Load, store: SweepStore) -> None:
        spec = load("{EXPERIMENT}\n")
        complete(store, spec.plans[0], number=0)
        assert "nothing is left to run\n" in shown(spec, store)


class TestOtherSweeps:
    def test_what_they_have_does_not_run(self, load: Load, store: SweepStore) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\n")
        complete(SweepStore(store.folder.parent / "earlier"), spec.plans[1], number=7)
        text = shown(spec, store, library=Library(store.folder.parent, but=store, code_of=lambda _: "code"))
        assert [row[:2] for row in rows(text)] == [["-", "WAITING"], ["-", "in earlier"]]
        assert "1 trial to run on" in text

    def test_unless_that_is_refused(self, load: Load, store: SweepStore) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\n")
        complete(SweepStore(store.folder.parent / "earlier"), spec.plans[1], number=7)
        assert "2 trials to run on" in shown(spec, store)


SAMPLED = """\
{EXPERIMENT}
search:
  - sample: {train.lr: {log_uniform: [0.001, 0.1]}}
    sampler: %s
    trials: 3
seeds: 2
final: {train: trainval, eval: test, seeds: 2}
"""


class TestSampledBlocks:
    @pytest.mark.parametrize("sampler", ["random", "qmc"])
    def test_what_looks_at_no_result_is_listed(self, load: Load, store: SweepStore, sampler: str) -> None:
        text = shown(load(SAMPLED % sampler), store)
        assert text.startswith("sweep sweep: 8 trials (6 WAITING, 2 not chosen yet)")
        learning_rates = [row[2] for row in rows(text)]
        assert learning_rates[::2] == learning_rates[1::2]  # replicates side by side
        assert len(set(learning_rates)) == 3

    def test_what_depends_on_results_is_counted(self, load: Load, store: SweepStore) -> None:
        text = shown(load(SAMPLED % "tpe"), store)
        assert text.startswith("sweep sweep: 8 trials (8 not chosen yet)")
        assert rows(text) == []
        assert "search[0]: tpe chooses 3 more of 3 configurations (2 seeds each) as results come in\n" in text
        assert "final stage: the best configuration trains on trainval and is measured on test, seeds 2, 3\n" in text
        assert "8 trials to run on 2 slots" in text

    def test_what_is_listed_is_what_runs(self, load: Load, store: SweepStore) -> None:
        """The agenda of a run draws the same configurations in the same order."""
        from experiments.agenda import Agenda
        from experiments.footprint import Footprints
        from experiments.ledger import Ledger
        from experiments.study import Study

        spec = load(SAMPLED % "qmc")
        listed = [row[2] for row in rows(shown(spec, store))]
        study = Study(file=store.study, name="sweep", direction="maximize")
        agenda = Agenda(spec, Ledger(store=store, study=study, objective=spec.objective))
        drawn = []
        while plans := agenda.candidates(Footprints()):
            agenda.take(plans[0])
            drawn.append(plans[0])
        study.close()
        assert [f"{plan.config.train.lr:g}" for plan in drawn] == listed


def test_of_a_finished_search_the_final_stage_is_left(load: Load, store: SweepStore) -> None:
    spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1, 0.2]}\nfinal: {train: trainval, eval: test}\n")
    for number, plan in enumerate(spec.plans):
        complete(store, plan, number=number, value=number / 10)
    assert "final stage: the best configuration trains on trainval" in shown(spec, store)
    for number, plan in enumerate(spec.final_plans(spec.plans[1]), start=2):
        complete(store, plan, number=number)
    text = shown(spec, store)
    assert "final stage" not in text
    assert "nothing is left to run" in text


def test_the_pruner_as_the_spec_has_it(load: Load, store: SweepStore) -> None:
    text = shown(load("{EXPERIMENT}\npruner: {asha: {min_epochs: 2, reduction_factor: 3}}\n"), store)
    assert "pruner: {asha: {min_epochs: 2, reduction_factor: 3}}, on ap50_11pt/mean as the mean over seeds\n" in text
