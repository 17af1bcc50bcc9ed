"""Grids and zips as a spec has them: their cells, what their rules leave out, and their faults."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.blocks import BlockReader, Excluded
from experiments.errors import SpecError
from experiments.resolve import Resolver
from experiments.rules import fits
from experiments.spec_document import SpecDocument
from experiments.yaml_source import read_yaml

Reader = Callable[[str], BlockReader]
SHARED = "experiment: {task: wsddn, data: {root: digits}, train: {epochs: 7}}\nsearch:\n"


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Reads the last of the blocks under `search`, the first of which begins in line 3."""

    def reader(blocks: str) -> BlockReader:
        file = tmp_path / "x.yaml"
        file.write_text(SHARED + blocks)
        source = read_yaml(file)
        document = SpecDocument.model_validate(source.value)
        index = len(document.search) - 1
        return BlockReader(document.search[index], index, source, Resolver(document.experiment, source))

    return reader


def values(reader: BlockReader) -> list[dict[str, Any]]:
    return [dict(cell.values) for cell in reader.cells()[0]]


def refusal(reader: BlockReader) -> str:
    with pytest.raises(SpecError, match="expected") as error:
        reader.cells()
    return str(error.value).rpartition("/")[2]


class TestCells:
    def test_a_grid_with_values_of_every_kind(self, reader: Reader) -> None:
        block = reader("- grid: {train.epochs: {range: [1, 2, 1]}, train.lr: {logspace: [0.1, 1.0, 2]}}\n")
        expected = [{"train.epochs": e, "train.lr": lr} for e, lr in itertools.product([1, 2], [0.1, 1.0])]
        assert values(block) == expected
        assert (block.kind, block.path) == ("grid", ("search", 0, "grid"))

    def test_a_zip_with_values_of_every_kind(self, reader: Reader) -> None:
        block = reader("- zip: {train.epochs: {linspace: [1, 3, 3]}, train.lr: {values: [3, 1, 3]}}\n")
        assert [tuple(cell.values()) for cell in values(block)] == [(1, 3), (2, 1), (3, 3)]
        assert (block.kind, block.path) == ("zip", ("search", 0, "zip"))

    def test_one_cell(self, reader: Reader) -> None:
        assert (
            values(reader("- grid: {train.lr: [0.1]}\n"))
            == values(reader("- zip: {train.lr: [0.1]}\n"))
            == [{"train.lr": 0.1}]
        )

    def test_cells_know_where_they_stand(self, reader: Reader) -> None:
        cells, _ = reader("- grid: {seed: [1]}\n- grid: {train.lr: [0.1, 0.2]}\n").cells()
        assert [cell.place("train.lr") for cell in cells] == [("search", 1, "grid", "train.lr", i) for i in (0, 1)]

    def test_the_keys_and_those_that_every_cell_has(self, reader: Reader) -> None:
        when = "when: {task: wsddn}"
        axes = f"train.lr: [1], model.topk: {{values: [1], {when}}}, train.epochs: {{range: [1, 2, 1]}}"
        block = reader(f"- grid: {{{axes}}}\n")
        assert block.keys == ["train.lr", "model.topk", "train.epochs"]
        assert block.always_swept == ["train.lr", "train.epochs"]
        sampled = reader(f"- sample: {{train.lr: {{int: [1, 2]}}, model.topk: {{int: [1, 2], {when}}}}}\n  trials: 1\n")
        assert (sampled.kind, sampled.keys, sampled.always_swept) == (
            "sample",
            ["train.lr", "model.topk"],
            ["train.lr"],
        )

    def test_a_when_on_a_key_that_experiment_has_or_has_not(self, reader: Reader) -> None:
        lr = "- grid: {train.flip: [true, false], train.lr: {values: [1, 2], when: {%s}}}\n"
        assert len(values(reader(lr % "train.epochs: 7"))) == 4
        assert len(values(reader(lr % "train.batch_size: 1"))) == 4  # the default
        assert values(reader(lr % "train.epochs: 7, train.flip: false")) == [
            {"train.flip": True},
            {"train.flip": False, "train.lr": 1},
            {"train.flip": False, "train.lr": 2},
        ]


GRID = "- grid: {train.lr: [1, 2, 3], train.batch_size: [1, 2, 3]}\n"


