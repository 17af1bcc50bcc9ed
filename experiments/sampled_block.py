"""A `sample` block of a spec: the space, its rules, and the trials that its points are. Knows nothing of Optuna."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from experiments.blocks import BlockReader
from experiments.errors import SpecError, shown
from experiments.parameters import (
    Choice,
    Number,
    Parameter,
    Point,
    contains,
    count,
    enumerate_points,
    is_point,
    size,
    value_at,
)
from experiments.resolve import Resolver
from experiments.rules import ABSENT, Rule, alternatives, fits, holds, in_range, is_range
from experiments.space import Cell, KeyPath, WhenError, active, parents_first
from experiments.spec_document import SampledKey
from experiments.trial import Draw, TrialPlan, configuration
from experiments.validation_messages import dotted
from wsol.config import ExperimentConfig

SamplerName = Literal["tpe", "random", "gp", "qmc", "cmaes"]

MAX_CORNERS = 500
MAX_TRIED = 10_000
"""So many points are looked at in search of one that the rules allow."""


@dataclass(frozen=True, eq=False)
class SampledBlock:
    """What a sampler may ask for, and what comes of its points.

    Attributes:
        path: of the block's mapping of keys in the spec.
        keys: the sampled keys in the spec's order.
        parameters: the same, parents first.
        fixed: values of other keys that a `when` names.
        exclude: rules for points that are never asked for.
        only: rules one of which must hold, where there are any.
        sampler: Optuna's, by the spec's name.
        sampler_seed: of everything random in it.
        trials: so many configurations, each with all seeds.
        seeds: of the replicates.
        resolver: makes trials of points.
    """

    path: KeyPath
    keys: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]
    exclude: tuple[Rule, ...]
    only: tuple[Rule, ...]
    sampler: SamplerName
    sampler_seed: int
    trials: int
    seeds: tuple[int, ...]
    resolver: Resolver

    @cached_property
    def key(self) -> str:
        """Tells this block from others: a hash of the space and the sampler, the same wherever the block stands."""
        parameters = [replace(one, when=dict(sorted(one.when.items()))) if one.when else one for one in self.parameters]
        parts = (sorted(map(repr, parameters)), sorted(self.fixed.items()), self.sampler, self.sampler_seed)
        code = self.resolver.unswept("code")  # with a changed source a block begins anew, its draws too
        text = repr((*parts, code) if code else parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether the rules allow a point of the space."""

        def value_of(key: str) -> Any:
            return point.get(key, ABSENT) if key in self.keys else self.resolver.unswept(key)

        if any(holds(rule, value_of) for rule in self.exclude):
            return False
        return not self.only or any(holds(rule, value_of) for rule in self.only)

    def plans(self, point: Mapping[str, Any], draw: Draw | None = None) -> list[TrialPlan]:
        """The trials of a point, one a seed.

        Raises:
            SpecError: where the point makes no config.
        """
        values = {key: point[key] for key in self.keys if key in point}
        return self.resolver.plans(Cell(values=values, path=self.path), self.seeds, draw=draw)

    def error(self, message: str) -> SpecError:
        """A SpecError at the block."""
        return self.resolver.source.error(message, self.path)

    def point_of(self, config: ExperimentConfig) -> Point | None:
        """The point that has this config but for its seed; None where it is none that the block may ask for."""
        values = {parameter.key: _value(config, parameter.key) for parameter in self.parameters}
        conditions = {parameter.key: parameter.when for parameter in self.parameters}
        point = active(values, conditions, self.resolver.unswept)
        if not is_point(self.parameters, point, self.fixed) or not self.allows(point):
            return None
        return point if self.plans(point)[0].configuration == configuration(config) else None

    def finite_points(self) -> Iterator[Point] | None:
        """All points that may be asked for, where their number is finite and not too large to look at."""
        if count(self.parameters, self.fixed) is None:
            return None
        return (point for point in enumerate_points(self.parameters, self.fixed) if self.allows(point))

    def corners(self) -> Iterator[Point]:
        """Allowed points, so that a fault of one of them is found before training.

        Of the combinations of all choices and ends of ranges all where they are few, else an even part of them. And a
        point with each of these values that is in none of those, if the rules leave one, or else with any value.
        """
        ends = [_ends(parameter) for parameter in self.parameters]
        conditions = {parameter.key: parameter.when for parameter in self.parameters}
        seen: set[tuple[str, str]] = set()
        for row in _even_part(ends):
            point = active(dict(zip(conditions, row, strict=True)), conditions, self.resolver.unswept)
            if self.allows(point):
                seen |= _texts(point)
                yield point
        for parameter, values in zip(self.parameters, ends, strict=True):
            key = parameter.key
            for wanted in [*((value,) for value in values), ()]:
                is_there = _texts({key: wanted[0]}) <= seen if wanted else any(key == name for name, _ in seen)
                if not is_there and (found := self._point_with(key, wanted)) is not None:
                    seen |= _texts(found)
                    yield found

    def _point_with(self, key: str, wanted: tuple[Any, ...]) -> Point | None:
        """An allowed point that has a key, with one of these values if there are any; None where none is found."""
        rules = [*self.exclude, *self.only]
        conditions = [parameter.when for parameter in self.parameters if parameter.when is not None]
        decisive = {key, *(name for rule in rules for name in rule)}  # the values of others change nothing
        for parameter in reversed(self.parameters):
            decisive |= (parameter.when or {}).keys() if parameter.key in decisive else set()

        def tried(parameter: Parameter) -> Choice:
            if parameter.key == key and wanted:
                return Choice(key, wanted, parameter.when)
            values = _probes(parameter, [*conditions, *rules])
            return Choice(parameter.key, values if parameter.key in decisive else values[:1], parameter.when)

        points = enumerate_points([tried(parameter) for parameter in self.parameters], self.fixed)
        return next((p for p in itertools.islice(points, MAX_TRIED) if key in p and self.allows(p)), None)


