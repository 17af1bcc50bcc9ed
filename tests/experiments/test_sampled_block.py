"""What a sampler may ask for: the space of a `sample` block, its rules, its its key and the way back from a config."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.blocks import BlockReader
from experiments.errors import SpecError
from experiments.parameters import Choice, Number, size, value_at
from experiments.resolve import Resolver
from experiments.rules import fits
from experiments.sampled_block import SampledBlock, read_sampled_block
from experiments.spec_document import SpecDocument
from experiments.trial import Draw, configuration
from experiments.yaml_source import read_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = "experiment: {task: wsddn, data: {root: digits}, model: {backbone: tiny, weights: none}, seed: 5}\nsearch:\n"
Read = Callable[..., SampledBlock]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Keys of a block with their values, and what else it has -> the block. Its first key stands in line 5."""

    def read(keys: Mapping[str, str], more: str = "trials: 1", *, shared: str = SHARED) -> SampledBlock:
        file = tmp_path / "x.yaml"
        lines = "".join(f"    {key}: {{{text}}}\n" for key, text in keys.items())
        file.write_text(f"{shared}- sample:\n{lines}" + "".join(f"  {line}\n" for line in more.split("; ")))
        source = read_yaml(file)
        document = SpecDocument.model_validate(source.value)
        reader = BlockReader(document.search[0], 0, source, Resolver(document.experiment, source))
        return read_sampled_block(reader, (3, 1))

    return read


CONDITIONAL = {
    "model.refinement_ignore_iou": "float: [0.0, 0.3], when: {model.refinement: {min: 2, max: 4}}",
    "model.refinement": "int: [0, 6]",
    "train.scales_px": "choice: [[96], [96, 128]]",
    "train.lr": "log_uniform: [1.0e-6, 1.0]",
    "train.spatial_weight": "choice: [0, 0.5], when: {train.scales_px: [[96, 128]]}",
    "train.spatial_top": "log_int: [2, 40], when: {train.spatial_weight: 0.5}",
    "train.accumulate": "int: [1, 9], step: 4, when: {task: wsddn, model.backbone: tiny}",
    "train.warmup_steps": "int: [1, 3], when: {train.epochs: {max: 30}}",
    "evaluate.nms_iou": "float: [0.1, 0.5], step: 0.2",
}
FINITE = {
    "train.batch_size": "int: [1, 5]",
    "train.flip": "choice: [true, false]",
    "train.accumulate": "int: [2, 8], step: 3, when: {train.batch_size: {max: 2}}",
    "train.resize": "choice: [longer, square], when: {train.flip: true, train.batch_size: [1, 4]}",
}


def random_value(parameter: Choice | Number, random_: random.Random) -> Any:
    count = size(parameter)
    if count is not None:
        return value_at(parameter, random_.randrange(count))
    assert isinstance(parameter, Number)
    return random_.uniform(parameter.low, parameter.high)


def random_point(block: SampledBlock, random_: random.Random) -> dict[str, Any]:
    """A value for each key, less those whose `when` does not hold, by a slow loop over the keys until nothing goes."""
    point = {parameter.key: random_value(parameter, random_) for parameter in block.parameters}
    return less_inactive(block, point)


def less_inactive(block: SampledBlock, values: Mapping[str, Any]) -> dict[str, Any]:
    point: dict[str, Any] = dict(values)
    before: dict[str, Any] = {}
    while point != before:
        before = dict(point)
        for parameter in block.parameters:
            for name, wanted in (parameter.when or {}).items():
                is_there = name in point if name in block.keys else True
                if not is_there or not fits(point.get(name, block.resolver.unswept(name)), wanted):
                    point.pop(parameter.key, None)
    return point


def test_parents_come_first_and_keys_stay_in_order(read: Read) -> None:
    block = read(CONDITIONAL, "trials: 4; sampler_seed: 7; sampler: qmc; exclude: [{train.lr: {max: 0.1}}]")
    order = [parameter.key for parameter in block.parameters]
    assert order[:2] == ["model.refinement", "model.refinement_ignore_iou"]
    assert block.keys == tuple(CONDITIONAL)
    assert block.fixed == {"task": "wsddn", "model.backbone": "tiny", "train.epochs": 20}
    assert (block.sampler, block.sampler_seed, block.trials, block.seeds) == ("qmc", 7, 4, (3, 1))
    assert (block.exclude, block.only) == (({"train.lr": {"max": 0.1}},), ())
    assert block.path == ("search", 0, "sample")


def test_defaults_and_kinds(read: Read) -> None:
    keys = {"train.lr": "float: [0, 1]", "train.epochs": "log_int: [1, 9]", "train.flip": "choice: [true]"}
    block = read(keys)
    assert (block.sampler, block.sampler_seed) == ("tpe", 0)
    assert block.parameters == (
        Number("train.lr", 0, 1, integer=False, log=False, step=None),
        Number("train.epochs", 1, 9, integer=True, log=True, step=None),
        Choice("train.flip", (True,)),
    )


def test_an_error_stands_at_the_block(read: Read) -> None:
    assert read({"train.lr": "float: [0, 1]"}).error("expected x").where.endswith("x.yaml:3")


