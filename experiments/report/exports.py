"""The statistics of a sweep for other programs (JSON) and for papers (LaTeX). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.report.entries import Entry
from experiments.report.key_figures import swept_text
from experiments.report.statistics import Configuration, Interval, SweepStatistics
from experiments.spec import SweepSpec

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def report_values(spec: SweepSpec, entries: Sequence[Entry], statistics: SweepStatistics) -> dict[str, Any]:
    """Everything that the page says in figures, as plain values; what is not finite is None."""
    return {
        "sweep": spec.name,
        "question": spec.question,
        "statistics": _plain(asdict(statistics)),
        "trials": [_plain(_trial_values(entry)) for entry in entries if entry.trial is not None],
    }


def _trial_values(entry: Entry) -> dict[str, Any]:
    assert entry.trial is not None
    result = entry.result
    return {
        "number": entry.trial.number,
        "signature": entry.plan.signature,
        "configuration": entry.plan.configuration,
        "stage": entry.plan.stage,
        "split": entry.plan.config.data.eval,
        "seed": entry.plan.config.seed,
        "swept": dict(entry.plan.swept),
        "state": entry.state.value,
        "stop_reason": result.stop_reason if result else "",
        "attempts": result.attempts if result else None,
        "epochs": result.epochs if result else None,
        "duration_s": result.duration_s if result else None,
        "metrics": dict(result.metrics) if result else {},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def latex_table(spec: SweepSpec, statistics: SweepStatistics, classes: Sequence[str]) -> str:
    """A booktabs table in percent: a row a configuration, a column a class, half the interval's width beside the mean.

    Bold: the best of a column. A dagger: tied with the best on average.
    """
    found = statistics.configurations
    sign = 1 if statistics.direction == "maximize" else -1
    columns = [[_estimate(one.per_class.get(name)) for one in found] for name in classes]
    columns.append([_estimate(one.mean) for one in found])
    best = [max((sign * value for value in column if value is not None), default=None) for column in columns]
    lines = [
        f"% {' '.join(spec.name.split())}: {statistics.metric} on split {statistics.split}, in percent",
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(classes) + 1)}}}",
        r"\toprule",
        " & ".join(["configuration", *map(latex_text, classes), "mean"]) + r" \\",
        r"\midrule",
    ]
    for row, one in enumerate(found):
        cells = [latex_text(swept_text(one.swept)) + (r"$^\dagger$" if one.key in statistics.tied else "")]
        for column, top in zip(columns, best, strict=True):
            value = column[row]
            text = "--" if value is None else f"{100 * value:.1f}"
            cells.append(rf"\textbf{{{text}}}" if value is not None and sign * value == top else text)
        cells[-1] += _half_width(one)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _half_width(one: Configuration) -> str:
    if one.mean is None or not math.isfinite(one.mean.high - one.mean.low):
        return ""
    return rf" $\pm$ {50 * (one.mean.high - one.mean.low):.1f}"


def latex_text(text: str) -> str:
    """Text of any origin, as itself, on one line."""
    return "".join(_LATEX.get(char, char if char.isprintable() else " ") for char in text)


def _estimate(interval: Interval | None) -> float | None:
    return interval.estimate if interval is not None else None