def read_sampled_block(reader: BlockReader, seeds: Sequence[int]) -> SampledBlock:
    """The space of a block with `sample`.

    Raises:
        SpecError: for a fault of the block.
    """
    block = reader.block
    assert block.sample is not None
    assert block.trials is not None
    reader.check_keys({key: sampled.when for key, sampled in block.sample.items()})
    try:
        order = parents_first({key: sampled.when for key, sampled in block.sample.items()})
    except WhenError as error:
        raise reader.error(str(error), error.key, "when") from None
    named = {name for sampled in block.sample.values() for name in sampled.when or ()} - block.sample.keys()
    unswept = {name: reader.resolver.unswept(name) for name in sorted(named)}
    found = SampledBlock(
        path=reader.path,
        keys=tuple(block.sample),
        parameters=tuple(_parameter(key, block.sample[key]) for key in order),
        fixed={name: value for name, value in unswept.items() if value is not ABSENT},
        exclude=tuple(block.exclude),
        only=tuple(block.only),
        sampler=block.sampler or "tpe",
        sampler_seed=block.sampler_seed or 0,
        trials=block.trials,
        seeds=tuple(seeds),
        resolver=reader.resolver,
    )
    _check_choices(found, reader)
    _check_rules(found, reader)
    _check_budget(found, reader)
    return found


def _parameter(key: str, sampled: SampledKey) -> Parameter:
    if sampled.choice is not None:
        return Choice(key=key, values=tuple(sampled.choice), when=sampled.when)
    bounds = sampled.int or sampled.log_int or sampled.float or sampled.log_uniform
    assert bounds is not None
    whole = sampled.int is not None or sampled.log_int is not None
    log = sampled.log_int is not None or sampled.log_uniform is not None
    return Number(key=key, low=bounds[0], high=bounds[1], integer=whole, log=log, step=sampled.step, when=sampled.when)


def _check_choices(block: SampledBlock, reader: BlockReader) -> None:
    for parameter in block.parameters:
        if isinstance(parameter, Choice) and len(parameter.distinct) < len(parameter.values):
            raise reader.error(
                f"got {shown(list(parameter.values))} for {parameter.key}, with a value twice; expected each once",
                parameter.key,
                "choice",
            )


