from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.footprint import Usage
from experiments.report.entries import Entry
from experiments.report.leaderboard import class_names, csv_value, metric_names, ranked, write_tables
from experiments.spec import SweepSpec
from experiments.store import SweepStore, TrialResult
from experiments.trial import TrialState
from wsol.metrics.names import METRICS_OF_TASK

METRIC = "ap50_11pt/mean"
METRICS = list(METRICS_OF_TASK["wsddn"])
Load = Callable[[str], SweepSpec]

SPEC = """\
{EXPERIMENT}
search:
  - grid: {train.lr: [0.1, 0.2, 0.3, 0.4, 0.5]}
"""


def result(
    metrics: Mapping[str, float | None], state: TrialState = TrialState.COMPLETE, stop_reason: str = ""
) -> TrialResult:
    return TrialResult(
        signature="", state=state, stop_reason=stop_reason, attempts=2, metrics=metrics, epochs=3, duration_s=12.5
    )


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    return SweepStore(tmp_path / "sweep")


def entries(spec: SweepSpec, store: SweepStore, results: list[TrialResult | None]) -> list[Entry]:
    """The first trials of the spec with these results (None: running); the rest wait."""
    found = []
    for number, plan in enumerate(spec.plans):
        trial = store.create_trial(number, plan.signature, {}) if number < len(results) else None
        found.append(Entry(plan=plan, trial=trial, result=results[number] if number < len(results) else None))
    return found


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestRanking:
    @pytest.mark.parametrize(
        ("direction", "values", "order"),
        [
            ("maximize", [0.2, 0.5, 0.1], [1, 0, 2]),
            ("minimize", [0.2, 0.5, 0.1], [2, 0, 1]),
            ("maximize", [0.5, 0.2, 0.5, 0.5], [0, 2, 3, 1]),  # equal values keep their order
            ("minimize", [0.5, 0.2, 0.5, 0.2], [1, 3, 0, 2]),
            ("maximize", [None, 0.0, None, -1.0], [1, 3, 0, 2]),  # undefined is worse than anything
            ("minimize", [None, 0.0, None, -1.0], [3, 1, 0, 2]),
            ("maximize", [], []),
            ("minimize", [None], [0]),
        ],
    )
    def test_order(
        self, load: Load, store: SweepStore, direction: str, values: list[float | None], order: list[int]
    ) -> None:
        some = entries(load(SPEC), store, [result({METRIC: value}) for value in values])[: len(values)]
        found = ranked(some, metric=METRIC, direction=direction)
        assert [entry.trial.number for entry in found if entry.trial] == order

    def test_what_has_no_result_comes_last(self, load: Load, store: SweepStore) -> None:
        failed = result({}, TrialState.FAIL, "killed")
        all_of_them = entries(load(SPEC), store, [None, failed, result({METRIC: 0.0})])
        found = ranked(all_of_them, metric=METRIC, direction="maximize")
        assert [entry.state for entry in found] == ["COMPLETE", "RUNNING", "FAIL", "WAITING", "WAITING"]


def test_the_objective_leads_the_metrics(load: Load) -> None:
    others = [name for name in METRICS if name != "cls_ap"]
    assert metric_names(load("{EXPERIMENT}\nobjective: {metric: cls_ap/digit_3}\n")) == ["cls_ap", *others]
    both = load("{EXPERIMENT}\nsearch:\n  - grid: {task: [localizer, wsddn]}\n")
    assert metric_names(both) == [*METRICS_OF_TASK["localizer"], "proposal_recall50"]


def test_metrics_that_the_spec_adds_come_last(load: Load) -> None:
    """Also those that some trials alone have; one that every trial has anyway is there once."""
    swept = "{EXPERIMENT}\nsearch:\n  - grid: {evaluate.metrics: [[], [ap30_area, cls_ap], [corloc70, ap30_area]]}\n"
    assert metric_names(load(swept)) == [*METRICS, "ap30_area", "corloc70"]
    alone = load("{EXPERIMENT}\n  evaluate: {metrics: [ap30_area]}\nobjective: {metric: ap30_area/mean}\n")
    assert metric_names(alone) == ["ap30_area", *METRICS]


