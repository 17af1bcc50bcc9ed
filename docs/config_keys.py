"""Writes the tables of keys into docs/sweep-spec.md, from the models and the texts below their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from experiments.field_texts import field_texts, sections_in
from experiments.spec_document import SpecDocument
from wsol.config import ExperimentConfig
from wsol.key_reads import marked_keys

PAGE = Path(__file__).parent / "sweep-spec.md"

Row = tuple[str, str, str]
"""Key, default, meaning."""


def spec_table() -> str:
    """A row a key of a spec, sections included."""
    return _table(_spec_rows(SpecDocument, "", {}))


def config_table() -> str:
    """A row a leaf key of a config."""
    return _table(_config_rows(ExperimentConfig, ""))


def page() -> str:
    """The whole page with the tables as they should be."""
    text = PAGE.read_text("utf-8")
    for name, table in (("spec keys", spec_table()), ("config keys", config_table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE} has no {begin}"
        text = before + begin + table + end + rest.partition(end)[2]
    return text


def _table(rows: Iterator[Row]) -> str:
    lines = [f"| `{key}` | {default} | {meaning.replace('|', chr(92) + '|')} |" for key, default, meaning in rows]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *lines]) + "\n"


def _spec_rows(model: type[BaseModel], prefix: str, described: dict[type[BaseModel], str]) -> Iterator[Row]:
    """A section that two keys have is described once; `described` says where."""
    texts = field_texts(model)
    for name, field in model.model_fields.items():
        key, meaning, new = prefix + name, _meaning(field, texts.get(name, "")), []
        for section in sections_in(field.annotation):
            if section in described:
                meaning += f" Its values have the keys of `{described[section]}`."
            else:
                described[section] = key
                new.append(section)
        yield key, _spec_default(field), meaning
        for section in new:
            yield from _spec_rows(section, f"{key}{_step(field.annotation)}.", described)


def _config_rows(model: type[BaseModel], prefix: str) -> Iterator[Row]:
    texts = field_texts(model)
    for name, field in model.model_fields.items():
        key, sections = prefix + name, list(sections_in(field.annotation))
        for section in sections:
            yield from _config_rows(section, f"{key}.")
        if not sections:
            default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
            yield key, default, _meaning(field, texts.get(name, ""), _reads(key))


def _spec_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    return "`{}`" if isinstance(field.default, BaseModel) else f"`{json.dumps(field.default)}`"


def _meaning(field: FieldInfo, *texts: str) -> str:
    choices = " | ".join(f"`{choice}`" for choice in _literals(field.annotation))
    return "; ".join(part for part in (choices, " ".join(filter(None, texts))) if part)


def _literals(annotation: Any) -> list[Any]:
    """The values of a type that is one Literal of text, or nothing."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    if get_origin(annotation) is not Literal and len(members) == 1:
        return _literals(members[0])
    return [member for member in members if isinstance(member, str)] if get_origin(annotation) is Literal else []


def _reads(key: str) -> str:
    marker = marked_keys(ExperimentConfig).get(key)
    return f"Read with `{marker.text()}`.".replace("} or {", "}` or `{") if marker else ""


def _step(annotation: Any) -> str:
    """What stands between a key and the keys of the sections in its value."""
    if get_origin(annotation) in (list, dict):
        return "[]" if get_origin(annotation) is list else ".<key>"
    return next((step for inner in get_args(annotation) if (step := _step(inner))), "")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