class TestAllows:
    @pytest.mark.parametrize(
        ("rules", "point", "allowed"),
        [
            ("trials: 1", {}, True),
            ("exclude: [{train.lr: {max: 0.1}}]", {"train.lr": 0.1}, False),
            ("exclude: [{train.lr: {max: 0.1}}]", {"train.lr": 0.1000001}, True),
            ("exclude: [{train.lr: {max: 0.1}, model.refinement: 0}]", {"train.lr": 0.1, "model.refinement": 1}, True),
            ("exclude: [{model.refinement: 1}, {train.lr: {min: 0.2}}]", {"train.lr": 0.2}, False),
            ("only: [{train.lr: {max: 0.1}}, {train.lr: {min: 0.2}}]", {"train.lr": 0.15}, False),
            ("only: [{train.lr: {max: 0.1}}, {train.lr: {min: 0.2}}]", {"train.lr": 0.2}, True),
            ("only: [{train.lr: {max: 0.1}}]; exclude: [{train.lr: 0}]", {"train.lr": 0}, False),
            ("exclude: [{train.lr: {max: 1}, train.epochs: 20}]", {"train.lr": 0.1}, False),  # as it is by default
            ("exclude: [{train.lr: {max: 1}, task: wsddn}]", {"train.lr": 0.1}, False),  # as `experiment` has it
            ("only: [{model.refinement: [0, 1]}]", {"train.lr": 0.1}, False),  # absent, whatever the default
            ("exclude: [{model.refinement: 0}]", {"train.lr": 0.1}, True),
        ],
    )
    def test_a_point(self, read: Read, rules: str, point: dict[str, Any], allowed: bool) -> None:
        keys = {"train.lr": "float: [0, 1]", "model.refinement": "int: [0, 3], when: {train.lr: {min: 0.5}}"}
        assert read(keys, f"{rules}; trials: 1" if "trials" not in rules else rules).allows(point) is allowed


class TestPlans:
    def test_one_a_seed_with_the_values_of_the_point(self, read: Read) -> None:
        block = read({"train.lr": "float: [0, 1]", "model.refinement": "int: [0, 3]"})
        draw = Draw(block=block.key, number=3)
        plans = block.plans({"model.refinement": 3, "train.lr": 0.5}, draw)
        assert [(plan.config.seed, plan.draw) for plan in plans] == [(3, draw), (1, draw)]
        assert [list(plan.swept.items()) for plan in plans] == [[("train.lr", 0.5), ("model.refinement", 3)]] * 2
        assert plans[0].cell.place("train.lr") == ("search", 0, "sample", "train.lr")
        assert (plans[0].config.train.lr, plans[0].config.model.refinement) == (0.5, 3)

    def test_a_fault_stands_at_its_key(self, read: Read) -> None:
        with pytest.raises(SpecError, match=r"x\.yaml:4: got 2.0 for train\.momentum; expected a number less than 1"):
            read({"train.momentum": "float: [0.0, 2.0]"}).plans({"train.momentum": 2.0})


class TestPointOf:
    @pytest.mark.parametrize("keys", [CONDITIONAL, FINITE], ids=["conditional", "finite"])
    def test_the_way_back(self, read: Read, keys: dict[str, str]) -> None:
        block, random_ = read(keys), random.Random(0)
        for _ in range(150):
            point = random_point(block, random_)
            for plan in block.plans(point):
                found = block.point_of(plan.config)
                assert found is not None
                assert {key: as_list(value) for key, value in found.items()} == point
                assert block.plans(found)[0].configuration == plan.configuration

    def test_not_where_the_rules_leave_it_out(self, read: Read) -> None:
        block, random_ = read(CONDITIONAL, "trials: 1; exclude: [{train.lr: {max: 0.5}}]"), random.Random(0)
        for _ in range(60):
            point = random_point(block, random_)
            assert (block.point_of(block.plans(point)[0].config) is None) == (point["train.lr"] <= 0.5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"train": {"epochs": 21}},  # of no key of the block
            {"model": {"backbone": "resnet18", "weights": "none"}},
            {"train": {"lr": 1.1}},  # out of range
            {"train": {"accumulate": 2, "lr": 1.0}},  # between the steps
            {"train": {"accumulate": 13, "lr": 1.0}},
            {"train": {"scales_px": [96, 160], "lr": 1.0}},
            {"model": {"backbone": "tiny", "weights": "none", "refinement": 0, "refinement_ignore_iou": 0.2}},
        ],
    )
    def test_what_is_no_point(self, read: Read, changes: dict[str, Any]) -> None:
        keys = {key: CONDITIONAL[key] for key in list(CONDITIONAL)[:4]} | {"train.accumulate": "int: [1, 9], step: 4"}
        block = read(keys)
        config = block.plans({"model.refinement": 0, "train.scales_px": [96], "train.lr": 1.0, "train.accumulate": 5})[
            0
        ]
        assert block.point_of(config.config) is not None
        values = config.config.model_dump(mode="json")
        changed = type(config.config).model_validate(
            {
                name: {**part, **changes.get(name, {})} if isinstance(part, dict) else part
                for name, part in values.items()
            }
        )
        assert configuration(changed) != config.configuration
        assert block.point_of(changed) is None

    def test_another_seed_is_the_same_point(self, read: Read) -> None:
        block = read({"train.lr": "float: [0, 1]"})
        config = block.plans({"train.lr": 0.5})[0].config.model_copy(update={"seed": 99})
        assert block.point_of(config) == {"train.lr": 0.5}

    def test_with_other_kinds_of_equal_values(self, read: Read) -> None:
        block = read({"train.lr": "choice: [1, 0.5]", "evaluate.scales_px": "choice: [null, [96]]"}, "trials: 4")
        for point in block.finite_points() or ():
            assert block.point_of(block.plans(point)[0].config) is not None


