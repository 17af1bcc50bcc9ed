"""A sweep's results -> the sections of its page. From files and statistics to text; nothing is written here."""

from __future__ import annotations

import base64
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.json_file import read_json
from experiments.report.class_tables import choice_table, class_table, recall_table
from experiments.report.comparison_section import verdict_cells
from experiments.report.course_figures import curve_figure, slot_figure
from experiments.report.entries import Entry
from experiments.report.equal_metrics import differing_keys, equal_metrics
from experiments.report.failed import failed_trials
from experiments.report.history import Curve, curves
from experiments.report.importance import importances
from experiments.report.key_figures import importance_figure, interval_cells, key_figure, parallel_figure
from experiments.report.leaderboard import class_names, csv_value, metric_names, ranked
from experiments.report.plotly_figure import Figure
from experiments.report.section import (
    Command,
    FigurePart,
    LogText,
    Page,
    Paragraph,
    Part,
    Picture,
    Pictures,
    Section,
    TablePart,
)
from experiments.report.statistics import Configuration, SweepStatistics
from experiments.report.table import Cell, DataTable, duration_cell, figure_cell, number_cell, text_cell, value_cell
from experiments.spec import SweepSpec
from experiments.store import SweepStore
from experiments.timeline import read_timeline
from experiments.trial import TrialState
from experiments.view import counted, short_names, value_text
from wsol.metrics.names import parse_metric

MAX_ROWS = 1000
"""So many trials, and configurations, the best first, have a row; a browser is slow with more."""
MAX_CURVES = 500
"""So many trials, the best first, have a learning curve."""
MAX_PICTURE_BYTES = 5_000_000
"""Pictures beyond so many bytes in all stay in the trial's folder."""
_FAMILY_TEXTS: Mapping[str, str] = {
    "ap_11pt": "detection: 11-point average precision (VOC 2007)",
    "ap_area": "detection: area under the precision-recall curve (VOC 2010 and later)",
    "corloc": "localization: the best box of a class is right, where the class is shown",
    "proposal_recall": "share of objects that a proposal fits",
    "cls_ap": "image classification: average precision without interpolation",
    "point_ap": "localization: average precision of one point a class (Oquab et al. 2015)",
    "pointing_game": "localization: the point is right, where the class is shown (Zhang et al. 2016)",
    "maxboxacc_v2": "localization: boxes around heat maps at the best threshold (Choe et al. 2020)",
}


def sweep_page(
    spec: SweepSpec,
    store: SweepStore,
    entries: Sequence[Entry],
    statistics: SweepStatistics,
    *,
    more: Sequence[Section] = (),
) -> Page:
    """All that a page says of a sweep, as far as it has come.

    Args:
        more: sections that follow the configurations.
    """
    order = ranked(entries, metric=spec.objective.metric, direction=spec.objective.direction)
    courses = curves(order[:MAX_CURVES], metric=spec.objective.metric)
    best = [entry for entry in order if _is_of(entry, statistics.best)]
    sections = [
        _leaderboard(spec, store, order),
        _configurations(spec, statistics),
        *more,
        _classes(spec, order, statistics, best),
        _keys(spec, statistics),
        _course(spec, store, order, courses, best),
        _failures(order),
        _pictures(best),
        _numbers(spec, order),
        _environment(store),
    ]
    return Page(
        name=spec.name,
        question=spec.question,
        sentence=statistics.sentence,
        facts=tuple(_facts(spec, order, courses, statistics)),
        answer=tuple(_answer(spec, order, statistics)),
        sections=tuple(section for section in sections if section.parts),
    )


def _is_of(entry: Entry, configuration: Configuration | None) -> bool:
    return configuration is not None and entry.trial is not None and entry.trial.number in configuration.trials


