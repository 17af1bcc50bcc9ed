"""Sampled sweeps as a whole: the same spec gives the same trials, whatever happened on the way, and none twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from simulated_sweep import SimulatedSweep

SPEC = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 1}
search:
  - grid: {train.lr: [0.5]}
  - sample:
      train.lr: {float: [0.0001, 1.0]}
      model.refinement: {choice: [0, 3]}
      model.refinement_ignore_iou: {float: [0.0, 0.3], when: {model.refinement: 3}}
    exclude: [{model.refinement: 0, train.lr: {max: 0.2}}]
    sampler: %s
    trials: %d
seeds: 2
"""
BUDGETS = {"tpe": 16, "random": 6, "qmc": 6, "cmaes": 6, "gp": 12}
"""Enough for the model to have its say: of `tpe` and `gp` after 10 points."""

BLOCK = """\
  - sample: {train.lr: {float: [0.0001, 1.0]}}
    sampler: random
    trials: 3
"""
TO_A_HALF = "    only: [{train.lr: {max: 0.5}}]\n"
FROM_A_HALF = "    only: [{train.lr: {min: 0.5}}]\n"

SQUARE = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
  train: {epochs: 1}
search:
  - sample:
      train.batch_size: {int: [1, 12]}
      proposals.count: {choice: [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]}
    sampler: tpe
    sampler_seed: %d
    trials: 60
"""


def objective(config: Mapping[str, Any], epoch: int) -> float:
    """Best at a learning rate of 0.3 with refinement; the seeds differ."""
    refined = 0.1 + config["model"]["refinement_ignore_iou"] if config["model"]["refinement"] else 0.0
    return float(0.5 - abs(config["train"]["lr"] - 0.3) / 2 + refined + config["seed"] / 1000)


def undisturbed(folder: Path, sampler: str) -> list[str]:
    """The signatures of a sweep that runs on one slot from beginning to end, in their order."""
    run = SimulatedSweep(folder, objective).run(SPEC % (sampler, BUDGETS[sampler]))
    assert run.finished
    assert len(run.launched) == len(set(run.launched)) == 2 * (1 + BUDGETS[sampler])
    return run.launched


class TestOrder:
    @pytest.mark.parametrize(
        "sampler", [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in BUDGETS]
    )
    def test_a_sweep_that_is_killed_again_and_again_has_the_same_trials_in_the_same_order(
        self, tmp_path: Path, sampler: str
    ) -> None:
        """Killed between any two of: a trial begins, an epoch is on disk, a result is on disk, the study is told."""
        (tmp_path / "whole").mkdir()
        (tmp_path / "pieces").mkdir()
        expected = undisturbed(tmp_path / "whole", sampler)
        sweep = SimulatedSweep(tmp_path / "pieces", objective)
        runs = sweep.run_in_pieces(SPEC % (sampler, BUDGETS[sampler]), every=7)
        assert len(runs) > 3
        assert sweep.signatures() == expected
        first_launches = list(dict.fromkeys(signature for run in runs for signature in run.launched))
        assert [signature for signature in expected if signature in first_launches] == first_launches

    def test_another_process_with_other_hashes_has_the_same(self, tmp_path: Path) -> None:
        expected = undisturbed(tmp_path, "tpe")
        for hash_seed in ("0", "4242"):
            folder = tmp_path / hash_seed
            folder.mkdir()
            path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1] / "support", *sys.path)))
            command = (
                "import pathlib, sys, test_sampling_sweeps as t;"
                "print(*t.undisturbed(pathlib.Path(sys.argv[1]), 'tpe'), sep='\\n')"
            )
            found = subprocess.run(
                [sys.executable, "-c", command, str(folder)],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=True,
            )
            assert found.stdout.split() == expected

    def test_the_seed_of_the_sampler_matters(self, tmp_path: Path) -> None:
        first, second = (SimulatedSweep(tmp_path, objective, name=name) for name in ("first", "second"))
        spec = SPEC % ("random", 3)
        first.run(spec)
        second.run(spec.replace("sampler: random", "sampler: random\n    sampler_seed: 1"))
        assert set(first.signatures()) & set(second.signatures()) == set(first.signatures()[:2])  # those of the grid


class TestLearning:
    def test_from_what_a_grid_found_in_its_space(self, tmp_path: Path) -> None:
        """The first draws of `tpe` are near the grid's best; without the grid they are all over."""
        block = BLOCK.replace("random", "tpe").replace("trials: 3", "trials: 6")
        grid = "  - grid: {train.lr: {linspace: [0.05, 0.95, 19]}}\n"
        far = []
        for name, blocks in (("with", grid + block), ("without", block)):
            spec = SPEC.partition("search:")[0] + "search:\n" + blocks
            sweep = SimulatedSweep(tmp_path, objective, name=name)
            sweep.run(spec)
            drawn = [entry.plan.config.train.lr for entry in sweep.entries(spec) if entry.plan.draw is not None]
            assert len(drawn) == 6
            far.append(sum(abs(rate - 0.3) for rate in drawn))
        assert far[0] < far[1] / 2


