"""What must hold between the parts of a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import SpecError
from experiments.pruning import Asha, Median, Pruner
from experiments.resolve import Resolver
from experiments.space import Cell
from experiments.spec_checks import check_final, check_pruner, check_reads, check_settings, checked_objective
from experiments.spec_document import Final, Objective
from experiments.trial import TrialPlan
from experiments.yaml_source import KeyPath, Place, YamlSource

SHARED: dict[str, Any] = {"task": "wsddn", "data": {"root": "digits"}, "model": {"backbone": "tiny", "weights": "none"}}
FILE = Path("x.yaml")
PATH: KeyPath = ("search", 0, "grid")
SOURCE = YamlSource(
    file=FILE,
    text="",
    value={},
    places={
        (): Place(FILE, 1),
        ("objective", "metric"): Place(FILE, 2),
        ("pruner",): Place(FILE, 3),
        ("final",): Place(FILE, 4),
        ("final", "eval"): Place(FILE, 5),
        PATH: Place(FILE, 6),
        (*PATH, "model.topk", 0): Place(FILE, 7),
        (*PATH, "model.topk", 1): Place(FILE, 8),
    },
)


def plan(**values: Any) -> TrialPlan:
    """A trial whose cell has these values; a key's dots are written as two underscores."""
    swept = {key.replace("__", "."): value for key, value in values.items()}
    cell = Cell(values=swept, path=PATH, indices={"model.topk": 1} if "model.topk" in swept else {})
    return Resolver(SHARED, SOURCE).plans(cell, [0])[0]


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(SpecError, match="expected") as error:
        check()
    return str(error.value)


class TestReads:
    def test_a_key_that_is_never_read(self) -> None:
        plans = [plan(task="localizer", model__pooling="topk", model__topk=3), plan(train__lr=0.1, model__topk=3)]
        assert refusal(lambda: check_reads(plans, SOURCE)) == (
            "x.yaml:8: got model.topk as a swept key, which a trial with task: wsddn, model.pooling: max never reads; "
            "expected it only with {task: localizer, model.pooling: topk}, by a `when` of the key or in a block of its "
            "own"
        )

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"train__lr": 0.1},
            {"model__roi_op": "roi_align"},
            {"task": "localizer", "model__pooling": "topk", "model__topk": 3},
            {"train__momentum": 0.5},
            {"train__optimizer": "sgd", "train__momentum": 0.5},
        ],
    )
    def test_keys_that_are_read(self, values: dict[str, Any]) -> None:
        check_reads([plan(**values)] * 2, SOURCE)

    @pytest.mark.parametrize(
        ("values", "has"),
        [
            ({"task": "localizer", "model__roi_op": "roi_align"}, "task: localizer"),
            ({"train__optimizer": "adam", "train__momentum": 0.5}, "train.optimizer: adam"),
            ({"model__refinement": 0, "model__refinement_ignore_iou": 0.2}, "task: wsddn, model.refinement: 0"),
            (
                {"evaluate__combine": "sum"},
                "task: wsddn, evaluate.flip: false, evaluate.scales_px: null",  # each key once
            ),
        ],
    )
    def test_what_the_trial_has_instead(self, values: dict[str, Any], has: str) -> None:
        message = refusal(lambda: check_reads([plan(**values)], SOURCE))
        assert message.startswith("x.yaml:6: got ")
        assert f", which a trial with {has} never reads; expected it only with {{" in message

    def test_a_key_that_is_not_swept_may_go_unread(self) -> None:
        shared = {**SHARED, "train": {"optimizer": "adam", "momentum": 0.5}}
        check_reads(Resolver(shared, SOURCE).plans(Cell(values={"train.lr": 0.1}), [0]), SOURCE)

    def test_no_trial(self) -> None:
        check_reads([], SOURCE)


WSDDN = plan()
LOCALIZER = plan(task="localizer")