def _facts(
    spec: SweepSpec, order: Sequence[Entry], courses: Sequence[Curve], statistics: SweepStatistics
) -> list[tuple[str, str]]:
    counts = Counter(entry.state for entry in order)
    states = ", ".join(f"{counts[state]} {state}" for state in TrialState if counts[state])
    facts = [("Trials", f"{len(order)} of {spec.total}: {states}" if order else f"none of {spec.total} begun")]
    facts.append(("Objective", f"{spec.objective.metric}, {spec.objective.direction}d, on split {statistics.split}"))
    seen_at = max((course.seen_at for course in courses), default=0.0)
    if seen_at:
        facts.append(("Last epoch seen", f"{datetime.fromtimestamp(seen_at, UTC):%Y-%m-%d %H:%M} UTC"))
    return facts


def _answer(spec: SweepSpec, order: Sequence[Entry], statistics: SweepStatistics) -> list[Part]:
    parts: list[Part] = [Paragraph(warning, is_warning=True) for warning in statistics.warnings]
    parts += [Paragraph(text, is_warning=True) for text in _equal_lines(order)]
    best = statistics.best
    if best is None:
        return parts
    command = reproducing_command(spec, best.swept)
    return [Command(command, "The best configuration, trained again by itself:"), *parts]


def reproducing_command(spec: SweepSpec, swept: Mapping[str, Any]) -> str:
    """The command line that trains one configuration with all seeds, in a folder of its own."""
    settings = [f"name={spec.name[:90]}-best", "search=[]"]
    settings += [f"{key}={csv_value(value) if value is not None else 'null'}" for key, value in swept.items()]
    options = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["python", "runner.py", str(spec.file), *options, "--no-reuse"])


def _equal_lines(order: Sequence[Entry]) -> list[str]:
    lines = []
    for group in equal_metrics(order):
        numbers = sorted(entry.trial.number for entry in group if entry.trial is not None)
        lines.append(
            f"Trials {', '.join(map(str, numbers))} have the same metrics to the last bit, though they differ in "
            f"{', '.join(differing_keys(group))}: did it reach the trainer?"
        )
    return lines


def _leaderboard(spec: SweepSpec, store: SweepStore, order: Sequence[Entry]) -> Section:
    metrics, names = metric_names(spec), short_names(spec.swept_keys)
    shown = [entry for entry in order if entry.trial is not None]
    columns = ("trial", "state", *names.values(), "seed", *metrics, "attempts", "time", "stage", "split", "stop reason")
    rows = tuple(_leaderboard_row(entry, list(names), metrics) for entry in shown[:MAX_ROWS])
    first = 2 + len(names)
    numeric = frozenset({0, *range(2, first + 3 + len(metrics))})
    note = _left_out(len(shown), MAX_ROWS, "trials", store.leaderboard.name)
    table = DataTable("table-leaderboard", "Every trial, the best first", columns, rows, numeric=numeric, note=note)
    return Section("leaderboard", "Leaderboard", (TablePart(table, filterable=True),) if rows else ())


def _left_out(count: int, most: int, what: str, where: str) -> str:
    return f"The best {most:,} of {count:,} {what}; all are in {where}." if count > most else ""


def _leaderboard_row(entry: Entry, keys: Sequence[str], metrics: Sequence[str]) -> tuple[Cell, ...]:
    assert entry.trial is not None
    result, plan = entry.result, entry.plan
    return (
        number_cell(entry.trial.number),
        Cell(str(entry.state)),
        *(value_cell(plan.value(key)) if plan.reads(key) else Cell("") for key in keys),
        number_cell(plan.config.seed),
        *(figure_cell(entry.metric(f"{metric}/mean")) for metric in metrics),
        number_cell(result.attempts) if result else Cell(""),
        duration_cell(result.duration_s) if result else Cell(""),
        Cell(plan.stage),
        Cell(plan.config.data.eval),
        text_cell(result.stop_reason if result else ""),
    )


