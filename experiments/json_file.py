"""Files that are whole or absent, and JSON in them that says itself whether it is damaged."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from experiments.sealed import opened
from wsol.atomic_file import pending_file

log = logging.getLogger(__name__)

_ENCODER = json.JSONEncoder(allow_nan=False)


def read_json(path: Path) -> Any:
    """The parsed file, its checksum left out; None where it is absent or, with a warning, damaged."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: cannot be read (%s)", path, error)
        return None
    if not isinstance(values, dict):
        return values
    whole = opened(values)
    if whole is None:
        log.warning("%s: its checksum does not fit: the file is damaged", path)
    return whole


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that any reader takes (no NaN), atomically."""
    write_text(path, json_text(value, depth=2) + "\n")


def json_text(value: Any, *, depth: int, margin: str = "") -> str:
    """JSON with a line for each item down to `depth`, below which each item is one line.

    `indent` would take the encoder that is not written in C, which a sweep of 20,000 trials feels.
    """
    if depth == 0 or not isinstance(value, dict) or not value:
        return _ENCODER.encode(value)
    inner = margin + " "
    items = [
        f"{inner}{_ENCODER.encode(str(name))}: {json_text(item, depth=depth - 1, margin=inner)}"
        for name, item in value.items()
    ]
    return "{\n" + ",\n".join(items) + f"\n{margin}}}"


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically: after a crash at any instant it holds the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pending_file(path.with_name(f".{path.name}.{os.getpid()}.tmp")) as pending:
        pending.file.write(text.encode())
        pending.publish(path.name)
