"""Writes the table of config keys into docs/sweep-spec.md, from the models and the texts below their fields."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from wsol import config

PAGE = Path(__file__).parent / "sweep-spec.md"
BEGIN, END = "<!-- config keys -->\n", "<!-- end of config keys -->\n"


def table() -> str:
    """A row a leaf key: key, default, meaning."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{key}` | {default} | {text} |" for key, default, text in _rows(config.ExperimentConfig, "")]
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page with the table as it should be."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def _rows(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    texts = _field_texts(model)
    rows = []
    for name, field in model.model_fields.items():
        section = next((c for c in (field.annotation, *get_args(field.annotation)) if _is_section(c)), None)
        if section is not None:
            rows += _rows(section, f"{prefix}{name}.")
            continue
        default = "required" if field.default is PydanticUndefined else f"`{json.dumps(field.default)}`"
        choices = " \\| ".join(f"`{choice}`" for choice in _literals(field.annotation))
        text = "; ".join(part for part in (choices, texts.get(name, "")) if part)
        rows.append((prefix + name, default, text))
    return rows


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _literals(annotation: Any) -> list[str]:
    return [arg for arg in get_args(annotation) if isinstance(arg, str)]


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field, on one line."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            texts[field.target.id] = " ".join(str(text.value.value).split()).replace("|", "\\|")
    return texts


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
