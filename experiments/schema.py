"""A JSON Schema of spec files, made from the models that check them, so that editors complete and check YAML.

It is draft 7, which every version of yaml-language-server reads (2020-12 only the latest); a `$ref` has nothing beside
it there. A schema cannot say everything: rules between keys, such as proposals.file with proposals.source, are left to
the command. What the schema refuses, the command refuses too or has no use for, such as a null that says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined, to_jsonable_python

from experiments.field_texts import class_text, exclusive_fields, field_texts, sections_in
from experiments.spec_document import NEVER_SWEPT, GeneratedValues, SampledKey, SearchBlock, SpecDocument
from experiments.validation_messages import leaf_keys, section_models
from wsol.config import RESULT_NEUTRAL_KEYS, ExperimentConfig
from wsol.key_reads import marked_keys

Schema = dict[str, Any]

_RULE_KEYS = tuple(key for key in leaf_keys(ExperimentConfig) if key not in NEVER_SWEPT)
_SWEPT_KEYS = tuple(key for key in _RULE_KEYS if key not in RESULT_NEUTRAL_KEYS)
_NEEDS: dict[type[BaseModel], Schema] = {
    SearchBlock: {"sample": ["trials"], "trials": ["sample"], "sampler": ["sample"], "sampler_seed": ["sample"]},
    SampledKey: {"step": {"anyOf": [{"required": ["int"]}, {"required": ["float"]}]}},
}
"""What a key needs beside it. The models have it as code only, so a test tries every combination of keys."""

_LINE = 120
_NULL = {"type": "null"}
_DROPPED = ("title", "default")  # titles only repeat names; defaults are taken from the fields
_RENAMED = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_RENAMED_IN_ARRAYS = {"minLength": "minItems", "maxLength": "maxItems", "prefixItems": "items"}
"""pydantic's words for a limit of a union, and of a list behind a validator; and draft 2020's for draft 7's."""


def schema_text() -> str:
    """The content of sweeps/schema.json."""
    return _folded(spec_schema(), indent="") + "\n"


def spec_schema() -> Schema:
    """The JSON Schema (draft 7) of a spec file as it is written: before `extends` and environment variables."""
    sections, config = _spec_sections(), _config_sections(ExperimentConfig, "")
    for model in (GeneratedValues, SampledKey):  # an editor shows the innermost text, and the swept key has one
        del sections[model.__name__]["description"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:wsol-sweeps:spec",
        "title": "Sweep spec",
        **sections.pop(SpecDocument.__name__),
        "if": {"required": ["extends"]},
        "else": _completeness(SpecDocument),
        "definitions": {**sections, **_key_mappings(config), **config, "Environment": _environment()},
    }


def _folded(value: Any, *, indent: str) -> str:
    """JSON in which whatever fits a line stands on one, so that a change of a key is a change of a few lines."""
    flat = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, (dict, list)) or len(indent) + len(flat) <= _LINE:
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {_folded(part, indent=inner)}" for name, part in value.items()]
    else:
        parts = [_folded(part, indent=inner) for part in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closing}"


def _config_sections(model: type[BaseModel], prefix: str) -> dict[str, Schema]:
    """Definitions of a section of a config and those below it by class name, and of its leaf keys by dotted key."""
    sections, properties, texts = section_models(model), _properties(model), field_texts(model)
    fields = {name: field for name, field in model.model_fields.items() if prefix + name != "code"}  # no spec has it
    found = {name: _ref(sections[name].__name__ if name in sections else prefix + name) for name in fields}
    definitions = {model.__name__: {"description": class_text(model), **_closed(found)}}
    for name, field in fields.items():
        key = prefix + name
        if name in sections:
            definitions |= _config_sections(sections[name], f"{key}.")
        else:
            told = [texts.get(name, ""), _read_text(key)]
            definitions[key] = {"title": key, **_described(_converted(properties[name]), told, field.default)}
    return definitions


def _read_text(key: str) -> str:
    marker = marked_keys(ExperimentConfig).get(key)
    return f"Read with {marker.text()}." if marker else ""


def _spec_sections() -> dict[str, Schema]:
    """Definitions of the sections of a spec by class name."""
    merged = set(_merged_sections(SpecDocument))
    return {model.__name__: _spec_section(model, merged=model in merged) for model in _every_section(SpecDocument)}


def _spec_section(model: type[BaseModel], *, merged: bool) -> Schema:
    """A section of a spec. One that `extends` merges need not be complete, and null takes away what the base has."""
    properties, texts = _properties(model), field_texts(model)
    found = {}
    for name, field in model.model_fields.items():
        given = properties[name] if merged else _without_null(properties[name])
        schema = _with_length(_converted(given), model, name)
        is_value = field.default is not None and not isinstance(field.default, BaseModel)
        found[name] = _described(schema, [texts.get(name, "")], field.default if is_value else PydanticUndefined)
    section = {"description": class_text(model), **_closed(found)}
    if not merged:
        section |= _completeness(model)
    return section | ({"dependencies": _NEEDS[model]} if model in _NEEDS else {})


def _merged_sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The sections that are reached through mappings alone: `extends` replaces lists as a whole."""
    yield model
    for section in section_models(model).values():
        yield from _merged_sections(section)


def _every_section(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and the sections below it, each where it is first met."""
    below = [section for field in model.model_fields.values() for section in sections_in(field.annotation)]
    yield from dict.fromkeys([model, *(inner for section in below for inner in _every_section(section))])


