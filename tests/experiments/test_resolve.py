"""The fast way from a cell to its trials against the slow one: merge the values, validate all, hash all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experiments.errors import SpecError
from experiments.resolve import Resolver
from experiments.rules import ABSENT
from experiments.space import Cell
from experiments.trial import Draw, configuration, signature
from experiments.validation_messages import leaf_keys
from experiments.yaml_source import YamlSource, read_yaml
from wsol.config import ExperimentConfig

SHARED: list[dict[str, Any]] = [
    {"task": "wsddn", "data": {"root": "digits"}, "model": {"backbone": "tiny", "weights": "none"}},
    {"task": "localizer", "seed": 3, "data": {"root": "a", "workers": 2}, "model": {"backbone": "resnet18"}},
    {"task": "wsddn", "data": {"root": "a", "classes": ["b", "c"]}, "train": {"scales_px": [96], "lr": 1}},
    {"task": "wsddn", "data": {"root": "a"}, "proposals": {"source": "file"}, "model": {"box_scores": "score"}},
    {"data": {"root": "digits"}, "train": {"lr_schedule": "step"}},  # not valid without what the cells have
    {"task": "wsddn", "train": {"epochs": 3}, "evaluate": {"metrics": ["ap30_area"]}},  # data.root is missing
    {"task": "wsddn", "data": {"root": "digits"}, "train": None},
    {"task": "wsddn", "data": {"root": "digits"}, "model": 3},
    {"task": "wsddn", "data": {"root": "digits"}, "trian": {"lr": 0.1}},
]

MENDS: list[dict[str, Any]] = [
    *({}, {}, {}),
    {"proposals.file": "a.npz"},
    {"task": "wsddn", "train.lr_step_epochs": 5},
    {"data.root": "digits"},
    *({}, {}, {}),
]
"""What some cells have, so that they are valid where what all share is not."""
NEVER_VALID = SHARED[6:]

POOLS: dict[str, list[Any]] = {
    "task": ["wsddn", "localizer", "other"],
    "data.root": ["digits", "elsewhere"],
    "data.train": ["train", "trainval"],
    "data.classes": ["voc", "auto", ["cat", "dog"], ["dog", "cat"], ["cat", "cat"]],
    "data.workers": [0, 3],
    "proposals.source": ["grid", "file", "selective_search"],
    "proposals.file": [None, "a.npz", "b.mat"],
    "proposals.count": [None, 1, 1.0, True, 2000],
    "proposals.grid_scales": [[0.5], [0.25, 1], (0.25, 1.0), []],
    "model.backbone": ["tiny", "alexnet", "resnet18", "timm/resnet18", "resnet19"],
    "model.weights": ["none", "imagenet", "a.pth"],
    "model.freeze": ["none", "all", 1, 5],
    "model.roi_size": [None, 6, 7],
    "model.box_scores": ["none", "score"],
    "model.refinement": [0, 3, 3.0],
    "model.topk": [1, 0.5, 1.0, True],
    "model.attention_gated": [True, False, 1],
    "train.epochs": [1, 20, "1"],
    "train.lr": [1, 1.0, 1e-5, 0.00001, 0],
    "train.lr_schedule": ["multistep", "step", "cosine"],
    "train.lr_step_epochs": [None, 5],
    "train.lr_milestones": [[], [3, 5], (3, 5)],
    "train.rescale": [None, [0.7, 1.4], [1, 1], [2, 1]],
    "train.flip": [True, False],
    "evaluate.scales_px": [None, [480], [480, 600]],
    "evaluate.metrics": [[], ["maxboxacc_v2"], ["ap30_area"], ["ap30"]],
    "evaluate.pictures": [0, 4],
}


def default(key: str) -> Any:
    value: Any = ExperimentConfig.model_validate({"task": "wsddn", "data": {"root": "digits"}})
    for name in key.split("."):
        value = getattr(value, name)
    return value


POOLS |= {key: [default(key)] for key in leaf_keys(ExperimentConfig) if key not in POOLS and key != "seed"}


def resolver(shared: Mapping[str, Any]) -> Resolver:
    return Resolver(shared, YamlSource(file=Path("x.yaml"), text="", value={"experiment": shared}, places={}))


def slow(shared: Mapping[str, Any], values: Mapping[str, Any], seed: int) -> ExperimentConfig | None:
    """None where the values make no config."""
    merged = copy.deepcopy(dict(shared))
    for key, value in values.items():
        *sections, leaf = key.split(".")
        at = merged
        for name in sections:
            at = at.setdefault(name, {})
            if not isinstance(at, dict):
                return None
        at[leaf] = value
    try:
        return ExperimentConfig.model_validate(merged | {"seed": seed})
    except ValidationError:
        return None


def random_values(random_: random.Random, mend: dict[str, Any]) -> dict[str, Any]:
    keys = random_.sample(sorted(POOLS), random_.choice([0, 1, 2, 2, 3, 4, 12]))
    return {key: random_.choice(POOLS[key]) for key in keys} | (mend if random_.random() < 0.8 else {})


def check(tested: Resolver, shared: Mapping[str, Any], values: Mapping[str, Any], seeds: list[int]) -> int:
    """Compares both ways; the number of configs that there are."""
    expected = [slow(shared, values, seed) for seed in seeds]
    if None in expected:
        with pytest.raises(SpecError, match=r"x\.yaml: (got|expected|missing)"):
            tested.plans(Cell(values=values), seeds)
        return 0
    plans = tested.plans(Cell(values=values), seeds)
    for plan, config in zip(plans, expected, strict=True):
        assert config is not None
        assert plan.config == config
        assert plan.config.model_dump_json() == config.model_dump_json()  # 1 == 1.0 == True, but not here
        assert (plan.signature, plan.configuration) == (signature(config), configuration(config))
        assert dict(plan.swept) == values
    return len(plans)


class TestAgainstTheSlowWay:
    @pytest.mark.parametrize(("shared", "mend"), list(zip(SHARED, MENDS, strict=True)))
    def test_random_cells_one_resolver(self, shared: dict[str, Any], mend: dict[str, Any]) -> None:
        """What it remembers of one cell shows in no other one, in whatever order they come, and how often."""
        random_, tested, before = random.Random(0), resolver(shared), copy.deepcopy(shared)
        cells = [random_values(random_, mend) for _ in range(120)]
        valid = sum(check(tested, shared, values, [0, 7]) for values in [*cells, *random_.sample(cells, 60)])
        assert shared == before
        assert valid == 0 if shared in NEVER_VALID else valid > 50

    def test_interleaved_resolvers(self) -> None:
        random_, tested = random.Random(1), [resolver(shared) for shared in SHARED]
        found = 0
        for _ in range(300):
            index = random_.randrange(len(SHARED))
            found += check(tested[index], SHARED[index], random_values(random_, MENDS[index]), [random_.randrange(3)])
        assert found > 50

    @pytest.mark.parametrize("key", POOLS)
    def test_every_key(self, key: str) -> None:
        for shared in SHARED[:2]:
            tested = resolver(shared)
            for value in [*POOLS[key], *reversed(POOLS[key])]:
                check(tested, shared, {key: value}, [0])

    def test_sections_that_come_and_go(self) -> None:
        """Without a valid seed of its own each config gets new sections, one at the address of another that is gone."""
        shared = {**SHARED[0], "seed": None}
        tested = resolver(shared)
        for number in range(100):
            assert check(tested, shared, {"train.lr": 1 / (1 + number)}, [number]) == 1


class TestPlans:
    def test_one_a_seed(self) -> None:
        draw = Draw(block="b", number=4)
        cell = Cell(values={"train.lr": 0.5}, path=("search", 0, "grid"), indices={"train.lr": 2})
        plans = resolver(SHARED[0]).plans(cell, [4, 2, 4], stage="final", draw=draw)
        assert [plan.config.seed for plan in plans] == [4, 2, 4]
        assert [(plan.cell, plan.stage, plan.draw) for plan in plans] == [(cell, "final", draw)] * 3
        assert len({plan.configuration for plan in plans}) == 1
        assert (plans[0].signature == plans[2].signature, plans[0].signature == plans[1].signature) == (True, False)

    def test_no_seed_no_plan(self) -> None:
        assert resolver(SHARED[0]).plans(Cell(values={}), []) == []

    def test_the_seeds_win_over_the_shared_one(self) -> None:
        assert [plan.config.seed for plan in resolver(SHARED[1]).plans(Cell(values={}), [0, 1])] == [0, 1]


SPEC = """\
experiment:
  task: wsddn
  data: {root: digits}
  model:
    backbone: tiny
    weights: none
