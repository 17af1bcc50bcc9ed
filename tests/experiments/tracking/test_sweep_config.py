"""What a W&B sweep says of a spec: names that are those of the runs' configs, ranges that hold what is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.spec import SweepSpec
from experiments.tracking.run_content import value_at
from experiments.tracking.sweep_config import sweep_config

Load = Callable[[str], SweepSpec]
BASE = """\
name: s
question: Why?
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
"""


@pytest.fixture
def parameters(load: Load) -> Callable[[str], dict[str, Any]]:
    """Of a spec with these blocks, flat."""

    def of(blocks: str) -> dict[str, Any]:
        found = {}

        def flatten(nested: dict[str, Any], prefix: str) -> None:
            for name, value in nested.items():
                if "parameters" in value:
                    flatten(value["parameters"], f"{prefix}{name}.")
                else:
                    found[prefix + name] = value

        flatten(sweep_config(load(BASE + blocks))["parameters"], "")
        return found

    return of


def test_the_whole(load: Load) -> None:
    found = sweep_config(load(BASE + "search: [{grid: {train.lr: [0.1, 0.2], proposals.count: [10]}}]\nseeds: 2\n"))
    assert found == {
        "method": "custom",
        "controller": {"type": "local"},
        "name": "s",
        "description": "Why?",
        "metric": {"name": "ap50_11pt/mean", "goal": "maximize"},
        "parameters": {
            "train": {"parameters": {"lr": {"values": [0.1, 0.2]}}},
            "proposals": {"parameters": {"count": {"values": [10]}}},
            "seed": {"values": [0, 1]},
        },
    }


def test_names_are_those_of_configs(load: Load, parameters: Callable[[str], dict[str, Any]]) -> None:
    blocks = "search: [{zip: {train.lr: [0.1, 0.2], proposals.count: [10, null]}}]\n"
    config = load(BASE + blocks).plans[0].config.model_dump(mode="json")
    names = parameters(blocks).keys()
    assert names == {"train.lr", "proposals.count", "seed"}
    assert all(value_at(config, name) is not None for name in names)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("{sample: {train.lr: {log_uniform: [0.1, 1.0]}}, trials: 2}", ("log_uniform_values", 0.1, 1.0)),
        ("{sample: {train.lr: {float: [0.1, 1.0]}}, trials: 2}", ("uniform", 0.1, 1.0)),
        (
            "{sample: {train.lr: {log_uniform: [0.1, 1.0]}}, trials: 2}, {grid: {train.lr: [0.01, 0.5]}}",
            ("log_uniform_values", 0.01, 1.0),
        ),
        (
            "{sample: {train.lr: {log_uniform: [0.1, 1.0]}}, trials: 2},"
            " {sample: {train.lr: {float: [1, 3]}}, trials: 2}",
            ("uniform", 0.1, 3.0),
        ),
    ],
)
def test_ranges(parameters: Callable[[str], dict[str, Any]], blocks: str, expected: tuple[str, float, float]) -> None:
    found = parameters(f"search: [{blocks}]\n")["train.lr"]
    assert (found["distribution"], found["min"], found["max"]) == expected


def test_whole_numbers(parameters: Callable[[str], dict[str, Any]]) -> None:
    found = parameters("search: [{sample: {proposals.count: {int: [10, 20]}}, trials: 2}]\n")["proposals.count"]
    assert found == {"distribution": "int_uniform", "min": 10, "max": 20}
    assert [type(found[end]) for end in ("min", "max")] == [int, int]


def test_values_of_several_blocks_count_once(parameters: Callable[[str], dict[str, Any]]) -> None:
    found = parameters(
        "search: [{grid: {proposals.count: [10, null]}}, {sample: {proposals.count: {choice: [10, 30]}}, trials: 2},"
        " {sample: {proposals.count: {int: [50, 60]}}, trials: 2}]\n"
    )["proposals.count"]
    assert found == {"values": [10, None, 30, 50, 60]}, "null lies in no range"


def test_without_a_search(parameters: Callable[[str], dict[str, Any]]) -> None:
    assert parameters("") == {"seed": {"values": [0]}}
