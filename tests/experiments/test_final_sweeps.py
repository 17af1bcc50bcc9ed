"""The final stage as a whole: when it begins, what it trains, and what a second run of the command makes of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import AttemptFailsError, SimulatedSweep

from experiments.failures import FailureKind
from experiments.report.entries import Entry
from experiments.store import StoredTrial, SweepStore, read_config
from experiments.study import Study
from experiments.trial import TrialState

SPEC = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 3}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3]}
seeds: [4, 7]
final: {train: trainval, eval: test, seeds: 2}
"""
SAMPLED = SPEC.replace(
    "seeds: [4, 7]",
    "  - sample: {train.lr: {float: [0.4, 1.0]}}\n    sampler: random\n    trials: 3\nseeds: 2",
)


def objective(config: Mapping[str, Any], epoch: int) -> float:
    """0.3 has the best trial, with seed 4; 0.2 has the best mean."""
    lr, seed = config["train"]["lr"], config["seed"]
    return float({(0.3, 4): 0.9, (0.3, 7): 0.1, (0.2, 4): 0.6, (0.2, 7): 0.6}.get((lr, seed), 0.2)) + epoch / 100


@pytest.fixture
def sweep(tmp_path: Path) -> SimulatedSweep:
    return SimulatedSweep(tmp_path, objective)


def failing(kind: FailureKind, lr: float, seed: int) -> Any:
    """The objective, but that one trial fails."""

    def fail(config: Mapping[str, Any], epoch: int) -> float:
        if (config["train"]["lr"], config["seed"]) == (lr, seed):
            raise AttemptFailsError(kind)
        return objective(config, epoch)

    return fail


def of_stage(store: SweepStore, stage: str) -> list[StoredTrial]:
    return [trial for trial in store.trials() if trial.stage == stage]


def final_entries(sweep: SimulatedSweep, spec: str) -> list[Entry]:
    return [entry for entry in sweep.entries(spec) if entry.plan.stage == "final"]


class TestWhatItTrains:
    def test_the_best_mean_on_data_that_the_search_never_saw(self, sweep: SimulatedSweep) -> None:
        run = sweep.run(SPEC)
        configs = [read_config(trial) for trial in of_stage(sweep.store, "final")]
        expected = read_config(
            next(trial for trial in sweep.store.trials() if read_config(trial)["train"]["lr"] == 0.2)
        )
        for config, seed in zip(configs, [8, 9], strict=True):
            assert config == {
                **expected,
                "seed": seed,
                "data": {**expected["data"], "train": "trainval", "eval": "test"},
                "evaluate": {**expected["evaluate"], "every": 3},
            }
        assert "lr=0.2 (ap50_11pt/mean 0.6300, mean of 2 seeds) trains on trainval with seeds 8, 9" in run.said
        assert len(run.launched) == run.total == 6 + 2

    def test_minimize_has_another_winner(self, sweep: SimulatedSweep) -> None:
        spec = SPEC + "objective: {metric: ap50_11pt/mean, direction: minimize}\n"
        sweep.run(spec)
        assert [entry.plan.config.train.lr for entry in final_entries(sweep, spec)] == [0.1, 0.1]

    def test_of_equal_ones_the_first(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: 0.5)
        sweep.run(SPEC)
        assert [entry.plan.config.train.lr for entry in final_entries(sweep, SPEC)] == [0.1, 0.1]

    def test_with_seeds_of_its_own(self, sweep: SimulatedSweep) -> None:
        spec = SPEC.replace("eval: test, seeds: 2", "eval: test, seeds: [5]")
        run = sweep.run(spec)
        assert [entry.plan.config.seed for entry in final_entries(sweep, spec)] == [5]
        assert "trains on trainval with seed 5 and" in run.said

    def test_one_that_a_sampler_found(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: float(config["train"]["lr"]))
        run = sweep.run(SAMPLED)
        best = max(entry.plan.config.train.lr for entry in sweep.entries(SAMPLED) if entry.plan.stage == "search")
        assert best > 0.4
        assert [entry.plan.config.train.lr for entry in final_entries(sweep, SAMPLED)] == [best, best]
        assert len(run.launched) == run.total == 2 * (3 + 3) + 2
        assert sweep.run(SAMPLED).launched == []

    def test_the_values_are_no_part_of_the_search(self, tmp_path: Path) -> None:
        """Neither in the study that a dashboard shows, nor for the best trial."""
        best_of_all = SimulatedSweep(tmp_path, lambda config, epoch: 0.99 if is_final(config) else 0.5)
        run = best_of_all.run(SPEC)
        study = Study(file=best_of_all.store.study, name="sweep: maximize ap50_11pt/mean", direction="maximize")
        in_search = study._studies["search"].trials
        in_final = study._studies["final"].trials
        study.close()
        assert [trial.value for trial in in_search] == [0.5] * 6
        assert [trial.value for trial in in_final] == [0.99] * 2
        assert "best ap50_11pt/mean 0.9900" not in run.said


