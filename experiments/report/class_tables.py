"""Tables by class: the metric of each configuration, and what its proposals could reach. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.report.entries import Entry
from experiments.report.key_figures import swept_text
from experiments.report.statistics import Configuration, Interval
from experiments.report.table import Cell, DataTable, figure_cell, number_cell, shades, text_cell

BOUND = "proposal_recall50"


def class_table(
    configurations: Sequence[Configuration], classes: Sequence[str], *, metric: str, sign: int
) -> DataTable:
    """A row a configuration, the best first, a column a class; the best of each class is marked.

    Args:
        sign: 1 where more is better, -1 where less is.
    """
    columns = [[_estimate(found.per_class.get(name)) for found in configurations] for name in classes]
    means = [_estimate(found.mean) for found in configurations]
    columns.append(means)
    every = [value for column in columns for value in column if value is not None]
    shade_of = dict(zip(every, shades(every), strict=True))
    best = [max((sign * value for value in column if value is not None), default=None) for column in columns]
    rows = []
    for row, found in enumerate(configurations):
        cells = [text_cell(swept_text(found.swept), most=90), number_cell(found.seeds)]
        for position, column in enumerate(columns):
            value = column[row]
            interval = found.per_class.get(classes[position]) if position < len(classes) else found.mean
            is_best = value is not None and sign * value == best[position] and len(configurations) > 1
            cells.append(
                Cell(
                    "–" if value is None else f"{value:.3f}",
                    sort=value,
                    shade=None if value is None else shade_of[value],
                    is_best=is_best,
                    title=interval_text(interval),
                )
            )
        rows.append(tuple(cells))
    return DataTable(
        "table-classes",
        f"{metric} of each configuration by class",
        ("configuration", "seeds", *classes, "mean"),
        tuple(rows),
        numeric=frozenset(range(1, len(classes) + 3)),
        note="★ marks the best of a class. Rest the pointer on a figure for its 95 % interval.",
    )


def recall_table(best: Sequence[Entry], classes: Sequence[str], *, metric: str) -> DataTable | None:
    """What share of the objects of each class a proposal fits, beside what was found; None where that is not known."""
    names = [*classes, "mean"]
    recalls = [_average([entry.metric(f"{BOUND}/{name}") for entry in best]) for name in names]
    if all(recall is None for recall in recalls):
        return None
    found = [_average([entry.metric(f"{metric}/{name}") for entry in best]) for name in names]
    rows = tuple(
        (Cell(name), figure_cell(recall), figure_cell(value))
        for name, recall, value in zip(names, recalls, found, strict=True)
    )
    return DataTable(
        "table-recall",
        f"{BOUND}: the share of objects that a proposal of the best configuration fits",
        ("class", BOUND, metric),
        rows,
        numeric=frozenset({1, 2}),
        note="An object that no proposal fits cannot be found: recall of the proposals bounds that of detections.",
    )


def interval_text(interval: Interval | None) -> str:
    """`0.512 (95 %: 0.470 to 0.553)`; empty where there is none."""
    if interval is None:
        return ""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return f"{interval.estimate:.3f} (no interval)"
    return f"{interval.estimate:.3f} (95 %: {interval.low:.3f} to {interval.high:.3f})"


def choice_table(best: Mapping[str, Sequence[str]], configurations: Sequence[Configuration]) -> DataTable:
    """The best configuration of each class, and how many cannot be told from it."""
    by_key = {found.key: found for found in configurations}
    rows = []
    for name, keys in best.items():
        if not keys:
            continue
        first = by_key[keys[0]]
        rows.append(
            (
                Cell(name),
                text_cell(swept_text(first.swept), most=90),
                Cell(interval_text(first.per_class.get(name)) or "–"),
                number_cell(len(keys) - 1),
            )
        )
    return DataTable(
        "table-choice",
        "The best configuration of each class",
        ("class", "best configuration", "value", "others tied with it"),
        tuple(rows),
        numeric=frozenset({3}),
    )


def _estimate(interval: Interval | None) -> float | None:
    return interval.estimate if interval is not None else None


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
