"""From files, settings and environment variables to one tree of values, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import SpecError
from experiments.spec_document import SpecDocument
from experiments.spec_source import MAX_EXTENDS, read_spec
from experiments.yaml_source import KeyPath, YamlSource

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Name, text -> file."""

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    return write


def read(file: Path, *settings: str, environment: Mapping[str, str] | None = None) -> YamlSource:
    return read_spec(file, settings, environment or {}, spec_keys=SpecDocument.model_fields)


def refusal(file: Path, *settings: str, environment: Mapping[str, str] | None = None) -> str:
    """The message, less the folder."""
    with pytest.raises(SpecError, match="expected|got") as error:
        read(file, *settings, environment=environment)
    return str(error.value).replace(f"{file.parent}/", "")


def at(source: YamlSource, *path: str | int) -> str:
    """Where a value stands: `name.yaml:3`, or the setting."""
    place = source.places[path]
    return f"{place.file.name}:{place.line}" if isinstance(place.file, Path) else place.file


class TestExtends:
    def test_mappings_merge_and_everything_else_is_replaced(self, write: Write) -> None:
        write("base.yaml", "a: {x: 1, y: {p: [1, 2], q: 2}}\nlist: [1, 2, 3]\ntext: a\nmap: {k: 1}\nvalue: 3\n")
        own = "a: {y: {p: [9], r: 5}}\nlist: [{z: 1}]\ntext: null\nmap: 7\nvalue: {v: 1}\n"
        source = read(write("x.yaml", f"extends: base.yaml\n{own}"))
        assert source.value == {
            "a": {"x": 1, "y": {"p": [9], "q": 2, "r": 5}},
            "list": [{"z": 1}],
            "text": None,
            "map": 7,
            "value": {"v": 1},
        }
        assert (at(source, "a", "x"), at(source, "a", "y"), at(source, "a", "y", "q")) == (
            "base.yaml:1",
            "x.yaml:2",
            "base.yaml:1",
        )

    def test_the_keys_of_the_base_come_first(self, write: Write) -> None:
        write("base.yaml", "a: 1\nb: {d: 1, e: 2}\n")
        found = read(write("x.yaml", "c: 1\nb: {f: 3, e: 4}\nextends: base.yaml\n")).value
        assert (list(found), list(found["b"])) == (["a", "b", "c"], ["d", "e", "f"])

    def test_no_name_is_inherited(self, write: Write) -> None:
        write("base.yaml", "name: base\na: 1\n")
        assert read(write("x.yaml", "extends: base.yaml\n")).value == {"a": 1}
        assert read(write("y.yaml", "name: y\nextends: base.yaml\n")).value == {"a": 1, "name": "y"}

    def test_each_path_of_a_chain_is_relative_to_the_file_that_says_it(self, write: Write) -> None:
        write("root.yaml", "a: 1\nb: 1\nc: 1\n")
        write("low/middle.yaml", "extends: ../root.yaml\nb: 2\nc: 2\n")
        file = write("high/top.yaml", "extends: ../low/middle.yaml\nc: 3\n")
        source = read(file)
        assert source.value == {"a": 1, "b": 2, "c": 3}
        assert [at(source, key) for key in "abc"] == ["root.yaml:1", "middle.yaml:2", "top.yaml:2"]
        assert source.file == file

    def test_an_absolute_path_and_one_from_a_variable(self, write: Write, tmp_path: Path) -> None:
        base = write("base.yaml", "a: 1\n")
        assert read(write("x.yaml", f"extends: {base}\n")).value == {"a": 1}
        file = write("y.yaml", "extends: ${BASES}/base.yaml\n")
        assert read(file, environment={"BASES": str(tmp_path)}).value == {"a": 1}

    @pytest.mark.parametrize("names", ["a", "ab", "abc"])
    def test_a_circle(self, write: Write, names: str) -> None:
        circle = names + names[0]
        for name, other in zip(circle, circle[1:], strict=False):
            write(f"{name}.yaml", f"x: 1\nextends: {other}.yaml\n")
        message = refusal(write(f"{names[0]}.yaml", f"x: 1\nextends: {circle[1]}.yaml\n"))
        files = " -> ".join(f"{name}.yaml" for name in circle)
        assert message == f"{names[-1]}.yaml:2: got extends in a circle: {files}"

    def test_a_circle_by_another_name(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "link.yaml").symlink_to("x.yaml")
        file = write("x.yaml", "extends: link.yaml\n")
        assert refusal(file) == "x.yaml:1: got extends in a circle: x.yaml -> link.yaml"

    def test_twice_the_same_base_is_no_circle(self, write: Write) -> None:
        write("base.yaml", "a: 1\n")
        assert (
            read(write("x.yaml", "extends: base.yaml\n")).value == read(write("y.yaml", "extends: base.yaml\n")).value
        )

    def test_a_chain_may_be_20_files_long(self, write: Write) -> None:
        write("1.yaml", "a: 1\n")
        for number in range(2, MAX_EXTENDS + 2):
            write(f"{number}.yaml", f"extends: {number - 1}.yaml\nx{number}: 1\n")
        folder = write("x.yaml", "").parent
        assert MAX_EXTENDS == 20
        assert len(read(folder / "20.yaml").value) == 20
        assert refusal(folder / "21.yaml") == "2.yaml:1: got more than 20 files that extend each other"

    @pytest.mark.parametrize(
        ("value", "shown"), [("nothing.yaml", "'nothing.yaml'"), (".", "'.'"), ('"\\0"', r"'\x00'"), ("loop", "'loop'")]
    )
    def test_no_such_file(self, write: Write, tmp_path: Path, value: str, shown: str) -> None:
        (tmp_path / "loop").symlink_to("loop")
        message = refusal(write("x.yaml", f"a: 1\nextends: {value}\n"))
        assert message.startswith(f"x.yaml:2: got {shown} for extends; expected a file, there is none at ")

    def test_a_name_longer_than_file_systems_have(self, write: Write) -> None:
        assert "expected a file, there is none at" in refusal(write("x.yaml", f"extends: {'a' * 300}\n"))

    @pytest.mark.parametrize("value", ["null", "''", "[a.yaml]", "{a: b}", "3", "true"])
    def test_no_path(self, write: Write, value: str) -> None:
        message = refusal(write("x.yaml", f"a: 1\nextends: {value}\n"))
        assert message == f"x.yaml:2: got {value} for extends; expected the file of another spec".replace(
            "[a.yaml]", "['a.yaml']"
        ).replace("{a: b}", "{'a': 'b'}")

    def test_faults_of_the_base_are_the_base_s(self, write: Write) -> None:
        file = write("x.yaml", "extends: base.yaml\n")
        write("base.yaml", "a: 1\na: 2\n")
        assert refusal(file) == "base.yaml:2: got key 'a' twice (first in line 1); expected each key once"
        write("base.yaml", "\n- a\n")
        assert refusal(file) == ("base.yaml:2: expected a mapping of keys to values, since another spec extends it")


