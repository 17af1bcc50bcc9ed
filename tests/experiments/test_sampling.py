"""One suite for every sampler, and then what each of them promises besides. Run as a script, it prints draws."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import cmaes  # type: ignore[import-untyped]
import numpy as np
import optuna
import pytest

from experiments.parameters import Choice, Number, Parameter, Point, is_active, is_point
from experiments.sampling import Observation, PointSampler, SamplerName
from experiments.trial import TrialState
from wsol.seeding import derive_seed

TORCH_AT_IMPORT = "torch" in sys.modules

REPOSITORY = Path(__file__).resolve().parents[2]

NAMES: tuple[SamplerName, ...] = get_args(SamplerName)
LEARNERS: tuple[SamplerName, ...] = ("tpe", "gp", "cmaes")

SPACE: tuple[Parameter, ...] = (
    Choice("model.backbone", ("vgg16", None, [1, 2], True, 1)),
    Number("train.lr", 1e-5, 1e-1, integer=False, log=True, step=None),
    Number("train.momentum", 0, 0.9, integer=False, log=False, step=None),
    Number("train.drop", 0.1, 0.75, integer=False, log=False, step=0.1),
    Number("train.epochs", 5, 30, integer=True, log=False, step=5),
    Number("proposals.count", 10, 2000, integer=True, log=True, step=None),
    Number("model.width", 1, 8, True, False, None, {"model.backbone": ("vgg16", 1)}),
    Choice("model.pool", ("max", "lse"), {"model.backbone": ("vgg16", True), "task": ("wsddn",)}),
    Number("model.r", 0, 10, False, False, None, {"model.pool": ("lse",)}),
    Choice("never", (1, 2), {"task": ("localizer",)}),
)
FIXED = {"task": "wsddn"}

PLANE: tuple[Parameter, ...] = (
    Number("x", 0, 1, integer=False, log=False, step=None),
    Number("y", 0, 1, integer=False, log=False, step=None),
)


def sampler(
    name: SamplerName,
    parameters: Sequence[Parameter] = SPACE,
    *,
    seed: int = 0,
    direction: Literal["maximize", "minimize"] = "maximize",
) -> PointSampler:
    return PointSampler(name=name, seed=seed, direction=direction, parameters=parameters, fixed=FIXED)


def complete(point: Mapping[str, Any], value: float) -> Observation:
    return Observation(point, TrialState.COMPLETE, value, {})


def running(point: Mapping[str, Any]) -> Observation:
    return Observation(point, TrialState.RUNNING, None, {})


def random_end(point: Mapping[str, Any], rng: random.Random) -> Observation:
    """How a configuration may have ended: mostly well, better at a high learning rate."""
    value = math.log(point["train.lr"]) + rng.random() + point.get("model.width", 0) / 8
    state = rng.choice([TrialState.COMPLETE] * 5 + [TrialState.PRUNED, TrialState.FAIL])
    if state is TrialState.COMPLETE:
        return complete(point, value)
    return Observation(point, state, None, {1: value, 2: rng.random()} if state is TrialState.PRUNED else {})


def make_history(length: int, *, seed: int = 0) -> list[Observation]:
    """Random points of SPACE in all states; of 24 about 15 are COMPLETE."""
    rng = random.Random(seed)
    points = [sampler("random", seed=seed).draw(number, []) for number in range(length)]
    return [running(point) if index % 8 == 5 else random_end(point, rng) for index, point in enumerate(points)]


def cone(point: Mapping[str, Any]) -> float:
    """1 less the distance to the best point of PLANE."""
    return 1 - math.dist((point["x"], point["y"]), (0.3, 0.7))


def on_the_plane(length: int, *, seed: int = 0, sign: float = 1) -> list[Observation]:
    points = [sampler("random", PLANE, seed=seed).draw(number, []) for number in range(length)]
    return [complete(point, sign * cone(point)) for point in points]


HISTORY = make_history(24)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> SamplerName:
    found: SamplerName = request.param
    return found


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> SamplerName:
    found: SamplerName = request.param
    return found


def test_the_history_has_everything() -> None:
    assert {one.state for one in HISTORY} == set(TrialState) - {TrialState.WAITING}
    assert sum(one.state is TrialState.COMPLETE for one in HISTORY) > 12


class TestPurity:
    def test_the_same_draw_again_whatever_was_asked_between(self, name: SamplerName) -> None:
        one = sampler(name)
        first = one.draw(24, HISTORY)
        one.draw(3, HISTORY[:2])
        one.draw(25, HISTORY)
        one.draw(24, make_history(12, seed=1))
        assert one.draw(24, HISTORY) == first
        assert sampler(name).draw(24, HISTORY) == first

    def test_global_generators_have_no_part_in_it(self, name: SamplerName) -> None:
        first = sampler(name).draw(24, HISTORY)
        random.seed(1)
        optuna.samplers.RandomSampler().reseed_rng()
        assert sampler(name).draw(24, HISTORY) == first

    def test_a_history_that_goes_on_gives_what_a_new_sampler_gives(self, name: SamplerName) -> None:
        rng = random.Random(5)
        kept, history = sampler(name), make_history(14, seed=5)
        for number in range(14, 17 if name == "gp" else 40):
            history = changed(history, rng)
            drawn = kept.draw(number, history)
            assert drawn == sampler(name).draw(number, list(history)), number
            history = [*history, running(drawn)]

    def test_a_history_that_is_changed_in_place_is_seen(self, learner: SamplerName) -> None:
        history, kept = on_the_plane(30), sampler(learner, PLANE)
        kept.draw(30, history)
        history[:] = [replace(one, value=-(one.value or 0.0)) for one in history]
        assert kept.draw(30, history) == sampler(learner, PLANE).draw(30, list(history))

    def test_the_seed_gives_other_draws(self, name: SamplerName) -> None:
        assert sampler(name, seed=1).draw(24, HISTORY) != sampler(name, seed=2).draw(24, HISTORY)


def changed(history: list[Observation], rng: random.Random) -> list[Observation]:
    """Running ones end, out of order; now and then the past is another one."""
    if rng.random() < 0.1:
        return history[: rng.randrange(len(history))] + make_history(3, seed=rng.randrange(9))
    if rng.random() < 0.1:
        at = rng.randrange(len(history))
        return [*history[:at], random_end(history[at].point, rng), *history[at + 1 :]]
    ends = [one.state is TrialState.RUNNING and rng.random() < 0.4 for one in history]
    return [random_end(one.point, rng) if end else one for one, end in zip(history, ends, strict=True)]


def draws_for_another_process() -> dict[str, Any]:
    return {name: [sampler(name).draw(number, HISTORY) for number in (0, 24)] for name in NAMES}


def test_another_process_draws_the_same_and_the_import_brings_no_torch() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert json.loads(done.stdout) == {"torch": False, "draws": draws_for_another_process()}
    assert done.stderr == ""


class TestPoints:
    @staticmethod
    @cache
    def draws(name: SamplerName) -> list[Point]:
        numbers = range(5 if name == "gp" else 40)
        return [sampler(name).draw(n, []) for n in range(20)] + [sampler(name).draw(n, HISTORY) for n in numbers]

    def test_are_of_the_space(self, name: SamplerName) -> None:
        for point in self.draws(name):
            assert is_point(SPACE, point, FIXED)
            active = [one.key for one in SPACE if is_active(one, point, FIXED)]
            assert list(point) == active
            assert "never" not in point

    def test_have_pythons_own_types(self, name: SamplerName) -> None:
        types = {
            "train.lr": float,
            "train.momentum": float,
            "train.drop": float,
            "train.epochs": int,
            "proposals.count": int,
            "model.width": int,
            "model.pool": str,
            "model.r": float,
        }
        for point in self.draws(name):
            assert {key: type(value) for key, value in point.items() if key in types} == {
                key: types[key] for key in point if key in types
            }
            assert type(point["model.backbone"]) in (str, type(None), list, bool, int)

    def test_have_every_choice_and_every_step(self) -> None:
        points = [sampler("random").draw(number, []) for number in range(150)]
        assert {json.dumps(point["model.backbone"]) for point in points} == {'"vgg16"', "null", "[1, 2]", "true", "1"}
        assert {point["train.drop"] for point in points} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
        assert {point["train.epochs"] for point in points} == {5, 10, 15, 20, 25, 30}
        assert {point["model.width"] for point in points if "model.width" in point} == set(range(1, 9))

    def test_differ_from_draw_to_draw(self, name: SamplerName) -> None:
        for history in ([], HISTORY):
            points = [sampler(name).draw(number, history) for number in range(3)]
            assert all(a != b for a, b in combinations(points, 2))

    def test_of_a_space_without_parameters(self, name: SamplerName) -> None:
        history = [complete({}, 1.0)] * 12
        assert sampler(name, ()).draw(0, []) == sampler(name, ()).draw(12, history) == {}

    def test_of_a_space_with_one_point(self, name: SamplerName) -> None:
        parameters = (
            Choice("a", ([1],)),
            Number("n", 3, 3, True, False, None),
            Number("x", 0.5, 0.5, False, True, None),
        )
        point = {"a": [1], "n": 3, "x": 0.5}
        history = [complete(point, 1.0)] * 12
        assert sampler(name, parameters).draw(0, []) == sampler(name, parameters).draw(12, history) == point

    def test_of_choices_alone(self, name: SamplerName) -> None:
        parameters = (Choice("a", (1, True)), Choice("b", (None, "x"), {"a": (True,)}))
        history = [complete({"a": 1} if i % 2 else {"a": True, "b": None}, float(i)) for i in range(12)]
        assert all(is_point(parameters, sampler(name, parameters).draw(n, history), {}) for n in range(12, 18))

    def test_of_one_number(self, name: SamplerName) -> None:
        history = [complete({"x": i / 12}, float(i)) for i in range(12)]
        assert all(is_point(PLANE[:1], sampler(name, PLANE[:1]).draw(n, history), {}) for n in range(12, 15))


class TestHistories:
    def test_pruned_and_failed_ones_alone(self, name: SamplerName) -> None:
        ends = [Observation(one.point, TrialState.FAIL, None, {}) for one in HISTORY[:12]]
        ends += [Observation(one.point, TrialState.PRUNED, None, {1: 0.5}) for one in HISTORY[12:20]]
        ends += [
            Observation(one.point, TrialState.PRUNED, None, curve)
            for one in HISTORY[20:]
            for curve in ({}, {3: math.nan})
        ]
        assert is_point(SPACE, sampler(name).draw(28, ends), FIXED)

    @pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
    def test_a_value_that_is_none_teaches_what_a_failure_does(self, name: SamplerName, value: float | None) -> None:
        history = on_the_plane(12)
        failed = [*history, Observation({"x": 0.5, "y": 0.5}, TrialState.FAIL, None, {})]
        without = [*history, Observation({"x": 0.5, "y": 0.5}, TrialState.COMPLETE, value, {})]
        assert sampler(name, PLANE).draw(13, without) == sampler(name, PLANE).draw(13, failed)

    @pytest.mark.parametrize(
        "point", [{"x": 0.5}, {"x": 0.5, "y": 1.5}, {"x": 0.5, "y": 0.5, "z": 1}, {}, {"x": "0.5", "y": 0.5}]
    )
    def test_a_point_of_another_space_teaches_nothing(self, name: SamplerName, point: Point) -> None:
        history = on_the_plane(12)
        strange = [*history[:6], complete(point, 9.0), *history[6:], running(point)]
        assert sampler(name, PLANE).draw(14, strange) == sampler(name, PLANE).draw(14, history)

    def test_values_may_have_been_written_and_read(self, name: SamplerName) -> None:
        """1 for 1.0, a tuple for a list, a rounding: the same observation."""
        point = {**sampler("random").draw(0, []), "model.backbone": [1, 2], "train.drop": 0.3, "train.epochs": 10}
        point = {key: value for key, value in point.items() if key not in ("model.width", "model.pool", "model.r")}
        other = {**point, "model.backbone": (1, 2), "train.drop": 0.1 + 0.2, "train.epochs": 10.0}
        drawn = [sampler(name).draw(25, [*HISTORY, complete(one, 0.5)]) for one in (point, other)]
        assert drawn[0] == drawn[1]

    def test_direction(self, name: SamplerName) -> None:
        up, down = on_the_plane(20), on_the_plane(20, sign=-1)
        best = sampler(name, PLANE, direction="maximize").draw(20, up)
        assert sampler(name, PLANE, direction="minimize").draw(20, down) == best
        worst = sampler(name, PLANE, direction="minimize").draw(20, up)
        assert (worst != best) == (name in LEARNERS)

    def test_300_entries(self, name: SamplerName) -> None:
        history, one = make_history(300), sampler(name)
        ended = [complete(one.point, 0.5) if one.state is TrialState.RUNNING else one for one in history[:-8]]
        began = time.perf_counter()
        assert is_point(SPACE, one.draw(300, [*ended, *history[-8:]]), FIXED)
        middle = time.perf_counter()
        assert is_point(SPACE, one.draw(301, [*ended, *history[-8:]]), FIXED)
        print(f"{name}: {middle - began:.3f} s, and {time.perf_counter() - middle:.3f} s for another draw")


class TestQuiet:
    def test_nothing_is_said_and_nothing_stays_changed(
        self, name: SamplerName, capfd: pytest.CaptureFixture[str]
    ) -> None:
        verbosity, filters = optuna.logging.get_verbosity(), list(warnings.filters)
        sampler(name).draw(24, HISTORY)
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == verbosity
        assert warnings.filters == filters

    def test_also_after_a_fault(self) -> None:
        verbosity = optuna.logging.get_verbosity()
        waiting = Observation({"x": 0.5, "y": 0.5}, TrialState.WAITING, None, {})
        with pytest.raises(AssertionError, match="WAITING"):
            sampler("tpe", PLANE).draw(0, [waiting])
        assert optuna.logging.get_verbosity() == verbosity

    def test_other_warnings_get_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def warn(*_: object) -> float:
            warnings.warn("something else", UserWarning, stacklevel=1)
            return 0.5

        monkeypatch.setattr("optuna.samplers.RandomSampler.sample_independent", warn)
        with pytest.warns(UserWarning, match="something else"):
            sampler("random", PLANE).draw(0, [])


class TestLearning:
    @staticmethod
    def distance(name: SamplerName, seed: int) -> float:
        """How far the last 8 of 40 observations are from the best point, in the median; the others are random."""
        history, one = on_the_plane(32, seed=seed), sampler(name, PLANE, seed=seed)
        for number in range(32, 40):
            point = one.draw(number, history)
            history.append(complete(point, cone(point)))
        return statistics.median(1 - (one.value or 0.0) for one in history[32:])

    def test_it_comes_nearer_than_chance(self, learner: SamplerName) -> None:
        learned = statistics.median(self.distance(learner, seed) for seed in range(3 if learner == "gp" else 9))
        chance = statistics.median(self.distance("random", seed) for seed in range(9))
        assert learned < 0.6 * chance

    def test_conditional_parameters_are_learned_by_tpe(self) -> None:
        parameters = (Choice("a", (1, 2)), Number("x", 0, 1, False, False, None, {"a": (2,)}))
        points = [sampler("random", parameters).draw(number, []) for number in range(60)]
        history = [complete(point, 1 - abs(point.get("x", 1.5) - 0.8)) for point in points]
        drawn = [sampler("tpe", parameters).draw(number, history) for number in range(60, 90)]
        assert sum(abs(point.get("x", 1.5) - 0.8) < 0.2 for point in drawn) > 20

    def test_what_cmaes_cannot_model_does_not_stop_it(self) -> None:
        """Plain Optuna gives up for good where the COMPLETE trials come to have fewer parameters in common."""
        parameters = (
            Choice("a", (1, 2)),
            *PLANE,
            Number("z", 0, 1, False, False, None, {"a": (2,)}),
        )
        history: list[Observation] = []
        one = sampler("cmaes", parameters)
        for number in range(60):
            point = one.draw(number, history) if number > 5 else {"a": 2, "x": number / 6, "y": 0.5, "z": 0.5}
            history.append(complete(point, cone(point)))
        assert {one.point["a"] for one in history[40:]} == {1, 2}
        assert statistics.median(1 - (one.value or 0.0) for one in history[40:]) < 0.2

    def test_tpe_learns_from_pruned_ones(self) -> None:
        points = [one.point for one in on_the_plane(20)]

        def pruned(sign: float) -> list[Observation]:
            return [Observation(point, TrialState.PRUNED, None, {1: 0.5, 2: sign * cone(point)}) for point in points]

        assert sampler("tpe", PLANE).draw(20, pruned(1)) != sampler("tpe", PLANE).draw(20, pruned(-1))


class TestRunning:
    @pytest.mark.parametrize("liar", ["tpe", "gp"])
    def test_ones_are_kept_away_from(self, liar: SamplerName) -> None:
        """All else equal, the same draw number too, each draw would be the same point."""
        history: list[Observation] = list(on_the_plane(20))
        for _ in range(4):
            history.append(running(sampler(liar, PLANE).draw(20, history)))
        points = [(one.point["x"], one.point["y"]) for one in history[20:]]
        assert min(math.dist(a, b) for a, b in combinations(points, 2)) > 0.01

    def test_ones_do_not_collapse(self, name: SamplerName) -> None:
        history: list[Observation] = list(on_the_plane(20))
        for number in range(20, 24):
            history.append(running(sampler(name, PLANE).draw(number, history)))
        points = [(one.point["x"], one.point["y"]) for one in history[20:]]
        assert min(math.dist(a, b) for a, b in combinations(points, 2)) > 0.003


class TestSobol:
    def test_the_points_are_plain_optunas(self) -> None:
        """But for its first trial, which it draws at random: there the sequence begins with the second."""

        def objective(trial: optuna.Trial) -> float:
            trial.suggest_categorical("model.backbone", range(5))
            trial.suggest_float("train.lr", 1e-5, 1e-1, log=True)
            trial.suggest_float("train.momentum", 0, 0.9)
            trial.suggest_float("train.drop", 0.1, 0.7, step=0.1)
            trial.suggest_int("train.epochs", 5, 30, step=5)
            trial.suggest_int("proposals.count", 10, 2000, log=True)
            return 0.0

        with pytest.warns(optuna.exceptions.ExperimentalWarning, match="QMCSampler is experimental"):
            plain = optuna.samplers.QMCSampler(scramble=True, seed=derive_seed(7, "sequence") % 2**32)
        study = optuna.create_study(sampler=plain)
        study.optimize(objective, n_trials=33)
        expected = [trial.params for trial in study.trials[1:]]
        drawn = [sampler("qmc", SPACE[:6], seed=7).draw(number, []) for number in range(32)]
        assert [one["train.drop"] for one in drawn] == pytest.approx([one["train.drop"] for one in expected])
        backbones = SPACE[0].values if isinstance(SPACE[0], Choice) else ()
        assert drawn == [
            {**one, "model.backbone": backbones[one["model.backbone"]], "train.drop": own["train.drop"]}
            for one, own in zip(expected, drawn, strict=True)
        ]

    def test_the_history_has_no_part_in_it(self) -> None:
        one = sampler("qmc")
        forwards = [one.draw(number, HISTORY[:number]) for number in range(8)]
        assert [sampler("qmc").draw(number, []) for number in reversed(range(8))] == forwards[::-1]

    def test_they_are_spread_evenly(self) -> None:
        points = [sampler("qmc", PLANE).draw(number, []) for number in range(64)]
        for columns, rows in ((1, 64), (8, 8), (64, 1), (2, 32)):
            cells = {(int(point["x"] * columns), int(point["y"] * rows)) for point in points}
            assert len(cells) == 64

    def test_so_are_conditional_ones(self) -> None:
        parameters = (Choice("a", (1, 2)), Number("x", 0, 1, False, False, None, {"a": (2,)}))
        points = [sampler("qmc", parameters).draw(number, []) for number in range(64)]
        inside = [point["x"] for point in points if point["a"] == 2]
        assert {int(value * 32) for value in inside} == set(range(32))


class TestCmaEs:
    def test_it_searches_where_the_package_does(self) -> None:
        """The first point is of no generation: nothing was COMPLETE when it was drawn. Then come four of 6 each."""
        history = on_the_plane(25)
        reference = cmaes.CMA(mean=np.full(2, 0.5), sigma=1 / 6, bounds=np.array([[0.0, 1.0]] * 2), seed=0)
        assert reference.population_size == 6
        for first in range(1, 25, 6):
            generation = history[first : first + 6]
            reference.tell([(np.array([one.point["x"], one.point["y"]]), -(one.value or 0.0)) for one in generation])
        expected = np.array([reference.ask() for _ in range(2000)])
        one = sampler("cmaes", PLANE)
        drawn = np.array([[*one.draw(number, history).values()] for number in range(25, 325)])
        spread = expected.std(axis=0)
        assert np.abs(drawn.mean(axis=0) - expected.mean(axis=0)).max() < 0.25 * spread.min()
        assert drawn.std(axis=0) == pytest.approx(spread, rel=0.2)

    def test_the_past_is_replayed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history, one = on_the_plane(20), sampler("cmaes", PLANE)
        one.draw(20, history)
        replayed: list[Point] = []
        enqueue = optuna.Study.enqueue_trial

        def noted(study: optuna.Study, params: Point) -> None:
            replayed.append(params)
            enqueue(study, params)

        monkeypatch.setattr(optuna.Study, "enqueue_trial", noted)
        one.draw(21, [*history, running({"x": 0.5, "y": 0.25})])
        assert replayed == [{"x": 0.5, "y": 0.25}]
        one.draw(22, [*history, complete({"x": 0.5, "y": 0.25}, 1.0)])
        assert replayed == [{"x": 0.5, "y": 0.25}] * 2


if __name__ == "__main__":
    print(json.dumps({"torch": TORCH_AT_IMPORT, "draws": draws_for_another_process()}))
