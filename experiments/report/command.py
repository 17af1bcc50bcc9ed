"""`python runner.py report SPEC`: what a sweep has found so far, printed and in files. Only reads the trials."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from experiments.errors import UserError
from experiments.json_file import write_json, write_text
from experiments.report.comparison_section import comparison_section
from experiments.report.entries import Entry, entries
from experiments.report.exports import latex_table, report_values
from experiments.report.leaderboard import class_names, write_tables
from experiments.report.page_file import page_html
from experiments.report.page_parts import sweep_page
from experiments.report.section import Section
from experiments.report.statistics import SweepStatistics, sweep_statistics
from experiments.report.terminal import print_report
from experiments.spec import SweepSpec
from experiments.spec_of_sweep import load_spec_of_sweep
from experiments.store import SweepStore

Format = Literal["html", "csv", "json", "latex"]


@dataclass(frozen=True)
class ReportOptions:
    """The command line of `report`.

    Attributes:
        settings: `KEY=VALUE` each, over the spec.
        formats: what to write; none: html and csv.
        wandb: makes the report at Weights & Biases, and nothing else.
        compare: another spec, whose sweep is compared with this one on the page; None: none.
    """

    results: Path = Path("results")
    settings: tuple[str, ...] = ()
    formats: tuple[Format, ...] = ()
    compare: Path | None = None
    wandb: bool = False


def report(file: Path, options: ReportOptions) -> int:
    """Prints a sweep's tables and writes its report, while it runs or afterwards.

    Returns:
        The exit status: 0, or 1 where W&B could not be reached.

    Raises:
        UserError: for a fault in a spec or the command line, and for a sweep that was never begun.
    """
    if options.wandb:
        return _save_at_wandb(file, options)
    spec = load_spec_of_sweep(file, options.settings, options.results)
    store = SweepStore(options.results / spec.name)
    console = Console(soft_wrap=not sys.stdout.isatty())
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    found = _entries(spec, store)
    statistics = sweep_statistics(spec, found)
    compared = _compared(options, spec, found)
    print_report(console, spec, found, statistics=statistics)
    for path in write_report(spec, store, found, statistics, formats=options.formats or ("html", "csv"), more=compared):
        console.print(Text(f"written: {path}"))
    return 0


def _save_at_wandb(file: Path, options: ReportOptions) -> int:
    if options.formats or options.compare:
        raise UserError(
            "got --wandb with --format or --compare; expected it alone: it makes the report at W&B and no file"
        )
    from experiments.tracking.wandb_report import save_report

    return save_report(file, results=options.results, settings=options.settings)


def _entries(spec: SweepSpec, store: SweepStore) -> list[Entry]:
    if not store.trial_names():
        raise UserError(f"no trial of {spec.name} in {store.folder}: there is nothing to report yet")
    return entries(spec, store)


def _compared(options: ReportOptions, spec: SweepSpec, found: Sequence[Entry]) -> tuple[Section, ...]:
    if options.compare is None:
        return ()
    other = load_spec_of_sweep(options.compare, (), options.results)
    others = _entries(other, SweepStore(options.results / other.name))
    return (comparison_section(spec, found, other, others),)


def write_report(
    spec: SweepSpec,
    store: SweepStore,
    found: Sequence[Entry],
    statistics: SweepStatistics,
    *,
    formats: Sequence[Format],
    more: Sequence[Section] = (),
) -> list[Path]:
    """Writes the files asked for, each whole or not at all.

    Args:
        more: further sections of the page.

    Returns:
        What was written. Same results, same bytes.
    """
    written = []
    if "html" in formats:
        write_text(store.report, page_html(sweep_page(spec, store, found, statistics, more=more)))
        written.append(store.report)
    if "csv" in formats:
        write_tables(store, spec, found)
        written += [store.leaderboard, store.per_class]
    if "json" in formats:
        write_json(store.report_json, report_values(spec, found, statistics))
        written.append(store.report_json)
    if "latex" in formats:
        search = [entry for entry in found if entry.plan.stage == "search"]
        write_text(store.report_latex, latex_table(spec, statistics, class_names(search)))
        written.append(store.report_latex)
    return written