def _configurations(spec: SweepSpec, statistics: SweepStatistics) -> Section:
    names, verdicts = short_names(spec.swept_keys), verdict_cells(statistics)
    rows = [
        (
            *(value_cell(found.swept[key]) if key in found.swept else Cell("") for key in names),
            number_cell(found.seeds),
            *interval_cells(found.objective),
            *verdicts[found.key],
            Cell(", ".join(map(str, found.trials))),
        )
        for found in statistics.configurations[:MAX_ROWS]
    ]
    columns = (
        *names.values(),
        "seeds",
        statistics.metric,
        "95 % from",
        "to",
        "lead of the best",
        "p",
        "verdict",
        "trials",
    )
    table = DataTable(
        "table-configurations",
        "Every configuration with its replicates put together",
        columns,
        tuple(rows),
        numeric=frozenset(range(len(names) + 6)),
        note="p is corrected for all comparisons. docs/statistics.md says how intervals and p are computed. "
        + _left_out(len(statistics.configurations), MAX_ROWS, "configurations", "report.json (--format json)"),
    )
    return Section("configurations", "Configurations, and whether they differ", (TablePart(table),) if rows else ())


def _classes(spec: SweepSpec, order: Sequence[Entry], statistics: SweepStatistics, best: Sequence[Entry]) -> Section:
    search = [entry for entry in order if entry.plan.stage == "search"]
    classes, metric = class_names(search), spec.objective.metric.partition("/")[0]
    if not classes or not statistics.configurations:
        return Section("classes", "Per class", ())
    sign = 1 if spec.objective.direction == "maximize" else -1
    parts: list[Part] = [
        TablePart(class_table(statistics.configurations[:MAX_ROWS], classes, metric=metric, sign=sign), filterable=True)
    ]
    if (choice := statistics.choice) is not None:
        parts.append(TablePart(choice_table(choice.best, statistics.configurations)))
        if choice.note:
            parts.append(Paragraph(f"{choice.note[:1].upper()}{choice.note[1:]}."))
    if (recall := recall_table(best, classes, metric=metric)) is not None:
        parts.append(TablePart(recall))
    return Section("classes", "Per class", tuple(parts))


def _keys(spec: SweepSpec, statistics: SweepStatistics) -> Section:
    found, metric = statistics.configurations[:MAX_ROWS], spec.objective.metric
    swept = {key: [one.swept.get(key) for one in found] for key in spec.swept_keys}
    shares = importances([one.value for one in found], swept)
    figures = [
        importance_figure(shares, metric=metric, configurations=len(found)),
        *(key_figure(key, found, metric=metric) for key in spec.swept_keys),
        parallel_figure(found, spec.swept_keys, metric=metric),
    ]
    return Section("keys", "What the swept keys do", _as_parts(figures))


def _as_parts(figures: Sequence[Figure | None]) -> tuple[Part, ...]:
    return tuple(FigurePart(figure) for figure in figures if figure is not None)


def _course(
    spec: SweepSpec, store: SweepStore, order: Sequence[Entry], courses: Sequence[Curve], best: Sequence[Entry]
) -> Section:
    numbers = [entry.trial.number for entry in best if entry.trial is not None]
    states = {entry.trial.number: entry.state for entry in order if entry.trial is not None}
    seen_at = {course.number: course.seen_at for course in courses}
    figures = [
        curve_figure(courses, metric=spec.objective.metric, best=numbers, of=len(states)),
        slot_figure(read_timeline(store.timeline), states=states, seen_at=seen_at),
    ]
    return Section("course", "How the sweep went", _as_parts(figures))


