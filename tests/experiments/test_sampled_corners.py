"""The faults of a sampled block, and its corners: points that stand for all where other faults are concerned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from experiments.parameters import Choice, is_point
from experiments.sampled_block import MAX_CORNERS, SampledBlock
from experiments.spec import SweepSpec

Load = Callable[[str], SweepSpec]
Fault = Callable[[str], str]

CONDITIONAL = {
    "model.refinement_ignore_iou": "float: [0.0, 0.3], when: {model.refinement: {min: 2, max: 4}}",
    "model.refinement": "int: [0, 6]",
    "train.lr": "log_uniform: [1.0e-6, 1.0]",
    "train.warmup_steps": "choice: [0, 9], when: {train.lr: {min: 0.1, max: 0.2}}",
    "train.spatial_weight": "float: [0.0, 1.0]",
    "train.spatial_top": "log_int: [2, 40], when: {train.spatial_weight: 0.25}",
    "train.accumulate": "int: [1, 9], step: 4",
}
HALVES = ("train.lr", "train.head_lr_factor", "train.weight_decay", "model.dropout")
COUNTS = ("train.epochs", "train.batch_size", "train.accumulate", "evaluate.every")
TEN = {
    "model.refinement": "choice: [0, 3]",
    **dict.fromkeys(COUNTS, "choice: [1, 2]"),
    **dict.fromkeys(HALVES, "choice: [0.25, 0.5]"),
    "train.flip": "choice: [true, false]",
}
"""2 ** 10 combinations."""
FINITE = {
    "train.batch_size": "int: [1, 5]",
    "train.flip": "choice: [true, false]",
    "train.accumulate": "int: [2, 8], step: 3, when: {train.batch_size: {max: 2}}",
    "train.resize": "choice: [longer, square], when: {train.flip: true, train.batch_size: [1, 4]}",
}

RANGES = {
    "model.refinement": "int: [0, 6]",
    **dict.fromkeys((*COUNTS, "train.warmup_steps", "evaluate.batch_size"), "int: [1, 9]"),
    **dict.fromkeys(HALVES, "float: [0.25, 0.5]"),
    "model.refinement_ignore_iou": "choice: [0.1, 0.2], when: {model.refinement: 3}",
}
"""3 ** 10 ways to choose the other keys for each value of the first."""
STEPS = {
    "evaluate.nms_iou": "float: [0.0, 0.9], step: 0.1",
    "train.epochs": "int: [1, 2], when: {evaluate.nms_iou: 0.3}",  # 0.3 / 0.1 is less than 3 in floats
}
LAST = {"model.refinement_ignore_iou": "choice: [0.1, 0.2], when: {model.refinement: 3}"}


def block(load: Load, keys: Mapping[str, str], rules: str = "") -> SampledBlock:
    (found,) = load(spec(keys, f"trials: 1; {rules}")).blocks
    return found


def spec(keys: Mapping[str, str], rules: str) -> str:
    """The first key stands in line 7."""
    lines = "".join(f"      {key}: {{{text}}}\n" for key, text in keys.items())
    return f"{{EXPERIMENT}}\nsearch:\n  - sample:\n{lines}" + "".join(f"    {rule}\n" for rule in rules.split("; "))


def ends(block: SampledBlock) -> Iterator[tuple[str, Any]]:
    """Every choice and both ends of every range."""
    for parameter in block.parameters:
        values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
        yield from ((parameter.key, value) for value in values)


@pytest.mark.parametrize(
    ("keys", "rules", "not_allowed"),
    [
        (CONDITIONAL, "", []),
        (CONDITIONAL, "only: [{train.lr: 0.5}, {train.accumulate: 5}]", []),
        (CONDITIONAL, "exclude: [{model.refinement: 6}]", [("model.refinement", 6)]),
        (
            CONDITIONAL,
            "exclude: [{train.lr: {max: 0.1}}, {train.lr: {min: 0.2}}]",
            [("train.lr", 1e-6), ("train.lr", 1.0)],
        ),
        ({"train.lr": "float: [0.5, 1.0]"}, "", []),
        ({"train.lr": "float: [0.5, 1.0]"}, "exclude: [{train.lr: [0.5, 1]}]", [("train.lr", 0.5), ("train.lr", 1.0)]),
        (RANGES, "", []),
        (STEPS, "", []),
        (TEN, "", []),
        (TEN | LAST, "", []),
        (
            TEN | LAST,
            "only: [{train.epochs: 2, train.lr: 0.5, train.flip: false}]",
            [("train.epochs", 1), ("train.lr", 0.25), ("train.flip", True)],
        ),
        (TEN | LAST, "exclude: [{model.refinement: 3, train.epochs: 1}, {model.refinement: 3, train.lr: 0.25}]", []),
    ],
)
def test_every_end_that_the_rules_allow_is_in_one(
    load: Load, keys: dict[str, str], rules: str, not_allowed: list[tuple[str, Any]]
) -> None:
    tested = block(load, keys, rules)
    corners = list(tested.corners())
    found = {(key, repr(value)) for corner in corners for key, value in corner.items()}
    assert sorted((key, value) for key, value in ends(tested) if (key, repr(value)) not in found) == sorted(not_allowed)
    assert {key for key, _ in found} == set(keys)  # also where both ends are excluded
    assert all(tested.allows(corner) and is_point(tested.parameters, corner, tested.fixed) for corner in corners)
    assert len(corners) < 2 * MAX_CORNERS + len(list(ends(tested)))


def test_few_are_all_combinations(load: Load) -> None:
    keys = {
        "train.lr": "float: [0.5, 1.0]",
        "train.epochs": "int: [2, 9]",
        "train.resize": "choice: [longer, shorter, square]",
    }
    tested = block(load, keys, "exclude: [{train.lr: 1, train.epochs: 9}]")
    found = [tuple(corner.values()) for corner in tested.corners()]
    every = itertools.product([0.5, 1.0], [2, 9], ["longer", "shorter", "square"])
    assert found == [row for row in every if row[:2] != (1.0, 9)]


def test_their_types_are_those_of_the_range(load: Load) -> None:
    tested = block(load, {"train.lr": "float: [1, 2]", "train.epochs": "log_int: [1, 2]"}, "exclude: [{train.lr: 1}]")
    kinds = {(type(corner["train.lr"]), type(corner["train.epochs"])) for corner in tested.corners()}
    assert kinds == {(float, int)}


def test_many_are_an_even_part(load: Load) -> None:
    """Each pair of values of two keys comes about as often as any other."""
    corners = list(block(load, TEN).corners())
    assert MAX_CORNERS / 2 < len(corners) <= MAX_CORNERS
    for first, second in itertools.combinations(TEN, 2):
        pairs = [(repr(corner[first]), repr(corner[second])) for corner in corners]
        counts = [pairs.count(pair) for pair in set(pairs)]
        assert len(counts) == 4
        assert max(counts) - min(counts) <= 0.1 * len(corners)


def test_a_fault_at_any_of_them_is_found(load: Load, fault: Fault) -> None:
    """Also of a key that is there in the midst of another one's range alone."""
    keys = "train.lr: {float: [0.1, 1.0]}, train.momentum: {float: [0.0, 1.0], when: {train.lr: {min: 0.4, max: 0.5}}}"
    message = fault(f"{{EXPERIMENT}}\nsearch:\n  - sample: {{{keys}}}\n    trials: 1\n")
    assert message == "sweep.yaml:6: got 1.0 for train.momentum; expected a number less than 1"


