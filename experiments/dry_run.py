"""What a sweep would run, without starting anything, opening the study or importing torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.final_stage import by_configuration
from experiments.knowledge import Outcome
from experiments.report.entries import Entry, entries
from experiments.reuse import Library
from experiments.rules import rule_text
from experiments.sampled_block import SampledBlock
from experiments.search import BlockSearch
from experiments.slots import Slot
from experiments.spec import SweepSpec
from experiments.store import SweepStore
from experiments.sweep_plan import drawn_before, next_draw
from experiments.time_estimate import Estimate, estimate, footprints, history
from experiments.trial import TrialPlan, TrialState
from experiments.validation_messages import dotted
from experiments.view import counted, duration_text, short_names, value_text

MAX_ROWS = 50
_LOOKS_AT_NO_RESULT = ("random", "qmc")
"""Samplers whose choices are known beforehand."""


@dataclass(frozen=True)
class _Row:
    """A trial of the table.

    Attributes:
        state: as people read it.
        runs: whether it is still to run.
    """

    plan: TrialPlan
    number: str
    state: str
    runs: bool


@dataclass(frozen=True)
class _Upcoming:
    """Trials that a sampled block will have.

    Attributes:
        plans: those that are certain.
        unforeseen: configurations that the results will choose.
    """

    block: SampledBlock
    plans: list[TrialPlan]
    unforeseen: int


def print_dry_run(
    console: Console, spec: SweepSpec, store: SweepStore, slots: Sequence[Slot], *, library: Library | None
) -> None:
    """The number of trials, where they stand and would run, what is excluded, how long it will take, and the table."""
    found = entries(spec, store)
    upcoming = _upcoming(spec, store)
    foreseen = [Entry(plan=plan, trial=None, result=None) for one in upcoming for plan in one.plans]
    rows = _rows([*found, *foreseen], library)
    final_left = 0 if any(entry.plan.stage == "final" for entry in found) else len(spec.final_seeds)
    unchosen = sum(one.unforeseen for one in upcoming) * len(spec.seeds) + final_left
    to_run = [row.plan for row in rows if row.runs]
    guess = estimate(to_run, footprints(history(found, store.folder.parent)), slots=len(slots), unchosen=unchosen)
    _print_summary(console, spec, rows, unchosen, folder=str(store.folder))
    _print_table(console, spec, rows, dict(zip((plan.signature for plan in to_run), guess.slots, strict=True)), slots)
    for line in [*_unchosen_lines(spec, upcoming, final_left), _time_line(guess, len(to_run) + unchosen, slots)]:
        console.print(Text(line))
    console.print(Text("dry run: nothing was started"))


def _rows(found: Iterable[Entry], library: Library | None) -> list[_Row]:
    rows = []
    for entry in found:
        number = str(entry.trial.number) if entry.trial is not None else "-"
        elsewhere = library.find(entry.plan) if library is not None and entry.trial is None else None
        state = f"in {elsewhere.paths.folder.parent.parent.name}" if elsewhere is not None else entry.state.value
        rows.append(_Row(entry.plan, number, state, runs=entry.result is None and elsewhere is None))
    return rows


def _upcoming(spec: SweepSpec, store: SweepStore) -> list[_Upcoming]:
    """What each sampled block will draw; what depends on results, and all draws after that, are not foreseen."""
    if not spec.blocks:
        return []
    stored = store.trials()
    before = drawn_before(spec, stored)
    taken = set(by_configuration([*spec.plans, *(p for of_block in before for one in of_block for p in one.plans)]))
    found = []
    is_known = True
    for block, drawn in zip(spec.blocks, before, strict=True):
        search = BlockSearch(
            block, drawn=drawn, related=(), next_draw=next_draw(block, stored), direction=spec.objective.direction
        )
        is_known = is_known and block.sampler in _LOOKS_AT_NO_RESULT
        plans: list[TrialPlan] = []
        while is_known and search.open_budget:
            one = search.draw(lambda plan: plan.configuration in taken, lambda _: Outcome(TrialState.RUNNING))
            if one is not None:
                plans += one.plans
                taken.add(one.plans[0].configuration)
        found.append(_Upcoming(block=block, plans=plans, unforeseen=search.open_budget))
    return found


def _print_summary(console: Console, spec: SweepSpec, rows: Sequence[_Row], unchosen: int, *, folder: str) -> None:
    counts = Counter(row.state for row in rows) + Counter({"not chosen yet": unchosen})
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    console.print(Text(f"sweep {spec.name}: {counted(len(rows) + unchosen, 'trial')} ({states}) in {folder}"))
    if spec.question:
        console.print(Text(spec.question.strip()))
    if spec.later_seeds:
        console.print(
            Text(
                f"seeds: {len(spec.seeds)} to {len(spec.seeds) + len(spec.later_seeds)} for each configuration, more"
                f" than {len(spec.seeds)} for those that may be the best, until it is decided"
            )
        )
    if spec.merged:
        asks = "cell asks" if spec.merged == 1 else "cells ask"
        console.print(
            Text(f"{spec.merged} {asks} for a trial that another cell asks for already; each trial runs once")
        )
    for one in spec.excluded:
        console.print(Text(f"{counted(one.cells, 'cell')} excluded by {one.where}: {one.rule}"))
    for line in (line for block in spec.blocks for line in _forbidden_lines(block)):
        console.print(Text(line))
    if spec.pruner is not None:
        name, keys = type(spec.pruner).__name__.lower(), asdict(spec.pruner)
        console.print(Text(f"pruner: {rule_text({name: keys})}, on {spec.objective.metric} as the mean over seeds"))


def _forbidden_lines(block: SampledBlock) -> list[str]:
    """What a sampler never asks for."""
    where = dotted(block.path[:-1])
    excluded = [
        f"{where}: {block.sampler} never asks for {rule_text(rule)} (exclude[{position}])"
        for position, rule in enumerate(block.exclude)
    ]
    only = [f"{where}: {block.sampler} asks only for {' or '.join(map(rule_text, block.only))}"] if block.only else []
    return [*excluded, *only]


def _print_table(
    console: Console, spec: SweepSpec, rows: Sequence[_Row], slot_of: dict[str, int], slots: Sequence[Slot]
) -> None:
    if not rows:
        return
    table = Table()
    for heading in ("trial", "state", *short_names(spec.swept_keys).values(), "seed", "would run on"):
        table.add_column(Text(heading), overflow="fold")
    for row in rows[:MAX_ROWS]:
        swept = [value_text(row.plan.value(key)) if row.plan.reads(key) else "" for key in spec.swept_keys]
        where = slots[slot_of[row.plan.signature]].label if row.runs else ""
        table.add_row(*map(Text, (row.number, row.state, *swept, str(row.plan.config.seed), where)))
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(Text(f"... and {len(rows) - MAX_ROWS} more"))


def _unchosen_lines(spec: SweepSpec, upcoming: Sequence[_Upcoming], final_left: int) -> list[str]:
    """A line for each part of the sweep whose trials the results will choose."""
    seeds = f"{counted(len(spec.seeds), 'seed')} each"
    lines = [
        f"search[{one.block.path[1]}]: {one.block.sampler} chooses {one.unforeseen} more of {one.block.trials}"
        f" configurations ({seeds}) as results come in"
        for one in upcoming
        if one.unforeseen
    ]
    if spec.final is not None and final_left:
        lines.append(
            f"final stage: the best configuration trains on {spec.final.train} and is measured on {spec.final.eval},"
            f" seeds {', '.join(map(str, spec.final_seeds))}"
        )
    return lines


def _time_line(guess: Estimate, to_run: int, slots: Sequence[Slot]) -> str:
    where = f"{counted(len(slots), 'slot')} ({', '.join([*dict.fromkeys(slot.label for slot in slots)][:8])})"
    if not to_run:
        return "nothing is left to run"
    if not guess.known:
        return f"{counted(to_run, 'trial')} to run on {where}; no time estimate: no trial like these has finished yet"
    unlike = f"; {to_run - guess.known} of them are unlike any" if guess.known < to_run else ""
    return (
        f"{counted(to_run, 'trial')} to run on {where}: about {duration_text(guess.total_s)}, judging by"
        f" {counted(guess.finished, 'finished trial')}{unlike}"
    )