class TestBudget:
    @pytest.mark.parametrize("seed", range(4))
    def test_counts_configurations_exactly_over_any_restarts(self, tmp_path: Path, seed: int) -> None:
        """On three slots, with trials that end in any order and a runner that is killed at random."""
        rng = random.Random(seed)
        sweep = SimulatedSweep(tmp_path, objective)
        spec = SPEC % ("tpe", 7)
        while not sweep.run(spec, slots=3, order=rng, kill_after=rng.randint(1, 25)).finished:
            pass
        found = sweep.entries(spec)
        assert Counter(Counter(entry.plan.configuration for entry in found).values()) == {2: 8}
        assert sorted(entry.plan.signature for entry in found) == sorted(sweep.signatures())
        assert sweep.run(spec).launched == []

    @pytest.mark.parametrize("rules", [("", ""), (TO_A_HALF, FROM_A_HALF)], ids=["twins", "halves"])
    def test_of_blocks_that_differ_in_their_rules_alone(self, tmp_path: Path, rules: tuple[str, str]) -> None:
        """Each has its own, also in later runs."""
        spec = SPEC.partition("search:")[0] + "search:\n" + "".join(BLOCK + rule for rule in rules)
        sweep = SimulatedSweep(tmp_path, objective)
        assert len(sweep.run(spec).launched) == 6
        assert sweep.run(spec).launched == []
        assert len(sweep.entries(spec)) == 6
        (tmp_path / "pieces").mkdir()
        pieces = SimulatedSweep(tmp_path / "pieces", objective)
        pieces.run_in_pieces(spec, every=3)
        assert len(pieces.signatures()) == 6


class TestDuplicates:
    @pytest.mark.parametrize("seeds", [2, pytest.param(8, marks=pytest.mark.slow)])
    def test_none_where_optuna_alone_has_some(self, tmp_path: Path, seeds: int) -> None:
        """TPE on 4 slots, 60 trials of 144 combinations, objective best in a corner."""
        plain = [duplicates_of_plain_optuna(seed) for seed in range(seeds)]
        assert max(plain) > 0, "the task is too easy to show anything"
        for seed in range(seeds):
            folder = tmp_path / str(seed)
            folder.mkdir()
            sweep = SimulatedSweep(folder, corner)
            run = sweep.run(SQUARE % seed, slots=4, order=random.Random(seed))
            assert len(run.launched) == len(set(run.launched)) == 60
            assert len({entry.plan.configuration for entry in sweep.entries(SQUARE % seed)}) == 60


def corner(config: Mapping[str, Any], epoch: int) -> float:
    return float(config["train"]["batch_size"] / 12 + config["proposals"]["count"] / 120)


def duplicates_of_plain_optuna(seed: int) -> int:
    """How many of 60 trials, 4 at a time, are combinations that were tried before."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True))
    rng = random.Random(seed)
    running: list[tuple[optuna.Trial, int, int]] = []
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        trial = study.ask()
        pair = (trial.suggest_int("batch_size", 1, 12), 10 * (1 + trial.suggest_categorical("count", range(12))))
        seen[pair] += 1
        running.append((trial, *pair))
        if len(running) == 4:
            done, batch_size, count = running.pop(rng.randrange(4))
            study.tell(done, batch_size / 12 + count / 120)
    return sum(times - 1 for times in seen.values())