class TestSettings:
    SPEC = """\
experiment:
  train: {lr: 0.1}
search:
  - grid: {train.lr: [0.1, 0.2], model.backbone: [tiny]}
    exclude: [{train.lr: 0.1}]
  - sample: {train.lr: {float: [0, 1]}}
    trials: 5
seeds: 3
"""

    @pytest.mark.parametrize(
        ("setting", "path", "value"),
        [
            ("seeds=[0,1]", ("seeds",), [0, 1]),
            ("name=other", ("name",), "other"),
            ("question=a = b", ("question",), "a = b"),
            ("objective.metric=cls_ap/mean", ("objective",), {"metric": "cls_ap/mean"}),
            ("search[1].trials=60", ("search", 1, "trials"), 60),
            ("search[0].grid.train.lr=[1.0]", ("search", 0, "grid", "train.lr"), [1.0]),
            ("search[0].grid.train.lr[1]=7", ("search", 0, "grid", "train.lr"), [0.1, 7]),
            ("search[0].exclude[0].train.lr={min: 1}", ("search", 0, "exclude", 0, "train.lr"), {"min": 1}),
            ("search[1].sample.train.lr.float[1]=2", ("search", 1, "sample", "train.lr", "float"), [0, 2]),
            ("search[0]={zip: {}}", ("search", 0), {"zip": {}}),
            ("search=[]", ("search",), []),
            ("train.lr=1e-5", ("experiment", "train"), {"lr": 1e-5}),
            ("train.epochs=3", ("experiment", "train"), {"lr": 0.1, "epochs": 3}),
            ("train={epochs: 3}", ("experiment", "train"), {"epochs": 3}),
            ("task=localizer", ("experiment", "task"), "localizer"),
            ("experiment.seed=4", ("experiment", "seed"), 4),
            ("train.lr.x=1", ("experiment", "train", "lr"), {"x": 1}),  # what is no mapping becomes one
            ("seeds=", ("seeds",), None),
            ("seeds= ", ("seeds",), None),
            ("model.weights='none'", ("experiment", "model"), {"weights": "none"}),
        ],
    )
    def test_one(self, write: Write, setting: str, path: KeyPath, value: Any) -> None:
        file = write("x.yaml", self.SPEC)
        before, source = read(file), read(file, setting)
        found = source.value
        for part in path:
            found = found[part]
        assert found == value
        others = {other: where for other, where in source.places.items() if where.file == file}
        assert others.items() <= before.places.items()
        assert {where.file for where in source.places.values()} == {file, f"--set {setting}"}

    def test_nothing_else_changes(self, write: Write) -> None:
        file = write("x.yaml", self.SPEC)
        before, after = read(file).value, read(file, "search[0].grid.train.lr=[1]").value
        assert {**before, "search": None} == {**after, "search": None}
        assert after["search"][1] == before["search"][1]
        assert after["search"][0] == {**before["search"][0], "grid": {"train.lr": [1], "model.backbone": ["tiny"]}}
        assert list(after["search"][0]["grid"]) == ["train.lr", "model.backbone"]

    def test_the_last_one_wins_and_places_below_what_is_replaced_go(self, write: Write) -> None:
        file = write("x.yaml", self.SPEC)
        source = read(file, "train.lr=1", "train={epochs: 2}", "train.epochs=3")
        assert source.value["experiment"] == {"train": {"epochs": 3}}
        assert {path: at(source, *path) for path in source.places if path[0:1] == ("experiment",)} == {
            ("experiment",): "x.yaml:1",
            ("experiment", "train"): "--set train={epochs: 2}",
            ("experiment", "train", "epochs"): "--set train.epochs=3",
        }

    def test_over_all_files(self, write: Write) -> None:
        write("base.yaml", "seeds: 1\nexperiment: {train: {lr: 1}}\n")
        source = read(write("x.yaml", "extends: base.yaml\nseeds: 2\n"), "seeds=3", "train.lr=5")
        assert source.value == {"seeds": 3, "experiment": {"train": {"lr": 5}}}

    @pytest.mark.parametrize(
        "setting",
        ["train.lr", "", "=", "=3", " x=3", "x =3", "[0]=1", ".=1", "..=1", "a..b=1", ".a=1", "a.=1", "a[x]=1", "a[=1"]
        + ["a]=1", "a[]=1", "a[-1]=1", "a[0]b=1", "a[0].=1", f"search[{'9' * 5000}]=1"],
    )
    def test_that_are_none(self, write: Write, setting: str) -> None:
        assert refusal(write("x.yaml", self.SPEC), setting) == (
            f"--set {setting}: expected KEY=VALUE, such as train.epochs=3 or seeds=[0,1]"
        )

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ("search[2]=1", "got item [2] of a list of 2; expected one that is there"),
            ("search[0].exclude[1]=1", "got item [1] of a list of 1; expected one that is there"),
            ("seeds[0]=1", "got item [0] of a list of 0; expected one that is there"),
            ("nothing[0]=1", "got item [0] of a list of 0; expected one that is there"),
            ("search.trials=1", "got trials of a list of 2; expected one of its items, such as [0]"),
            ("search[0].grid.train.lr.values=1", "got values of a list of 2; expected one of its items, such as [0]"),
            ("extends=base.yaml", "got extends as a setting; expected it in the spec's file"),
            ("train.lr={a: 1, a: 2}", "got key 'a' twice (first in line 1); expected each key once"),
            ("train.lr=.inf", "got .inf; expected a finite number"),
            ("train.lr=!x 3", "got tag !x; expected plain YAML without tags"),
        ],
    )
    def test_that_cannot_be(self, write: Write, setting: str, problem: str) -> None:
        assert refusal(write("x.yaml", self.SPEC), setting) == f"--set {setting}: {problem}"

    def test_the_longest_name_that_is_there_is_meant(self, write: Write) -> None:
        file = write("x.yaml", "search: [{grid: {a.b: 1, a.b.c: 2, a: {b: 3}}}]\n")
        found = read(file, "search[0].grid.a.b.c=9", "search[0].grid.a.b=8").value
        assert found == {"search": [{"grid": {"a.b": 8, "a.b.c": 9, "a": {"b": 3}}}]}

    def test_the_last_item_of_a_list(self, write: Write) -> None:
        assert read(write("x.yaml", self.SPEC), "search[1]=1").value["search"][1] == 1

    def test_of_a_spec_that_is_no_mapping(self, write: Write) -> None:
        assert read(write("x.yaml", "- a\n"), "seeds=1").value == ["a"]


