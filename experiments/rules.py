"""Rules about the values of config keys: `when`, `exclude`, `only`. Pure.

A rule is a mapping from dotted keys to what their values must be: a value; a list of values, one of which it must be;
or a range `{min: ..., max: ...}`, both included, one of them enough. All keys must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Rule = Mapping[str, Any]
ABSENT = object()
"""The value of a key that a cell or a point does not have. It equals nothing that a rule can name."""
_RANGE_KEYS = frozenset({"min", "max"})


def same_value(a: Any, b: Any) -> bool:
    """Whether two YAML values are equal: true is not 1, 1 is 1.0, and a tuple is a list."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(value, b[key]) for key, value in a.items())
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def holds(rule: Rule, value_of: Callable[[str], Any]) -> bool:
    """Whether every key of the rule has the value that the rule wants. `value_of(key)` gives the value of a key."""
    return all(fits(value_of(key), wanted) for key, wanted in rule.items())


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is what a rule wants of its key."""
    if is_range(wanted):
        return in_range(value, wanted)
    return same_value(value, wanted) or any(same_value(value, item) for item in alternatives(wanted))


def alternatives(wanted: Any) -> tuple[Any, ...]:
    """The values that a rule allows: the items of a list, or the one value. (A list may also be the value itself.)"""
    return tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted,)


def is_range(wanted: Any) -> bool:
    """Whether this is a range with numbers for its ends."""
    return (
        isinstance(wanted, Mapping)
        and bool(wanted)
        and wanted.keys() <= _RANGE_KEYS
        and all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in wanted.values())
    )


def in_range(value: Any, ends: Mapping[str, float]) -> bool:
    """Whether a value is a number between the ends, both included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return ends.get("min", value) <= value <= ends.get("max", value)


def rule_text(rule: Rule) -> str:
    """A rule as a spec would have it: `{train.lr: 0.0001, model.pooling: [max, lse]}`."""
    return f"{{{', '.join(f'{key}: {_text(value)}' for key, value in rule.items())}}}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return rule_text(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str):
        return value
    return f"{value:.12g}" if isinstance(value, float) else json.dumps(value)
