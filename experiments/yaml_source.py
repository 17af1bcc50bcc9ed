"""YAML text -> plain values, each with the line it came from.

YAML 1.2's core scalars, not YAML 1.1's: `1e-5` is a number, `no` and `on` are strings, `1:30` is a
string. Only plain data: no tags, no objects. Refused, with file and line: a key given twice (PyYAML
keeps the last in silence), a file too large, aliases that expand without end, numbers that are not finite.

`${NAME}` and `${NAME:-default}` in a value stand for an environment variable; `$${` is a plain `${`. A value that is
nothing but one variable becomes what YAML makes of its text (a number, if it looks like one); any other is text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import SpecError, did_you_mean, shown

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where a value stands: a file and its 1-based line, or something else that has no lines, such as an option."""

    file: Path | str
    line: int | None


@dataclass(frozen=True)
class YamlSource:
    """Parsed YAML.

    Attributes:
        file: what was parsed; of several files that were put together, the last.
        text: what `file` says.
        value: mappings, lists and scalars.
        places: where the key (or list item) at each path stands.
        substituted: an environment variable is part of `value`.
    """

    file: Path | str
    text: str = field(repr=False)
    value: Any
    places: dict[KeyPath, Place] = field(repr=False)
    substituted: bool = False

    def place(self, path: KeyPath) -> Place:
        """The place of `path`, or of its nearest ancestor that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(file=self.file, line=None)

    def error(self, message: str, path: KeyPath = ()) -> SpecError:
        """A SpecError at `path`."""
        place = self.place(path)
        return SpecError(message, file=place.file, line=place.line)


class _CoreSchemaLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's implicit scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # none of YAML 1.1's


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be something else in YAML 1.2 or in YAML 1.1: `1e5`, `no`."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    for _class in (_CoreSchemaLoader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
        )


def _implicit_tag(text: str) -> str:
    """What a plain scalar with this text is."""
    return str(_CoreSchemaLoader("").resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]


_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")

_SCALARS: dict[str, Any] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "tag:yaml.org,2002:str": str,
}


def read_yaml(file: Path, environment: Mapping[str, str] = os.environ) -> YamlSource:
    """Reads one document from a file.

    Raises:
        SpecError: with FILE:LINE, for everything that can be wrong with it.
    """
    return _parsed(_read_text(file), file, environment)


def parse_yaml(text: str, label: str, environment: Mapping[str, str] = os.environ) -> YamlSource:
    """Reads a value that stands in no file; `label` is what errors call its place.

    Raises:
        SpecError: for everything that can be wrong with it.
    """
    source = _parsed(text, label, environment)
    return replace(source, places={path: Place(file=label, line=None) for path in source.places})


def dump_yaml(value: Any) -> str:
    """YAML that `read_yaml` reads as `value` again."""
    text: str = yaml.dump(_escaped(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _escaped(value: Any) -> Any:
    """Text that has `${` in it, so that it is text again and no variable."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _parsed(text: str, file: Path | str, environment: Mapping[str, str]) -> YamlSource:
    try:
        node = yaml.compose(text, Loader=_CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark and isinstance(file, Path) else None
        at = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        raise SpecError(_yaml_problem(error, at=at), file=file, line=line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(file, Path) else None
        raise SpecError(
            f"got the control character {chr(error.character)!r}; expected printable text", file=file, line=line
        ) from None
    except RecursionError:
        raise SpecError(f"nested too deeply; expected at most {MAX_DEPTH} levels", file=file) from None
    if node is None:
        raise SpecError("the file is empty; expected a sweep spec", file=file)
    builder = _Builder(file=file, environment=environment)
    value = builder.build(node, ())
    return YamlSource(file=file, text=text, value=value, places=builder.places, substituted=builder.substituted)


def _read_text(file: Path) -> str:
    try:
        if not file.exists():
            near = did_you_mean(file.name, (path.name for path in file.parent.glob("*.yaml")))
            raise SpecError(f"no such file{near}", file=file)
        if not file.is_file():
            raise SpecError("not a file", file=file)
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise SpecError(f"got {size:,} bytes; expected a spec of at most {MAX_FILE_BYTES:,} bytes", file=file)
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text: {error.reason} at byte {error.start}", file=file) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=file) from None


def _yaml_problem(error: yaml.MarkedYAMLError, *, at: str) -> str:
    """What PyYAML says of the text `at` its mark, with what may help."""
    problem = error.problem or error.context or "not readable as YAML"
    hint = "; indent with spaces, YAML allows no tabs" if "\\t" in problem else ""
    if "${" in at:
        hint += '; inside { } and [ ] a variable needs quotes: "${NAME}"'
    if problem.startswith("but found") and error.context:  # PyYAML splits some sentences in two
        problem = f"{error.context}, {problem}"
    elif error.context and error.context_mark and error.context_mark.line != getattr(error.problem_mark, "line", None):
        hint += f" ({error.context} that starts in line {error.context_mark.line + 1})"
    return f"not readable as YAML: {problem}{hint}"


@dataclass
class _Builder:
    """Turns nodes into values and remembers lines. Counts values so that aliases cannot explode."""

    file: Path | str
    environment: Mapping[str, str]
    places: dict[KeyPath, Place] = field(default_factory=dict)
    built: int = 0
    substituted: bool = False

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.built += 1
        if self.built > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES:,} values (aliases count each time they are used)")
        if len(path) > MAX_DEPTH:
            raise self.error(node, f"nested too deeply; expected at most {MAX_DEPTH} levels")
        self.places.setdefault(path, Place(self.file, node.start_mark.line + 1))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        self._check_text(node)
        return self._scalar(node)

    def error(self, node: yaml.Node, message: str) -> SpecError:
        line = node.start_mark.line + 1 if isinstance(self.file, Path) else None
        return SpecError(message, file=self.file, line=line)

    def _check_tag(self, node: yaml.Node, plain: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{plain}":
            raise self.error(node, f"got tag {node.tag}; expected plain YAML without tags")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._check_tag(node, "map")
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "got a key that is not text")
            self._check_text(key_node)
            key = str(key_node.value)
            if key == "<<":
                raise self.error(key_node, "got the merge key <<; write the keys out")
            if key in values:
                first = self.places[(*path, key)].line
                raise self.error(key_node, f"got key {key!r} twice (first in line {first}); expected each key once")
            self.places[(*path, key)] = Place(self.file, key_node.start_mark.line + 1)
            values[key] = self.build(value_node, (*path, key))
        return values

    def _check_text(self, node: yaml.ScalarNode) -> None:
        try:
            node.value.encode()
        except UnicodeEncodeError:  # an escape such as "\ud800", which no file and no terminal takes
            raise self.error(node, f"got {shown(node.value)}; expected text without surrogates") from None

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag not in _SCALARS:
            raise self.error(node, f"got tag {node.tag}; expected plain YAML without tags")
        tag, text = node.tag, str(node.value)
        if "${" in text:
            alone = _VARIABLE.fullmatch(text)
            text = self._substitute(node, text)
            if alone is not None and alone["name"] is not None:
                tag = _implicit_tag(text)
        try:
            value = _SCALARS[tag](text)
        except ValueError:
            raise self.error(node, f"got {shown(text)}; expected a value of type {tag.rpartition(':')[2]}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(node, f"got {text}; expected a finite number")
        return value

    def _substitute(self, node: yaml.ScalarNode, text: str) -> str:
        """The text with its environment variables; like a shell's, `:-` stands in for one that is empty, too."""

        def value(found: re.Match[str]) -> str:
            if found["name"] is None:
                if found[0] == "$${":
                    return "${"
                raise self.error(node, f"got {shown(text)}; expected ${{NAME}} or ${{NAME:-default}}, or $${{ for ${{")
            self.substituted = True
            given = self.environment.get(found["name"], "")
            if given or found["default"] is not None:
                return given or str(found["default"])
            if found["name"] in self.environment:
                return ""
            raise self.error(
                node,
                f"got {shown(found[0])}, and the environment has no {found['name']}; set it, or give a default:"
                f" ${{{found['name']}:-default}}",
            )

        return _VARIABLE.sub(value, text)