def _completeness(model: type[BaseModel]) -> Schema:
    """What a section, and each that is merged below it, must have when there is no other file to give it."""
    below = {name: found for name, section in section_models(model).items() if (found := _completeness(section))}
    parts: Schema = {
        "required": [name for name, field in model.model_fields.items() if field.is_required()],
        "oneOf": [{"required": [name]} for name in exclusive_fields(model)],
        "properties": below,
    }
    return {name: part for name, part in parts.items() if part}


def _key_mappings(config: dict[str, Schema]) -> dict[str, Schema]:
    """Definitions of the mappings from dotted config keys, for each of which a value must fit its own definition."""

    def mapping(keys: Iterable[str], value: Callable[[str], Schema]) -> Schema:
        found = {key: {"title": key, "description": config[key]["description"], **value(key)} for key in keys}
        return {**_closed(found), "minProperties": 1}

    return {
        "Axes": mapping(_SWEPT_KEYS, _axis),
        "SampledKeys": mapping(_SWEPT_KEYS, lambda key: _with_fitting_lists(SampledKey, key)),
        "Rule": mapping(_RULE_KEYS, lambda key: {"anyOf": [_ref(key), _list_of(key), _ref("RuleRange")]}),
        "RuleRange": _rule_range(),
    }


def _axis(key: str) -> Schema:
    generated = {"title": "generated values", **_with_fitting_lists(GeneratedValues, key)}
    return {"anyOf": [_list_of(key), generated]}


def _list_of(key: str) -> Schema:
    return {"type": "array", "items": _ref(key), "minItems": 1}


def _with_fitting_lists(model: type[BaseModel], key: str) -> Schema:
    """A section whose lists of anything are lists of what fits a config key."""
    lists = [name for name, schema in _properties(model).items() if _without_null(schema).get("items") == {}]
    return {"allOf": [_ref(model.__name__), {"properties": {name: {"items": _ref(key)} for name in lists}}]}


def _rule_range() -> Schema:
    end = _converted({"type": "number"})
    return {
        "description": "A range, both ends included; one of them is enough.",
        **_closed({"min": end, "max": end}),
        "minProperties": 1,
    }


def _environment() -> Schema:
    return {
        "description": "An environment variable: ${NAME}, or ${NAME:-default}.",
        "type": "string",
        "pattern": r"(^|[^$])\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _described(schema: Schema, texts: Iterable[str], default: Any) -> Schema:
    """A field's schema with what a reader should know, and its default, which editors fill in."""
    told, given = [text for text in texts if text], {}
    if default is not PydanticUndefined:
        given = {"default": to_jsonable_python(default)}
        told.append(f"Default: {default if default and isinstance(default, str) else json.dumps(given['default'])}.")
    return {"description": " ".join(told), **given, **({"allOf": [schema]} if "$ref" in schema else schema)}


@cache
def _properties(model: type[BaseModel]) -> dict[str, Schema]:
    """What pydantic says of each field. Not to be changed."""
    properties: dict[str, Schema] = model.model_json_schema(ref_template="#/definitions/{model}")["properties"]
    return properties


def _converted(schema: Schema) -> Schema:
    """A schema of pydantic's in the words of draft 7; whatever is no plain text may be an environment variable."""
    kept = {_RENAMED.get(name, name): value for name, value in schema.items() if name not in _DROPPED}
    if "anyOf" in kept:
        return _union(kept)
    if kept.get("type") == "array":
        return _array(kept)
    if kept.get("type") == "object":
        return _mapping(kept)
    is_plain_text = kept.get("type") == "string" and not {"enum", "const", "pattern"} & kept.keys()
    if "$ref" in kept or kept == _NULL or is_plain_text:
        return kept
    return {"anyOf": [kept, _ref("Environment")]}


def _union(schema: Schema) -> Schema:
    """Members of members become members; an environment variable is the last, and one is enough."""
    members: list[Schema] = []
    for member in map(_converted, schema.pop("anyOf")):
        members += member["anyOf"] if member.keys() == {"anyOf"} else [member]
    if {"type": "number"} in members:
        members = [member for member in members if member != {"type": "integer"}]
    variable = _ref("Environment")
    ordered = [member for member in members if member != variable] + [variable] * (variable in members)
    return {"anyOf": ordered, **schema} if len(ordered) > 1 or schema else ordered[0]


def _array(schema: Schema) -> Schema:
    renamed = {_RENAMED_IN_ARRAYS.get(name, name): value for name, value in schema.items()}
    items = renamed.pop("items", {})
    converted = [_converted(item) for item in items] if isinstance(items, list) else _converted(items) if items else {}
    return {"type": "array", **({"items": converted} if converted else {}), **renamed}


def _mapping(schema: Schema) -> Schema:
    """The definition for a mapping that pydantic leaves open."""
    values = schema.get("additionalProperties", True)
    if values is True:
        return _ref("Rule" if "minProperties" in schema else ExperimentConfig.__name__)
    return _ref("SampledKeys" if values == _ref(SampledKey.__name__) else "Axes")


def _without_null(schema: Schema) -> Schema:
    members = [member for member in schema.get("anyOf", ()) if member != _NULL]
    return schema if not members else members[0] if len(members) == 1 else {**schema, "anyOf": members}


def _with_length(schema: Schema, model: type[BaseModel], name: str) -> Schema:
    """With the length of a list of numbers, which only the field's validator knows: it is found by trying."""
    if schema.get("type") != "array":
        return schema
    lengths = [length for length in range(1, 5) if _accepts(model, {name: list(range(1, length + 1))})]
    return {**schema, "minItems": lengths[0], "maxItems": lengths[0]} if len(lengths) == 1 else schema


def _accepts(model: type[BaseModel], value: Schema) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True