def test_classes_in_the_order_of_the_results(load: Load, store: SweepStore) -> None:
    first = result({"cls_ap/b": 0.1, "cls_ap/a/c": 0.2, "cls_ap/mean": 0.15})
    second = result({"cls_ap/a": 0.1, "cls_ap/b": 0.2, "cls_ap/mean": 0.15})
    assert class_names(entries(load(SPEC), store, [None, first, second])) == ["b", "a/c", "a"]
    assert class_names([]) == []


class TestTables:
    def test_a_row_a_trial(self, load: Load, store: SweepStore) -> None:
        spec = load(SPEC)
        figures = {METRIC: 0.1 + 0.2, "corloc50/mean": None, "cls_ap/mean": 1.0}
        failed = result({}, TrialState.FAIL, "killed")
        write_tables(store, spec, entries(spec, store, [None, failed, result(figures)]))
        rows = read(store.leaderboard)
        header = ["trial", "signature", "stage", "split", "state", "stop_reason", "attempts", "seed", "train.lr"]
        end = ["duration_s", "reused_from", "same_metrics_as", "gpu_memory_gb", "host_memory_gb"]
        assert list(rows[0]) == [*header, *(f"{metric}/mean" for metric in METRICS), *end]
        assert list(rows[0].values()) == [
            "2",
            spec.plans[2].signature[:8],
            "search",
            "val",
            "COMPLETE",
            "",
            "2",
            "0",
            "0.3",
            "0.30000000000000004",
            "",
            "",
            "1.0",
            *[""] * 3,
            "12.5",
            *[""] * 4,
        ]
        assert [(row["trial"], row["state"], row["stop_reason"]) for row in rows[1:]] == [
            ("0", "RUNNING", ""),
            ("1", "FAIL", "killed"),
        ]

    @pytest.mark.parametrize(
        ("usage", "shown"),
        [
            (Usage(device_bytes=2_345_678_901, host_bytes=12_000_000, step_s=0.1), ("2.346", "0.012")),
            (Usage(device_bytes=0, host_bytes=1_000_000_000, step_s=0.1), ("", "1.000")),
            (None, ("", "")),
        ],
    )
    def test_peaks_of_memory(self, load: Load, store: SweepStore, usage: Usage | None, shown: tuple[str, str]) -> None:
        spec = load(SPEC)
        done = replace(result({METRIC: 0.5}), usage=usage)
        write_tables(store, spec, entries(spec, store, [done, None, None]))
        first = read(store.leaderboard)[0]
        assert (first["gpu_memory_gb"], first["host_memory_gb"]) == shown

    def test_minimize(self, load: Load, store: SweepStore) -> None:
        spec = load(SPEC + f"objective: {{metric: {METRIC}, direction: minimize}}\n")
        write_tables(store, spec, entries(spec, store, [result({METRIC: 0.5}), result({METRIC: 0.25})]))
        assert [row["trial"] for row in read(store.leaderboard)] == ["1", "0"]

    def test_what_a_block_does_not_sweep_is_shown_too(self, load: Load, store: SweepStore) -> None:
        spec = load(
            "{EXPERIMENT}\nsearch:\n  - grid: {proposals.count: [10, null]}\n  - grid: {proposals.source: [grid]}\n"
        )
        write_tables(store, spec, entries(spec, store, [result({METRIC: 0.5 - n / 10}) for n in range(3)]))
        found = [(row["proposals.count"], row["proposals.source"]) for row in read(store.leaderboard)]
        assert found == [("10", "selective_search"), ("", "selective_search"), ("2000", "grid")]

    def test_a_row_a_trial_and_class(self, load: Load, store: SweepStore) -> None:
        spec = load(SPEC)
        failed = result({"ap50_11pt/cat": 0.9}, TrialState.FAIL, "killed")
        cat_and_dog = {"ap50_11pt/cat": 0.5, "cls_ap/cat": 0.25, "ap50_11pt/dog": None, METRIC: 0.5}
        write_tables(store, spec, entries(spec, store, [failed, result(cat_and_dog), None]))
        rows = read(store.per_class)
        assert list(rows[0]) == ["trial", "signature", "split", "class", *METRICS]
        assert [list(row.values())[2:] for row in rows] == [
            ["val", "cat", "0.5", "", "", "0.25", "", "", ""],
            ["val", "dog", *[""] * 7],
        ]

    def test_hostile_class_names_come_back(self, load: Load, store: SweepStore) -> None:
        names = ['say "cat"', "a,b", "two\nlines", "[red]dog[/red]", " blank ", "naïve", "a/b", "=1+1", "'", "\\"]
        spec = load(SPEC)
        write_tables(store, spec, entries(spec, store, [result({f"cls_ap/{name}": 0.5 for name in names})]))
        assert [row["class"] for row in read(store.per_class)] == names

    def test_nothing_has_run(self, load: Load, store: SweepStore) -> None:
        write_tables(store, load(SPEC), entries(load(SPEC), store, []))
        assert read(store.leaderboard) == []
        assert read(store.per_class) == []
        assert store.leaderboard.read_text().startswith("trial,signature,stage,split,state,")


