"""A spec that is edited and run again: what is new runs, alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep

from experiments.store import read_result
from experiments.trial import TrialState

HEAD = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 2}
"""
SIX = HEAD + "search:\n  - grid: {train.lr: [0.1, 0.2, 0.3], proposals.count: [10, 20]}\n"
EIGHT = HEAD + "search:\n  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4], proposals.count: [10, 20]}\n"
SAMPLED = HEAD + "search:\n  - sample: {train.lr: {float: [%s]}}\n    sampler: random\n    trials: %d\nseeds: %d\n"


def objective(config: Mapping[str, Any], epoch: int) -> float:
    return float(config["train"]["lr"]) * epoch / 10 + config["seed"] / 100


@pytest.fixture
def sweep(tmp_path: Path) -> SimulatedSweep:
    return SimulatedSweep(tmp_path, objective)


class TestCells:
    def test_from_six_to_eight_runs_two(self, sweep: SimulatedSweep) -> None:
        assert len(sweep.run(SIX).launched) == 6
        added = [plan.signature for plan in sweep.spec(EIGHT).plans if plan.config.train.lr == 0.4]
        assert sweep.run(EIGHT).launched == added
        assert len(sweep.signatures()) == 8

    def test_from_one_seed_to_three_runs_the_new_ones(self, sweep: SimulatedSweep) -> None:
        sweep.run(SIX + "seeds: 1\n")
        run = sweep.run(SIX + "seeds: 3\n")
        seeds = {plan.signature: plan.config.seed for plan in sweep.spec(SIX + "seeds: 3\n").plans}
        assert sorted(seeds[signature] for signature in run.launched) == [1] * 6 + [2] * 6

    @pytest.mark.parametrize(
        "same",
        [
            "# another question\n" + SIX,
            HEAD + "search:\n  - grid: {proposals.count: [20, 10], train.lr: [0.3, 0.1, 0.2]}\n",
            "search:\n  - grid:\n      train.lr: [1.0e-1, 2e-1, 0.30]\n      proposals.count: [10, 20]\n" + HEAD,
            SIX + "question: Another?\nretry: {max_attempts: 1}\n",
            SIX.replace("train: {epochs: 2}", "train: {epochs: 2, momentum: 0.9}"),  # a default, written out
            SIX.replace("model: {", "evaluate: {pictures: 0}\n  model: {"),  # what cannot change a result
        ],
        ids=["comment", "order", "spelling", "other keys", "default", "result-neutral"],
    )
    def test_what_asks_for_the_same_runs_nothing(self, sweep: SimulatedSweep, same: str) -> None:
        sweep.run(SIX)
        assert sweep.run(same).launched == []
        assert len(sweep.entries(same)) == 6
        assert all(entry.state is TrialState.COMPLETE for entry in sweep.entries(same))

    def test_spellings_of_one_number_are_one_trial(self, sweep: SimulatedSweep) -> None:
        blocks = "  - grid: {train.lr: [1e-3]}\n  - grid: {train.lr: [0.001]}\n  - zip: {train.lr: [1.0e-3]}\n"
        assert len(sweep.run(f"{HEAD}search:\n{blocks}").launched) == 1

    def test_one_that_is_removed_stays_in_the_store_and_leaves_the_tables(self, sweep: SimulatedSweep) -> None:
        sweep.run(EIGHT)
        assert sweep.run(SIX).launched == []
        assert len(sweep.entries(SIX)) == 6
        assert len(sweep.signatures()) == 8
        assert sweep.run(EIGHT).launched == []  # and is there when it comes back
        assert len(sweep.entries(EIGHT)) == 8

    def test_one_whose_default_changes_is_another_trial(self, sweep: SimulatedSweep) -> None:
        sweep.run(SIX)
        changed = SIX.replace("epochs: 2", "epochs: 3")
        assert len(sweep.run(changed).launched) == 6
        assert len(sweep.entries(changed)) == 6

    def test_a_grid_that_takes_over_a_sampled_configuration_does_not_run_it_again(self, sweep: SimulatedSweep) -> None:
        sweep.run(SAMPLED % ("0.1, 0.2", 2, 1))
        rate = next(entry.plan.config.train.lr for entry in sweep.entries(SAMPLED % ("0.1, 0.2", 2, 1)))
        grid = f"{HEAD}search:\n  - grid: {{train.lr: [{rate!r}]}}\n"
        assert sweep.run(grid).launched == []


