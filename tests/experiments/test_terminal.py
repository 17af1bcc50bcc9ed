from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments.report.entries import Entry
from experiments.report.match_records import NoRecords, TrialRecord
from experiments.report.resampling import Resampling
from experiments.report.statistics import ClassChoice, Interval, SweepStatistics, statistics_of
from experiments.report.terminal import (
    leaderboard_table,
    per_class_table,
    print_measured,
    print_report,
    print_statistics,
)
from experiments.spec import SweepSpec
from experiments.store import SweepStore, TrialResult
from experiments.trial import TrialState

Load = Callable[[str], SweepSpec]
Results = list[TrialResult | None]
Make = Callable[[SweepSpec, Results], list[Entry]]

GRID = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [%s]}\n"


def result(
    metrics: Mapping[str, float | None], state: TrialState = TrialState.COMPLETE, reason: str = ""
) -> TrialResult:
    return TrialResult(
        signature="", state=state, stop_reason=reason, attempts=1, metrics=metrics, epochs=3, duration_s=12.4
    )


def values(*pairs: float | None) -> Results:
    return [result({"ap50_11pt/mean": value}) for value in pairs]


@pytest.fixture
def entries(tmp_path: Path) -> Callable[[SweepSpec, Results], list[Entry]]:
    store = SweepStore(tmp_path / "results")

    def make(spec: SweepSpec, results: Results) -> list[Entry]:
        padded = [*results, *[None] * (len(spec.plans) - len(results))]
        return [
            Entry(plan=plan, trial=store.create_trial(number, plan.signature, {}), result=found)
            for number, (plan, found) in enumerate(zip(spec.plans, padded, strict=True))
        ]

    return make


