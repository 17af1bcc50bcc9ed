"""Where a sampled block's next point comes from: Optuna's samplers behind a pure function.

Optuna's samplers remember: a generator that moves on, a count in the study, a model of earlier fits. What they draw
then depends on all that was asked before, which a sweep that was stopped and started again cannot repeat. So every
draw here is the first and only one of a new sampler on a new study in memory, made from the history that is passed.
That costs a fraction of a millisecond for each entry of it; a draw is for a trial that takes minutes.

A Choice and a Number with steps are given to Optuna by index: values may be lists, true is not 1 there, and every value
that comes back is one of the range to the last bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, create_trial

from experiments.parameters import Choice, Number, Parameter, Point, index_of, is_active, is_point, size, value_at
from experiments.trial import TrialState
from wsol.seeding import derive_seed

SamplerName = Literal["tpe", "random", "gp", "qmc", "cmaes"]

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Observation:
    """A configuration that was drawn before, as far as it is known.

    Attributes:
        point: its values by key; one that is no point of the space (any more) teaches nothing.
        state: RUNNING, COMPLETE, PRUNED or FAIL.
        value: of a COMPLETE one, the mean over its replicates; None, nan or infinite: it teaches what a FAIL does.
        curve: of a PRUNED one, epoch -> value so far.
    """

    point: Mapping[str, Any]
    state: TrialState
    value: float | None
    curve: Mapping[int, float]


class PointSampler:
    """Draws the points of one block.

    `tpe` and `gp` model the history after 10 finished points, `cmaes` after 1; before that, and for what they cannot
    model, they draw evenly, as `random` does. `gp` models the parameters that every COMPLETE point has; `cmaes` the
    Numbers that are always active. `gp` and `cmaes` learn from COMPLETE points alone, `tpe` from PRUNED ones too; `tpe`
    and `gp` stay away from RUNNING ones. `qmc` (scrambled Sobol) and `random` do not look at the history.
    """

    def __init__(
        self,
        *,
        name: SamplerName,
        seed: int,
        direction: Literal["maximize", "minimize"],
        parameters: Sequence[Parameter],
        fixed: Mapping[str, Any],
    ) -> None:
        """Takes the space as experiments.parameters describes it.

        Args:
            seed: any integer; another one gives other draws.
            parameters: parents first; none: the space is one point, the empty one.
            fixed: values of the keys that conditions name and that are not sampled.
        """
        self._name = name
        self._seed = seed
        self._direction = direction
        self._parameters = tuple(parameters)
        self._fixed = dict(fixed)
        self._distributions = {parameter.key: _distribution(parameter) for parameter in parameters}
        self._replayed: list[tuple[_Entry, FrozenTrial]] = []
        self._last_trials: tuple[list[Observation], list[FrozenTrial]] = ([], [])

    def draw(self, number: int, history: Sequence[Observation]) -> Point:
        """The `number`-th raw draw of a block with this history; it may be a point that was drawn before.

        A pure function of its arguments and the constructor's: the same in any process, after any restart, however
        often and in whatever order it was called before.

        Args:
            number: from 0; with the same history another number gives another draw.
            history: in the order of draws.

        Returns:
            The active parameters in their order; a Number's value is an int or a float, a Choice's is its own.
        """
        with _quiet():
            study = self._study(history)
            study.sampler = self._sampler(number)
            return self._ask(study.ask())

    def _study(self, history: Sequence[Observation]) -> optuna.Study:
        """A new study with what the sampler looks at."""
        study = optuna.create_study(direction=self._direction, sampler=RandomSampler(seed=0))
        if self._name == "cmaes":
            self._replay(study, self._entries(history))
        elif self._name in ("tpe", "gp"):
            study.add_trials(self._trials(history))
        return study

    def _trials(self, history: Sequence[Observation]) -> list[FrozenTrial]:
        """The history in Optuna's terms, kept: several draws in a row may have to be made from one."""
        if self._last_trials[0] != list(history):
            trials = [entry.trial(self._distributions) for entry in self._entries(history)]
            self._last_trials = ([*history], trials)
        return self._last_trials[1]

    def _sampler(self, number: int) -> BaseSampler:
        """A sampler for one draw."""
        seed = derive_seed(self._seed, "draw", number) % 2**32
        match self._name:
            case "tpe":
                return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
            case "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False)
            case "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "qmc":
                sequence = derive_seed(self._seed, "sequence") % 2**32
                return _SobolPoint(sequence=sequence, number=number, space=self._distributions)
            case "random":
                return RandomSampler(seed=seed)

    def _ask(self, trial: Trial) -> Point:
        point: Point = {}
        for parameter in self._parameters:
            if is_active(parameter, point, self._fixed):
                drawn = _suggest(trial, parameter.key, self._distributions[parameter.key])
                point[parameter.key] = _from_optuna(parameter, drawn)
        return point

    def _entries(self, history: Sequence[Observation]) -> list[_Entry]:
        return [self._entry(one) for one in history if is_point(self._parameters, one.point, self._fixed)]

    def _entry(self, observation: Observation) -> _Entry:
        state, value = observation.state, observation.value
        assert state in (TrialState.RUNNING, *_FINISHED), state
        if state is TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            state = TrialState.FAIL
        active = [parameter for parameter in self._parameters if parameter.key in observation.point]
        return _Entry(
            params={parameter.key: _to_optuna(parameter, observation.point[parameter.key]) for parameter in active},
            state=optuna.trial.TrialState[state.name],
            value=value if state is TrialState.COMPLETE else None,
            curve=dict(observation.curve) if state is TrialState.PRUNED else {},
        )

    def _replay(self, study: optuna.Study, entries: list[_Entry]) -> None:
        """Puts the history into the study as if CMA-ES had drawn it.

        CMA-ES keeps in each trial its generation, and in some the state of its search. Asking for every entry in turn,
        with its values given, makes both anew from the history alone, whatever ran beside what at the time.
        """
        space = self._modelled_by_cmaes()
        if not space:
            return
        # Pure all the same: what is kept of an entry follows from it and the entries before it.
        kept = list(takewhile(lambda pair: pair[0][0] == pair[1], zip(self._replayed, entries, strict=False)))
        for (_, trial), _ in kept:
            study.add_trial(trial)
        study.sampler = CmaEsSampler(seed=0, warn_independent_sampling=False)  # what it keeps has no random part
        for entry in entries[len(kept) :]:
            entry.replay(study, space)
        self._replayed = list(zip(entries, study.get_trials(deepcopy=False), strict=True))

    def _modelled_by_cmaes(self) -> dict[str, BaseDistribution]:
        """The Numbers that are always there. The dimensions of a running CMA-ES cannot change."""
        always = [one.key for one in self._parameters if isinstance(one, Number) and is_active(one, {}, self._fixed)]
        return {key: self._distributions[key] for key in always if not self._distributions[key].single()}