def test_rules_that_leave_the_midst_of_a_range_leave_trials(load: Load, fault: Fault) -> None:
    text = "{EXPERIMENT}\nsearch:\n  - sample: {train.lr: {float: [0.1, 1.0]}}\n    trials: 1\n    exclude: [%s]\n"
    (corner,) = load(text % "{train.lr: {max: 0.2}}, {train.lr: {min: 0.4}}").corners
    assert 0.2 < corner.config.train.lr < 0.4
    assert "got no trial; expected exclude and only to leave some" in fault(
        text % "{train.lr: {max: 0.4}}, {train.lr: {min: 0.4}}"
    )


class TestFaults:
    @pytest.mark.parametrize(
        ("key", "given", "message"),
        [
            (
                "train.lr",
                "choice: [1, 2, 1.0]",
                "7: got [1, 2, 1.0] for train.lr, with a value twice; expected each once",
            ),
            ("seed", "int: [1, 2]", "7: got seed as a swept key; expected replicates as `seeds: [0, 1, 2]`"),
            ("lr", "int: [1, 2]", "7: got unknown key 'lr' in search[0].sample; expected a config key; did you mean"),
            (
                "train.lr",
                "int: [1, 2], when: {epochs: 1}",
                "7: got unknown key 'epochs' in search[0].sample.train.lr.when",
            ),
            ("train.lr", "int: [1, 2], when: {train.lr: 1}", "7: got when in a circle: train.lr -> train.lr"),
            ("train.lr", "int: [1, 2], when: {task: localizer}", "7: got when: {task: localizer} for train.lr, which"),
        ],
    )
    def test_of_a_key(self, fault: Fault, key: str, given: str, message: str) -> None:
        assert fault(spec({key: given}, "trials: 1")).startswith(f"sweep.yaml:{message}")

    @pytest.mark.parametrize("kind", ["exclude", "only"])
    @pytest.mark.parametrize(
        ("wanted", "can_hold"),
        [
            ("train.lr: {max: 0.25}", True),
            ("train.lr: {max: 0.2499}", False),
            ("train.lr: {min: 0.75}", True),
            ("train.lr: {min: 0.7501}", False),
            ("train.lr: {min: 0.6, max: 0.5}", False),
            ("train.lr: [0, 0.5]", True),
            ("train.lr: [0, 1]", False),
            ("train.epochs: 4", True),
            ("train.epochs: [2, 3]", False),  # between the steps
            ("train.epochs: true", False),
            ("train.resize: [square, shorter]", True),
            ("train.resize: shorter", False),
            ("train.batch_size: 1, train.epochs: 4", True),  # the default
            ("train.batch_size: 2, train.lr: 0.5", False),
        ],
    )
    def test_of_rules(self, load: Load, fault: Fault, kind: str, wanted: str, can_hold: bool) -> None:
        keys = {
            "train.lr": "float: [0.25, 0.75]",
            "train.epochs": "int: [1, 4], step: 3",
            "train.resize": "choice: [longer, square]",
        }
        rules = f"trials: 1; {kind}: [{{{wanted}}}, {{train.lr: 0.5}}]"
        if can_hold:
            load(spec(keys, rules))
        else:
            expected = f"got {kind} {{{wanted}}}, which holds nowhere in search[0].sample; expected values that it has"
            assert fault(spec(keys, rules)) == f"sweep.yaml:11: {expected}"

    @pytest.mark.parametrize(("rules", "count"), [("", 9 + 6 + 2 + 3 + 2), ("; exclude: [{train.flip: true}]", 9)])
    def test_of_a_budget(self, load: Load, fault: Fault, rules: str, count: int) -> None:
        assert load(spec(FINITE, f"trials: {count}{rules}")).blocks[0].trials == count
        assert fault(spec(FINITE, f"trials: {count + 1}{rules}")) == (
            f"sweep.yaml:11: got {count + 1} for search[0].trials; expected at most {count}, the number of different "
            "configurations that search[0] has"
        )

    def test_of_an_infinite_space_no_budget_is_too_large(self, load: Load) -> None:
        assert load(spec({"train.lr": "float: [0.5, 1]"}, "trials: 50000")).blocks[0].trials == 50_000
