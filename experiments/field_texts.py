"""What the source of a pydantic model says of its fields, and the fields themselves do not."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field, on one line; a field without one is left out."""
    body = _definition(model).body
    texts = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def class_text(model: type[BaseModel]) -> str:
    """The docstring, on one line."""
    return " ".join((model.__doc__ or "").split())


def exclusive_fields(model: type[BaseModel]) -> list[str]:
    """The fields of which exactly one must be given, as the model's validator checks with `_check_exactly_one`."""
    return [
        str(argument.value)
        for node in ast.walk(_definition(model))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._check_exactly_one"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    ]


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of: itself, or members of a union, items of a list, values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from sections_in(inner)


def _definition(model: type[BaseModel]) -> ast.ClassDef:
    definition = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition
