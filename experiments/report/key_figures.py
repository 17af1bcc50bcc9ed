"""Figures of what the swept keys do: the objective against each, all at once, and how much each explains. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.importance import Importance
from experiments.report.plotly_figure import COLOURS, PAGE_SCALE, Figure, axis, label
from experiments.report.statistics import Configuration, Interval
from experiments.report.table import Cell, DataTable, figure_cell, number_cell, text_cell, value_cell
from experiments.view import short_names, value_text

LOG_FROM = 20.0
"""Numbers of which the largest is so many times the smallest are drawn on a logarithmic axis."""
MAX_TICKS = 10
"""So many values of a key are named on its axis; of more, round numbers."""
_SPREAD = 0.25
"""Points of one value of a choice lie so far to the left and right of it."""


def key_figure(key: str, configurations: Sequence[Configuration], *, metric: str) -> Figure | None:
    """The objective of each replicate, and of each configuration with its interval, against one swept key.

    None where no configuration has the key and a value.
    """
    shown = [found for found in configurations if key in found.swept and found.values]
    if not shown:
        return None
    values = [found.swept[key] for found in shown]
    places, layout = _places(values)
    points = [(place, value) for place, found in zip(places, shown, strict=True) for value in found.values]
    texts = [label(_text(found)) for found in shown]
    replicates = {
        "type": "scatter",
        "mode": "markers",
        "name": "replicates",
        "x": [place for place, _ in points],
        "y": [value for _, value in points],
        "marker": {"size": 6, "color": COLOURS[4], "opacity": 0.9, "symbol": "circle-open"},
        "hoverinfo": "y",
    }
    means = {
        "type": "scatter",
        "mode": "markers",
        "name": "configurations, 95 %",
        "x": places,
        "y": [_value(found) for found in shown],
        "error_y": _error_bars(shown),
        "text": texts,
        "hovertemplate": "%{text}<br>%{y:.4f}<extra></extra>",
        "marker": {"size": 9, "color": COLOURS[0], "symbol": "diamond"},
    }
    return Figure(
        id=f"key-{_slug(key)}",
        title=f"{metric} against {key}",
        alt=f"{metric} of {len(shown)} configurations, drawn against {key}.",
        data=(replicates, means),
        layout={"xaxis": axis(key, **layout), "yaxis": axis(metric), "legend": {"orientation": "h", "y": 1.12}},
        table=_key_table(key, shown, metric=metric),
    )


def _key_table(key: str, shown: Sequence[Configuration], *, metric: str) -> DataTable:
    rows = tuple(
        (
            value_cell(found.swept[key]),
            text_cell(_text(found), most=90),
            number_cell(found.seeds),
            *interval_cells(found.objective),
            Cell(", ".join(f"{value:.4f}" for value in found.values)),
        )
        for found in shown
    )
    columns = (key, "configuration", "seeds", metric, "95 % from", "to", "replicates")
    return DataTable(
        f"table-key-{_slug(key)}", f"{metric} against {key}", columns, rows, numeric=frozenset({0, 2, 3, 4, 5})
    )


def interval_cells(interval: Interval | None) -> tuple[Cell, Cell, Cell]:
    """Its estimate and both ends."""
    if interval is None:
        return Cell("–"), Cell("–"), Cell("–")
    return figure_cell(interval.estimate), figure_cell(_known(interval.low)), figure_cell(_known(interval.high))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def parallel_figure(configurations: Sequence[Configuration], keys: Sequence[str], *, metric: str) -> Figure | None:
    """An axis a swept key and one for the objective, a line a configuration. None where nothing has a value."""
    shown = [found for found in configurations if _value(found) is not None]
    used = [key for key in keys if len({repr(found.swept.get(key)) for found in shown}) > 1]
    if not shown or not used:
        return None
    names = short_names(used)
    means = [_value(found) for found in shown]
    dimensions = [_dimension(names[key], [found.swept.get(key) for found in shown]) for key in used]
    dimensions.append({"label": label(metric), "values": means})
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {"color": means, "colorscale": PAGE_SCALE, "showscale": False},
        "labelangle": -12,
    }
    rows = tuple(
        (
            *(value_cell(found.swept[key]) if key in found.swept else Cell("") for key in used),
            figure_cell(_value(found)),
        )
        for found in shown
    )
    table = DataTable(
        "table-parallel",
        "All configurations by their swept keys",
        (*used, metric),
        rows,
        numeric=frozenset(range(len(used) + 1)),
    )
    return Figure(
        id="parallel",
        title="All configurations at once",
        alt=f"A line for each of {len(shown)} configurations through its swept values and its {metric}.",
        data=(trace,),
        layout={"margin": {"t": 80, "l": 70, "r": 70, "b": 30}},
        table=table,
        note="Drag along an axis to keep only the lines that pass there.",
    )


def importance_figure(found: Sequence[Importance], *, metric: str, configurations: int) -> Figure | None:
    """A bar a key with its range; None where there were too few configurations to say."""
    if not found:
        return None
    rising = list(reversed(found))  # plotly draws the first bar at the bottom
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [label(one.key) for one in rising],
        "x": [one.share for one in rising],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.share for one in rising],
            "arrayminus": [one.share - one.low for one in rising],
        },
        "marker": {"color": COLOURS[0]},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    rows = tuple(
        (
            Cell(one.key),
            figure_cell(one.share, digits=3),
            figure_cell(one.low, digits=3),
            figure_cell(one.high, digits=3),
            number_cell(one.groups),
        )
        for one in found
    )
    table = DataTable(
        "table-importance",
        f"Share of the variance of {metric} that each key explains by itself",
        ("key", "share", "95 % from", "to", "values told apart"),
        rows,
        numeric=frozenset({1, 2, 3, 4}),
    )
    return Figure(
        id="importance",
        title="Which keys matter",
        alt=f"The share of the variance of {metric} between configurations that each swept key explains.",
        data=(bars,),
        layout={"xaxis": axis("share of the variance between configurations", range=[0, 1.02]), "yaxis": axis("")},
        table=table,
        note=(
            f"Epsilon squared over {configurations} configurations, main effects alone: what only a combination of "
            "keys does belongs to no bar. Lines hold 95 % of the shares in random halves of the configurations."
        ),
    )


def _places(values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Where values lie on an axis, and what the axis is like: numbers as they are, other values side by side."""
    if _are_numbers(values):
        distinct = sorted(set(values))
        few = {"tickvals": distinct, "ticktext": [value_text(value) for value in distinct]}
        return list(values), {
            "type": "log" if distinct[0] > 0 and distinct[-1] / distinct[0] >= LOG_FROM else "linear",
            **(few if len(distinct) <= MAX_TICKS else {}),
        }
    names = list(dict.fromkeys(value_text(value) for value in values))
    own: dict[str, int] = dict.fromkeys(names, 0)
    total = {name: sum(value_text(value) == name for value in values) for name in names}
    places = []
    for value in values:  # side by side, so that their intervals can be told apart
        name = value_text(value)
        step = (own[name] + 0.5) / total[name] - 0.5
        places.append(round(names.index(name) + 2 * _SPREAD * step, 4))
        own[name] += 1
    ticks = {"tickvals": list(range(len(names))), "ticktext": [label(name, most=24) for name in names]}
    return places, {"type": "linear", "range": [-0.6, len(names) - 0.4], **ticks}