class TestRules:
    def test_each_cell_counts_for_the_first_rule_that_leaves_it_out(self, reader: Reader) -> None:
        block = reader(f"{GRID}  exclude: [{{train.lr: 1}}, {{train.batch_size: {{max: 2}}}}, {{train.lr: [1, 2]}}]\n")
        cells, excluded = block.cells()
        assert [tuple(cell.values.values()) for cell in cells] == [(3, 3)]
        assert excluded == [
            Excluded(where="search[0].exclude[0]", rule="{train.lr: 1}", cells=3),
            Excluded(where="search[0].exclude[1]", rule="{train.batch_size: {max: 2}}", cells=4),
            Excluded(where="search[0].exclude[2]", rule="{train.lr: [1, 2]}", cells=1),
        ]

    def test_a_rule_that_others_left_nothing_for_is_no_fault_and_is_not_told(self, reader: Reader) -> None:
        cells, excluded = reader(f"{GRID}  exclude: [{{train.lr: [1, 2]}}, {{train.lr: 1}}]\n").cells()
        assert (len(cells), [one.where for one in excluded]) == (3, ["search[0].exclude[0]"])

    def test_only(self, reader: Reader) -> None:
        cells, excluded = reader(f"{GRID}  only: [{{train.lr: 1, train.batch_size: 1}}, {{train.lr: 3}}]\n").cells()
        assert [tuple(cell.values.values()) for cell in cells] == [(1, 1), (3, 1), (3, 2), (3, 3)]
        rule = "not {train.lr: 1, train.batch_size: 1} or {train.lr: 3}"
        assert excluded == [Excluded(where="search[0].only", rule=rule, cells=5)]

    def test_an_only_that_leaves_everything_is_not_told(self, reader: Reader) -> None:
        assert reader(f"{GRID}  only: [{{train.lr: {{min: 1}}}}]\n").cells()[1] == []

    def test_exclude_comes_first(self, reader: Reader) -> None:
        rules = "  only: [{train.lr: [1, 2]}]\n  exclude: [{train.lr: 1}]\n"
        cells, excluded = reader(GRID + rules).cells()
        assert [cell.values["train.lr"] for cell in cells] == [2, 2, 2]
        assert [(one.where, one.cells) for one in excluded] == [("search[0].exclude[0]", 3), ("search[0].only", 3)]

    def test_a_key_that_is_not_swept_is_what_experiment_says_or_its_default(self, reader: Reader) -> None:
        cells, _ = reader(f"{GRID}  exclude: [{{train.epochs: 7, train.flip: true, train.lr: 1}}]\n").cells()
        assert len(cells) == 6

    def test_a_swept_key_that_a_cell_does_not_have_equals_nothing(self, reader: Reader) -> None:
        """Not even the default that it has there."""
        flip = "train.flip: [true, false], train.accumulate: {values: [1, 2], when: {train.flip: true}}"
        block = reader(f"- grid: {{{flip}}}\n  exclude: [{{train.accumulate: 1}}]\n")
        assert values(block) == [{"train.flip": True, "train.accumulate": 2}, {"train.flip": False}]

    @pytest.mark.parametrize("kind", ["grid", "zip"])
    def test_against_a_slow_loop(self, reader: Reader, kind: str) -> None:
        random_ = random.Random(0)
        for _ in range(60):
            axes = {key: [random_.randrange(3) for _ in range(4)] for key in ("train.lr", "train.warmup_steps")}
            rules = [{key: random_.choice([0, 1, [0, 2], {"min": 1}]) for key in axes} for _ in range(4)]
            rules = [dict(random_.sample(list(rule.items()), random_.randrange(1, 3))) for rule in rules]
            expand = itertools.product if kind == "grid" else zip
            rows = [dict(zip(axes, row, strict=True)) for row in expand(*axes.values())]
            left = [
                row
                for row in rows
                if not any(matches(row, rule) for rule in rules[:2]) and any(matches(row, rule) for rule in rules[2:])
            ]
            block = reader(f"- {kind}: {axes}\n  exclude: {rules[:2]}\n  only: {rules[2:]}\n")
            if all(any(matches(row, rule) for row in rows) for rule in rules[:2]) and all(
                any(matches(row, rule) for row in rows if not any(matches(row, out) for out in rules[:2]))
                for rule in rules[2:]
            ):
                cells, excluded = block.cells()
                assert [dict(cell.values) for cell in cells] == left
                assert sum(one.cells for one in excluded) == len(rows) - len(left)
            else:
                assert "which holds nowhere in" in refusal(block)


def matches(row: dict[str, int], rule: dict[str, Any]) -> bool:
    return all(fits(row[key], wanted) for key, wanted in rule.items())


