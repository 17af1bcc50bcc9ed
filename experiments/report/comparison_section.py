"""Two sweeps side by side: their configurations in one comparison, on the same images."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.errors import UserError
from experiments.report.class_tables import interval_text
from experiments.report.entries import Entry
from experiments.report.key_figures import interval_cells, swept_text
from experiments.report.section import Paragraph, Part, Section, TablePart
from experiments.report.statistics import SweepStatistics, sweep_statistics
from experiments.report.table import Cell, DataTable, number_cell, text_cell
from experiments.spec import SweepSpec


def comparison_section(spec: SweepSpec, entries: Sequence[Entry], other: SweepSpec, others: Sequence[Entry]) -> Section:
    """Every configuration of both, with the best of them all; what both have counts once, as the first one's.

    Raises:
        UserError: for sweeps with different objectives or splits, whose figures do not compare.
    """
    if (spec.objective.metric, spec.objective.direction) != (other.objective.metric, other.objective.direction):
        raise UserError(
            f"got {other.name} for --compare, whose objective is {other.objective.metric} "
            f"({other.objective.direction}); expected {spec.objective.metric} ({spec.objective.direction}), as "
            f"{spec.name} has"
        )
    splits, other_splits = _splits(entries), _splits(others)
    if splits != other_splits:
        raise UserError(
            f"got {other.name} for --compare, which is measured on {_listed(other_splits)}; expected "
            f"{_listed(splits)}, as {spec.name} is"
        )
    own = {entry.plan.signature for entry in entries}
    both = [*entries, *(entry for entry in others if entry.plan.signature not in own)]
    statistics = sweep_statistics(spec, both)
    of = {entry.plan.configuration: other.name for entry in others}
    of |= {entry.plan.configuration: spec.name for entry in entries}
    parts: list[Part] = [
        Paragraph(f"{spec.name} and {other.name} together: {statistics.sentence}"),
        *(Paragraph(warning, is_warning=True) for warning in statistics.warnings),
        TablePart(_table(statistics, of), filterable=True),
    ]
    return Section("compared", f"Compared with {other.name}", tuple(parts))


def _table(statistics: SweepStatistics, of: dict[str, str]) -> DataTable:
    verdicts = verdict_cells(statistics)
    rows = [
        (
            Cell(of[found.key]),
            text_cell(swept_text(found.swept), most=90),
            number_cell(found.seeds),
            *interval_cells(found.objective),
            *verdicts[found.key],
        )
        for found in statistics.configurations
    ]
    columns = (
        "sweep",
        "configuration",
        "seeds",
        statistics.metric,
        "95 % from",
        "to",
        "lead of the best",
        "p",
        "verdict",
    )
    return DataTable(
        "table-compared",
        "The configurations of both sweeps, the best first",
        columns,
        tuple(rows),
        numeric=frozenset({2, 3, 4, 5, 7}),
    )


def verdict_cells(statistics: SweepStatistics) -> dict[str, tuple[Cell, Cell, Cell]]:
    """Of each configuration, by its key: the lead that the best has, p, and what that comes to."""
    found = {
        one.key: (Cell(""), Cell(""), Cell("best" if one is statistics.best else ""))
        for one in statistics.configurations
    }
    for one in statistics.comparisons:
        verdict = "tied with the best" if one.tied else "worse than the best"
        p_value = Cell(f"{one.p_value:.3g}", sort=one.p_value)
        found[one.key] = Cell(interval_text(one.difference)), p_value, Cell(verdict)
    return found


def _splits(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    return {
        (entry.plan.config.data.root, entry.plan.config.data.eval) for entry in entries if entry.plan.stage == "search"
    }


def _listed(splits: set[tuple[str, str]]) -> str:
    return " and ".join(f"split {split} of {root}" for root, split in sorted(splits))
