from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from experiments.errors import SpecError, did_you_mean, shown
from experiments.validation_messages import dotted, explain, leaf_keys, section_keys
from wsol.config import ExperimentConfig


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Leaf(Strict):
    colour: Literal["red", "green"] = "red"
    size: Annotated[int, Field(ge=1, lt=10)] = 1
    both: Literal["auto"] | Annotated[int, Field(gt=0)] | Annotated[list[int], Field(min_length=1)] = "auto"
    even: int = 2

    @field_validator("even")
    @classmethod
    def _check_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("expected an even number")
        return value


class Tree(Strict):
    leaf: Leaf = Leaf()
    leaves: list[Leaf] = []
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    kind: Literal["oak", "elm"]

    @model_validator(mode="after")
    def _check_colours(self) -> Tree:
        if self.leaf.colour == "green" and self.kind == "elm":
            raise ValueError("expected leaf.colour: red with kind: elm")
        return self


def faults(value: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError, match="Tree") as error:
        Tree.model_validate(value)
    return [(dotted(path), message) for path, message in explain(error.value, model=Tree, value=value)]


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (
            {"kind": "oak", "leef": {}},
            "leef",
            "got unknown key 'leef'; expected one of leaf, leaves, axes, kind; did you mean leaf?",
        ),
        (
            {"kind": "oak", "leaf": {"sise": 3}},
            "leaf.sise",
            "got unknown key 'sise' in leaf; expected one of colour, size, both, even; did you mean size?",
        ),
        (
            {"kind": "oak", "leaves": [{}, {"sise": 3}]},
            "leaves[1].sise",
            "got unknown key 'sise' in leaves[1]; expected one of colour, size, both, even; did you mean size?",
        ),
        ({"kind": "oak", "xyzzy": 1}, "xyzzy", "got unknown key 'xyzzy'; expected one of leaf, leaves, axes, kind"),
        ({}, "kind", "missing key kind; expected oak or elm"),
        ({"kind": "aok"}, "kind", "got 'aok' for kind; expected oak or elm; did you mean oak?"),
        ({"kind": None}, "kind", "got null for kind; expected oak or elm"),
        ({"kind": "oak", "leaf": {"size": "1"}}, "leaf.size", "got '1' for leaf.size; expected a whole number"),
        ({"kind": "oak", "leaf": {"size": True}}, "leaf.size", "got true for leaf.size; expected a whole number"),
        (
            {"kind": "oak", "leaf": {"size": 10}},
            "leaf.size",
            "got 10 for leaf.size; expected a number less than 10",
        ),
        ({"kind": "oak", "leaf": {"even": 3}}, "leaf.even", "got 3 for leaf.even; expected an even number"),
        ({"kind": "oak", "leaf": 3}, "leaf", "got 3 for leaf; expected a mapping of keys to values"),
        ({"kind": "oak", "leaves": {}}, "leaves", "got {} for leaves; expected a list"),
        ({"kind": "oak", "axes": {"a.b": 1}}, "axes.a.b", "got 1 for axes.a.b; expected a list"),
        ({"kind": "oak", "axes": {"a.b": []}}, "axes.a.b", "got [] for axes.a.b; expected a list that is not empty"),
        ({"kind": "elm", "leaf": {"colour": "green"}}, "", "expected leaf.colour: red with kind: elm"),
        (3, "", "got 3 for the file; expected a mapping of keys to values"),
    ],
)
def test_one_fault(value: Any, path: str, message: str) -> None:
    assert faults(value) == [(path, message)]


class TestUnions:
    def test_each_member_says_what_it_allows(self) -> None:
        assert faults({"kind": "oak", "leaf": {"both": "many"}}) == [
            ("leaf.both", "got 'many' for leaf.both; expected auto or a whole number or a list")
        ]

    def test_the_nearest_name_comes_last(self) -> None:
        assert faults({"kind": "oak", "leaf": {"both": "outo"}}) == [
            ("leaf.both", "got 'outo' for leaf.both; expected auto or a whole number or a list; did you mean auto?")
        ]

    def test_an_item_says_more_than_its_list(self) -> None:
        assert faults({"kind": "oak", "leaf": {"both": [1, "x"]}}) == [
            ("leaf.both[1]", "got 'x' for leaf.both[1]; expected a whole number")
        ]


def test_several_faults_in_the_order_of_the_model() -> None:
    found = faults({"leaf": {"size": 0, "colour": "blue"}, "kind": "ash"})
    assert [path for path, _ in found] == ["leaf.colour", "leaf.size", "kind"]


def test_dotted() -> None:
    assert dotted(()) == ""
    assert dotted(("search", 0, "grid", "train.lr", 12)) == "search[0].grid.train.lr[12]"
    assert dotted((0, "a")) == "[0].a"
    assert dotted(("grid", "a\x1b[31m\nb")) == r"grid.'a\x1b[31m\nb'"


def test_section_keys() -> None:
    assert section_keys(Tree, ()) == ["leaf", "leaves", "axes", "kind"]
    assert section_keys(Tree, ("leaf",)) == ["colour", "size", "both", "even"]
    assert section_keys(Tree, ("leaves", 3)) == ["colour", "size", "both", "even"]
    assert section_keys(Tree, ("leaf", "size")) == []
    assert section_keys(Tree, ("nothing", "here")) == []


def test_leaf_keys() -> None:
    assert list(leaf_keys(Leaf)) == ["colour", "size", "both", "even"]
    keys = list(leaf_keys(ExperimentConfig))
    assert keys[:4] == ["task", "seed", "data.root", "data.train"]
    assert len(keys) == len(set(keys))
    assert "train.lr" in keys
    assert "train" not in keys


class TestErrors:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("a", "'a'"),
            ("a\nb\x1b[31m", r"'a\nb\x1b[31m'"),
            (None, "null"),
            (True, "true"),
            (False, "false"),
            ("True", "'True'"),
            (1, "1"),
            (1.0, "1.0"),
            ([None], "[None]"),
        ],
    )
    def test_shown(self, value: object, text: str) -> None:
        assert shown(value) == text

    def test_shown_is_short(self) -> None:
        assert shown("x" * 78) == "'" + "x" * 78 + "'"
        assert shown("x" * 79) == "'" + "x" * 76 + "..."

    def test_did_you_mean(self) -> None:
        assert did_you_mean("vgg61", ["alexnet", "vgg16"]) == "; did you mean vgg16?"
        assert did_you_mean("xyz", ["alexnet", "vgg16"]) == ""
        assert did_you_mean("vgg16", []) == ""
        assert did_you_mean(None, ["none"]) == "; did you mean none?"

    def test_where(self, tmp_path: Any) -> None:
        assert str(SpecError("wrong", file=tmp_path / "x.yaml", line=3)) == f"{tmp_path}/x.yaml:3: wrong"
        assert SpecError("wrong", file=tmp_path / "x.yaml").where == f"{tmp_path}/x.yaml"