search:
  - grid:
      train.epochs:
        - 1
        - many
      proposals.source: [grid]
      model.box_scores: [none,
        score]
"""


class TestErrors:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Callable[[str], YamlSource]:
        def source(text: str) -> YamlSource:
            file = tmp_path / "x.yaml"
            file.write_text(text)
            return read_yaml(file)

        return source

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"train.epochs": "many"}, "x.yaml:11: got 'many' for train.epochs; expected a whole number"),
            (
                {"model.box_scores": "score", "proposals.source": "grid"},
                "x.yaml:14: expected model.box_scores: none with proposals.source: grid, which gives no scores",
            ),
            ({"task": "detector"}, "x.yaml:8: got 'detector' for task; expected wsddn or localizer"),
        ],
    )
    def test_of_a_cell_at_its_value(
        self, source: Callable[[str], YamlSource], values: dict[str, Any], message: str
    ) -> None:
        read = source(SPEC)
        cell = Cell(values=values, path=("search", 0, "grid"), indices={"train.epochs": 1, "model.box_scores": 1})
        with pytest.raises(SpecError, match="got|expected") as error:
            Resolver(read.value["experiment"], read).plans(cell, [0])
        assert str(error.value).rpartition("/")[2] == message

    def test_of_what_is_shared_under_experiment(self, source: Callable[[str], YamlSource]) -> None:
        read = source(SPEC.replace("weights: none", "weights: imagenet"))
        with pytest.raises(SpecError, match=r"x\.yaml:6: expected model\.weights: none"):
            Resolver(read.value["experiment"], read).plans(Cell(values={}), [0])

    def test_a_cell_after_a_faulty_one(self) -> None:
        tested = resolver(SHARED[0])
        for _ in range(2):
            assert check(tested, SHARED[0], {"train.epochs": "many"}, [0]) == 0
            assert check(tested, SHARED[0], {"train.epochs": 3}, [0]) == 1

    @pytest.mark.parametrize("seed", [-1, 2**32, True])
    def test_of_a_seed(self, seed: int) -> None:
        with pytest.raises(SpecError, match="for seed; expected"):
            resolver(SHARED[0]).plans(Cell(values={}), [seed])


class TestUnswept:
    def test_what_experiment_has_comes_before_the_default(self) -> None:
        tested = resolver(
            {"task": "wsddn", "seed": 4, "train": {"lr": 1, "scales_px": [96]}, "proposals": {"count": None}}
        )
        keys = ("task", "seed", "train.lr", "train.scales_px", "proposals.count", "train.epochs", "data.train")
        assert [tested.unswept(key) for key in keys] == ["wsddn", 4, 1, [96], None, 20, "train"]

    @pytest.mark.parametrize("shared", [{}, {"data": {}}, {"data": {"train": "x"}}, {"data": None}, {"data": 3}])
    def test_without_a_default(self, shared: dict[str, Any]) -> None:
        assert [resolver(shared).unswept(key) for key in ("task", "data.root")] == [ABSENT, ABSENT]

    @pytest.mark.parametrize("key", [key for key in leaf_keys(ExperimentConfig) if key not in ("task", "data.root")])
    def test_every_default(self, key: str) -> None:
        assert resolver({}).unswept(key) == default(key)

    def test_it_is_not_validated(self) -> None:
        assert resolver({"train": {"lr": "fast"}}).unswept("train.lr") == "fast"
