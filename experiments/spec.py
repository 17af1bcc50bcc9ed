"""A sweep spec: YAML -> `SweepSpec`. Every fault is a SpecError with file:line, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from experiments.blocks import BlockReader, Excluded
from experiments.errors import SpecError
from experiments.faults import spec_error
from experiments.generators import axis_values
from experiments.pruning import Asha, Median, Pruner
from experiments.resolve import Resolver
from experiments.sampled_block import SampledBlock, read_sampled_block
from experiments.space import Cell
from experiments.spec_checks import check_final, check_pruner, check_reads, check_settings, checked_objective
from experiments.spec_document import (
    Final,
    Objective,
    Resources,
    Retry,
    SearchBlock,
    SeedRounds,
    Seeds,
    SpecDocument,
    Tracking,
)
from experiments.spec_source import read_spec
from experiments.trial import TrialPlan
from experiments.validation_messages import explain
from experiments.yaml_source import KeyPath, YamlSource

MAX_TRIALS = 50_000


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, checked and expanded: every trial that it asks for, as far as that is known beforehand.

    Attributes:
        swept_keys: dotted keys that some block sweeps, in the spec's order.
        plans: distinct trials (by signature) of grids and zips, replicates of a configuration side by side.
        merged: cells that asked for a trial which an earlier cell had asked for already.
        excluded: what `exclude` and `only` left out of grids and zips.
        blocks: those with `sample`, whose trials are chosen as results come in.
        corners: trials that stand for all: `plans`, and one of each corner of what is sampled.
        code: of all trials, see `ExperimentConfig.code`.
        seeds: of the replicates.
        later_seeds: that only configurations get which may be the best, see `seed_rounds`; empty: none.
        final_seeds: of the final stage; empty without one.
        text: the file's text, or what it comes to with `extends`, `--set` and variables; kept with the results.
    """

    name: str
    question: str
    file: Path
    text: str
    swept_keys: tuple[str, ...]
    plans: tuple[TrialPlan, ...]
    merged: int
    excluded: tuple[Excluded, ...]
    blocks: tuple[SampledBlock, ...]
    corners: tuple[TrialPlan, ...]
    code: str
    seeds: tuple[int, ...]
    later_seeds: tuple[int, ...]
    objective: Objective
    pruner: Pruner | None
    final: Final | None
    final_seeds: tuple[int, ...]
    resources: Resources
    retry: Retry
    tracking: Tracking
    resolver: Resolver
    source: YamlSource

    @property
    def total(self) -> int:
        """Trials in all: those of grids and zips, the samplers' budgets, and the final stage. Without later seeds."""
        sampled = sum(block.trials for block in self.blocks) * len(self.seeds)
        return len(self.plans) + sampled + len(self.final_seeds)

    def final_plans(self, best: TrialPlan) -> list[TrialPlan]:
        """The trials of the final stage, if the configuration of `best` is what the search found."""
        if self.final is None:
            return []
        # evaluated after the last epoch alone: nothing on the way can be chosen by the split that is to tell
        values = {
            **best.swept,
            "data.train": self.final.train,
            "data.eval": self.final.eval,
            "evaluate.every": best.config.train.epochs,
        }
        plans = self.resolver.plans(Cell(values=values), self.final_seeds, stage="final")
        return [replace(plan, swept=best.swept) for plan in plans]

    def replicate(self, plan: TrialPlan, seed: int) -> TrialPlan:
        """The trial of the same configuration with another seed."""
        return self.resolver.plans(plan.cell, [seed], stage=plan.stage, draw=plan.draw)[0]

    def error(self, message: str, *, key: str, plan: TrialPlan) -> SpecError:
        """A SpecError where the file gives `plan` its value of a config key."""
        if plan.stage == "final" and key in ("data.train", "data.eval"):
            return self.source.error(message, ("final", key.partition(".")[2]))
        if key in plan.cell.values:
            return self.source.error(message, plan.cell.place(key))
        return self.source.error(message, ("experiment", *key.split(".")))


def spec_name(file: Path, settings: Sequence[str] = ()) -> str:
    """The name of the sweep, as far as it can be told without reading what is under `experiment`.

    Raises:
        SpecError: for a fault of all the rest.
    """
    return _name(_document(read_spec(file, settings, spec_keys=SpecDocument.model_fields)), file)


def load_spec(file: Path, settings: Sequence[str] = (), *, code: str = "") -> SweepSpec:
    """Reads, checks and expands a spec.

    Args:
        file: of the spec.
        settings: `KEY=VALUE` each, which win over the file; see `read_spec`.
        code: of all trials, see `ExperimentConfig.code`. No part of the spec's text, where it is refused.

    Raises:
        SpecError: for every fault of the file and of the settings.
    """
    source = read_spec(file, settings, spec_keys=SpecDocument.model_fields)
    document = _document(source)
    seeds, later_seeds = _seeds(document, source)
    _check_size(document, source, replicates=len(seeds) + len(later_seeds))
    resolver = Resolver({**document.experiment, "code": code} if code else document.experiment, source)
    readers = [BlockReader(block, index, source, resolver) for index, block in enumerate(document.search)]
    cells, excluded = _cells(readers)
    plans, merged = _plans(resolver, cells, seeds)
    blocks = tuple(read_sampled_block(reader, seeds) for reader in readers if reader.kind == "sample")
    corners = [*plans, *(block.plans(point)[0] for block in blocks for point in block.corners())]
    if not corners:
        raise source.error("got no trial; expected exclude and only to leave some", ("search",))
    check_reads(corners, source)
    pruner = _pruner(document)
    check_pruner(pruner, corners, source)
    check_final(document.final, corners, source)
    check_settings(settings, [reader.always_swept for reader in readers], source)
    return SweepSpec(
        name=_name(document, file),
        question=document.question,
        file=file,
        text=source.text,
        swept_keys=tuple(dict.fromkeys(key for reader in readers for key in reader.keys)),
        plans=plans,
        merged=merged,
        excluded=tuple(excluded),
        blocks=blocks,
        corners=tuple(corners),
        code=code,
        seeds=tuple(seeds),
        later_seeds=tuple(later_seeds),
        objective=checked_objective(document.objective, corners, source),
        pruner=pruner,
        final=document.final,
        final_seeds=tuple(_final_seeds(document, source, [*seeds, *later_seeds])),
        resources=document.resources,
        retry=document.retry,
        tracking=document.tracking,
        resolver=resolver,
        source=source,
    )