class TestObjective:
    @pytest.mark.parametrize(
        ("plans", "metric"),
        [
            ([WSDDN], "ap50_11pt/mean"),
            ([LOCALIZER], "cls_ap/mean"),
            ([WSDDN, LOCALIZER], "ap50_11pt/mean"),
            ([LOCALIZER, WSDDN], "cls_ap/mean"),
            ([LOCALIZER, LOCALIZER], "cls_ap/mean"),
        ],
    )
    def test_the_first_metric_that_all_have(self, plans: list[TrialPlan], metric: str) -> None:
        assert checked_objective(None, plans, SOURCE) == Objective(metric=metric, direction="maximize")

    @pytest.mark.parametrize(
        ("metric", "plans"),
        [
            ("ap50_area/mean", [WSDDN, LOCALIZER]),
            ("cls_ap/digit_3", [WSDDN]),
            ("cls_ap/a/b", [WSDDN]),  # a class may be called so
            ("proposal_recall50/mean", [WSDDN]),
            ("maxboxacc_v2/mean", [LOCALIZER]),
            (
                "ap30_area/mean",
                [plan(evaluate__metrics=["ap30_area"]), plan(evaluate__metrics=["corloc30", "ap30_area"])],
            ),
        ],
    )
    def test_given(self, metric: str, plans: list[TrialPlan]) -> None:
        given = Objective(metric=metric, direction="minimize")
        assert checked_objective(given, plans, SOURCE) is given

    @pytest.mark.parametrize(
        ("metric", "plans", "near"),
        [
            ("ap50_area", [WSDDN], "; did you mean ap50_area/mean?"),
            ("ap50_area/", [WSDDN], "; did you mean ap50_area/mean?"),
            ("ap50_11p/cat", [WSDDN], "; did you mean ap50_11pt/cat?"),
            ("maxboxacc_v2/mean", [WSDDN], ""),
            ("maxboxacc_v2/mean", [LOCALIZER, WSDDN], ""),
            ("proposal_recall50/mean", [WSDDN, LOCALIZER], ""),
            ("ap30_area/mean", [plan(evaluate__metrics=["ap30_area"]), WSDDN], "; did you mean ap50_area/mean?"),
            ("", [WSDDN], ""),
            ("/mean", [WSDDN], ""),
        ],
    )
    def test_faults(self, metric: str, plans: list[TrialPlan], near: str) -> None:
        message = refusal(lambda: checked_objective(Objective(metric=metric), plans, SOURCE))
        assert message.startswith(
            f"x.yaml:2: got {metric!r} for objective.metric; expected <metric>/mean or <metric>/<"
        )
        assert near in message
        tasks = " and ".join(dict.fromkeys(one.config.task for one in plans))
        assert f"with a metric of task {tasks}: " in message


class TestPruner:
    @pytest.mark.parametrize(
        ("pruner", "epochs", "every", "can"),
        [
            (Asha(1, 3), 1, 1, False),
            (Asha(1, 3), 2, 1, True),
            (Asha(4, 3), 4, 1, False),  # after the last epoch there is nothing left to stop
            (Asha(4, 3), 5, 1, True),
            (Asha(4, 3), 6, 3, False),  # evaluated at 3 and 6
            (Asha(4, 3), 7, 3, True),
            (Asha(1, 3), 3, 3, False),
            (Asha(1, 3), 3, 5, False),
            (Asha(1, 3), 4, 3, True),
            (Median(warmup_epochs=0), 1, 1, False),
            (Median(warmup_epochs=0), 2, 1, True),
            (Median(warmup_epochs=4), 5, 1, False),
            (Median(warmup_epochs=4), 6, 1, True),
            (Median(startup_trials=1000), 2, 1, True),
        ],
    )
    def test_thresholds(self, pruner: Pruner, epochs: int, every: int, can: bool) -> None:
        """The last chance is the last evaluation before the final one."""
        plans = [plan(train__epochs=epochs, evaluate__every=every)]
        if can:
            check_pruner(pruner, plans, SOURCE)
        else:
            assert refusal(lambda: check_pruner(pruner, plans, SOURCE)) == (
                "x.yaml:3: got a pruner that can never stop a trial: its first decision would be due after the last "
                f"evaluation but the final one (train.epochs {epochs}, evaluate.every {every}); expected an earlier one"
            )

    def test_one_trial_that_it_can_stop_is_enough(self) -> None:
        check_pruner(Asha(4, 3), [plan(train__epochs=2), plan(train__epochs=5), plan(train__epochs=1)], SOURCE)

    def test_the_longest_is_named(self) -> None:
        plans = [plan(train__epochs=2), plan(train__epochs=4), plan(train__epochs=3)]
        assert "(train.epochs 4, evaluate.every 1)" in refusal(lambda: check_pruner(Asha(4, 3), plans, SOURCE))

    def test_none(self) -> None:
        check_pruner(None, [plan(train__epochs=1)], SOURCE)


