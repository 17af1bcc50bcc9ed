"""pydantic's validation errors -> messages that say what was given, what is allowed and the nearest name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from experiments.errors import did_you_mean, shown

KeyPath = tuple[str | int, ...]

_EXPECTED_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "too_short": "a list that is not empty",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-' (at most 100, the first a letter or digit)",
}
_BOUNDS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_NOT_GIVEN = frozenset({"code"})  # of a config: the sweep sets it


def dotted(path: KeyPath) -> str:
    """`("search", 0, "grid")` -> `search[0].grid`."""
    text = ""
    for part in path:
        name = str(part) if str(part).isprintable() else repr(part)  # nobody's key may steer the terminal
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def section_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that a file may give `model` at `path` (empty where `path` is no section)."""
    section = _section_at(model, path)
    return [name for name in section.model_fields if name not in _NOT_GIVEN] if section else []


def _section_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The first section that a value at `path` may be, through lists and mappings too."""
    found: list[Any] = [model]
    for part in path:
        found = [inner for outer in found for below in _below(outer, part) for inner in _members(below)]
    return next((one for one in found if _is_section(one)), None)


def _below(annotation: Any, part: str | int) -> list[Any]:
    """What a type says of the value that it has at a key or an index."""
    if _is_section(annotation):
        field = annotation.model_fields.get(part)
        return [field.annotation] if field is not None else []
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return [arguments[1]] if isinstance(part, str) else []
    return list(arguments[:1]) if get_origin(annotation) is list and isinstance(part, int) else []


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without what annotates them; a type that is no union is its own."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def section_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The sections of a config by name, in its order."""
    found = {name: _section_at(model, (name,)) for name in model.model_fields}
    return {name: section for name, section in found.items() if section is not None}


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config with sections, in the order of its fields."""
    sections = section_models(model)
    for name in model.model_fields:
        if name in sections:
            yield from leaf_keys(sections[name], f"{prefix}{name}.")
        else:
            yield prefix + name


def explain(error: ValidationError, *, model: type[BaseModel], value: Any) -> list[tuple[KeyPath, str]]:
    """One `(path, message)` a fault, in the order of pydantic's errors; several errors at one path become one.

    Args:
        error: what `model.model_validate(value)` raised.
        value: the plain value that was validated.
    """
    messages: dict[KeyPath, str] = {}
    for detail in error.errors(include_url=False):
        path = _path_in(value, detail["loc"], is_missing=detail["type"] == "missing")
        message = _message(detail, path, model)
        messages[path] = _either(messages[path], message) if path in messages else message
    # A list that one member of a union refuses as a whole and another for its items: the items say more.
    containers = {path[:length] for path in messages for length in range(len(path))}
    return [(path, message) for path, message in messages.items() if path not in containers]


def _either(message: str, other: str) -> str:
    """Two members of a union refused the same value: one message that says what each allows."""
    expected, hint, nearest = message.partition("; did you mean ")
    alternative = other.partition("; expected ")[2].partition("; did you mean ")[0]
    if not alternative:  # it says what is wrong with a value that has the right type
        return other
    return f"{expected} or {alternative}{hint}{nearest}" if alternative not in expected else message


def _path_in(value: Any, loc: Sequence[str | int], *, is_missing: bool) -> KeyPath:
    """`loc` less the names of union members that pydantic puts in between; its last part may be missing in `value`."""
    path: list[str | int] = []
    for position, part in enumerate(loc, start=1):
        if isinstance(value, Mapping) and (part in value or (is_missing and position == len(loc))):
            path.append(part)
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return tuple(path)


def _message(detail: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> str:
    kind, given, key = detail["type"], detail["input"], dotted(path) or "the file"
    if kind == "extra_forbidden":
        allowed = section_keys(model, path[:-1])
        unknown = repr(path[-1]) + (f" in {dotted(path[:-1])}" if path[:-1] else "")
        return f"got unknown key {unknown}; expected one of {', '.join(allowed)}{did_you_mean(path[-1], allowed)}"
    if kind == "missing":
        section = _section_at(model, path[:-1])
        choices = get_args(section.model_fields[str(path[-1])].annotation) if section else ()
        expected = " or ".join(c for c in choices if isinstance(c, str)) or "it to be given"
        return f"missing key {key}; expected {expected}"
    if kind == "value_error":
        problem = str(detail["ctx"]["error"])
        given_text = f"got {shown(given)} for {key}; " if not isinstance(given, (Mapping, BaseModel)) else ""
        return given_text + (problem if path else problem.replace("the file", ""))
    if kind == "literal_error":
        allowed = [str(item) for item in _literals(detail)]
        return f"got {shown(given)} for {key}; expected {' or '.join(allowed)}{did_you_mean(given, allowed)}"
    return f"got {shown(given)} for {key}; expected {_expected(detail)}"


def _literals(detail: ErrorDetails) -> list[str]:
    return [part.strip().strip("'") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]


def _expected(detail: ErrorDetails) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "too_short" and isinstance(detail["input"], Mapping):
        return "at least one key"
    if kind in _EXPECTED_TYPES:
        return _EXPECTED_TYPES[kind]
    bound = message.removeprefix("Input should be ")  # such as "Input should be greater than 0"
    return f"a number {bound}" if kind in _BOUNDS else bound.removeprefix("a valid ")
