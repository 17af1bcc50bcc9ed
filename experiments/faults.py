"""Faults that pydantic found -> one SpecError, each fault at its place in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from experiments.errors import SpecError
from experiments.space import Cell, KeyPath
from experiments.validation_messages import dotted, explain
from experiments.yaml_source import YamlSource
from wsol.config import ExperimentConfig

MAX_FAULTS_SHOWN = 20


def spec_error(source: YamlSource, faults: Sequence[tuple[KeyPath, str]]) -> SpecError:
    """All faults in one error, in the file's order; the first gives the error its place.

    In one line a key that is unknown comes before one that is missing: it may be the same key, misspelt.
    """
    ordered = sorted(faults, key=lambda fault: (source.place(fault[0]).line or 0, fault[1].startswith("missing")))
    first, *others = [source.error(message, path) for path, message in ordered[:MAX_FAULTS_SHOWN]]
    lines = [str(error) for error in (first, *others)]
    if len(faults) > MAX_FAULTS_SHOWN:
        lines.append(f"... and {len(faults) - MAX_FAULTS_SHOWN} more faults")
    first.args = ("\n".join(lines),)
    return first


def config_error(source: YamlSource, error: ValidationError, *, values: object, cell: Cell) -> SpecError:
    """The faults of a resolved config: each at the cell's value, or under `experiment`.

    Args:
        values: the plain values that were validated.
        cell: whose values they have.
    """
    faults = explain(error, model=ExperimentConfig, value=values)
    return spec_error(source, [_placed(path, message, cell, source) for path, message in faults])


def _placed(path: KeyPath, message: str, cell: Cell, source: YamlSource) -> tuple[KeyPath, str]:
    """Where in the file a fault stands.

    A rule between two keys is a fault of their section; its message names the keys. It stands at the first of
    them that is swept, else at the first that the file has.
    """
    at_section = len(path) <= 1
    for key in cell.values:
        if dotted(path) == key or dotted(path).startswith(f"{key}[") or (at_section and key in message):
            return cell.place(key), message
    for key in re.findall(r"\b[a-z]+\.[a-z_]+\b", message) if at_section else []:
        named = ("experiment", *key.split("."))
        if named in source.places:
            return named, message
    return ("experiment", *path), message