def _dimension(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of the parallel coordinates. Of numbers far apart their logarithms, with the numbers as ticks."""
    if _are_numbers(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM:
        distinct = sorted(set(values))
        kept = distinct if len(distinct) <= 8 else [distinct[round(i * (len(distinct) - 1) / 7)] for i in range(8)]
        return {
            "label": label(name, most=24),
            "values": [math.log10(value) for value in values],
            "tickvals": [math.log10(value) for value in kept],
            "ticktext": [label(value_text(value)) for value in kept],
        }
    if _are_numbers(values):
        return {"label": label(name, most=24), "values": list(values)}
    names = list(dict.fromkeys("" if value is None else value_text(value) for value in values))
    return {
        "label": label(name, most=24),
        "values": [names.index("" if value is None else value_text(value)) for value in values],
        "tickvals": list(range(len(names))),
        "ticktext": [label(text or "(none)", most=16) for text in names],
    }


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _value(found: Configuration) -> float | None:
    return found.objective.estimate if found.objective is not None else None


def _error_bars(shown: Sequence[Configuration]) -> dict[str, Any]:
    """None for a configuration without an interval."""

    def length(found: Configuration, *, up: bool) -> float:
        interval = found.objective
        if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return 0.0
        return interval.high - interval.estimate if up else interval.estimate - interval.low

    return {
        "type": "data",
        "symmetric": False,
        "array": [length(found, up=True) for found in shown],
        "arrayminus": [length(found, up=False) for found in shown],
    }


def _text(found: Configuration) -> str:
    return swept_text(found.swept)


def swept_text(swept: Mapping[str, Any]) -> str:
    """The swept values of a configuration, short."""
    names = short_names(list(swept))
    return " ".join(f"{names[key]}={value_text(value)}" for key, value in swept.items()) or "the only configuration"


def _slug(key: str) -> str:
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in key)