def is_final(config: Mapping[str, Any]) -> bool:
    return bool(config["data"]["eval"] == "test")


class TestWhenItBegins:
    @pytest.mark.parametrize("seed", range(3))
    def test_after_the_search_however_it_ends(self, tmp_path: Path, seed: int) -> None:
        """On three slots, in any order, killed again and again: no trial of the search runs after a final one."""
        stages: list[bool] = []

        def noted(config: Mapping[str, Any], epoch: int) -> float:
            stages.append(is_final(config))
            return objective(config, epoch)

        sweep = SimulatedSweep(tmp_path, noted)
        rng = random.Random(seed)
        while not sweep.run(SAMPLED, slots=3, order=rng, kill_after=rng.randint(1, 30)).finished:
            pass
        assert stages == sorted(stages)
        assert stages.count(True) == 2 * 3
        assert {entry.state for entry in sweep.entries(SAMPLED)} == {TrialState.COMPLETE}
        assert len(of_stage(sweep.store, "final")) == 2

    def test_a_trial_that_failed_holds_it_back(self, tmp_path: Path) -> None:
        """Though it is no replicate of the winner: with it, its configuration might win."""
        sweep = SimulatedSweep(tmp_path, failing(FailureKind.ERROR, 0.1, 7))
        run = sweep.run(SPEC)
        assert "no final stage yet: 1 trial of the search failed and might still be the best" in run.said
        assert (len(run.launched), run.total) == (6, 6 + 2)
        assert final_entries(sweep, SPEC) == of_stage(sweep.store, "final") == []

    def test_until_it_has_run(self, tmp_path: Path) -> None:
        SimulatedSweep(tmp_path, failing(FailureKind.DATA, 0.1, 7)).run(SPEC)
        mended = SimulatedSweep(tmp_path, objective)
        assert mended.run(SPEC).launched == []
        run = mended.run(SPEC, retry_failed=True)
        assert len(run.launched) == 1 + 2
        assert [entry.state for entry in final_entries(mended, SPEC)] == [TrialState.COMPLETE] * 2

    def test_or_is_no_longer_in_the_spec(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, failing(FailureKind.ERROR, 0.1, 7))
        sweep.run(SPEC)
        shorter = SPEC.replace("[0.1, 0.2, 0.3]", "[0.2, 0.3]")
        assert len(sweep.run(shorter).launched) == 2

    @pytest.mark.parametrize("kind", [FailureKind.NON_FINITE_LOSS, FailureKind.OUT_OF_MEMORY])
    def test_a_failure_that_tells_of_the_configuration_does_not(self, tmp_path: Path, kind: FailureKind) -> None:
        sweep = SimulatedSweep(tmp_path, failing(kind, 0.2, 7))
        sweep.run(SPEC)
        assert [entry.plan.config.train.lr for entry in final_entries(sweep, SPEC)] == [0.3, 0.3]  # 0.2 is not complete

    def test_not_where_no_configuration_is_complete(self, tmp_path: Path) -> None:
        def diverges(config: Mapping[str, Any], epoch: int) -> float:
            raise AttemptFailsError(FailureKind.NON_FINITE_LOSS)

        run = SimulatedSweep(tmp_path, diverges).run(SPEC)
        assert "no final stage yet: no configuration of the search is complete" in run.said
        assert len(run.launched) == 6

    def test_a_spec_without_one_has_none(self, sweep: SimulatedSweep) -> None:
        plain = SPEC.partition("final:")[0]
        assert len(sweep.run(plain).launched) == 6
        assert of_stage(sweep.store, "final") == []