class TestSampledBlocks:
    def test_a_larger_budget_runs_the_difference(self, sweep: SimulatedSweep) -> None:
        first = sweep.run(SAMPLED % ("0.1, 0.2", 4, 2))
        more = sweep.run(SAMPLED % ("0.1, 0.2", 6, 2))
        assert (len(first.launched), len(more.launched)) == (8, 4)
        assert len(sweep.entries(SAMPLED % ("0.1, 0.2", 6, 2))) == 12

    def test_a_smaller_budget_keeps_the_first(self, sweep: SimulatedSweep) -> None:
        sweep.run(SAMPLED % ("0.1, 0.2", 4, 1))
        assert sweep.run(SAMPLED % ("0.1, 0.2", 2, 1)).launched == []
        kept = [entry.plan.signature for entry in sweep.entries(SAMPLED % ("0.1, 0.2", 2, 1))]
        assert kept == sweep.signatures()[:2]

    def test_more_seeds_run_for_the_same_configurations(self, sweep: SimulatedSweep) -> None:
        sweep.run(SAMPLED % ("0.1, 0.2", 3, 1))
        assert len(sweep.run(SAMPLED % ("0.1, 0.2", 3, 2)).launched) == 3
        assert len({entry.plan.configuration for entry in sweep.entries(SAMPLED % ("0.1, 0.2", 3, 2))}) == 3

    def test_another_range_keeps_the_points_that_lie_in_it(self, sweep: SimulatedSweep) -> None:
        sweep.run(SAMPLED % ("0.1, 0.2", 6, 1))
        inside = [
            entry.plan.signature
            for entry in sweep.entries(SAMPLED % ("0.1, 0.2", 6, 1))
            if entry.plan.config.train.lr >= 0.15
        ]
        assert 0 < len(inside) < 6
        narrower = SAMPLED % ("0.15, 0.2", 6, 1)
        assert len(sweep.run(narrower).launched) == 6 - len(inside)
        found = {entry.plan.signature: entry.plan.config.train.lr for entry in sweep.entries(narrower)}
        assert set(inside) <= set(found)
        assert all(0.15 <= rate <= 0.2 for rate in found.values())


class TestOtherSweeps:
    def test_a_trial_that_another_sweep_has_finished_is_taken_over(self, tmp_path: Path) -> None:
        first, second = SimulatedSweep(tmp_path, objective), SimulatedSweep(tmp_path, objective, name="second")
        first.run(SIX)
        run = second.run(EIGHT, reuse=True)
        assert len(run.launched) == 2
        assert "6 of them were found in other sweeps" in run.said
        results = [(trial.signature, read_result(trial)) for trial in second.store.trials()]
        origins = {signature: result.reused_from for signature, result in results if result is not None}
        there = {t.signature: f"sweep/{t.paths.folder.name}" for t in first.store.trials()}
        assert origins == {signature: there.get(signature, "") for signature in second.signatures()}
        assert second.run(EIGHT, reuse=True).launched == []

    def test_unless_that_is_refused(self, tmp_path: Path) -> None:
        SimulatedSweep(tmp_path, objective).run(SIX)
        assert len(SimulatedSweep(tmp_path, objective, name="second").run(SIX, reuse=False).launched) == 6

    def test_what_is_not_finished_there_runs_here(self, tmp_path: Path) -> None:
        SimulatedSweep(tmp_path, objective).run(SIX, kill_after=8)  # 2 trials are complete, the third has an epoch
        run = SimulatedSweep(tmp_path, objective, name="second").run(SIX, reuse=True)
        assert len(run.launched) == 4

    def test_a_sampler_learns_from_what_was_taken_over(self, tmp_path: Path) -> None:
        """Another seed of the sampler would draw other points: these are the first sweep's own."""
        first, second = SimulatedSweep(tmp_path, objective), SimulatedSweep(tmp_path, objective, name="second")
        first.run(SAMPLED % ("0.1, 0.2", 4, 1))
        assert second.run(SAMPLED % ("0.1, 0.2", 4, 1), reuse=True).launched == []
        assert second.signatures() == first.signatures()