def _check_rules(block: SampledBlock, reader: BlockReader) -> None:
    """Every `when`, `exclude` and `only` must be able to hold."""
    parameters = {parameter.key: parameter for parameter in block.parameters}

    def can_hold(rule: Rule) -> bool:
        return all(
            _can_be(parameters[key], wanted) if key in parameters else fits(block.resolver.unswept(key), wanted)
            for key, wanted in rule.items()
        )

    for parameter in block.parameters:
        if parameter.when is not None and not can_hold(parameter.when):
            raise reader.never(parameter.when, parameter.key)
    for kind, rules in (("exclude", block.exclude), ("only", block.only)):
        for position, rule in enumerate(rules):
            if not can_hold(rule):
                raise reader.no_cell(kind, position, rule)


def _can_be(parameter: Parameter, wanted: Any) -> bool:
    """Whether some value of a parameter is what a rule wants."""
    if isinstance(parameter, Choice):
        return any(fits(value, wanted) for value in parameter.values)
    if is_range(wanted):
        low, high = wanted.get("min", parameter.low), wanted.get("max", parameter.high)
        return bool(parameter.low <= high and low <= parameter.high and low <= high)
    return any(contains(parameter, value) for value in alternatives(wanted))


def _check_budget(block: SampledBlock, reader: BlockReader) -> None:
    """A finite space must have as many configurations as the block may try, and some point must be allowed."""
    points = block.finite_points()
    if points is None:
        return
    there = sum(1 for _ in itertools.islice(points, block.trials))
    if there < block.trials:
        path = block.path[:-1]
        raise reader.source.error(
            f"got {block.trials} for {dotted((*path, 'trials'))}; expected at most {there}, the number of different "
            f"configurations that {dotted(path)} has",
            (*path, "trials"),
        )


def _ends(parameter: Parameter) -> tuple[Any, ...]:
    """Values that a fault may hide in: all of a choice, the first and last of a range."""
    if isinstance(parameter, Choice):
        return parameter.values
    kind = int if parameter.integer else float
    return (kind(parameter.low), kind(parameter.high))


def _even_part(ends: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """The product, or about MAX_CORNERS of its rows in which every value comes about as often as the others."""
    total = math.prod(map(len, ends))
    step = max(1, total // MAX_CORNERS)
    while math.gcd(step, total) > 1:
        step += 1
    return itertools.islice(itertools.product(*ends), 0, None, step)


def _texts(point: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The values of a point by key, in a form that can be looked up."""
    return {(key, repr(value)) for key, value in point.items()}


def _probes(parameter: Parameter, rules: Sequence[Rule]) -> tuple[Any, ...]:
    """Values that stand for all of a parameter where rules are concerned: its ends first, those that a rule names, and
    one between any two."""
    if isinstance(parameter, Choice):
        return parameter.values
    wanted = [rule[parameter.key] for rule in rules if parameter.key in rule]
    named = [end for one in wanted for end in (one.values() if is_range(one) else alternatives(one))]
    marks = sorted(
        {parameter.low, parameter.high}
        | {end for end in named if in_range(end, {"min": parameter.low, "max": parameter.high})}
    )
    last = size(parameter)
    if last is None:
        between = [(low + high) / 2 for low, high in itertools.pairwise(marks)]
        return tuple(dict.fromkeys(map(float, (*_ends(parameter), *marks, *between))))
    steps = sorted({min(last - 1, index) for mark in marks for index in _around(parameter, mark)})
    between_steps = [(low + high) // 2 for low, high in itertools.pairwise(steps)]
    return tuple(value_at(parameter, index) for index in dict.fromkeys((0, last - 1, *steps, *between_steps)))


def _around(parameter: Number, mark: float) -> tuple[int, int]:
    """The steps of a parameter next to a number, or at it."""
    steps = (mark - parameter.low) / (parameter.step or 1)
    return math.floor(steps), math.ceil(steps)


def _value(config: ExperimentConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
