"""Specs with the trials that they mean, written by hand: tests/golden/*.yaml, each with a .trials file beside it.

A line is a trial, `{swept keys} seed=N`, with other values of its config after `with`; or `name: value`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from experiments.parameters import Choice, Parameter
from experiments.rules import same_value
from experiments.sampled_block import SampledBlock
from experiments.spec import SweepSpec, load_spec
from experiments.trial import TrialPlan

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
FILES = sorted(GOLDEN.glob("*.trials"))

TRIAL = re.compile(r"(?P<swept>\{.*?\}) seed=(?P<seed>\d+)(?: with (?P<others>\{.*\}))?")
SIMPLE = {"question", "name", "merged", "total", "objective", "pruner", "attempts", "cpu slots", "keys", "final seeds"}
REPEATED = {"set", "environment", "excluded", "all", "block", "parameter", "point", "final", "trial"}


def golden(file: Path) -> dict[str, list[str]]:
    """The lines of a .trials file by what they are."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("#") or not line:
            continue
        kind, _, value = ("trial", "", line) if line.startswith("{") else line.partition(":")
        assert kind in SIMPLE | REPEATED, f"{file.name}: {line!r}"
        found[kind].append(value.strip())
    return found


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def expected(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    return {"file": [request.param.with_suffix(".yaml")], **golden(request.param)}


@pytest.fixture
def spec(expected: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    for line in expected.get("environment", []):
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    return load_spec(Path(expected["file"][0]), expected.get("set", []))


def test_there_are_thirty_and_more() -> None:
    assert len(FILES) >= 30
    assert {file.stem for file in FILES} == {
        file.stem for file in GOLDEN.glob("*.yaml") if not file.stem.startswith("base")
    }


def test_the_trials(spec: SweepSpec, expected: dict[str, list[str]]) -> None:
    """In order, with the types of their values, each with a signature of its own."""
    assert len(spec.plans) == len(expected.get("trial", []))
    assert len({plan.signature for plan in spec.plans}) == len(spec.plans)
    for plan, line in zip(spec.plans, expected.get("trial", []), strict=True):
        assert_is(plan, line, expected)


def test_the_final_stage(spec: SweepSpec, expected: dict[str, list[str]]) -> None:
    assert " ".join(map(str, spec.final_seeds)) == "".join(expected.get("final seeds", []))
    if "final" in expected:
        plans = spec.final_plans(spec.corners[0])
        assert {plan.stage for plan in plans} == {"final"}
        for plan, line in zip(plans, expected["final"], strict=True):
            assert_is(plan, line, {})


def test_all_else_that_it_says(spec: SweepSpec, expected: dict[str, list[str]]) -> None:
    pruner = f"{type(spec.pruner).__name__} {json.dumps(asdict(spec.pruner))}" if spec.pruner else ""
    known = {
        "question": spec.question,
        "name": spec.name,
        "total": str(spec.total),
        "objective": f"{spec.objective.direction} {spec.objective.metric}",
        "pruner": pruner,
        "attempts": str(spec.retry.max_attempts),
        "cpu slots": str(spec.resources.cpu_slots),
        "keys": " ".join(spec.swept_keys),
    }
    said = {name: expected[name][0] for name in known if name in expected}
    assert {name: known[name] for name in said} == said
    assert spec.merged == int(expected.get("merged", ["0"])[0])
    excluded = [f"{one.cells} by {one.where}: {one.rule}" for one in spec.excluded]
    assert excluded == expected.get("excluded", [])
    if "total" not in expected:
        assert spec.total == len(spec.plans)


def test_the_sampled_blocks(spec: SweepSpec, expected: dict[str, list[str]]) -> None:
    assert [block_text(block) for block in spec.blocks] == expected.get("block", [])
    parameters = [parameter_value(parameter) for block in spec.blocks for parameter in block.parameters]
    assert equal(parameters, [json.loads(line) for line in expected.get("parameter", [])])
    points = [point for block in spec.blocks for point in finite(block) or []]
    assert equal(points, [json.loads(line) for line in expected.get("point", [])])


def assert_is(plan: TrialPlan, line: str, expected: dict[str, list[str]]) -> None:
    match = TRIAL.fullmatch(line)
    assert match, line
    swept = json.loads(match["swept"])
    assert equal(dict(plan.swept), swept)
    assert list(plan.swept) == list(swept)
    assert plan.config.seed == int(match["seed"])
    shared = [item for text in expected.get("all", []) for item in json.loads(text).items()]
    for key, value in {**dict(shared), **swept, **json.loads(match["others"] or "{}")}.items():
        assert equal(plan.value(key), value), key


def equal(found: Any, wanted: Any) -> bool:
    """As in a spec: true is not 1, a tuple is a list, 1 is 1.0."""
    return same_value(found, wanted)


def finite(block: SampledBlock) -> list[dict[str, Any]] | None:
    points = block.finite_points()
    return None if points is None else list(points)


def block_text(block: SampledBlock) -> str:
    points = finite(block)
    count = "infinitely many" if points is None else str(len(points))
    where = f"search[{block.path[1]}]"
    return f"{where} {block.sampler} seed={block.sampler_seed} trials={block.trials} of {count}"


def parameter_value(parameter: Parameter) -> dict[str, Any]:
    when = {"when": dict(parameter.when)} if parameter.when else {}
    if isinstance(parameter, Choice):
        return {"key": parameter.key, "values": list(parameter.values), **when}
    bounds = {"low": parameter.low, "high": parameter.high}
    bounds |= {} if parameter.step is None else {"step": parameter.step}
    kind = {"integer": parameter.integer, "log": parameter.log}
    return {"key": parameter.key, **bounds, **kind, **when}
