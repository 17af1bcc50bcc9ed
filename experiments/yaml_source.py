"""YAML text -> plain values, each with the line it came from.

YAML 1.2's core scalars, not YAML 1.1's: `1e-5` is a number, `no` and `on` are strings, `1:30` is a
string. Only plain data: no tags, no objects. Refused, with file and line: a key given twice (PyYAML
keeps the last in silence), a file too large, aliases that expand without end, numbers that are not finite.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import SpecError, did_you_mean, shown

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlSource:
    """A parsed file. `lines[path]` is the 1-based line of the key (or list item) at `path`."""

    file: Path
    text: str = field(repr=False)
    value: Any
    lines: dict[KeyPath, int] = field(repr=False)

    def line(self, path: KeyPath) -> int | None:
        """The line of `path`, or of its nearest ancestor that the file has."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def error(self, message: str, path: KeyPath = ()) -> SpecError:
        """A SpecError at `path`."""
        return SpecError(message, file=self.file, line=self.line(path))


class _CoreSchemaLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's implicit scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # none of YAML 1.1's


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
    _CoreSchemaLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )

_SCALARS: dict[str, Any] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "tag:yaml.org,2002:str": str,
}


def read_yaml(file: Path) -> YamlSource:
    """Reads one document.

    Raises:
        SpecError: with FILE:LINE, for everything that can be wrong with it.
    """
    text = _read_text(file)
    try:
        node = yaml.compose(text, Loader=_CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(_yaml_problem(error), file=file, line=mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"got the control character {chr(error.character)!r}; expected printable text", file=file, line=line
        ) from None
    except RecursionError:
        raise SpecError(f"nested too deeply; expected at most {MAX_DEPTH} levels", file=file) from None
    if node is None:
        raise SpecError("the file is empty; expected a sweep spec", file=file)
    builder = _Builder(file=file)
    value = builder.build(node, ())
    return YamlSource(file=file, text=text, value=value, lines=builder.lines)


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


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not readable as YAML"
    hint = "; indent with spaces, YAML allows no tabs" if "\\t" in problem else ""
    if problem.startswith("but found") and error.context:  # PyYAML splits some sentences in two
        problem = f"{error.context}, {problem}"
    elif error.context and error.context_mark and error.context_mark.line != getattr(error.problem_mark, "line", None):
        hint += f" ({error.context} that starts in line {error.context_mark.line + 1})"
    return f"not readable as YAML: {problem}{hint}"


@dataclass
class _Builder:
    """Turns nodes into values and remembers lines. Counts values so that aliases cannot explode."""

    file: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)
    built: int = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.built += 1
        if self.built > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES:,} values (aliases count each time they are used)")
        if len(path) > MAX_DEPTH:
            raise self.error(node, f"nested too deeply; expected at most {MAX_DEPTH} levels")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        self._check_text(node)
        return self._scalar(node)

    def error(self, node: yaml.Node, message: str) -> SpecError:
        return SpecError(message, file=self.file, line=node.start_mark.line + 1)

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
                first = self.lines[(*path, key)]
                raise self.error(key_node, f"got key {key!r} twice (first in line {first}); expected each key once")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
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
        try:
            value = _SCALARS[node.tag](node.value)
        except ValueError:
            raise self.error(
                node, f"got {shown(node.value)}; expected a value of type {node.tag.rpartition(':')[2]}"
            ) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(node, f"got {node.value}; expected a finite number")
        return value
