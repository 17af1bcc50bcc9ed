"""What may touch what, and how large things may grow. docs/architecture.md gives the reasons.

A rule collects its offenders, so that a failure names every one of them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

TORCH = {"torch", "torchvision", "timm"}
HEAVY = {*TORCH, "optuna", "sqlalchemy", "wandb", "wandb_workspaces", "cv2", "sklearn", "scipy", "ray"}

DOORS = {
    f"experiments.{name}"
    for name in ("worker", "child_process", "preparation_process", "prediction_process", "shrinking_process")
}
"""What runs in processes of its own: these modules alone import torch, in functions that run there."""

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 80
MAX_MEDIAN_FUNCTION_LINES = 15

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """A module that a module imports. `lazy`: inside a function or for type checkers, so not when it is imported."""

    name: str
    lazy: bool


@dataclass(frozen=True)
class Module:
    name: str
    text: str
    nodes: tuple[ast.AST, ...]
    imports: frozenset[Import]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]

    @property
    def attributes(self) -> list[str]:
        """Dotted expressions, as text."""
        return [ast.unparse(node) for node in self.nodes if isinstance(node, ast.Attribute)]

    @property
    def calls(self) -> list[tuple[str, dict[str | None, str]]]:
        """The text of what is called, with the keyword arguments as text."""
        return [
            (ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords})
            for node in self.nodes
            if isinstance(node, ast.Call)
        ]


def parse(name: str, text: str) -> Module:
    tree = ast.parse(text)
    return Module(name=name, text=text, nodes=tuple(ast.walk(tree)), imports=frozenset(_imports([tree], lazy=False)))


def _imports(body: Iterable[ast.AST], *, lazy: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield Import(node.module, lazy)
            yield from (Import(f"{node.module}.{alias.name}", lazy) for alias in node.names)  # may be a module
        else:
            later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_for_type_checkers(node)
            yield from _imports(ast.iter_child_nodes(node), lazy=lazy or later)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@cache
def modules() -> dict[str, Module]:
    """The project's modules by dotted name."""
    found = {}
    for path in [REPOSITORY / "runner.py", *REPOSITORY.glob("experiments/**/*.py"), *REPOSITORY.glob("wsol/**/*.py")]:
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        found[name] = parse(name, path.read_text("utf-8"))
    return found


def in_package(name: str) -> list[Module]:
    return [module for module in modules().values() if module.package == name]


def outside(module: Module, *, lazy: bool) -> set[str]:
    """Top-level packages that a module imports; with `lazy` also later."""
    return {found.name.partition(".")[0] for found in module.imports if lazy or not found.lazy}


def inside(module: Module, *, lazy: bool) -> set[str]:
    """Modules of the project that a module imports, their packages included."""
    names = {found.name for found in module.imports if lazy or not found.lazy}
    return (names & modules().keys()) - {module.name}


def reached(name: str) -> set[str]:
    """A module and everything of the project that is imported with it."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += [*inside(modules()[name], lazy=False), name.rpartition(".")[0]]
    return found


@cache
def has_torch(name: str) -> bool:
    """Whether importing a module imports torch."""
    return any(outside(modules()[other], lazy=False) & TORCH for other in reached(name))


def offenders(rule: Callable[[Module], object], among: Iterable[Module] | None = None) -> dict[str, object]:
    """What the rule finds in each module, where it finds something."""
    every = modules().values() if among is None else among
    return {module.name: found for module in every if (found := rule(module))}


class TestThisFile:
    """The rules below are worth what these functions see."""

    def test_imports(self) -> None:
        text = """
import a.b, c as d
from e import f
if TYPE_CHECKING:
    import g
else:
    import h
try:
    import i
except ImportError:
    import j
def k():
    import l
    class C:
        import m
class D:
    import n
    def o(self):
        import p
