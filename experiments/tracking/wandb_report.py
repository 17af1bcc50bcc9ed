"""`python runner.py report SPEC --wandb`: a report of the sweep at W&B, of the runs that are there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from experiments.errors import UserError, printable
from experiments.report.entries import Entry, entries
from experiments.report.leaderboard import class_names, metric_names, ranked
from experiments.spec import SweepSpec
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore
from experiments.tracking.connection import choose_connection, probe
from experiments.tracking.identity import Identity, read_identity, write_identity
from experiments.tracking.paths import WandbPaths
from experiments.tracking.run_content import PER_CLASS, PICTURES
from experiments.view import value_text

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2

INSTALL = "pip install '.[wandb-report]'"
HEAT_MAPS = "heat_maps"
LEADERS = 10
"""Trials of the table at the beginning."""
MAX_CLASSES = 100
"""Bars of a chart."""


def save_report(file: Path, *, results: Path, settings: Sequence[str]) -> int:
    """Saves the report, in the place of the one that was saved before.

    Args:
        results: folder of all sweeps.
        settings: `KEY=VALUE` each, over the spec.

    Returns:
        The exit status: 0 it is saved, 1 W&B cannot be reached or refuses it.

    Raises:
        UserError: for a fault in the spec, where wandb-workspaces is missing, where there is no API key, and where no
            run of the sweep is at W&B.
    """
    spec = load_spec_of_sweep(file, settings, results)
    store = SweepStore(results / spec.name)
    console = Console(soft_wrap=not sys.stdout.isatty())
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    connection = choose_connection(spec.tracking.wandb, os.environ, home=Path.home(), must_send=True)
    if connection.mode != "online":
        raise UserError(
            f"got no API key for {connection.host}; expected one in WANDB_API_KEY or ~/.netrc (`wandb login`)"
        )
    paths = WandbPaths(store.wandb)
    identity = read_identity(paths)
    if identity is None or not identity.entity:
        raise UserError(
            f"got no run of {spec.name} at W&B; expected its trials to be there: `python runner.py sync {file}` sends"
            " them"
        )
    _check_installed()
    if problem := probe(connection.base_url):
        console.print(Text(f"W&B: {problem}; no report was saved"))
        return 1
    try:
        report = build_report(spec, identity, entries(spec, store))
        report.id = identity.report
        report.save()
    except Exception as error:  # whatever the library raises: it has no error of its own
        console.print(Text(printable(f"W&B: the report could not be saved: {' '.join(str(error).split())[:300]}")))
        return 1
    write_identity(paths, replace(identity, report=report.id))
    console.print(Text(printable(f"report: {report.url}")))
    return 0


def _check_installed() -> None:
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError:
        raise UserError(
            f"got --wandb without the package wandb-workspaces; expected it to be installed: {INSTALL}"
        ) from None


def build_report(spec: SweepSpec, identity: Identity, found: Sequence[Entry]) -> v2.Report:
    """What it says: question, leaderboard, what matters, classes, pictures. Asks the server for the project's id."""
    from wandb_workspaces.reports import v2

    objective = spec.objective.metric
    runs = v2.Runset(
        entity=identity.entity,
        project=identity.project,
        name=spec.name,
        filters=f"{_those_of(identity, spec)} and Metric('JobType') = 'search'",
        order=[v2.OrderBy(v2.SummaryMetric(objective), ascending=spec.objective.direction == "minimize")],
        pinned_columns=["run:displayName", f"summary:{objective}", *map(_column, spec.swept_keys)],
    )
    return v2.Report(
        entity=identity.entity,
        project=identity.project,
        title=spec.name,
        description=spec.question,
        width="fluid",
        blocks=[
            v2.H1(text="Question"),
            v2.P(text=spec.question or "The spec asks none."),
            v2.P(text=f"Objective: {objective}, to {spec.objective.direction}. `{spec.file}`"),
            v2.H1(text="Leaderboard and what matters"),
            v2.MarkdownBlock(text=_leaderboard(spec, found)),
            v2.PanelGrid(runsets=[runs], panels=_panels_of_keys(spec)),
            v2.H1(text="Per class"),
            v2.PanelGrid(runsets=[runs], panels=_panels_of_classes(spec, found)),
            v2.H1(text="What was found"),
            v2.P(text="Boxes: ground truth beside detections, by layer; the best, the worst and some random images."),
            v2.PanelGrid(runsets=[runs], panels=[v2.MediaBrowser(media_keys=[key]) for key in (PICTURES, HEAT_MAPS)]),
        ],
    )


def _those_of(identity: Identity, spec: SweepSpec) -> str:
    """A filter for the runs of this sweep's folder; by its group alone, sweeps of one name would be taken together."""
    return f"Metric('Sweep') = '{identity.sweep}'" if identity.sweep else f"Metric('Group') = '{spec.name}'"


def _column(key: str) -> str:
    """Of a config key in W&B's table of runs, where only the first part of a name has a value."""
    first, *rest = key.split(".")
    return ".".join([f"config:{first}.value", *rest])


def _leaderboard(spec: SweepSpec, found: Sequence[Entry]) -> str:
    """The best trials as a table in Markdown."""
    objective, keys = spec.objective.metric, list(spec.swept_keys)
    best = ranked(found, metric=objective, direction=spec.objective.direction)[:LEADERS]
    rows = [["trial", *keys, "seed", "stage", objective]]
    rows.append(["---"] * len(rows[0]))
    for entry in best:
        if entry.trial is not None and (value := entry.metric(objective)) is not None:
            values = [value_text(entry.plan.value(key)) if entry.plan.reads(key) else "" for key in keys]
            seed = str(entry.plan.config.seed)
            rows.append([str(entry.trial.number), *values, seed, entry.plan.stage, f"{value:.4f}"])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _panels_of_keys(spec: SweepSpec) -> list[v2.interface.PanelTypes]:
    from wandb_workspaces.reports import v2

    objective = spec.objective.metric
    columns = [v2.ParallelCoordinatesPlotColumn(v2.Config(key), log=_is_log(spec, key)) for key in spec.swept_keys]
    return [
        v2.ParallelCoordinatesPlot(
            columns=[*columns, v2.ParallelCoordinatesPlotColumn(v2.SummaryMetric(objective))],
            layout=v2.Layout(x=0, y=0, w=24, h=10),
        ),
        v2.ParameterImportancePlot(with_respect_to=objective, layout=v2.Layout(x=0, y=10, w=12, h=8)),
        v2.LinePlot(x="epoch", y=[objective], layout=v2.Layout(x=12, y=10, w=12, h=8)),
    ]


def _is_log(spec: SweepSpec, key: str) -> bool:
    """Whether a key's values are spread over more than a factor of 30, so that a linear axis would hide most."""
    values = [plan.value(key) for plan in spec.corners if key in plan.swept]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return len(numbers) == len(values) and min(numbers, default=0) > 0 and max(numbers) / min(numbers) > 30


def _panels_of_classes(spec: SweepSpec, found: Sequence[Entry]) -> list[v2.interface.PanelTypes]:
    from wandb_workspaces.reports import v2

    metric = metric_names(spec)[0]
    bars = [v2.SummaryMetric(f"{metric}/{name}") for name in class_names(found)[:MAX_CLASSES]]
    return [
        v2.BarPlot(title=f"{metric} per class", metrics=bars, orientation="v", layout=v2.Layout(x=0, y=0, w=24, h=10)),
        v2.WeavePanelSummaryTable(table_name=PER_CLASS, layout=v2.Layout(x=0, y=10, w=24, h=10)),
    ]