class TestVariables:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("${N}", 3),
            ('"${N}"', 3),
            ("${T}", "x y"),
            ("${NO:-1e-5}", 1e-5),
            ("${NO:-}", None),
            ("${E:-true}", True),
            ("${E}", None),
            ("${N} epochs", "3 epochs"),
            ("${N}${N}", "33"),  # text: not one variable alone
            ("$${N}", "${N}"),
            ("$${", "${"),
            ("$N", "$N"),
            ("a$", "a$"),
            ("${L}", "[1, 2]"),  # a scalar, whatever it says
        ],
    )
    def test_a_value(self, write: Write, text: str, value: Any) -> None:
        environment = {"N": "3", "T": "x y", "E": "", "L": "[1, 2]"}
        found = read(write("x.yaml", f"a: {text}\n"), environment=environment).value["a"]
        assert found == value
        assert type(found) is type(value)

    def test_in_settings(self, write: Write) -> None:
        assert read(write("x.yaml", "a: 1\n"), "seeds=${N}", environment={"N": "3"}).value == {"a": 1, "seeds": 3}

    @pytest.mark.parametrize("text", ["${", "${N", "${1}", "${N:3}", "${}"])
    def test_that_are_none(self, write: Write, text: str) -> None:
        message = refusal(write("x.yaml", f"a: 1\nb: 'x {text}'\n"), environment={"N": "3"})
        assert message == f"x.yaml:2: got 'x {text}'; expected ${{NAME}} or ${{NAME:-default}}, or $${{ for ${{"

    def test_not_there(self, write: Write) -> None:
        problem = "got '${N}', and the environment has no N; set it, or give a default: ${N:-default}"
        assert refusal(write("x.yaml", "a: 1\nb: ${N}\n")) == f"x.yaml:2: {problem}"
        assert refusal(write("x.yaml", "a: 1\n"), "seeds=${N}") == f"--set seeds=${{N}}: {problem}"


class TestText:
    @pytest.mark.parametrize("text", ["a: 1  # one\n\nb: [x]\n", "{a: 1}", "a: '$${X}'\n", "\ufeffa: 1\n"])
    def test_of_one_plain_file_is_the_file_s(self, write: Write, text: str) -> None:
        assert read(write("x.yaml", text)).text == text.removeprefix("\ufeff")

    @pytest.mark.parametrize(
        ("text", "settings"),
        [
            ("extends: base.yaml\na: 1\n", []),
            ("a: 1\n", ["seeds=2"]),
            ("a: 1\n", ["seeds="]),
            ("a: ${N}\n", []),
            ("extends: nameless.yaml\na: 1\n", []),  # which adds nothing
        ],
    )
    def test_of_anything_else_says_all_of_it(self, write: Write, text: str, settings: list[str]) -> None:
        write("base.yaml", "b: ['${N}']\nname: base\n")
        write("nameless.yaml", "name: base\n")
        file = write("x.yaml", text)
        source = read(file, *settings, environment={"N": "3"})
        assert source.text.startswith(f"# {file} as it was run, put together\n")
        again = read(write("elsewhere/spec.yaml", source.text))
        assert again.value == source.value
        assert again.text == source.text