class TestAgain:
    def test_a_second_run_does_nothing(self, sweep: SimulatedSweep) -> None:
        sweep.run(SPEC)
        again = sweep.run(SPEC)
        assert again.launched == []
        assert "sweep sweep: 8 trials, 8 finished before, 0 to run" in again.said
        assert "final stage:" not in again.said
        assert "warning" not in again.said

    def test_a_kill_in_its_midst_is_continued(self, sweep: SimulatedSweep) -> None:
        assert not sweep.run(SPEC, kill_after=6 * 5 + 2).finished  # the first final trial has one epoch
        assert len(of_stage(sweep.store, "final")) == 1
        run = sweep.run(SPEC)
        assert len(run.launched) == 2
        assert "warning" not in run.said
        assert len(of_stage(sweep.store, "final")) == 2

    def test_another_winner_is_measured_with_a_warning(self, sweep: SimulatedSweep) -> None:
        sweep.run(SPEC)
        numbers = [trial.number for trial in of_stage(sweep.store, "final")]
        more = SPEC.replace("seeds: [4, 7]", "seeds: [4]")  # by seed 4 alone, 0.3 is the best
        run = sweep.run(more)
        assert numbers == [6, 7]
        assert "split test was measured on before, for another configuration (trials 6, 7): it is no longer unseen" in (
            run.said
        )
        assert [entry.plan.config.train.lr for entry in final_entries(sweep, more)] == [0.3, 0.3]
        assert len(of_stage(sweep.store, "final")) == 4

    def test_more_seeds_train_alone(self, sweep: SimulatedSweep) -> None:
        sweep.run(SPEC)
        more = SPEC.replace("eval: test, seeds: 2", "eval: test, seeds: 3")
        run = sweep.run(more)
        assert [entry.plan.config.seed for entry in final_entries(sweep, more)] == [8, 9, 10]
        assert len(run.launched) == 1
        assert "warning" not in run.said

    @pytest.mark.parametrize(
        ("before", "after"), [("seeds: 2}", "seeds: 1}"), ("seeds: 2}", "seeds: [11]}"), ("[4, 7]", "[4, 7, 8]")]
    )
    def test_another_seed_of_the_same_winner_is_no_other_configuration(
        self, sweep: SimulatedSweep, before: str, after: str
    ) -> None:
        sweep.run(SPEC)
        changed = SPEC.replace(before, after)
        run = sweep.run(changed)
        assert {entry.plan.config.train.lr for entry in final_entries(sweep, changed)} == {0.2}
        assert "warning" not in run.said

    def test_it_is_taken_over_from_another_sweep_like_any_other_trial(self, tmp_path: Path) -> None:
        SimulatedSweep(tmp_path, objective).run(SPEC)
        second = SimulatedSweep(tmp_path, objective, name="second")
        assert second.run(SPEC, reuse=True).launched == []
        results = [entry.result for entry in final_entries(second, SPEC)]
        assert [result.reused_from for result in results if result is not None] == [
            f"sweep/{trial.paths.folder.name}" for trial in of_stage(SweepStore(tmp_path / "results/sweep"), "final")
        ]