@dataclass(frozen=True)
class _Entry:
    """An observation in Optuna's terms."""

    params: Mapping[str, float]
    state: optuna.trial.TrialState
    value: float | None
    curve: Mapping[int, float]

    def trial(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        return create_trial(
            state=self.state,
            value=self.value,
            params=dict(self.params),
            distributions={key: distributions[key] for key in self.params},
            intermediate_values=dict(self.curve),
        )

    def replay(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> None:
        """Has the study ask for this entry's values of the space, and tells it how that ended."""
        study.enqueue_trial({key: self.params[key] for key in space})
        trial = study.ask()
        _ = trial.relative_params  # has the sampler draw: with all values given nobody else would ask it to
        for key, distribution in space.items():
            _suggest(trial, key, distribution)
        if self.state is not optuna.trial.TrialState.RUNNING:
            study.tell(trial, self.value, self.state)


class _SobolPoint(QMCSampler):
    """Gives one point of the scrambled Sobol sequence.

    Optuna counts in the study which point comes next, takes the first trial's parameters for the space, and draws that
    trial at random. Here number and space are given. Every parameter has its own coordinate, used where it is active,
    so conditional parameters are spread as evenly as the others.
    """

    def __init__(self, *, sequence: int, number: int, space: Mapping[str, BaseDistribution]) -> None:
        super().__init__(qmc_type="sobol", scramble=True, seed=sequence, warn_independent_sampling=False)
        self._number = number
        self._space = dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


def _has_index(parameter: Parameter) -> bool:
    """Whether Optuna sees a parameter by index: not where its index says nothing of distances on its scale."""
    return isinstance(parameter, Choice) or not (parameter.log or size(parameter) is None)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(range(len(parameter.distinct)))
    if _has_index(parameter):
        return IntDistribution(0, (size(parameter) or 1) - 1)
    if parameter.integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=True)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log)


def _to_optuna(parameter: Parameter, value: Any) -> float:
    """A value of the parameter's range as Optuna is told it."""
    if _has_index(parameter):
        index = index_of(parameter, value)
        assert index is not None, (parameter, value)
        return index
    assert isinstance(parameter, Number)
    if parameter.integer:
        return int(value)
    return min(max(float(value), float(parameter.low)), float(parameter.high))  # it may be off by a rounding


def _from_optuna(parameter: Parameter, drawn: Any) -> Any:
    """The way back of `_to_optuna`, in Python's own types."""
    if _has_index(parameter):
        return value_at(parameter, int(drawn))
    assert isinstance(parameter, Number)
    return int(drawn) if parameter.integer else float(drawn)


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case IntDistribution():
            return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
        case FloatDistribution():
            return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    raise AssertionError(distribution)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Optuna's remarks off the terminal: that `group` is experimental, that greenlet would make gp faster."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