class TestFinal:
    @pytest.mark.parametrize(
        ("key", "split"), [("data.train", "train"), ("data.train", "test"), ("data.eval", "val"), ("data.eval", "test")]
    )
    def test_a_split_that_the_search_reads(self, key: str, split: str) -> None:
        plans = [plan(), plan(**{key.replace(".", "__"): split})]
        assert refusal(lambda: check_final(Final(train="trainval", eval=split), plans, SOURCE)) == (
            f"x.yaml:5: got '{split}' for final.eval, which is {key} of the search too; expected a split that the "
            "search never reads"
        )

    def test_a_split_that_trains_and_evaluates(self) -> None:
        assert refusal(lambda: check_final(Final(train="test", eval="test"), [WSDDN], SOURCE)) == (
            "x.yaml:4: got 'test' for both final.train and final.eval; expected two splits"
        )

    @pytest.mark.parametrize("train", ["train", "val", "trainval"])
    def test_what_the_search_reads_may_train(self, train: str) -> None:
        check_final(Final(train=train, eval="test"), [WSDDN, LOCALIZER], SOURCE)

    def test_none(self) -> None:
        check_final(None, [plan(data__eval="test")], SOURCE)


def source_of(*settings: tuple[str, Sequence[KeyPath]]) -> YamlSource:
    """A spec with settings and the paths that they give values to."""
    places = {path: Place(f"--set {setting}", None) for setting, paths in settings for path in paths}
    return YamlSource(
        file=FILE, text="", value={}, places={(): Place(FILE, 1), ("experiment",): Place(FILE, 1)} | places
    )


LR: KeyPath = ("experiment", "train", "lr")


class TestSettings:
    @pytest.mark.parametrize("swept", [[["train.lr"]], [["train.epochs", "train.lr"], ["train.lr"]]])
    def test_a_key_that_every_block_sweeps(self, swept: list[list[str]]) -> None:
        source = source_of(("task=wsddn", [("experiment", "task")]), ("train.lr=1", [LR]))
        assert refusal(lambda: check_settings(["task=wsddn", "train.lr=1"], swept, source)) == (
            "--set train.lr=1: got a value for train.lr, which search sweeps, so that it would change nothing; "
            "expected another key, or --set 'search[0].grid.train.lr=[...]'"
        )

    def test_in_a_section(self) -> None:
        source = source_of(("train={lr: 1}", [("experiment", "train"), LR]))
        message = refusal(lambda: check_settings(["train={lr: 1}"], [["train.lr"]], source))
        assert message.startswith("--set train={lr: 1}: got a value for train.lr, which search sweeps")

    @pytest.mark.parametrize(
        "swept", [[], [[]], [["train.epochs"]], [["train.lr"], []], [["train.lr"], ["train.epochs"]]]
    )
    def test_a_key_that_some_cells_do_not_sweep(self, swept: list[list[str]]) -> None:
        check_settings(["train.lr=1"], swept, source_of(("train.lr=1", [LR])))

    def test_a_setting_that_a_later_one_replaces(self) -> None:
        source = source_of(("train={}", [("experiment", "train")]))
        check_settings(["train.lr=1", "train={}"], [["train.lr"]], source)

    def test_of_the_search_itself(self) -> None:
        source = source_of(("search[0].grid.train.lr=[1]", [(*PATH, "train.lr"), (*PATH, "train.lr", 0)]))
        check_settings(["search[0].grid.train.lr=[1]"], [["train.lr"]], source)

    def test_none(self) -> None:
        check_settings([], [["train.lr"]], source_of(("train.lr=1", [LR])))
