"""Sweeps with a pruner: a configuration goes on or ends with all of its seeds, and a restart decides alike."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import RunnerKilledError, SimulatedExecutor, SimulatedSweep

from experiments.ledger import Ledger
from experiments.metrics_file import read_metrics
from experiments.report.entries import Entry
from experiments.store import StoredTrial, TrialResult
from experiments.study import Study
from experiments.trial import TrialState

HEAD = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 4}
"""
ASHA = (
    HEAD
    + """\
search:
  - grid: {train.lr: [0.9, 0.1, 0.2, 0.95, 0.93, 0.94]}
seeds: 2
pruner: {asha: {min_epochs: 1, reduction_factor: 3}}
"""
)
MEDIAN = (
    HEAD
    + """\
search:
  - grid: {train.lr: [0.5, 0.6, 0.1, 0.9, 0.604, 0.3]}
seeds: 2
pruner: {median: {startup_trials: 2, warmup_epochs: 1}}
"""
)
SAMPLED = (
    HEAD
    + """\
search:
  - grid: {train.lr: [0.5]}
  - sample: {train.lr: {float: [0.01, 1.0]}}
    sampler: tpe
    trials: 14
seeds: 2
pruner: {asha: {min_epochs: 1, reduction_factor: 2}}
"""
)
SPECS = {"asha": ASHA, "median": MEDIAN, "sampled": SAMPLED}

STEPS_OF_A_TRIAL = 1 + 4 + 1
"""Launch, rows, result: what `kill_after` counts."""

Seen = dict[tuple[float, int], tuple[TrialState, str, int]]
"""(learning rate, seed) -> state, stop reason, epochs."""


def rate(config: Mapping[str, Any], epoch: int) -> float:
    """The learning rate, at all epochs and for all seeds; in two digits, so that there are ties."""
    return round(float(config["train"]["lr"]), 2)


