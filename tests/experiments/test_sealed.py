from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from experiments.sealed import opened, sealed

VALUES: list[dict[str, Any]] = [{}, {"a": 1}, {"metrics": {"é": None, "x": 0.1}, "list": [1, 2.5, True, "text"]}]


@pytest.mark.parametrize("values", VALUES)
def test_through_a_file(values: dict[str, Any]) -> None:
    assert opened(json.loads(json.dumps(sealed(values)))) == values


@pytest.mark.parametrize("values", VALUES[1:])
def test_order_and_spelling_are_no_damage(values: dict[str, Any]) -> None:
    text = json.dumps(dict(reversed(sealed(values).items())), indent=3, ensure_ascii=False)
    assert opened(json.loads(text)) == values


def test_a_changed_value_is_damage() -> None:
    whole = sealed({"value": 0.81, "name": "a"})
    assert opened({**whole, "value": 0.91}) is None
    assert opened({**whole, "name": "b"}) is None
    assert opened({**whole, "more": None}) is None
    assert opened({**whole, "checksum": whole["checksum"][:-1]}) is None
    assert opened({**whole, "checksum": None}) is None


def test_what_has_none_is_taken_as_it_is() -> None:
    assert opened({"value": 1}) == {"value": 1}


def test_the_checksum_is_that_of_the_sorted_text() -> None:
    assert sealed({"b": 1, "a": [None]})["checksum"] == hashlib.sha256(b'{"a":[null],"b":1}').hexdigest()[:16]
