"""A sweep spec: YAML -> `SweepSpec`. Every fault is a SpecError with file:line, the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.errors import SpecError, did_you_mean, shown
from experiments.space import Cell, KeyPath, grid_cells, zip_cells
from experiments.trial import TrialPlan, signature
from experiments.validation_messages import dotted, explain, leaf_keys
from experiments.yaml_source import YamlSource, read_yaml
from wsol.config import ExperimentConfig
from wsol.metrics.names import metrics_of

MAX_TRIALS = 50_000
MAX_FAULTS_SHOWN = 20

Axes = dict[str, Annotated[list[Any], Field(min_length=1)]]


_SWEEPABLE_KEYS = tuple(key for key in leaf_keys(ExperimentConfig) if key != "seed")


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SearchBlock(_Section):
    """`grid` (the product) or `zip` (side by side) of lists of values for dotted config keys."""

    grid: Annotated[Axes, Field(min_length=1)] | None = None
    zip: Annotated[Axes, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_one_kind(self) -> SearchBlock:
        if (self.grid is None) == (self.zip is None):
            raise ValueError("expected either grid or zip in a search block")
        return self


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Objective(_Section):
    """What the leaderboard is sorted by."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"


class Resources(_Section):
    """What may run at the same time."""

    cpu_slots: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    """Trials at the same time on a machine without a GPU; auto: one a core."""


class Retry(_Section):
    """When a trial's process dies."""

    max_attempts: Annotated[int, Field(gt=0)] = 3
    """Attempts of a trial in one run of the command."""