def printed(*what: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as shown:
        console.print(*what)
    return shown.get()


def report(spec: SweepSpec, entries: list[Entry], *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as shown:
        print_report(console, spec, entries)
    return shown.get()


def cells(text: str) -> list[list[str]]:
    """The rows of the body of a printed table."""
    return [
        [cell.strip() for cell in line.strip("│\n ").split("│")] for line in text.splitlines() if line.startswith("│")
    ]


class TestLeaderboard:
    def test_best_first(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load("name: quick\n" + GRID % "0.1, 0.02, 0.003, 4.0e-9")
        text = report(spec, entries(spec, values(0.25, 0.5, None)))
        assert text.splitlines()[1].rstrip() == "quick: leaderboard (on split val)"
        table = text.partition("quick: ap50_11pt per class")[0]
        assert cells(table) == [
            ["1", "0.02", "0.5000", "-", "-", "-", "12 s"],
            ["0", "0.1", "0.2500", "-", "-", "-", "12 s"],
            ["2", "0.003", "-", "-", "-", "-", "12 s"],
        ]

    def test_headings(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(
            "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1], train.batch_size: [2], evaluate.batch_size: [2]}\n"
        )
        table = leaderboard_table(
            spec, entries(spec, values(0.5)), metrics=["ap50_11pt"], where="in x.csv", keys_apart=True
        )
        heading = printed(table, width=200).splitlines()[1]
        assert heading.split("┃")[1:5] == [" trial ", "  lr ", " train.batch_size ", " evaluate.batch_size "]

    def test_seeds_have_a_column_where_there_are_several(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        one, several = load(GRID % 0.1), load(GRID % 0.1 + "seeds: 2\n")
        assert "seed" not in report(one, entries(one, values(0.5)))
        assert "seed" in report(several, entries(several, values(0.5, 0.25)))

    def test_a_failed_trial_says_why(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % "0.1, 0.2")
        text = report(spec, entries(spec, [result({}, TrialState.FAIL, "non_finite_loss"), *values(0.5)]))
        assert cells(text)[1] == ["0", "0.1", "FAIL: non_finite_loss", "", "", "", "12 s"]

    def test_all_failed(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % 0.1)
        text = report(spec, entries(spec, [result({}, TrialState.FAIL, "killed")]))
        assert "FAIL: killed" in text
        assert "per class" not in text

    def test_a_long_list_is_cut(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % ", ".join(str(n) for n in range(1, 24)))
        text = report(spec, entries(spec, values(*(n / 100 for n in range(23)))))
        assert "3 more in leaderboard.csv" in text
        table = text.partition(": ap50_11pt per class")[0]
        assert len(cells(table)) == 20
        spec = load(GRID % ", ".join(str(n) for n in range(1, 21)))
        assert "more in leaderboard.csv" not in report(spec, entries(spec, values(*[0.5] * 20)))

    def test_nothing_finished(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % 0.1)
        assert report(spec, entries(spec, [None])) == "No trial has finished yet.\n"

    def test_fits_80_columns(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.001], proposals.count: [2000]}\nseeds: 2\n")
        metrics = dict.fromkeys(["ap50_11pt/mean", "ap50_area/mean", "corloc50/mean", "cls_ap/mean"], 0.1234)
        text = report(spec, entries(spec, [result(metrics)] * 2), width=80)
        assert max(map(len, text.splitlines())) <= 80
        assert cells(text)[0] == ["0", "0.001", "2000", "0", "0.1234", "0.1234", "0.1234", "0.1234", "12 s"]

    def test_many_keys_share_a_column_and_no_figure_is_cut(
        self, load: Load, entries: Callable[..., list[Entry]]
    ) -> None:
        spec = load(
            "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1], model.size_prior: [1.0], model.dropout: [0.5]}\n"
            "  - grid: {model.detection_temperature: [2.0], model.refinement: [3], model.context: [contrastive]}\n"
        )
        metrics = dict.fromkeys(["ap50_11pt/mean", "ap50_area/mean", "corloc50/mean", "cls_ap/mean"], 0.1234)
        text = report(spec, entries(spec, [result(metrics)] * 2), width=80)
        assert max(map(len, text.splitlines())) <= 80
        table = text.partition(": ap50_11pt per class")[0]
        assert table.count("0.1234") == 8
        rows = [row.split("│") for row in table.splitlines() if row.startswith("│")]
        unfolded = "".join(row[2] for row in rows).replace(" ", "")
        assert unfolded == "lr=0.1size_prior=1dropout=0.5detection_temperature=2refinement=3context=contrastive"
        wide = report(spec, entries(spec, [result(metrics)] * 2), width=200)
        assert "configuration" not in wide


def test_measured_again(load: Load, entries: Callable[..., list[Entry]]) -> None:
    """In the order given, all metrics asked for, the first of them per class."""
    spec = load(GRID % ", ".join(str(n) for n in range(1, 23)))
    metrics = [f"ap{percent}_area" for percent in range(10, 60, 10)]
    of_cats = {f"{metric}/{name}": 0.125 for metric in metrics for name in ("cat", "mean")}
    order = entries(spec, [result({**of_cats, "cls_ap/mean": 0.9})] * 22)[::-1]
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as shown:
        print_measured(console, spec, order, metrics=metrics)
    table, _, per_class = shown.get().partition("ap10_area per class (on split val)")
    assert cells(table)[0] == ["21", "22", *["0.1250"] * 5, "12 s"]
    assert "2 more with --csv" in table
    assert cells(per_class) == [["cat", *["0.1250"] * 6], ["mean", *["0.1250"] * 6]]
    assert "the best 6 of 22 trials; all with --csv" in per_class


class TestPerClass:
    def test_a_row_a_class_and_a_column_a_trial(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % "0.1, 0.2")
        first = {"ap50_11pt/cat": 0.5, "ap50_11pt/dog": None, "ap50_11pt/mean": 0.5, "cls_ap/cat": 0.9}
        second = {"ap50_11pt/cat": 0.25, "ap50_11pt/dog": 0.75, "ap50_11pt/mean": 0.5}
        text = printed(
            per_class_table(entries(spec, [result(first), result(second)]), metric="ap50_11pt", where="in x.csv")
        )
        assert cells(text) == [
            ["cat", "0.5000", "0.2500"],
            ["dog", "-", "0.7500"],
            ["mean", "0.5000", "0.5000"],
        ]

    def test_the_recall_of_the_proposals_stands_beside(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % "0.1, 0.2")
        recall = {"proposal_recall50/cat": 0.875, "proposal_recall50/dog": None, "proposal_recall50/mean": 0.875}
        found = {"ap50_11pt/cat": 0.5, "ap50_11pt/dog": None, "ap50_11pt/mean": 0.5}
        both = entries(spec, [result(found | recall), result(found)])
        text = printed(per_class_table(both, metric="ap50_11pt", where="in x.csv"))
        assert cells(text) == [
            ["cat", "0.5000", "0.5000", "0.8750"],
            ["dog", "-", "-", "-"],
            ["mean", "0.5000", "0.5000", "0.8750"],
        ]
        assert "proposals: proposal_recall50 of trial 0" in text
        for without in (
            per_class_table(both[1:], metric="ap50_11pt", where=""),
            per_class_table(both, metric="proposal_recall50", where=""),
        ):
            assert "proposals:" not in printed(without)

    def test_the_best_of_a_class_is_bold(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % "0.1, 0.2")
        first = {"ap50_11pt/cat": 0.5, "ap50_11pt/mean": 0.25}
        second = {"ap50_11pt/cat": 0.25, "ap50_11pt/mean": 0.25}
        console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
        with console.capture() as shown:
            console.print(per_class_table(entries(spec, [result(first), result(second)]), metric="ap50_11pt", where=""))
        cat, mean = [line for line in shown.get().splitlines() if "cat" in line or "mean" in line]
        assert "\x1b[1m 0.5000" in cat
        assert cat.count("\x1b[1m") == 1
        assert mean.count("\x1b[1m 0.2500") == 2  # a tie

    def test_hostile_names_are_text(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        names = ["[red]dog[/red]", "[/]", "[bold", 'say "cat"', "a,b", ":smile:"]
        spec = load(GRID % 0.1)
        text = report(spec, entries(spec, [result({f"ap50_11pt/{name}": 0.5 for name in names})]))
        assert [row[0] for row in cells(text)][1:] == [*names, "mean"]

    def test_many_trials(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load(GRID % ", ".join(str(n) for n in range(1, 9)))
        text = report(spec, entries(spec, values(*(n / 10 for n in range(8)))))
        table = text.partition(": ap50_11pt per class")[2]
        assert [word for word in table.split() if word.isdigit()][:6] == ["7", "6", "5", "4", "3", "2"]
        assert "the best 6 of 8 trials; all in per_class_ap.csv" in table

    def test_the_split_is_named(self, load: Load, entries: Callable[..., list[Entry]]) -> None:
        spec = load("name: x\n{EXPERIMENT}\nsearch:\n  - grid: {data.eval: [val, test]}\n")
        text = report(spec, entries(spec, values(0.5, 0.5)))
        assert "x: ap50_11pt per class (on split val + test)" in " ".join(text.split())


FINAL = GRID % "0.1, 0.2" + "final: {train: trainval, eval: test, seeds: 2}\n"


class TestStages:
    @pytest.fixture
    def text(self, load: Load, tmp_path: Path) -> str:
        spec = load(FINAL)
        store = SweepStore(tmp_path / "results")
        plans = [*spec.plans, *spec.final_plans(spec.plans[0])]
        figures = [{"ap50_11pt/mean": value, "ap50_11pt/cat": value} for value in (0.2, 0.1, 0.9, 0.8)]
        found = [
            Entry(plan, store.create_trial(number, plan.signature, {}, stage=plan.stage), result(metrics))
            for number, (plan, metrics) in enumerate(zip(plans, figures, strict=True))
        ]
        return report(spec, found)

    def test_have_tables_of_their_own_that_name_the_split(self, text: str) -> None:
        titles = [line for line in text.splitlines() if line.startswith("sweep: ")]
        assert titles == [
            "sweep: leaderboard (on split val)",
            "sweep: ap50_11pt per class (on split val)",
            "sweep: final stage (on split test)",
            "sweep: ap50_11pt per class (on split test)",
        ]

    def test_do_not_compete(self, text: str) -> None:
        """The final stage has the better figures, of other images."""
        search, final = text.split("final stage")
        assert search.index("│     0 │") < search.index("│     1 │")
        assert "│     2 │" not in search
        assert final.index("│     2 │") < final.index("│     3 │")
        assert "0.9000" not in search


class TestEqualMetrics:
    def test_are_a_warning_with_the_keys_that_differ(self, load: Load, entries: Make) -> None:
        spec = load(GRID % "0.1, 0.2, 0.3" + "seeds: 2\n")
        text = report(spec, entries(spec, values(0.1, 0.3, 0.3, 0.2, 0.3, 0.5)))
        assert (
            "warning: trials 1, 2, 4 have the same metrics to the last bit, though they differ in seed, train.lr: did"
            " it reach the trainer?" in " ".join(text.split())
        )

    def test_that_are_not_equal_are_not_mentioned(self, load: Load, entries: Make) -> None:
        spec = load(GRID % "0.1, 0.2")
        assert "warning" not in report(spec, entries(spec, values(0.1, 0.1000000000000001)))

    def test_of_nothing_measured_are_not_either(self, load: Load, entries: Make) -> None:
        spec = load(GRID % "0.1, 0.2")
        assert "warning" not in report(spec, entries(spec, values(None, None)))

    def test_of_many_trials_are_cut(self, load: Load, entries: Make) -> None:
        spec = load(GRID % ", ".join(f"0.{number}1" for number in range(12)))
        text = " ".join(report(spec, entries(spec, values(*[0.5] * 12))).split())
        assert "trials 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... have the same" in text


def test_a_key_that_a_trial_does_not_read_is_left_empty(load: Load, entries: Make) -> None:
    spec = load(
        "experiment:\n  task: localizer\n  data: {root: digits}\n  model: {backbone: tiny, weights: none}\nsearch:\n"
        "  - grid: {model.pooling: [max, topk], model.topk: {values: [2], when: {model.pooling: topk}}}\n"
    )
    made = entries(spec, [result({"cls_ap/mean": 0.5}), result({"cls_ap/mean": 0.25})])
    text = printed(leaderboard_table(spec, made, metrics=["cls_ap"], where="here", keys_apart=True))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert [row[:3] for row in cells] == [["0", "max", ""], ["1", "topk", "2"]]


def test_why_a_trial_was_stopped_is_short_in_the_table(load: Load, entries: Make) -> None:
    spec = load(GRID % "0.1")
    pruned = result({"ap50_11pt/mean": 0.1}, TrialState.PRUNED, "asha: 0.1 at epoch 1 is not among the best 1 of 3")
    text = report(spec, entries(spec, [pruned]))
    assert "PRUNED: asha" in text
    assert "among" not in text


class TestStatistics:
    @staticmethod
    def shown(statistics: SweepStatistics, *, width: int = 80) -> list[str]:
        console = Console(file=io.StringIO(), width=width, color_system=None)
        with console.capture() as found:
            print_statistics(console, statistics)
        return found.get().splitlines()

    @pytest.fixture
    def statistics(self, load: Load, entries: Make) -> SweepStatistics:
        spec = load(GRID % "0.1, 0.2" + "seeds: 2\n")

        def read(_: Entry) -> TrialRecord:
            raise NoRecords("there is no detections.npz")

        found = entries(spec, values(0.5, 0.51, 0.49, 0.5))
        return statistics_of(spec, found, read=read, resampling=Resampling(resamples=2, splits=1))

    def test_the_answer_and_what_limits_it_fit_80_columns(self, statistics: SweepStatistics) -> None:
        lines = self.shown(statistics)
        assert max(map(len, lines)) <= 80
        assert " ".join(" ".join(lines).split()) == (
            f"{statistics.sentence} warning: {statistics.warnings[0]} warning: {statistics.warnings[1]}"
        )

    def test_the_gain_of_choosing_per_class(self, statistics: SweepStatistics) -> None:
        choice = ClassChoice(best={}, gain=Interval(0.1, 0.05, 0.15), note="would gain")
        assert "per class: would gain" in self.shown(replace(statistics, choice=choice))
        assert "per class: would gain" not in self.shown(replace(statistics, choice=replace(choice, gain=None)))

    def test_hostile_values_are_text(self, statistics: SweepStatistics) -> None:
        assert "[red]x[/red] [/]" in self.shown(replace(statistics, sentence="[red]x[/red] [/]"))[1]

    def test_of_nothing_are_not_shown(self, statistics: SweepStatistics) -> None:
        assert self.shown(replace(statistics, best=None)) == []
