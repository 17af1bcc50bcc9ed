"""The schema of spec files for editors: it takes what the command takes, and refuses what a schema can tell."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel, ValidationError

from experiments.errors import SpecError
from experiments.schema import schema_text, spec_schema
from experiments.spec import load_spec
from experiments.spec_document import PrunerChoice, SampledKey, SearchBlock, SpecDocument
from experiments.validation_messages import dotted, leaf_keys, section_models
from experiments.yaml_source import KeyPath, dump_yaml, parse_yaml
from wsol.config import ExperimentConfig

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILES = sorted((REPOSITORY / "sweeps").glob("**/*.yaml"))

SCHEMA = spec_schema()
VALIDATOR = Draft7Validator(SCHEMA)

FULL = """\
name: full
question: What does a schema say of a spec that has everything?
experiment:
  task: localizer
  data: {root: digits, train: train, eval: val, classes: auto, workers: 0}
  proposals: {count: null}
  model: {backbone: tiny, weights: none, hidden_channels: 16, freeze: 1}
  train: {epochs: 4, lr: 1.0e-3, scales_px: [48], rescale: [0.7, 1.4], flip: false}
  evaluate: {metrics: [ap30_area]}
search:
  - grid:
      model.pooling: [max, lse]
      model.lse_r: {values: [1.0, 5.0], when: {model.pooling: lse}}
      train.lr: {logspace: [1.0e-4, 1.0e-2, 3]}
    exclude:
      - {train.lr: {min: 5.0e-3}, model.pooling: [max]}
  - zip:
      train.momentum: {linspace: [0.5, 0.9, 3]}
      train.batch_size: {range: [2, 6, 2]}
    only:
      - {train.batch_size: {max: 4}}
  - sample:
      train.lr: {log_uniform: [1.0e-5, 1.0e-2]}
      train.weight_decay: {float: [0.0, 0.01], step: 0.005}
      train.batch_size: {int: [1, 4]}
      model.hidden_channels: {log_int: [8, 64]}
      model.pooling: {choice: [topk, gwrp]}
      model.gwrp_decay: {float: [0.9, 1.0], when: {model.pooling: gwrp}}
    exclude: [{train.batch_size: 3, model.pooling: topk}]
    sampler: tpe
    trials: 5
    sampler_seed: 1