def _document(source: YamlSource) -> SpecDocument:
    try:
        document = SpecDocument.model_validate(source.value)
    except ValidationError as error:
        raise spec_error(source, explain(error, model=SpecDocument, value=source.value)) from None
    if "code" in document.experiment:
        raise source.error(
            "got a value for experiment.code; expected it to be left out: `--code new` sets it", ("experiment", "code")
        )
    return document


def _name(document: SpecDocument, file: Path) -> str:
    if document.name is not None:
        return document.name
    try:
        return SpecDocument(name=file.stem, experiment={}).name or file.stem
    except ValidationError:
        raise SpecError(
            f"got file name {file.name!r}, which cannot name a results folder; expected a key "
            "`name` of letters, digits, '.', '_' and '-'",
            file=file,
        ) from None


def _seeds(document: SpecDocument, source: YamlSource) -> tuple[list[int], list[int]]:
    """Those of every configuration, and those that only some get."""
    if document.seeds is not None and "seed" in document.experiment:
        raise source.error("got both seeds and experiment.seed; expected one of them", ("seeds",))
    if document.seeds is None:
        return [document.experiment.get("seed", 0)], []
    if isinstance(document.seeds, SeedRounds):
        if document.pruner is not None:
            raise source.error(
                "got both a pruner and seeds.until_decided; expected one of them: a pruner compares configurations by"
                " all of their seeds, as many for each",
                ("seeds",),
            )
        last = document.seeds.until_decided
        return list(range(document.seeds.start)), list(range(document.seeds.start, last))
    return _listed(document.seeds, first=0, source=source, path=("seeds",)), []


def _final_seeds(document: SpecDocument, source: YamlSource, seeds: Sequence[int]) -> list[int]:
    """Fresh ones: those after the largest of the search, or a list that has none of them."""
    if document.final is None:
        return []
    path: KeyPath = ("final", "seeds")
    found = _listed(document.final.seeds, first=max(seeds) + 1, source=source, path=path)
    if used := sorted(set(found) & set(seeds)):
        raise source.error(f"got seed {used[0]} for final.seeds; expected seeds that the search does not use", path)
    return found


def _listed(seeds: Seeds, *, first: int, source: YamlSource, path: KeyPath) -> list[int]:
    if isinstance(seeds, int):
        return list(range(first, first + seeds))
    seen: set[int] = set()
    for index, seed in enumerate(seeds):
        if seed in seen:
            raise source.error(f"got seed {seed} twice; expected each seed once", (*path, index))
        seen.add(seed)
    return seeds


def _check_size(document: SpecDocument, source: YamlSource, *, replicates: int) -> None:
    """Before anything is expanded: a few short lists can name more trials than there is memory for."""
    trials = replicates * (sum(_count(block) for block in document.search) or 1)
    if trials > MAX_TRIALS:
        given = f"{trials:,}" if trials < 10**12 else f"more than {10**12:,}"
        raise source.error(f"got {given} trials; expected at most {MAX_TRIALS:,}", ("search",))


def _count(block: SearchBlock) -> int:
    """The configurations of a block, before its rules."""
    if block.sample is not None:
        return block.trials or 0
    lengths = [len(axis_values(axis)) for axis in (block.grid or block.zip or {}).values()]
    return math.prod(lengths) if block.grid is not None else max(lengths)


def _cells(readers: Sequence[BlockReader]) -> tuple[list[Cell], list[Excluded]]:
    if not readers:
        return [Cell(values={})], []
    cells: list[Cell] = []
    excluded: list[Excluded] = []
    for reader in readers:
        if reader.kind != "sample":
            of_block, out = reader.cells()
            cells += of_block
            excluded += out
    return cells, excluded


def _plans(resolver: Resolver, cells: Iterable[Cell], seeds: Sequence[int]) -> tuple[tuple[TrialPlan, ...], int]:
    """The distinct trials, and how many cells (times seeds) came to one that was there already."""
    plans: dict[str, TrialPlan] = {}
    asked = 0
    for cell in cells:
        for plan in resolver.plans(cell, seeds):
            plans.setdefault(plan.signature, plan)
            asked += 1
    return tuple(plans.values()), asked - len(plans)


def _pruner(document: SpecDocument) -> Pruner | None:
    if document.pruner is None:
        return None
    if document.pruner.asha is not None:
        return Asha(**document.pruner.asha.model_dump())
    assert document.pruner.median is not None
    return Median(**document.pruner.median.model_dump())
