"""A trial's metrics.jsonl: a row an epoch, each with its checksum.

It grows line by line; a torn last line is cut off before the next is written.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from experiments.footprint import Usage, overall
from experiments.json_file import write_text
from experiments.sealed import opened, sealed
from experiments.store import TrialPaths

log = logging.getLogger(__name__)

_USAGE = TypeAdapter(Usage)


def append_metrics(paths: TrialPaths, row: Mapping[str, Any]) -> None:
    """Appends one epoch's row and has it on disk before it returns."""
    line = _metrics_line(row)
    with paths.metrics.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_metrics(paths: TrialPaths) -> list[dict[str, Any]]:
    """Every whole row. A torn last line is left out; a damaged one before it as well, with a warning.

    The rows are history: weights and results are elsewhere, so a lost row changes no result.
    """
    try:
        lines = paths.metrics.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    whole = lines[:-1]  # what follows the last newline is torn, or nothing
    rows = [row for line in whole if (row := _metrics_row(line)) is not None]
    if len(rows) < len(whole):
        log.warning("%s: %d damaged lines left out", paths.metrics, len(whole) - len(rows))
    return rows


def _metrics_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return opened(row) if isinstance(row, dict) and {"epoch", "duration_s"} <= row.keys() else None


def _metrics_line(row: Mapping[str, Any]) -> str:
    return json.dumps(sealed(row), allow_nan=False) + "\n"


def trained_s(rows: Iterable[Mapping[str, Any]]) -> float:
    """Wall seconds of the epochs of `rows`, whichever attempt ran them."""
    return round(sum(float(row["duration_s"]) for row in rows), 3)


def usage_of(rows: Iterable[Mapping[str, Any]]) -> Usage | None:
    """What the trial of `rows` took of the machine; None where no row tells."""
    return overall(_USAGE.validate_python(row["usage"]) for row in rows if "usage" in row)


def cut_metrics(paths: TrialPaths, *, epochs: int) -> None:
    """Keeps the rows of the first `epochs` epochs: those that the checkpoint has as well."""
    rows = [row for row in read_metrics(paths) if row["epoch"] <= epochs]
    if paths.metrics.exists():
        write_text(paths.metrics, "".join(map(_metrics_line, rows)))