seeds: [0, 1]
objective: {metric: point_ap/mean, direction: maximize}
pruner: {asha: {min_epochs: 1, reduction_factor: 2}}
final: {train: trainval, eval: test, seeds: 3}
resources: {cpu_slots: 2}
retry: {max_attempts: 2}
"""


def as_written(text: str) -> Any:
    """What an editor sees: the values of the file itself, whatever it extends and whatever the environment has."""
    return parse_yaml(text.replace("${", "$${"), "a snippet", {}).value


def problems(document: Any) -> list[str]:
    return [f"{dotted(tuple(error.absolute_path))}: {error.message}" for error in VALIDATOR.iter_errors(document)]


class TestFile:
    def test_is_fresh(self) -> None:
        shipped = (REPOSITORY / "sweeps" / "schema.json").read_text("utf-8")
        assert shipped == schema_text(), "run python runner.py schema > sweeps/schema.json"

    def test_says_what_the_schema_says(self) -> None:
        assert json.loads(schema_text()) == SCHEMA
        assert list(SCHEMA)[:4] == ["$schema", "$id", "title", "description"]

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_takes_every_spec_that_is_shipped(self, file: Path) -> None:
        assert problems(as_written(file.read_text("utf-8"))) == []


class TestItself:
    @staticmethod
    def parts(schema: Any) -> Iterator[dict[str, Any]]:
        """All mappings in the schema."""
        if isinstance(schema, dict):
            yield schema
        for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from TestItself.parts(part)

    def test_is_valid(self) -> None:
        Draft7Validator.check_schema(SCHEMA)

    def test_references_stand_alone_and_lead_to_definitions_all_of_which_are_used(self) -> None:
        references = [part for part in self.parts(SCHEMA) if "$ref" in part]
        assert all(part.keys() == {"$ref"} for part in references)
        assert {part["$ref"] for part in references} == {f"#/definitions/{name}" for name in SCHEMA["definitions"]}

    def test_has_no_words_but_those_of_draft_7(self) -> None:
        words = {"$defs", "prefixItems", "dependentRequired", "gt", "ge", "lt", "le"}
        assert not [part for part in self.parts(SCHEMA) if words & part.keys()]
        lists = [part for part in self.parts(SCHEMA) if part.get("type") == "array"]
        assert not [part for part in lists if {"minLength", "maxLength"} & part.keys()]

    def test_a_key_has_its_text_and_its_default(self) -> None:
        lr = SCHEMA["definitions"]["train.lr"]
        assert lr["default"] == 1e-5
        assert lr["description"].startswith("Learning rate at the start.")
        assert lr["description"].endswith(" Default: 1e-05.")
        assert "Read with {task: localizer, model.pooling: lse}." in SCHEMA["definitions"]["model.lse_r"]["description"]
        assert "default" not in SCHEMA["definitions"]["data.root"]
        assert "default" not in SCHEMA["properties"]["seeds"]  # without them there is one seed, and nothing to write

    def test_every_key_of_a_spec_has_a_text(self) -> None:
        sections = [SCHEMA, *(one for one in SCHEMA["definitions"].values() if "properties" in one)]
        keys = {name: key for section in sections for name, key in section["properties"].items() if "$ref" not in key}
        assert {"grid", "trials", "max_attempts", "train.lr"} <= keys.keys()
        assert [name for name, key in keys.items() if not key.get("description")] == ["min", "max"]


GOOD_BLOCKS = {
    "grid": "{grid: {train.lr: [1.0e-3], proposals.count: [10, null]}}",
    "lists as values": "{grid: {train.scales_px: [[48], [48, 64]], data.classes: [voc, [a]]}}",
    "zip": "{zip: {train.lr: {range: [1, 3, 1]}, train.epochs: [1, 2, 3]}}",
    "values": "{grid: {train.lr: {values: [1], when: {task: wsddn, model.stride: null}}}}",
    "sample": "{sample: {train.lr: {float: [0, 1], step: 0.5}}, trials: 3}",
    "sampler": "{sample: {train.flip: {choice: [true]}}, trials: 1, sampler: cmaes}",
    "rules": "{grid: {train.lr: [1]}, exclude: [{train.lr: {min: 1, max: 2}, task: [wsddn]}]}",
    "only": "{grid: {train.lr: [1]}, only: [{train.scales_px: [48]}, {train.rescale: [1, 2]}]}",
    "environment in search": "{sample: {train.lr: {float: ['${A}', 1]}}, trials: '${N}'}",
    "environment in lists": "{grid: {train.lr: ['${A}'], task: ['${B}']}}",
    "environment in rules": "{grid: {train.lr: [1]}, only: [{train.lr: {max: '${A}'}}]}",
}

GOOD = {
    "everything": FULL,
    "least": "experiment: {}",
    "one value": "experiment: {train: {lr: 1}}",
    "median": "{experiment: {}, pruner: {median: {}}}",
    "final": "{experiment: {}, final: {train: trainval, eval: test, seeds: [7, 8]}}",
    "seeds": "{experiment: {}, seeds: 3, resources: {cpu_slots: auto}}",
    "extends": "extends: base.yaml",
    "extends, with parts": "{extends: base.yaml, objective: {direction: minimize}, final: {eval: test}, pruner: {}}",
    "extends, less parts": "{extends: base.yaml, pruner: {asha: null, median: {}}, final: null, objective: null}",
    "environment": "{experiment: {task: '${TASK}', train: {lr: '${LR:-1e-5}', flip: '${FLIP}', scales_px: ['${PX}']}}}",
    "environment in text": "{experiment: {data: {root: '${HOME}/voc', classes: '${C:-voc}'}, task: 'ws${REST:-ddn}'}}",
    "environment elsewhere": "{experiment: {}, name: 'a-${B}', seeds: ['${S:-0}'], retry: {max_attempts: '${M}'}}",
    **{name: f"{{experiment: {{}}, search: [{block}]}}" for name, block in GOOD_BLOCKS.items()},
}

BAD = {
    "misspelt key": ("question:", "questoin:"),
    "misspelt section": ("  train: {epochs", "  trian: {epochs"),
    "misspelt config key": ("epochs: 4", "epoch: 4"),
    "misspelt kind of block": ("- zip:", "- zp:"),
    "misspelt swept key": ("model.pooling: [max, lse]", "model.poling: [max, lse]"),
    "misspelt zipped key": ("train.momentum:", "train.momentun:"),
    "misspelt sampled key": ("train.weight_decay:", "train.weight_dacay:"),
    "misspelt generator": ("logspace:", "logspce:"),
    "misspelt distribution": ("log_uniform:", "loguniform:"),
    "misspelt key of a rule": ("{train.lr: {min", "{train.rl: {min"),
    "misspelt end of a range": ("min: 5.0e-3", "least: 5.0e-3"),
    "misspelt key of when": ("when: {model.pooling: lse}", "when: {model.poolin: lse}"),
    "misspelt key beside sample": ("sampler: tpe", "smpler: tpe"),
    "misspelt pruner": ("asha:", "ascha:"),
    "misspelt key of a pruner": ("min_epochs: 1", "min_epoch: 1"),
    "misspelt key of objective": ("direction:", "directoin:"),
    "misspelt key of final": ("seeds: 3}", "seed: 3}"),
    "misspelt key of resources": ("cpu_slots:", "cpu_slot:"),
    "misspelt key of retry": ("max_attempts:", "max_attemps:"),
    "unknown sampler": ("sampler: tpe", "sampler: tp"),
    "unknown choice": ("task: localizer", "task: localiser"),
    "unknown swept value": ("[max, lse]", "[max, lsee]"),
    "unknown sampled value": ("[topk, gwrp]", "[topk, grwp]"),
    "unknown value of a rule": ("model.pooling: [max]", "model.pooling: [maxx]"),
    "unknown value of when": ("when: {model.pooling: gwrp}", "when: {model.pooling: grwp}"),
    "unknown direction": ("direction: maximize", "direction: up"),
    "seed is not swept": ("train.momentum:", "seed:"),
    "what changes no result is not swept": ("train.momentum:", "data.workers:"),
    "two kinds": ("  - zip:", "  - grid: {train.lr: [1.0e-3]}\n    zip:"),
    "no kind": ("  - zip:\n", "  - only:\n      - {task: wsddn}\n  - zip:\n"),
    "two generators": ("linspace: [0.5, 0.9, 3]", "linspace: [0.5, 0.9, 3], range: [1, 2, 1]"),
    "two distributions": ("{log_uniform:", "{int: [1, 2], log_uniform:"),
    "two pruners": ("pruner: {", "pruner: {median: {}, "),
    "no generator": ("logspace: [1.0e-4, 1.0e-2, 3]", ""),
    "no distribution": ("log_uniform: [1.0e-5, 1.0e-2]", ""),
    "no pruner": ("pruner: {asha: {min_epochs: 1, reduction_factor: 2}}", "pruner: {}"),
    "no trials": ("    trials: 5\n", ""),
    "trials of a zip": ("    only:\n", "    trials: 3\n    only:\n"),
    "step of a logarithm": ("{log_int: [8, 64]}", "{log_int: [8, 64], step: 8}"),
    "no metric": ("metric: point_ap/mean, ", ""),
    "no split": ("eval: test, ", ""),
    "text for a number": ("lr: 1.0e-3", "lr: fast"),
    "quoted number": ("epochs: 4", 'epochs: "4"'),
    "number for text": ("train: train,", "train: 2007,"),
    "fraction for a whole number": ("epochs: 4", "epochs: 4.5"),
    "number for a truth value": ("flip: false", "flip: 0"),
    "null": ("lr: 1.0e-3", "lr: null"),
    "number for a list": ("scales_px: [48]", "scales_px: 48"),
    "empty list": ("scales_px: [48]", "scales_px: []"),
    "list too long": ("rescale: [0.7, 1.4]", "rescale: [0.7, 1, 1.4]"),
    "out of range": ("epochs: 4", "epochs: 0"),
    "swept value out of range": ("values: [1.0, 5.0]", "values: [0.0, 5.0]"),
    "value for a list of values": ("model.pooling: [max, lse]", "model.pooling: max"),
    "no values": ("model.pooling: [max, lse]", "model.pooling: []"),
    "two of three numbers": ("logspace: [1.0e-4, 1.0e-2, 3]", "logspace: [1.0e-4, 1.0e-2]"),
    "three of two numbers": ("int: [1, 4]", "int: [1, 4, 1]"),
    "text for a number of trials": ("trials: 5", "trials: many"),
    "step of nothing": ("step: 0.005", "step: 0"),
    "rule without keys": ("- {train.batch_size: {max: 4}}", "- {}"),
    "rule that is no list of rules": (
        "exclude: [{train.batch_size: 3, model.pooling: topk}]",
        "exclude: {task: wsddn}",
    ),
    "range without ends": ("{max: 4}", "{}"),
    "seeds that are no numbers": ("seeds: [0, 1]", "seeds: [a, b]"),
    "name that is no folder": ("name: full", "name: ../full"),
    "variable without a name": ("epochs: 4", 'epochs: "${}"'),
    "variable that is not closed": ("epochs: 4", 'epochs: "${EPOCHS"'),
    "variable for a list": ("scales_px: [48]", 'scales_px: "${SCALES}"'),
}


class TestSnippets:
    @pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
    def test_good(self, text: str) -> None:
        assert problems(as_written(text)) == []

    @pytest.mark.parametrize(("good", "bad"), BAD.values(), ids=BAD)
    def test_bad(self, good: str, bad: str) -> None:
        """Each is one change to what is good otherwise."""
        assert good in FULL
        assert problems(as_written(FULL.replace(good, bad, 1))) != []

    @pytest.mark.parametrize(
        "text",
        ["${A}", "${A:-}", "${A:-1 2}", "${_a1:-}", "${}", "${A", "${1A:-}", "${A:b}", "$A", "$${A}", "${A:-{}}"],
    )
    def test_what_a_variable_looks_like(self, text: str) -> None:
        try:
            is_variable = parse_yaml(f"'{text}'", "a snippet", {"A": "1"}).substituted
        except SpecError:
            is_variable = False
        assert (problems({"experiment": {"train": {"epochs": text}}}) == []) == is_variable

    def test_without_a_base_there_is_an_experiment(self) -> None:
        assert problems(as_written("{name: a}")) == [": 'experiment' is a required property"]

    def test_a_problem_is_told_where_it_is(self) -> None:
        assert problems(as_written(FULL.replace("epochs: 4", "epoch: 4"))) == [
            "experiment.train: Additional properties are not allowed ('epoch' was unexpected)"
        ]


def refused_keys(model: type[BaseModel], value: Any, *, because: str = "") -> set[str | int]:
    """The top keys of a value that its model refuses; keys that only do not go together are not refused.

    Args:
        because: pydantic's name of a fault, which must be the only one of a key; by default any will do.
    """
    faults: dict[str | int, set[str]] = {}
    try:
        model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors():
            if detail["loc"]:
                faults.setdefault(detail["loc"][0], set()).add(detail["type"])
    return {key for key, found in faults.items() if not because or found == {because}}


def is_accepted(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


class TestAgainstTheModels:
    CHECKED_BY_CODE = {
        "data.classes",
        "model.backbone",
        "model.weights",
        "model.map_smoothing",
        "train.rescale",
        "evaluate.metrics",
    }
    """Keys with a validator of their own, which no schema knows of."""

    VALUES: tuple[Any, ...] = (
        *(None, True, False, 0, 1, 2, 8, 16, -1, 10**10, 0.25, -0.5, 1.5),  # for a schema 1.0 is a whole number too
        *("", "x", "1", "none", "all", "auto", "voc", "sgd", "max", "wsddn", "file", "cosine", "sum", "longer", "grid"),
        *([], [1], [0], [0.5], [1.5, 2], [2, 1.5, 1], ["a"], [""], [None], [[1]], {}, {"a": 1}),
    )

    @pytest.mark.parametrize("key", [key for key in leaf_keys(ExperimentConfig) if key != "code"])
    def test_values_of_a_config_key(self, key: str) -> None:
        section, _, name = key.rpartition(".")
        model = section_models(ExperimentConfig).get(section, ExperimentConfig)
        for value in self.VALUES:
            is_good = name not in refused_keys(model, {name: value})
            config = {section: {name: value}} if section else {name: value}
            found = problems({"experiment": config})
            if is_good or key not in self.CHECKED_BY_CODE:
                assert is_good == (found == []), f"{value!r}: {found}"

    @pytest.mark.parametrize("key", [key for key in leaf_keys(ExperimentConfig) if key != "code"])
    def test_a_variable_may_stand_for_whatever_is_no_list(self, key: str) -> None:
        section, _, name = key.rpartition(".")
        model = section_models(ExperimentConfig).get(section, ExperimentConfig)
        value = {name: "${NAME:-1}"}
        is_list = refused_keys(model, value, because="tuple_type") == {name}
        assert (problems({"experiment": {section: value} if section else value}) != []) == is_list

    def test_the_key_that_no_spec_has(self) -> None:
        assert problems({"experiment": {"code": ""}}) != []

    def test_which_keys_may_be_swept(self, spec_file: Callable[[str], Path]) -> None:
        """The command says so before it looks at values."""
        for key in [*leaf_keys(ExperimentConfig), "train", "lr", "model.poolin"]:
            text = f"experiment: {{task: wsddn, data: {{root: digits}}}}\nsearch:\n  - grid: {{{key}: [KEY]}}\n"
            told = f"got {key} as a swept key", f"got unknown key {key!r}"
            try:
                load_spec(spec_file(text))
                is_swept = True
            except SpecError as error:
                is_swept = not any(words in str(error) for words in told)
            assert (key in SCHEMA["definitions"]["Axes"]["properties"]) == is_swept, key
            assert (key in SCHEMA["definitions"]["SampledKeys"]["properties"]) == is_swept, key

    BLOCK: dict[str, Any] = {
        "grid": {"train.lr": [1]},
        "zip": {"train.lr": [1]},
        "sample": {"train.lr": {"float": [0, 1]}},
        "exclude": [],
        "only": [],
        "sampler": "tpe",
        "trials": 1,
        "sampler_seed": 0,
    }
    GENERATED: dict[str, Any] = {
        "values": [1],
        "linspace": [1, 2, 3],
        "logspace": [1, 2, 3],
        "range": [1, 2, 3],
        "when": {"task": "wsddn"},
    }
    SAMPLED: dict[str, Any] = {
        "choice": [1],
        "int": [1, 2],
        "log_int": [1, 2],
        "float": [1, 2],
        "log_uniform": [1, 2],
        "step": 1,
        "when": {"task": "wsddn"},
    }
    PRUNER: dict[str, Any] = {"asha": {}, "median": {}}

    @pytest.mark.parametrize(
        ("section", "around"),
        [
            (BLOCK, lambda block: {"search": [block]}),
            (GENERATED, lambda axis: {"search": [{"grid": {"train.lr": axis}}]}),
            (GENERATED, lambda axis: {"search": [{"zip": {"train.lr": axis}}]}),
            (SAMPLED, lambda key: {"search": [{"sample": {"train.lr": key}, "trials": 1}]}),
            (PRUNER, lambda pruner: {"pruner": pruner}),
        ],
        ids=["block", "grid", "zip", "sample", "pruner"],
    )
    def test_which_keys_go_together(self, section: dict[str, Any], around: Callable[[Any], dict[str, Any]]) -> None:
        """All combinations of the keys of a section."""
        for keys in itertools.product([True, False], repeat=len(section)):
            chosen = dict(itertools.compress(section.items(), keys))
            document = {"experiment": {}, **around(chosen)}
            assert (problems(document) == []) == is_accepted(SpecDocument, document), chosen

    def test_the_combinations_have_all_keys(self) -> None:
        assert self.BLOCK.keys() == SearchBlock.model_fields.keys()
        assert self.SAMPLED.keys() == SampledKey.model_fields.keys()
        assert self.PRUNER.keys() == PrunerChoice.model_fields.keys()

    @pytest.mark.parametrize("length", range(1, 5))
    def test_how_many_numbers_a_list_has(self, length: int) -> None:
        numbers = list(range(1, length + 1))
        axes = [{"grid": {"train.lr": {name: numbers}}} for name in self.GENERATED if name != "when"]
        keys = [{"sample": {"train.lr": {name: numbers}}, "trials": 1} for name in self.SAMPLED if name != "when"]
        for block in [*axes, *keys]:
            document = {"experiment": {}, "search": [block]}
            assert (problems(document) == []) == is_accepted(SpecDocument, document), block


class TestAgainstTheCommand:
    """A spec that has everything, changed in one place: what the schema refuses, the command refuses."""

    NEW: tuple[Any, ...] = (None, True, 0, "x", [], {"x": 1})

    @staticmethod
    def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
        """The places of all values below a value."""
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, below in items:
            yield (*path, key)
            yield from TestAgainstTheCommand.paths(below, (*path, key))

    @staticmethod
    def changed(document: Any, path: KeyPath, change: Callable[[Any, Any], None]) -> Any:
        copied = copy.deepcopy(document)
        parent = copied
        for key in path[:-1]:
            parent = parent[key]
        change(parent, path[-1])
        return copied

    @staticmethod
    def takes(document: Any, file: Path) -> bool:
        """Whether the command takes a spec."""
        if not is_accepted(SpecDocument, document):  # the first that it looks at
            return False
        file.write_text(dump_yaml(document), "utf-8")
        try:
            load_spec(file)
        except SpecError:
            return False
        return True

    def test_takes_it_unchanged(self, tmp_path: Path) -> None:
        assert self.takes(as_written(FULL), tmp_path / "spec.yaml")

    def test_with_another_value(self, tmp_path: Path) -> None:
        full = as_written(FULL)
        refused = 0
        for path, new in itertools.product(self.paths(full), self.NEW):
            document = self.changed(full, path, lambda parent, key, new=new: parent.__setitem__(key, new))
            says_nothing = new is None and not problems(self.changed(full, path, lambda parent, key: parent.pop(key)))
            if not says_nothing and problems(document):
                refused += 1
                assert not self.takes(document, tmp_path / "spec.yaml"), f"{dotted(path)}: {new!r} {problems(document)}"
        assert refused > 300

    def test_with_a_key_renamed_or_left_out(self, tmp_path: Path) -> None:
        full = as_written(FULL)
        for path in self.paths(full):
            without = self.changed(full, path, lambda parent, key: parent.pop(key))
            if problems(without):
                assert not self.takes(without, tmp_path / "spec.yaml"), dotted(path)
            if isinstance(path[-1], str):
                renamed = self.changed(full, path, lambda parent, key: parent.update({f"{key}_": parent.pop(key)}))
                assert problems(renamed) != [], dotted(path)
                assert not self.takes(renamed, tmp_path / "spec.yaml"), dotted(path)