class TestFaults:
    @pytest.mark.parametrize(
        ("block", "message"),
        [
            (
                "- zip: {train.lr: [1, 2], train.epochs: {range: [1, 3, 1]}}",
                "3: got lists of unequal lengths in zip (train.lr has 2, train.epochs has 3); expected equal lengths",
            ),
            (
                f"{GRID}  exclude:\n  - {{train.lr: 1}}\n  - {{train.lr: 4}}",
                "6: got exclude {train.lr: 4}, which holds nowhere in search[0].grid; expected values that it has",
            ),
            (
                f"{GRID}  exclude: [{{train.epochs: 8}}]",
                "4: got exclude {train.epochs: 8}, which holds nowhere in search[0].grid; expected values that it has",
            ),
            (
                f"{GRID}  only:\n  - {{train.lr: 1}}\n  - {{train.lr: true}}",
                "6: got only {train.lr: true}, which holds nowhere in search[0].grid; expected values that it has",
            ),
            (
                f"{GRID}  exclude: [{{train.lr: 1}}]\n  only: [{{train.lr: 1}}, {{train.lr: 2}}]",
                "5: got only {train.lr: 1}, which holds nowhere in search[0].grid; expected values that it has",
            ),
            (
                f"{GRID}  exclude: [{{train.lr: {{min: 2}}}}, {{train.lr: 1}}]",
                "3: got no cell in search[0].grid that its exclude leaves; expected at least one",
            ),
            (
                "- grid:\n    train.flip: [true]\n    train.lr:\n      values: [1]\n      when: {train.flip: false}",
                "7: got when: {train.flip: false} for train.lr, which never holds in this block; expected values that "
                "its keys can have here",
            ),
            (
                "- grid:\n    train.lr:\n      values: [1]\n      when: {data.eval: test}",
                "6: got when: {data.eval: test} for train.lr, which never holds in this block; expected values that "
                "its keys can have here",
            ),
        ],
    )
    def test_of_values_and_rules(self, reader: Reader, block: str, message: str) -> None:
        assert refusal(reader(f"{block}\n")) == f"x.yaml:{message}"

    def test_a_circle_of_conditions(self, reader: Reader) -> None:
        axes = "    train.lr:\n      values: [1]\n      when: {train.epochs: 1}\n"
        axes += "    train.epochs:\n      values: [1]\n      when: {train.lr: 1}\n"
        with pytest.raises(
            SpecError, match=r"x\.yaml:6: got when in a circle: train\.lr -> train\.epochs -> train\.lr"
        ):
            reader(f"- grid:\n{axes}").cells()


class TestCheckKeys:
    @pytest.mark.parametrize(
        ("key", "problem"),
        [
            ("seed", "got seed as a swept key; expected replicates as `seeds: [0, 1, 2]`"),
            ("data.workers", "got data.workers as a swept key; expected a key that can change a result"),
            ("evaluate.pictures", "got evaluate.pictures as a swept key; expected a key that can change a result"),
            ("lr", "got unknown key 'lr' in search[0].grid; expected a config key; did you mean train.lr?"),
            (
                "train.lrr",
                "got unknown key 'train.lrr' in search[0].grid; expected a config key; did you mean train.lr?",
            ),
            ("train", "got unknown key 'train' in search[0].grid; expected a config key"),
            ("qqq", "got unknown key 'qqq' in search[0].grid; expected a config key"),
            ("", "got unknown key '' in search[0].grid; expected a config key"),
        ],
    )
    def test_swept_keys(self, reader: Reader, key: str, problem: str) -> None:
        message = refusal(reader(f"- grid:\n    train.lr: [1]\n    '{key}': [1]\n"))
        assert message.startswith(f"x.yaml:5: {problem}")

    @pytest.mark.parametrize("kind", ["exclude", "only"])
    @pytest.mark.parametrize(("key", "near"), [("lr", "train.lr"), ("train.lrr", "train.lr"), ("seed", None)])
    def test_keys_of_rules(self, reader: Reader, kind: str, key: str, near: str | None) -> None:
        message = refusal(reader(f"{GRID}  {kind}:\n    - {{train.lr: 1}}\n    - {{{key}: 1}}\n"))
        assert message.startswith(f"x.yaml:6: got unknown key '{key}' in search[0].{kind}[1]; expected a config key")
        assert near is None or message.endswith(f"; did you mean {near}?")

    def test_keys_of_conditions(self, reader: Reader) -> None:
        message = refusal(reader("- grid:\n    train.lr:\n      values: [1]\n      when:\n        epochs: 1\n"))
        expected = "got unknown key 'epochs' in search[0].grid.train.lr.when; expected a config key"
        assert message == f"x.yaml:7: {expected}; did you mean train.epochs?"

    def test_rules_may_name_what_changes_no_result(self, reader: Reader) -> None:
        assert len(values(reader(f"{GRID}  only: [{{data.workers: 0, train.lr: 1}}]\n"))) == 3