class SpecDocument(_Section):
    """The keys of a spec file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Folder under results/; default: the file's name."""
    question: str = ""
    experiment: dict[str, Any]
    """What every trial shares: an ExperimentConfig."""
    search: list[SearchBlock] = []
    """The sweep is the union of its blocks; none: one configuration."""
    seeds: Annotated[int, Field(gt=0, le=1000)] | Annotated[list[Seed], Field(min_length=1)] | None = None
    """Replicates of every configuration: a list of seeds, or how many (3 means 0, 1, 2)."""
    objective: Objective | None = None
    resources: Resources = Resources()
    retry: Retry = Retry()


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, checked and expanded: every trial that it asks for, in order.

    Attributes:
        swept_keys: dotted keys that some block sweeps, in the spec's order.
        plans: distinct trials (by signature), replicates of a configuration side by side.
        merged: cells that asked for a trial which an earlier cell had asked for already.
        text: the file's text, kept with the results.
    """

    name: str
    question: str
    file: Path
    text: str
    swept_keys: tuple[str, ...]
    plans: tuple[TrialPlan, ...]
    merged: int
    objective: Objective
    resources: Resources
    retry: Retry
    source: YamlSource

    def error(self, message: str, *, key: str, plan: TrialPlan) -> SpecError:
        """A SpecError where the file gives `plan` its value of a config key."""
        return self.source.error(message, plan.places.get(key, ("experiment", *key.split("."))))


def load_spec(file: Path) -> SweepSpec:
    """Reads, checks and expands a spec.

    Raises:
        SpecError: for every fault of the file.
    """
    source = read_yaml(file)
    document = _document(source)
    seeds = _seeds(document, source)
    _check_size(document, source, replicates=len(seeds))
    cells = list(_cells(document, source))
    plans, merged = _plans(document, source, cells=cells, seeds=seeds)
    swept_keys = tuple(dict.fromkeys(key for cell in cells for key in cell.values))
    return SweepSpec(
        name=_name(document, source),
        question=document.question,
        file=file,
        text=source.text,
        swept_keys=swept_keys,
        plans=plans,
        merged=merged,
        objective=_objective(document, source, plans),
        resources=document.resources,
        retry=document.retry,
        source=source,
    )


def _document(source: YamlSource) -> SpecDocument:
    try:
        return SpecDocument.model_validate(source.value)
    except ValidationError as error:
        raise _spec_error(source, explain(error, model=SpecDocument, value=source.value)) from None


def _spec_error(source: YamlSource, faults: list[tuple[KeyPath, str]]) -> SpecError:
    """All faults in one error, in the file's order; the first gives the error its place.

    In one line a key that is unknown comes before one that is missing: it may be the same key, misspelt.
    """
    ordered = sorted(faults, key=lambda fault: (source.line(fault[0]) or 0, fault[1].startswith("missing")))
    first, *others = [source.error(message, path) for path, message in ordered[:MAX_FAULTS_SHOWN]]
    lines = [str(error) for error in (first, *others)]
    if len(faults) > MAX_FAULTS_SHOWN:
        lines.append(f"... and {len(faults) - MAX_FAULTS_SHOWN} more faults")
    first.args = ("\n".join(lines),)
    return first


def _name(document: SpecDocument, source: YamlSource) -> str:
    if document.name is not None:
        return document.name
    stem = source.file.stem
    try:
        return SpecDocument(name=stem, experiment={}).name or stem
    except ValidationError:
        raise SpecError(
            f"got file name {source.file.name!r}, which cannot name a results folder; expected a key "
            "`name` of letters, digits, '.', '_' and '-'",
            file=source.file,
        ) from None


def _seeds(document: SpecDocument, source: YamlSource) -> list[int]:
    if document.seeds is not None and "seed" in document.experiment:
        raise source.error("got both seeds and experiment.seed; expected one of them", ("seeds",))
    if isinstance(document.seeds, int):
        return list(range(document.seeds))
    if document.seeds is None:
        return [document.experiment.get("seed", 0)]
    seen: set[int] = set()
    for index, seed in enumerate(document.seeds):
        if seed in seen:
            raise source.error(f"got seed {seed} twice; expected each seed once", ("seeds", index))
        seen.add(seed)
    return document.seeds


def _check_size(document: SpecDocument, source: YamlSource, *, replicates: int) -> None:
    """Before anything is expanded: a few short lists can name more trials than there is memory for."""
    trials = replicates * (sum(_count(block) for block in document.search) or 1)
    if trials > MAX_TRIALS:
        given = f"{trials:,}" if trials < 10**12 else f"more than {10**12:,}"
        raise source.error(f"got {given} trials; expected at most {MAX_TRIALS:,}", ("search",))


def _count(block: SearchBlock) -> int:
    """The cells of a block."""
    return math.prod(map(len, block.grid.values())) if block.grid else max(map(len, (block.zip or {}).values()))


def _cells(document: SpecDocument, source: YamlSource) -> Iterator[Cell]:
    if not document.search:
        yield Cell(values={}, paths={})
    for index, block in enumerate(document.search):
        kind: Literal["grid", "zip"] = "grid" if block.grid is not None else "zip"
        path: KeyPath = ("search", index, kind)
        axes = block.grid if block.grid is not None else block.zip
        assert axes is not None
        for key in axes:
            _check_swept_key(key, source, path)
        try:
            yield from (grid_cells if kind == "grid" else zip_cells)(axes, path=path)
        except ValueError as error:
            raise source.error(str(error), path) from None


def _check_swept_key(key: str, source: YamlSource, path: KeyPath) -> None:
    if key == "seed":
        raise source.error("got seed as a swept key; expected replicates as `seeds: [0, 1, 2]`", (*path, key))
    if key not in _SWEEPABLE_KEYS:
        by_leaf = [name for name in _SWEEPABLE_KEYS if name.rpartition(".")[2] == key]
        hint = f"; did you mean {by_leaf[0]}?" if by_leaf else did_you_mean(key, _SWEEPABLE_KEYS)
        raise source.error(f"got unknown key {key!r} in {dotted(path)}; expected a config key{hint}", (*path, key))


def _plans(
    document: SpecDocument, source: YamlSource, *, cells: list[Cell], seeds: list[int]
) -> tuple[tuple[TrialPlan, ...], int]:
    plans: dict[str, TrialPlan] = {}
    for cell in cells:
        for seed in seeds:
            config = _resolve(document.experiment, cell, seed, source)
            plan = TrialPlan(config=config, swept=cell.values, signature=signature(config), places=cell.paths)
            plans.setdefault(plan.signature, plan)
    return tuple(plans.values()), len(cells) * len(seeds) - len(plans)


def _resolve(shared: dict[str, Any], cell: Cell, seed: int, source: YamlSource) -> ExperimentConfig:
    values = {**shared, "seed": seed}
    for key, value in cell.values.items():
        values = _with(values, key.split("."), value)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        faults = explain(error, model=ExperimentConfig, value=values)
        raise _spec_error(source, [_placed(path, message, cell, source) for path, message in faults]) from None


def _with(values: Any, sections: list[str], value: Any) -> Any:
    """A copy of nested `values` in which one key has another value; what is no mapping stays, to be refused."""
    first, *rest = sections
    if not isinstance(values, dict):
        return values
    return {**values, first: _with(values.get(first, {}), rest, value) if rest else value}


def _placed(path: KeyPath, message: str, cell: Cell, source: YamlSource) -> tuple[KeyPath, str]:
    """Where in the file a fault of a resolved config stands: at the cell's value, or under `experiment`.

    A rule between two keys is a fault of their section; its message names the keys. It stands at the first of
    them that is swept, else at the first that the file has.
    """
    at_section = len(path) <= 1
    for key, value_path in cell.paths.items():
        if dotted(path) == key or dotted(path).startswith(f"{key}[") or (at_section and key in message):
            return value_path, message
    for key in re.findall(r"\b[a-z]+\.[a-z_]+\b", message) if at_section else []:
        named = ("experiment", *key.split("."))
        if named in source.lines:
            return named, message
    return ("experiment", *path), message


def _objective(document: SpecDocument, source: YamlSource, plans: Sequence[TrialPlan]) -> Objective:
    """The spec's objective, which every trial must be measured by; default: the mean of their first metric."""
    tasks = list(dict.fromkeys(plan.config.task for plan in plans))
    measured = dict.fromkeys(metrics_of(plan.config.task, plan.config.evaluate.metrics) for plan in plans)
    metrics = [name for name in next(iter(measured)) if all(name in others for others in measured)]
    if document.objective is None:
        return Objective(metric=f"{metrics[0]}/mean")
    given = document.objective.metric
    metric, _, class_name = given.partition("/")
    if metric not in metrics or not class_name:
        task = " and ".join(tasks)
        expected = (
            f"<metric>/mean or <metric>/<class> with a metric of task {task}: {', '.join(metrics)}, or one that every"
            " trial has in evaluate.metrics"
        )
        near = did_you_mean(given, [f"{name}/{class_name or 'mean'}" for name in metrics])
        raise source.error(
            f"got {shown(given)} for objective.metric; expected {expected}{near}", ("objective", "metric")
        )
    return document.objective