def as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class TestFinitePoints:
    @pytest.mark.parametrize(
        "rules",
        [
            "trials: 1",
            "exclude: [{train.batch_size: [1, 5]}]; trials: 1",
            "only: [{train.accumulate: [2, 8]}, {train.resize: square}]; exclude: [{train.accumulate: 8}]; trials: 1",
        ],
    )
    def test_against_a_slow_product(self, read: Read, rules: str) -> None:
        block = read(FINITE, rules)
        all_values: list[list[Any]] = [[1, 2, 3, 4, 5], [True, False], [2, 5, 8], ["longer", "square"]]
        rows = [dict(zip(FINITE, row, strict=True)) for row in itertools.product(*all_values)]
        expected = {tuple(less_inactive(block, row).items()) for row in rows}
        expected = {row for row in expected if block.allows(dict(row))}
        found = [tuple((key, point[key]) for key in FINITE if key in point) for point in block.finite_points() or ()]
        assert len(found) == len(set(found))
        assert set(found) == expected

    def test_infinitely_or_too_many(self, read: Read) -> None:
        assert read({"train.lr": "float: [0, 1]"}).finite_points() is None
        assert read({"train.epochs": "int: [1, 100000]"}).finite_points() is not None
        assert read({"train.epochs": "int: [1, 100001]"}).finite_points() is None


class TestKey:
    KEYS = {
        "train.lr": "float: [0, 1], when: {train.flip: true, train.epochs: 20}",
        "train.flip": "choice: [true, false]",
        "train.momentum": "float: [0, 0.5], step: 0.1",
    }

    def test_where_the_block_stands_and_in_what_order_it_is_written_does_not_matter(self, read: Read) -> None:
        expected = read(self.KEYS).key
        assert read(dict(reversed(self.KEYS.items()))).key == expected
        swapped = self.KEYS | {"train.lr": "float: [0, 1], when: {train.epochs: 20, train.flip: true}"}
        assert read(swapped).key == expected
        rest = "trials: 3; sampler: tpe; sampler_seed: 0; exclude: [{train.lr: {max: 0.1}}]; only: [{train.flip: true}]"
        assert read(self.KEYS, rest).key == expected
        assert read(self.KEYS, shared=SHARED.replace("search:", "# x\nquestion: Why?\nsearch:")).key == expected
        assert len(expected) == 16

    def test_anything_else_is_another_block(self, read: Read) -> None:
        keys = [
            self.KEYS,
            self.KEYS | {"train.lr": "float: [0, 1], when: {train.flip: true}"},
            self.KEYS | {"train.lr": "float: [0, 1], when: {train.flip: [true, false], train.epochs: 20}"},
            self.KEYS | {"train.lr": "float: [0, 1]"},
            self.KEYS | {"train.lr": "float: [0, 0.5], when: {train.flip: true, train.epochs: 20}"},
            self.KEYS | {"train.flip": "choice: [false, true]"},  # the sampler knows a choice by its position
            self.KEYS | {"train.momentum": "float: [0, 0.5], step: 0.05"},
            self.KEYS | {"train.momentum": "float: [0, 0.5]"},
            self.KEYS | {"train.accumulate": "int: [1, 2]"},
            {key: self.KEYS[key] for key in ("train.lr", "train.flip")},
        ]
        samplers = [f"trials: 1; sampler: {name}" for name in ("random", "gp", "qmc", "cmaes")]
        found = [read(one).key for one in keys]
        found += [read(self.KEYS, more).key for more in [*samplers, "trials: 1; sampler_seed: 1"]]
        assert len(set(found)) == len(found) == 15

    def test_what_a_condition_names_is_part_of_the_space(self, read: Read) -> None:
        keys = {"train.lr": "float: [0, 1], when: {train.epochs: [20, 30]}"}
        other = SHARED.replace("seed: 5", "train: {epochs: 30}")
        assert read(keys).key != read(keys, shared=other).key

    def test_in_another_process_with_another_hash_seed(self, read: Read, tmp_path: Path) -> None:
        expected = read(CONDITIONAL).key
        program = (
            "import sys\nfrom pathlib import Path\nfrom experiments.spec import load_spec\n"
            "print(load_spec(Path(sys.argv[1])).blocks[0].key)"
        )
        for seed in ("1", "2"):
            done = subprocess.run(
                [sys.executable, "-c", program, str(tmp_path / "x.yaml")],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout.strip() == expected
