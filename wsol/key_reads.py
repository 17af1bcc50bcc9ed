"""Which keys of a config a trial reads, told from the config alone. Imports no torch.

A field that some trials never read carries a `ReadWhen` in its `Annotated` type, where pydantic looks past it. What
the markers say was found by reading the code that builds, trains and evaluates; tests/wsol/test_key_reads.py trains
with and without a change of each such key and compares bits.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Condition = tuple[str, Any]
"""A dotted key, and what it must be: a value, a tuple of values of which one is enough, or `Except`."""


@dataclass(frozen=True, init=False)
class Except:
    """Anything but these.

    Attributes:
        values: one or more, hashable.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values:
            raise ValueError("got Except(), which everything is; expected one value or more")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, init=False)
class ReadWhen:
    """Marks a field that is read when any of some alternatives holds. A field without a marker is always read.

    It marks what a trial has no use for because of what it is: of another task, pooling or schedule, or switched off.
    A value that happens to make no difference, such as a milestone after the last epoch, is read nevertheless.

    Args:
        alternatives: one or more mappings {dotted key: what it must be}, all of whose entries must hold. What it must
            be is a value, a tuple of allowed values, or `Except(value, ...)`. A list in the config is a tuple there:
            the empty one is `((),)`, one of one allowed value.

    Raises:
        ValueError: for a marker that always or never holds: without alternatives, with one of no entries, or with an
            entry that allows no value.
    """

    alternatives: tuple[tuple[Condition, ...], ...]

    def __init__(self, *alternatives: Mapping[str, Any]) -> None:
        if not alternatives or not all(alternatives) or any(() in entries.values() for entries in alternatives):
            raise ValueError(f"got {alternatives}; expected alternatives with entries that allow some value each")
        object.__setattr__(self, "alternatives", tuple(tuple(entries.items()) for entries in alternatives))

    def text(self) -> str:
        """The alternatives as one would write them in YAML, with `not` for `Except`: `{model.refinement: not 0}`."""
        return " or ".join(
            "{" + ", ".join(f"{key}: {_required(value)}" for key, value in alternative) + "}"
            for alternative in self.alternatives
        )


def unread_keys(config: BaseModel) -> dict[str, ReadWhen]:
    """The keys that this trial never reads, as dotted paths in the order of the fields, each with its marker.

    Whatever else such a key were set to, as long as the config stays a valid one, the trial would give the same
    result to the bit. It takes microseconds: what follows from the conditions that hold is worked out once for each
    combination of them.

    Args:
        config: an `ExperimentConfig`, or any config of sections (one level of them) whose fields carry markers.

    Raises:
        AttributeError: for a marker that names a key which the config does not have.
    """
    config_class = type(config)
    holds = tuple([(get(config) in values) is wanted for get, values, wanted in _tests(config_class)])
    return dict(_unread(config_class, holds))


@functools.cache
def marked_keys(config_class: type[BaseModel]) -> Mapping[str, ReadWhen]:
    """The keys that not every trial reads, as dotted paths in the order of the fields; shared, not to be changed."""
    return dict(_markers(config_class, ""))


def _markers(config_class: type[BaseModel], prefix: str) -> Iterator[tuple[str, ReadWhen]]:
    for name, field in config_class.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _markers(section, f"{prefix}{name}.")
        yield from ((prefix + name, marker) for marker in field.metadata if isinstance(marker, ReadWhen))


@functools.cache
def _conditions(config_class: type[BaseModel]) -> tuple[Condition, ...]:
    """Those of all markers, each once: many fields share theirs."""
    markers = marked_keys(config_class).values()
    return tuple(dict.fromkeys(c for marker in markers for alternative in marker.alternatives for c in alternative))


@functools.cache
def _tests(config_class: type[BaseModel]) -> list[tuple[operator.attrgetter[Any], tuple[Any, ...], bool]]:
    """For each condition what gets the value, some values, and whether it must be one of them or none of them."""
    return [(operator.attrgetter(key), *_allowed(value)) for key, value in _conditions(config_class)]


def _allowed(value: Any) -> tuple[tuple[Any, ...], bool]:
    if isinstance(value, Except):
        return value.values, False
    return value if isinstance(value, tuple) else (value,), True


@functools.cache
def _unread(config_class: type[BaseModel], holds: tuple[bool, ...]) -> dict[str, ReadWhen]:
    """What is not read where these of `_conditions` hold."""
    holding = {condition for condition, one in zip(_conditions(config_class), holds, strict=True) if one}
    return {
        key: marker
        for key, marker in marked_keys(config_class).items()
        if not any(holding.issuperset(alternative) for alternative in marker.alternatives)
    }


def _required(value: Any) -> str:
    """What a key must be, as text: a list of values only where there are several."""
    values, wanted = _allowed(value)
    return ("" if wanted else "not ") + _yaml(values[0] if len(values) == 1 else values)


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
