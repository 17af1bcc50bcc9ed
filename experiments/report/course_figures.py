"""Figures of how the sweep went: learning curves, and what ran on each slot when. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.report.history import Curve
from experiments.report.plotly_figure import COLOURS, DASHES, Figure, axis, label
from experiments.report.table import Cell, DataTable, duration_cell, figure_cell, number_cell
from experiments.timeline import AttemptSpan
from experiments.trial import TrialState

MAX_EPOCH_COLUMNS = 12
LEAST_SPAN_S = 0.5
"""An attempt that was shorter is drawn as long as this, so that it can be seen."""
MAX_SPANS = 5000
"""So many attempts, the newest, are drawn."""
_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
_OF_STATE = {state: index for index, state in enumerate(_STATES)}
_PATTERNS = ("", "/", "x", ".")
_AGAIN = "began again"


def curve_figure(curves: Sequence[Curve], *, metric: str, best: Collection[int], of: int) -> Figure | None:
    """The metric over epochs, a line a trial. None where no trial was evaluated.

    Args:
        best: numbers of the trials of the best configuration, drawn above all others.
        of: how many trials there are; where it is more than the curves, the note says so.
    """
    shown = [curve for curve in curves if any(value is not None for value in curve.values)]
    if not shown:
        return None
    traces = []
    for state in _STATES:
        own = [curve for curve in shown if curve.state is state and curve.number not in best]
        if own:
            index = _OF_STATE[state]
            line = {"color": COLOURS[(4, 1, 5, 3)[index]], "dash": DASHES[index], "width": 1.2}
            traces.append(_lines(own, name=str(state), line=line, opacity=0.65))
    if own := [curve for curve in shown if curve.number in best]:
        traces.append(_lines(own, name="the best configuration", line={"color": COLOURS[0], "width": 3}, opacity=1.0))
    most = max(curve.last_epoch for curve in shown)
    return Figure(
        id="curves",
        title="Learning curves",
        alt=f"{metric} after each evaluated epoch of {len(shown)} trials.",
        data=tuple(traces),
        layout={
            "xaxis": axis("epoch", **({"dtick": 1} if most <= MAX_EPOCH_COLUMNS else {"tickformat": "d"})),
            "yaxis": axis(metric),
            "legend": {"orientation": "h", "y": 1.12},
        },
        table=_curve_table(shown, metric=metric),
        note="A trial's result is that of its last epoch, never of its best."
        + (f" The best {len(curves):,} of {of:,} trials." if of > len(curves) else ""),
    )


def _lines(curves: Sequence[Curve], *, name: str, line: Mapping[str, Any], opacity: float) -> dict[str, Any]:
    """All curves of a kind in one trace, with gaps between them: hundreds of traces would be slow."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for curve in curves:
        x += [*curve.epochs, None]
        y += [*curve.values, None]
        text += [f"trial {curve.number}"] * (len(curve.epochs) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= 400 else "lines",
        "name": name,
        "x": x,
        "y": y,
        "text": text,
        "line": dict(line),
        "opacity": opacity,
        "connectgaps": False,
        "hovertemplate": "%{text}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def _curve_table(shown: Sequence[Curve], *, metric: str) -> DataTable:
    every = sorted({epoch for curve in shown for epoch in curve.epochs})
    steps = max(1, -(-len(every) // MAX_EPOCH_COLUMNS))
    epochs = every[::-1][::steps][::-1]  # the last one always
    rows = []
    for curve in shown:
        by_epoch = dict(zip(curve.epochs, curve.values, strict=True))
        cells = [figure_cell(by_epoch[epoch]) if epoch in by_epoch else Cell("") for epoch in epochs]
        rows.append((number_cell(curve.number), Cell(str(curve.state)), number_cell(curve.last_epoch), *cells))
    left_out = f" Every {steps}th evaluated epoch is shown; all are in metrics.jsonl." if steps > 1 else ""
    return DataTable(
        "table-curves",
        f"{metric} after epochs",
        ("trial", "state", "epochs", *(f"epoch {epoch}" for epoch in epochs)),
        tuple(rows),
        numeric=frozenset({0, 2, *range(3, 3 + len(epochs))}),
        note=left_out.strip(),
    )


def slot_figure(
    spans: Sequence[AttemptSpan], *, states: Mapping[int, TrialState], seen_at: Mapping[int, float]
) -> Figure | None:
    """A row a slot, a bar an attempt. None where no attempt is on record.

    Args:
        states: of the trials, by number.
        seen_at: when each trial last finished an epoch, where no end of its attempt is on record.
    """
    if not spans:
        return None
    total, spans = len(spans), spans[-MAX_SPANS:]
    first = min(span.began for span in spans)
    newest: dict[int, int] = {}
    for span in spans:
        newest[span.trial] = max(span.attempt, newest.get(span.trial, 0))
    kinds: dict[str, list[tuple[AttemptSpan, float]]] = {kind: [] for kind in (*map(str, _STATES), _AGAIN)}
    for span in spans:
        known = span.ended if span.ended is not None else max(span.began, seen_at.get(span.trial, 0.0))
        state = states.get(span.trial, TrialState.RUNNING)
        kind = str(state) if span.attempt == newest[span.trial] else _AGAIN
        kinds.setdefault(kind, []).append((span, known - span.began))
    longest = max(length for found in kinds.values() for _, length in found)
    unit, name = (3600.0, "hours") if longest > 7200 else (60.0, "minutes") if longest > 120 else (1.0, "seconds")
    traces = [
        _bars(kind, found, first=first, unit=unit, position=position)
        for position, (kind, found) in enumerate(kinds.items())
        if found
    ]
    places = list(dict.fromkeys(span.place for span in sorted(spans, key=lambda span: -span.slot)))
    return Figure(
        id="slots",
        title="What ran where",
        alt=f"{len(spans)} attempts on {len(places)} slots over time.",
        data=tuple(traces),
        layout={
            "barmode": "overlay",
            "height": min(900, 160 + 28 * len(places)),
            "xaxis": axis(f"{name} since the first attempt", type="linear"),
            "yaxis": axis("", type="category", categoryarray=[label(place) for place in places]),
            "legend": {"orientation": "h", "y": 1.15},
        },
        table=_slot_table(kinds, first=first),
        note="An attempt whose end nobody saw, as the runner was killed, is drawn up to its last epoch."
        + (f" The newest {MAX_SPANS:,} of {total:,} attempts." if total > MAX_SPANS else ""),
    )


def _bars(
    kind: str, found: Sequence[tuple[AttemptSpan, float]], *, first: float, unit: float, position: int
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "y": [label(span.place) for span, _ in found],
        "base": [round((span.began - first) / unit, 5) for span, _ in found],
        "x": [round(max(length, LEAST_SPAN_S) / unit, 5) for _, length in found],
        "text": [f"trial {span.trial}, attempt {span.attempt}" for span, _ in found],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": COLOURS[position % len(COLOURS)],
            "pattern": {"shape": _PATTERNS[position % len(_PATTERNS)]},
            "line": {"width": 0.5, "color": "#888"},
        },
    }


def _slot_table(kinds: Mapping[str, Sequence[tuple[AttemptSpan, float]]], *, first: float) -> DataTable:
    found = sorted(
        ((span, length, kind) for kind, own in kinds.items() for span, length in own),
        key=lambda row: (row[0].began, row[0].slot, row[0].trial),
    )
    rows = tuple(
        (
            number_cell(span.trial),
            number_cell(span.attempt),
            Cell(span.place, sort=span.slot),
            duration_cell(span.began - first),
            duration_cell(length),
            Cell(kind if span.ended is not None else f"{kind} (end not seen)"),
        )
        for span, length, kind in found
    )
    columns = ("trial", "attempt", "slot", "began after", "took", "what came of it")
    return DataTable("table-slots", "Attempts", columns, rows, numeric=frozenset({0, 1, 3, 4}))