class Trained:
    """An objective that notes which epochs were trained."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, int, int]] = []

    def __call__(self, config: Mapping[str, Any], epoch: int) -> float:
        self.epochs.append((config["train"]["lr"], config["seed"], epoch))
        return rate(config, epoch)


def seen(sweep: SimulatedSweep, spec: str) -> Seen:
    found = {}
    for entry in sweep.entries(spec):
        assert entry.result is not None
        key = (entry.plan.config.train.lr, entry.plan.config.seed)
        found[key] = (entry.state, entry.result.stop_reason, entry.result.epochs)
    return found


def stored(entry: Entry) -> StoredTrial:
    assert entry.trial is not None
    return entry.trial


def both_seeds(*of: tuple[float, TrialState, str, int, int]) -> Seen:
    """Learning rate, state, reason, epochs of seed 0 and of seed 1."""
    return {(lr, seed): (state, reason, epochs) for lr, state, reason, *both in of for seed, epochs in enumerate(both)}


class TestOneSlot:
    """A configuration that loses with its first seed never starts its second."""

    def test_asha(self, tmp_path: Path) -> None:
        """Rungs at epochs 1 and 3; of so many there the best third goes on, the first always."""
        sweep = SimulatedSweep(tmp_path, rate)
        run = sweep.run(ASHA)
        assert seen(sweep, ASHA) == both_seeds(
            (0.9, TrialState.COMPLETE, "", 4, 4),
            (0.1, TrialState.PRUNED, "asha: 0.1 at epoch 1 is not among the best 1 of 2", 1, 0),
            (0.2, TrialState.PRUNED, "asha: 0.2 at epoch 1 is not among the best 1 of 3", 1, 0),
            (0.95, TrialState.COMPLETE, "", 4, 4),
            (0.93, TrialState.PRUNED, "asha: 0.93 at epoch 1 is not among the best 1 of 5", 1, 0),
            (0.94, TrialState.PRUNED, "asha: 0.94 at epoch 3 is not among the best 1 of 3", 3, 0),
        )
        assert len(run.launched) == len(set(run.launched)) == 8
        assert run.said.count("pruned: asha: 0.1 at epoch 1") == 2
        assert sweep.run(ASHA).launched == []

    def test_median(self, tmp_path: Path) -> None:
        """From epoch 2 on, once two configurations are complete; who equals the median (0.604) goes on."""
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(MEDIAN)
        reason = "median: {}, the best up to epoch 2, is worse than {}, the median of {}"
        assert seen(sweep, MEDIAN) == both_seeds(
            (0.5, TrialState.COMPLETE, "", 4, 4),
            (0.6, TrialState.COMPLETE, "", 4, 4),
            (0.1, TrialState.PRUNED, reason.format(0.1, 0.55, 2), 2, 0),
            (0.9, TrialState.COMPLETE, "", 4, 4),
            (0.604, TrialState.COMPLETE, "", 4, 4),
            (0.3, TrialState.PRUNED, reason.format(0.3, 0.6, 4), 2, 0),
        )

    def test_the_study_and_the_metrics_of_a_pruned_trial(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(ASHA)
        pruned = [entry for entry in sweep.entries(ASHA) if entry.state is TrialState.PRUNED]
        study = Study(file=sweep.store.study, name="sweep: maximize ap50_11pt/mean", direction="maximize")
        known = study.trials()
        study.close()
        assert [known[stored(entry).number].state for entry in pruned] == [TrialState.PRUNED] * 8
        assert [known[stored(entry).number].attempts for entry in pruned] == [1, 0] * 4
        assert [entry.metric("ap50_11pt/mean") for entry in pruned] == [0.1, None, 0.2, None, 0.93, None, 0.94, None]

    def test_minimize_turns_it_around(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: -rate(config, epoch))
        turned = ASHA + "objective: {metric: ap50_11pt/mean, direction: minimize}\n"
        sweep.run(turned)
        complete = {key for key, (state, _, _) in seen(sweep, turned).items() if state is TrialState.COMPLETE}
        assert complete == {(0.9, 0), (0.9, 1), (0.95, 0), (0.95, 1)}

    def test_no_pruner_no_pruning(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, rate)
        plain = ASHA.partition("pruner:")[0]
        sweep.run(plain)
        assert {state for state, _, _ in seen(sweep, plain).values()} == {TrialState.COMPLETE}


class TestReplicates:
    @pytest.mark.parametrize("seed", range(3))
    def test_all_that_run_are_stopped(self, tmp_path: Path, seed: int) -> None:
        """On 4 slots the seeds of two configurations are under way at once."""
        sweep = SimulatedSweep(tmp_path, rate)
        spec = ASHA.replace("[0.9, 0.1, 0.2, 0.95, 0.93, 0.94]", "[0.9, 0.1]").replace("epochs: 4", "epochs: 30")
        run = sweep.run(spec, slots=4, order=random.Random(seed))
        assert len(run.launched) == 4
        found = seen(sweep, spec)
        assert {found[0.9, 0], found[0.9, 1]} == {(TrialState.COMPLETE, "", 30)}
        assert {found[0.1, s][0] for s in (0, 1)} == {TrialState.PRUNED}
        assert found[0.1, 0][1] == found[0.1, 1][1]
        assert max(found[0.1, s][2] for s in (0, 1)) < 30

    def test_the_mean_decides_also_after_one_is_complete(self, tmp_path: Path) -> None:
        """The second seed of 0.95 is poor: alone the first would have won, together they lose, as a whole."""
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: rate(config, epoch) - poor_second(config))
        spec = ASHA.replace("[0.9, 0.1, 0.2, 0.95, 0.93, 0.94]", "[0.9, 0.95]")
        sweep.run(spec)
        assert seen(sweep, spec) == {
            (0.9, 0): (TrialState.COMPLETE, "", 4),
            (0.9, 1): (TrialState.COMPLETE, "", 4),
            (0.95, 0): (TrialState.COMPLETE, "", 4),
            (0.95, 1): (TrialState.PRUNED, "asha: 0.7 at epoch 1 is not among the best 1 of 2", 1),
        }

    def test_one_that_is_added_to_a_pruned_configuration_is_pruned_before_it_starts(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(ASHA)
        more = ASHA.replace("seeds: 2", "seeds: 3")
        assert len(sweep.run(more).launched) == 2  # of the two complete configurations
        assert seen(sweep, more)[0.1, 2] == (
            TrialState.PRUNED,
            "asha: 0.1 at epoch 1 is not among the best 1 of 2",
            0,
        )


def poor_second(config: Mapping[str, Any]) -> float:
    return 0.5 if (config["train"]["lr"], config["seed"]) == (0.95, 1) else 0.0


def folder(path: Path) -> Path:
    path.mkdir()
    return path


class TestRestarts:
    @pytest.mark.parametrize("every", [1, 4])
    @pytest.mark.parametrize("name", SPECS)
    def test_decide_alike(self, tmp_path: Path, name: str, every: int) -> None:
        """Killed between any two of: a trial begins, a row or a result is on disk, the runner knows of it."""
        whole, pieces = folder(tmp_path / "whole"), folder(tmp_path / "pieces")
        uninterrupted = SimulatedSweep(whole, rate)
        uninterrupted.run(SPECS[name])
        expected = seen(uninterrupted, SPECS[name])
        assert {state for state, _, _ in expected.values()} == {TrialState.COMPLETE, TrialState.PRUNED}
        sweep = SimulatedSweep(pieces, rate)
        assert len(sweep.run_in_pieces(SPECS[name], every=every)) > 3
        assert seen(sweep, SPECS[name]) == expected
        assert sweep.signatures() == uninterrupted.signatures()

    def test_a_runner_that_dies_between_a_decision_and_its_result_decides_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The row is on disk, the attempt was told to stop, and nothing says PRUNED yet."""
        trained = Trained()
        sweep = SimulatedSweep(tmp_path, trained)
        with monkeypatch.context() as killing:
            killing.setattr("experiments.ledger.Ledger.finish", killed)
            assert not sweep.run(ASHA).finished
        assert trained.epochs[-1] == (0.1, 0, 1)
        sweep.run(ASHA)
        assert seen(sweep, ASHA)[0.1, 0] == (
            TrialState.PRUNED,
            "asha: 0.1 at epoch 1 is not among the best 1 of 2",
            1,
        )
        assert [epoch for epoch in trained.epochs if epoch[0] == 0.1] == [(0.1, 0, 1)]

    def test_a_decision_stands_though_the_attempt_reported_more_before_it_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Told to stop after epoch 1, it still reports epoch 2, where no decision is due; then the runner dies."""
        trained = Trained()
        sweep = SimulatedSweep(tmp_path, trained)
        with monkeypatch.context() as late:
            late.setattr(SimulatedExecutor, "stop", lambda executor, number: None)
            assert not sweep.run(ASHA, kill_after=2 * STEPS_OF_A_TRIAL + 2).finished
        assert trained.epochs[-2:] == [(0.1, 0, 1), (0.1, 0, 2)]
        sweep.run(ASHA)
        assert seen(sweep, ASHA)[0.1, 0] == (
            TrialState.PRUNED,
            "asha: 0.1 at epoch 1 is not among the best 1 of 2",
            2,
        )
        assert seen(sweep, ASHA)[0.1, 1] == (TrialState.PRUNED, "asha: 0.1 at epoch 1 is not among the best 1 of 2", 0)

    def test_and_one_that_dies_between_the_result_and_the_study_tells_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = SimulatedSweep(tmp_path, rate)
        with monkeypatch.context() as killing:
            killing.setattr("experiments.ledger.Ledger._tell", killed_at(TrialState.PRUNED))
            assert not sweep.run(ASHA).finished
        sweep.run(ASHA)
        pruned = {key for key, (state, _, _) in seen(sweep, ASHA).items() if state is TrialState.PRUNED}
        assert pruned == {(lr, seed) for lr in (0.1, 0.2, 0.93, 0.94) for seed in (0, 1)}


def killed(*_: Any, **__: Any) -> None:
    raise RunnerKilledError


def killed_at(state: TrialState) -> Any:
    """In place of `Ledger._tell`: kills the runner when it is about to tell the study of such a result."""
    tell = Ledger._tell

    def tell_or_die(ledger: Ledger, trial: StoredTrial, result: TrialResult) -> None:
        if result.state is state:
            raise RunnerKilledError
        tell(ledger, trial, result)

    return tell_or_die


class TestContinuePruned:
    def test_takes_them_up_where_they_stopped_and_trains_them_to_the_end(self, tmp_path: Path) -> None:
        trained = Trained()
        sweep = SimulatedSweep(tmp_path, trained)
        sweep.run(ASHA)
        before = {entry.plan.signature: stored(entry) for entry in sweep.entries(ASHA)}
        checkpoint = before[sweep.signatures()[-2]].paths.checkpoint  # of 0.94 with seed 0
        checkpoint.mkdir()
        (checkpoint / "3.pt").write_bytes(b"weights")
        trained.epochs.clear()
        run = sweep.run(ASHA, continue_pruned=True)
        assert run.finished
        assert {state for state, _, _ in seen(sweep, ASHA).values()} == {TrialState.COMPLETE}
        after = {entry.plan.signature: stored(entry) for entry in sweep.entries(ASHA)}
        assert {one: trial.paths for one, trial in after.items()} == {one: trial.paths for one, trial in before.items()}
        assert [epoch for lr, seed, epoch in trained.epochs if (lr, seed) == (0.94, 0)] == [4]
        assert [epoch for lr, seed, epoch in trained.epochs if (lr, seed) == (0.94, 1)] == [1, 2, 3, 4]
        assert [epoch for lr, seed, epoch in trained.epochs if (lr, seed) == (0.1, 0)] == [2, 3, 4]
        assert (checkpoint / "3.pt").read_bytes() == b"weights"
        assert not [epoch for lr, *epoch in trained.epochs if lr in (0.9, 0.95)]

    def test_is_remembered_by_later_runs_of_the_command(self, tmp_path: Path) -> None:
        """Killed in the midst of it, and continued without the option: still nobody stops them."""
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(ASHA)
        assert not sweep.run(ASHA, continue_pruned=True, kill_after=3).finished
        assert sweep.run(ASHA).finished
        assert {state for state, _, _ in seen(sweep, ASHA).values()} == {TrialState.COMPLETE}
        assert sweep.run(ASHA, continue_pruned=True).launched == []

    def test_is_not_undone_by_a_new_seed_that_loses(self, tmp_path: Path) -> None:
        """Seed 2 is judged first, and stops itself alone."""
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(ASHA)
        more = ASHA.replace("seeds: 2", "seeds: [2, 0, 1]")
        sweep.run(more, continue_pruned=True)
        states = [seen(sweep, more)[0.1, seed][0] for seed in (2, 0, 1)]
        assert states == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]

    def test_those_that_come_later_are_pruned_all_the_same(self, tmp_path: Path) -> None:
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(ASHA)
        sweep.run(ASHA, continue_pruned=True)
        more = ASHA.replace("0.94]", "0.94, 0.15]")
        assert len(sweep.run(more).launched) == 1
        assert {seen(sweep, more)[0.15, seed][0] for seed in (0, 1)} == {TrialState.PRUNED}

    def test_what_is_continued_counts_for_the_sampler(self, tmp_path: Path) -> None:
        """Its budget is not drawn again."""
        sweep = SimulatedSweep(tmp_path, rate)
        sweep.run(SAMPLED)
        drawn = sweep.signatures()
        sweep.run(SAMPLED, continue_pruned=True)
        assert sweep.signatures() == drawn
        assert {state for state, _, _ in seen(sweep, SAMPLED).values()} == {TrialState.COMPLETE}


class TestFinalStage:
    def test_is_not_pruned(self, tmp_path: Path) -> None:
        """Its first epochs are worse than anything that the search has seen."""
        spec = ASHA + "final: {train: trainval, eval: test, seeds: 2}\n"
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: 0.0 if is_final(config) else rate(config, epoch))
        assert len(sweep.run(spec).launched) == 8 + 2
        final = [entry for entry in sweep.entries(spec) if entry.plan.stage == "final"]
        assert [(entry.plan.config.train.lr, entry.state) for entry in final] == [(0.95, TrialState.COMPLETE)] * 2
        assert all([row["epoch"] for row in read_metrics(stored(entry).paths)] == [1, 2, 3, 4] for entry in final)

    def test_is_for_no_configuration_of_which_one_seed_was_pruned(self, tmp_path: Path) -> None:
        """0.95 has the best trial of all, and lost with its other seed."""
        sweep = SimulatedSweep(tmp_path, lambda config, epoch: rate(config, epoch) - poor_second(config))
        spec = ASHA.replace("[0.9, 0.1, 0.2, 0.95, 0.93, 0.94]", "[0.9, 0.95]")
        spec += "final: {train: trainval, eval: test, seeds: 1}\n"
        sweep.run(spec)
        final = [entry for entry in sweep.entries(spec) if entry.plan.stage == "final"]
        assert [entry.plan.config.train.lr for entry in final] == [0.9]


def is_final(config: Mapping[str, Any]) -> bool:
    return bool(config["data"]["eval"] == "test")
