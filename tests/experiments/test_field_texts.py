"""What is read from the source of a model."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from experiments.field_texts import class_text, exclusive_fields, field_texts, sections_in
from experiments.spec_document import GeneratedValues, PrunerChoice, SampledKey, SearchBlock


class Inner(BaseModel):
    """Text of a class
    on two lines."""

    a: int = 0
    """Text of a field
    on two lines."""
    b: int = 0
    c: Annotated[int, Field(gt=0)] = 1
    """Text of c."""

    def method(self) -> None:
        """No field's text."""


class Other(BaseModel):
    pass


def test_field_texts() -> None:
    assert field_texts(Inner) == {"a": "Text of a field on two lines.", "c": "Text of c."}


def test_class_text() -> None:
    assert class_text(Inner) == "Text of a class on two lines."
    assert class_text(Other) == ""


def test_exclusive_fields() -> None:
    assert exclusive_fields(SearchBlock) == ["grid", "zip", "sample"]
    assert exclusive_fields(GeneratedValues) == ["values", "linspace", "logspace", "range"]
    assert exclusive_fields(SampledKey) == ["choice", "int", "log_int", "float", "log_uniform"]
    assert exclusive_fields(PrunerChoice) == ["asha", "median"]
    assert exclusive_fields(Inner) == []


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (int, []),
        (dict[str, Any], []),
        (Inner, [Inner]),
        (Inner | None, [Inner]),
        (list[Inner], [Inner]),
        (Annotated[dict[str, list[int] | Inner], Field(min_length=1)] | Other | None, [Inner, Other]),
    ],
)
def test_sections_in(annotation: Any, found: list[type[BaseModel]]) -> None:
    assert list(sections_in(annotation)) == found