"""
        found = parse("m", text).imports
        assert {one.name for one in found if not one.lazy} == {"a.b", "c", "e", "e.f", "i", "j", "n"}
        assert {one.name for one in found if one.lazy} == {"g", "h", "l", "m", "p"}

    def test_modules(self) -> None:
        assert {"runner", "experiments.spec", "wsol", "wsol.config", "wsol.metrics.names"} <= modules().keys()

    def test_reached(self) -> None:
        assert reached("experiments.yaml_source") == {"experiments", "experiments.yaml_source", "experiments.errors"}
        assert has_torch("wsol.losses")
        assert not has_torch("wsol.config")

    def test_offenders(self) -> None:
        bad = parse("bad", "torch.load(file, weights_only=False)")
        assert offenders(lambda module: module.calls, [bad]) == {"bad": [("torch.load", {"weights_only": "False"})]}
        assert offenders(lambda module: module.imports, [bad]) == {}


class TestDirection:
    def test_wsol_knows_nothing_of_sweeps(self) -> None:
        sweeps = {"experiments", "runner", "optuna", "wandb", "yaml", "rich"}
        assert not offenders(lambda module: outside(module, lazy=True) & sweeps, in_package("wsol"))

    def test_experiments_know_nothing_of_the_command_line(self) -> None:
        def known(module: Module) -> set[str]:
            return outside(module, lazy=True) & {"runner", "argparse"}

        assert offenders(known, in_package("experiments")) == {"experiments.arguments": {"argparse"}}

    def test_only_the_study_and_the_samplers_know_optuna(self) -> None:
        assert offenders(lambda module: outside(module, lazy=True) & {"optuna"}).keys() == {
            "experiments.study",
            "experiments.sampling",
        }

    def test_only_what_keeps_studies_knows_databases(self) -> None:
        found = offenders(lambda module: outside(module, lazy=True) & {"sqlalchemy", "psycopg"})
        assert found.keys() == {f"experiments.{name}" for name in ("study", "databases", "postgresql", "storage_url")}

    def test_only_its_executor_knows_ray(self) -> None:
        found = offenders(lambda module: outside(module, lazy=True) & {"ray"})
        names = ("connection", "executor", "host", "nodes")
        assert found.keys() == {f"experiments.executors.ray_{name}" for name in names}
        at_once = offenders(lambda module: inside(module, lazy=False) & found.keys())
        assert all(name.startswith("experiments.executors.ray_") for name in at_once)

    def test_only_the_mirror_knows_wandb(self) -> None:
        found = offenders(lambda module: outside(module, lazy=True) & {"wandb", "wandb_workspaces"})
        assert found == {
            "experiments.tracking.wandb_runs": {"wandb"},
            "experiments.tracking.wandb_report": {"wandb_workspaces"},
        }
        assert not offenders(lambda module: inside(module, lazy=False) & found.keys()), "no runner imports wandb"

    def test_only_the_spec_reader_knows_yaml(self) -> None:
        assert offenders(lambda module: outside(module, lazy=True) & {"yaml"}).keys() == {"experiments.yaml_source"}

    def test_the_processes_that_take_torch_are_the_only_doors_to_it(self) -> None:
        def doors(module: Module) -> set[str]:
            with_torch = {name for name in inside(module, lazy=True) if name.startswith("wsol") and has_torch(name)}
            return with_torch | (outside(module, lazy=True) & TORCH)

        assert offenders(doors, in_package("experiments")).keys() == DOORS
        assert not offenders(lambda module: has_torch(module.name), in_package("experiments"))

    def test_the_torch_free_part_of_wsol(self) -> None:
        names = {"config", "boxes", "data.voc", "data.digits", "data.proposals", "data.images", "data.voc2007"}
        free = {f"wsol.{name}" for name in names} | {name for name in modules() if name.startswith("wsol.metrics")}
        assert not [name for name in free if has_torch(name)]

    def test_no_two_modules_import_each_other(self) -> None:
        imported = {name: inside(module, lazy=True) for name, module in modules().items()}
        assert not [(a, b) for a in imported for b in imported[a] if a < b and a in imported[b]]

    def test_nor_in_a_circle(self) -> None:
        left = {name: inside(module, lazy=True) for name, module in modules().items()}
        while leaves := [name for name, others in left.items() if not others & left.keys()]:
            for name in leaves:
                del left[name]
        assert not left

    def test_a_function_has_a_home(self) -> None:
        homeless = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
        assert not offenders(lambda module: set(module.name.split(".")) & homeless)


class TestFreshInterpreter:
    @staticmethod
    def imported_with(*names: str) -> set[str]:
        """The modules that come with an import."""
        program = (
            "import importlib, json, sys\nbefore = set(sys.modules)\n"
            "for name in sys.argv[1:]:\n    importlib.import_module(name)\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *names],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(json.loads(done.stdout))

    def packages_with(self, *names: str) -> set[str]:
        return {name.partition(".")[0] for name in self.imported_with(*names)}

    def test_wsol_imports_nothing_else(self) -> None:
        assert self.imported_with("wsol") == {"wsol"}

    def test_the_command_line_imports_the_standard_library_alone(self) -> None:
        assert self.packages_with("runner") - sys.stdlib_module_names == {"runner", "experiments"}

    def test_torch_free_modules_bring_nothing_heavy(self) -> None:
        names = [module.name for module in in_package("wsol") if not has_torch(module.name)]
        assert "wsol.config" in names
        assert not self.packages_with(*names) & HEAVY

    def test_experiments_bring_no_torch(self) -> None:
        names = [module.name for module in in_package("experiments")]
        assert self.packages_with(*names) & HEAVY == {"optuna", "sqlalchemy", "ray"}

    def test_what_a_dry_run_needs_brings_no_optuna(self) -> None:
        assert not self.packages_with("experiments.sweep") & HEAVY


class TestConfig:
    """Classes take plain values; only wsol/build.py unpacks a config, and training passes it there."""

    def test_who_knows_of_it(self) -> None:
        def config_classes(module: Module) -> list[str]:
            return [one.name for one in module.imports if re.fullmatch(r"wsol\.config\.\w*Config", one.name)]

        assert offenders(config_classes, in_package("wsol")).keys() == {
            "wsol.build",
            "wsol.training",
            "wsol.prediction",
        }

    def test_others_do_not_look_inside(self) -> None:
        for module in ("wsol.training", "wsol.prediction"):
            assert not [name for name in modules()[module].attributes if name.startswith("config.")]
        assert "config.train" in modules()["wsol.build"].attributes


class TestSafety:
    """Files from elsewhere are data, never code."""

    def test_torch_loads_weights_only(self) -> None:
        loads = re.compile(r"torch\.load|torch\.hub\.load\w*|(.*\.)?load_state_dict_from_url")

        def unsafe(module: Module) -> list[str]:
            renamed = [one.name for one in module.imports if one.name == "torch.load"]
            return renamed + [
                f for f, words in module.calls if loads.fullmatch(f) and words.get("weights_only") != "True"
            ]

        assert not offenders(unsafe)
        assert any(function == "torch.load" for module in modules().values() for function, _ in module.calls)

    def test_numpy_unpickles_nothing(self) -> None:
        assert not offenders(
            lambda m: [f for f, keywords in m.calls if keywords.get("allow_pickle", "False") != "False"]
        )

    def test_yaml_makes_no_objects(self) -> None:
        unsafe = re.compile(r"yaml\.((full_|unsafe_)?load(_all)?|\w*Loader)")
        assert not offenders(lambda m: {a for a in m.attributes if unsafe.fullmatch(a)} - {"yaml.SafeLoader"})

    def test_nothing_is_unpickled(self) -> None:
        picklers = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        assert not offenders(lambda module: outside(module, lazy=True) & picklers)

        def more_than_an_error(module: Module) -> set[str]:
            used = {*module.attributes, *(one.name for one in module.imports)}
            return {name for name in used if name.startswith("pickle.") and not name.endswith("Error")}

        assert not offenders(more_than_an_error)

    def test_nothing_is_evaluated_or_handed_to_a_shell(self) -> None:
        functions = {"eval", "exec", "os.system", "os.popen"}
        assert not offenders(lambda m: [f for f, words in m.calls if f in functions or words.get("shell") == "True"])

    def test_xml_is_parsed_by_a_parser_that_refuses_bombs(self) -> None:
        parsers = {"parse", "fromstring", "iterparse", "XMLParser", "XML", "pulldom", "sax", "minidom", "expat"}

        def parses(module: Module) -> set[str]:
            standard = {one.name.rpartition(".")[2] for one in module.imports if one.name.startswith("xml.")}
            called = {
                f.rpartition(".")[2] for f, _ in module.calls if f.partition(".")[0] in ("ET", "ElementTree", "xml")
            }
            return (standard | called) & parsers if "defusedxml" not in outside(module, lazy=True) else set()

        assert not offenders(parses)


class TestRandomness:
    """Every random choice takes a generator seeded from (seed, purpose)."""

    def test_no_global_generator(self) -> None:
        seeded = {"default_rng", "Generator", "SeedSequence", "PCG64", "BitGenerator"}

        def unseeded(module: Module) -> set[str]:
            numpy = {name for name in module.attributes if re.match(r"(np|numpy)\.random\.\w", name)}
            found = {name for name in numpy if name.split(".")[2] not in seeded}
            found |= {name for name in module.attributes if re.fullmatch(r"torch\.(manual_seed|seed)", name)}
            return found | (outside(module, lazy=True) & {"random"})

        assert not offenders(unseeded)

    def test_no_generator_without_a_seed(self) -> None:
        bare = re.compile(r"(.*\.)?(default_rng|SeedSequence)\(\)")
        assert not offenders(
            lambda m: [n for n in m.nodes if isinstance(n, ast.Call) and bare.fullmatch(ast.unparse(n))]
        )


def test_only_the_store_knows_file_names_under_results() -> None:
    file_name = re.compile(r"[a-z_]+\.(json|jsonl|csv|db|npz|txt|lock|yaml|html)")

    def file_names(module: Module) -> set[str]:
        strings = {n.value for n in module.nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        return {text for text in strings if file_name.fullmatch(text)}

    known = file_names(modules()["experiments.store"])
    assert {"config.json", "metrics.jsonl", "result.json", "study.db", "leaderboard.csv"} <= known
    assert offenders(lambda module: file_names(module) & known, in_package("experiments")).keys() == {
        "experiments.store"
    }


def lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


class TestSize:
    """A ratchet: lower these limits when the code allows it, never raise them."""

    def test_of_modules(self) -> None:
        long = {module.name: len(module.text.splitlines()) for module in modules().values()}
        assert not {name: count for name, count in long.items() if count > MAX_MODULE_LINES}

    def test_of_functions(self) -> None:
        assert not offenders(lambda m: {f.name: lines(f) for f in m.functions if lines(f) > MAX_FUNCTION_LINES})

    def test_of_the_median_function(self) -> None:
        every = [lines(function) for module in modules().values() for function in module.functions]
        assert len(every) > 100
        assert statistics.median(every) <= MAX_MEDIAN_FUNCTION_LINES


class TestWords:
    @staticmethod
    def unannotated(module: Module) -> list[str]:
        found = []
        for function in module.functions:
            arguments = function.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            bare = [one.arg for one in every if one and one.annotation is None and one.arg not in ("self", "cls")]
            if bare or function.returns is None:
                found.append(f"{function.name}({', '.join(bare)})")
        return found

    def test_what_this_finds(self) -> None:
        text = "def f(a, *b: int, c: int = 0, **d) -> None: ...\ndef g(self): ...\ndef h(x: int, /) -> None: ..."
        assert self.unannotated(parse("m", text)) == ["f(a, d)", "g()"]

    def test_every_function_is_annotated(self) -> None:
        assert not offenders(self.unannotated)

    def test_every_module_says_what_it_is_for(self) -> None:
        assert not offenders(lambda m: [n for n in m.nodes if isinstance(n, ast.Module) and not ast.get_docstring(n)])