def _failures(order: Sequence[Entry]) -> Section:
    failed = failed_trials(order)
    if not failed:
        return Section("failures", "Failures", ())
    kinds = Counter(trial.kind for trial in failed)
    summary = ", ".join(f"{counted(count, 'trial')}: {kind}" for kind, count in kinds.most_common())
    rows = tuple(
        (
            number_cell(trial.number),
            text_cell(trial.kind),
            text_cell(trial.text),
            number_cell(trial.attempts),
            number_cell(trial.epochs),
        )
        for trial in failed
    )
    columns = ("trial", "kind", "configuration", "attempts", "epochs")
    table = DataTable("table-failures", "Failed trials", columns, rows, numeric=frozenset({0, 3, 4}))
    logs = [LogText(f"trial {trial.number}: {trial.kind}", trial.tail) for trial in failed if trial.tail]
    return Section("failures", "Failures", (Paragraph(f"{summary}."), TablePart(table), *logs))


def _pictures(best: Sequence[Entry]) -> Section:
    """Of the best trial of the best configuration that has some."""
    for entry in best:
        assert entry.trial is not None
        files = sorted(entry.trial.paths.images.glob("*.jpg")) if entry.trial.paths.images.is_dir() else []
        if files:
            shown, left_out = _within(files, MAX_PICTURE_BYTES)
            text = (
                f"Trial {entry.trial.number} on split {entry.plan.config.data.eval}: where it did best and worst, and "
                "random images, which are the same for every trial."
            )
            if left_out:
                text += f" {left_out} more in {entry.trial.paths.images}."
            pictures = [Picture(_data_url(file), f"trial {entry.trial.number}: {file.stem}") for file in shown]
            return Section("pictures", "What the best trial sees", (Paragraph(text), Pictures(tuple(pictures))))
    return Section("pictures", "What the best trial sees", ())


def _within(files: Sequence[Path], most: int) -> tuple[list[Path], int]:
    """The first files that take so many bytes together, and how many more there are."""
    shown, size = [], 0
    for file in files:
        size += file.stat().st_size
        if size > most:
            break
        shown.append(file)
    return shown, len(files) - len(shown)


def _data_url(file: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _numbers(spec: SweepSpec, order: Sequence[Entry]) -> Section:
    stages: dict[tuple[str, str, str], int] = {}
    for entry in order:
        if entry.state is TrialState.COMPLETE:
            data = entry.plan.config.data
            stages[entry.plan.stage, data.train, data.eval] = (
                stages.get((entry.plan.stage, data.train, data.eval), 0) + 1
            )
    rows = []
    for metric in metric_names(spec):
        parsed = parse_metric(metric)
        iou = "" if parsed.iou_threshold is None else f"IoU ≥ {parsed.iou_threshold:g}"
        rows.append((Cell(metric), Cell(_FAMILY_TEXTS[parsed.family]), Cell(iou)))
    if not stages:
        return Section("numbers", "What the numbers are", ())
    splits = ". ".join(
        f"{'Search' if stage == 'search' else 'Final stage'}: {counted(count, 'complete trial')} trained on {train}, "
        f"measured on {split}"
        for (stage, train, split), count in stages.items()
    )
    text = (
        f"{splits}. A trial's figures are those of its last epoch; the mean is over the classes that have a value; the "
        "seed alone tells replicates apart. docs/protocol.md has the rest: score cut, NMS, difficult objects, ties."
    )
    table = DataTable("table-numbers", "Metrics", ("metric", "what it is", "match"), tuple(rows))
    return Section("numbers", "What the numbers are", (Paragraph(text), TablePart(table)))


def _environment(store: SweepStore) -> Section:
    values = read_json(store.environment)
    if not isinstance(values, dict):
        return Section("environment", "Environment", ())
    flat = _flattened(values)
    rows = tuple((Cell(name), text_cell(text, most=100)) for name, text in flat.items())
    table = DataTable("table-environment", "Of the last run of the command", ("what", "value"), rows)
    return Section("environment", "Environment", (TablePart(table),))


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flattened(value, f"{prefix}{name} ")
        elif isinstance(value, list):
            found[f"{prefix}{name}"] = ", ".join(map(str, value)) or "none"
        else:
            found[f"{prefix}{name}"] = "" if value is None else value_text(value)
    return found
