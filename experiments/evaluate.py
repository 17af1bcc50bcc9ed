"""`python runner.py evaluate SPEC`: metrics of finished trials, computed again from what their models found."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.text import Text

from experiments.errors import UserError, shown
from experiments.report.entries import Entry, entries
from experiments.report.leaderboard import ranked, write_per_class
from experiments.report.terminal import print_measured
from experiments.spec import SweepSpec
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore
from experiments.trial import TrialState
from wsol.data.images import DataError
from wsol.data.prepare import data_root
from wsol.data.voc import EvaluationSplit, read_evaluation_split
from wsol.detections import load_detections, measure
from wsol.metrics.names import parse_metric

ReadSplit = Callable[[str, str, tuple[str, ...]], EvaluationSplit]
"""From `data.root`, the split's name and the classes to the annotations."""


@dataclass(frozen=True)
class EvaluateOptions:
    """The command line of `evaluate`.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        metrics: names, the one to rank by first; none: the objective's.
        csv: takes every value of every class; None: no file.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    csv: Path | None = None


def evaluate(file: Path, options: EvaluateOptions) -> int:
    """Measures every complete trial of a sweep and prints its tables. Trains nothing, changes nothing in the results.

    Returns:
        The exit status: 0 every complete trial was measured, 1 one could not be or there is none.

    Raises:
        UserError: for a fault in the spec or the command line, and for annotations that cannot be read.
    """
    spec = load_spec_of_sweep(file, options.settings, options.results)
    metrics = _metrics(spec, options.metrics)
    store = SweepStore(options.results / spec.name)
    console = Console(soft_wrap=not sys.stdout.isatty())
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    found = entries(spec, store)
    complete = [entry for entry in found if entry.state is TrialState.COMPLETE]
    if not complete:
        console.print(Text(f"no trial of {spec.name} is complete in {store.folder}"))
        return 1
    measured = _measured(complete, metrics, console)
    if measured:
        order = ranked(measured, metric=f"{metrics[0]}/mean", direction=_direction(spec, metrics[0]))
        print_measured(console, spec, order, metrics=metrics)
        if options.csv is not None:
            _write(options.csv, order, metrics)
    console.print(Text(f"{len(measured)} of {len(found)} trials measured, {len(complete)} are complete"))
    return 0 if len(measured) == len(complete) else 1


def _metrics(spec: SweepSpec, given: Sequence[str]) -> list[str]:
    """The metrics asked for, each once; default: the objective's.

    Raises:
        UserError: for a name that is no metric's, or one that no trial of the spec can be measured by.
    """
    tasks = dict.fromkeys(plan.config.task for plan in spec.corners)
    for name in given:
        try:
            metric = parse_metric(name)
        except ValueError as error:
            raise UserError(f"got {shown(name)} for --metric; {error}") from None
        if metric.only_task is not None and metric.only_task not in tasks:
            raise UserError(
                f"got {name} for --metric; expected a metric of task {' and '.join(tasks)}: only trials of task "
                f"{metric.only_task} can be measured by it"
            )
    return list(dict.fromkeys(given)) or [spec.objective.metric.partition("/")[0]]


def _direction(spec: SweepSpec, metric: str) -> str:
    """The objective's for its own metric; of all others more is better."""
    return spec.objective.direction if metric == spec.objective.metric.partition("/")[0] else "maximize"


def _measured(complete: Sequence[Entry], metrics: Sequence[str], console: Console) -> list[Entry]:
    """The trials with these metrics in place of their own; for one that cannot be measured a line says why."""

    @cache
    def read_split(root: str, split: str, classes: tuple[str, ...]) -> EvaluationSplit:
        try:
            return read_evaluation_split(data_root(root), split=split, classes=classes)
        except DataError as error:
            raise UserError(str(error)) from None

    measured = []
    for entry in complete:
        assert entry.trial is not None
        paths = entry.trial.paths
        if not paths.detections.exists():
            console.print(Text(f"trial {entry.trial.number}: no {paths.detections.name} in {paths.folder}"))
            continue
        try:
            measured.append(_measure(entry, metrics, read_split))
        except (OSError, ValueError) as error:
            console.print(Text(f"trial {entry.trial.number}: {error}"))
    return measured


def _measure(entry: Entry, metrics: Sequence[str], read_split: ReadSplit) -> Entry:
    """A metric of another task is left out."""
    assert entry.trial is not None
    assert entry.result is not None
    config = entry.plan.config
    own = [name for name in metrics if parse_metric(name).only_task in (None, config.task)]
    found = load_detections(entry.trial.paths.detections)
    split = read_split(config.data.root, config.data.eval, found.classes)
    return replace(entry, result=replace(entry.result, metrics=measure(found, split, metrics=own)))


def _write(file: Path, order: Sequence[Entry], metrics: Sequence[str]) -> None:
    try:
        write_per_class(file, order, metrics)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