@pytest.mark.parametrize(
    ("value", "cell"), [([1, 2], "[1, 2]"), ((0.5,), "[0.5]"), ({"a": 1}, '{"a": 1}'), (None, None), ("x", "x"), (1, 1)]
)
def test_cells_can_be_read_back(value: object, cell: object) -> None:
    assert csv_value(value) == cell
    if isinstance(cell, str) and cell != "x":
        assert json.loads(cell) == (list(value) if isinstance(value, tuple) else value)


class TestStages:
    def test_the_final_stage_comes_last_with_its_split(self, load: Load, store: SweepStore) -> None:
        spec = load(SPEC + "final: {train: trainval, eval: test, seeds: 1}\n")
        found = entries(spec, store, [result({METRIC: 0.1}), result({METRIC: 0.2})])
        (plan,) = spec.final_plans(spec.plans[0])
        trial = store.create_trial(2, plan.signature, {}, stage="final")
        write_tables(store, spec, [Entry(plan, trial, result({METRIC: 0.9, "ap50_11pt/cat": 0.9})), *found])
        rows = [(row["trial"], row["stage"], row["split"], row["seed"]) for row in read(store.leaderboard)]
        assert rows == [("1", "search", "val", "0"), ("0", "search", "val", "0"), ("2", "final", "test", "1")]
        splits = [(row["trial"], row["class"], row["split"]) for row in read(store.per_class)]
        assert splits == [("1", "cat", "val"), ("0", "cat", "val"), ("2", "cat", "test")]

    def test_where_a_trial_was_taken_from(self, load: Load, store: SweepStore) -> None:
        adopted = replace(result({METRIC: 0.1}), reused_from="earlier/0007-01234567")
        write_tables(store, load(SPEC), entries(load(SPEC), store, [adopted, result({METRIC: 0.2})]))
        assert [row["reused_from"] for row in read(store.leaderboard)] == ["", "earlier/0007-01234567"]

    def test_whose_metrics_are_the_same_to_the_last_bit(self, load: Load, store: SweepStore) -> None:
        figures = [0.5, 0.25, 0.5, 0.25, 0.5]
        write_tables(store, load(SPEC), entries(load(SPEC), store, [result({METRIC: value}) for value in figures]))
        found = {row["trial"]: row["same_metrics_as"] for row in read(store.leaderboard)}
        assert found == {"0": "2 4", "1": "3", "2": "0 4", "3": "1", "4": "0 2"}

    def test_a_failed_trial_is_the_same_as_none(self, load: Load, store: SweepStore) -> None:
        failed = result({METRIC: 0.5}, TrialState.FAIL, "killed")
        write_tables(store, load(SPEC), entries(load(SPEC), store, [result({METRIC: 0.5}), failed]))
        assert {row["same_metrics_as"] for row in read(store.leaderboard)} == {""}

    def test_a_key_that_a_trial_does_not_read_is_an_empty_cell(self, load: Load, store: SweepStore) -> None:
        spec = load(
            "experiment:\n  task: localizer\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\n"
            "search:\n  - grid: {model.pooling: [max, topk], model.topk: {values: [2], when: {model.pooling: topk}}}\n"
        )
        made = entries(spec, store, [result({"cls_ap/mean": 0.5}), result({"cls_ap/mean": 0.25})])
        write_tables(store, spec, made)
        assert [row["model.topk"] for row in read(store.leaderboard)] == ["", "2"]
