"""What the W&B run of a trial says, from the trial's files. Knows nothing of wandb; pure but for `log_tail`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import printable
from experiments.store import StoredTrial, TrialResult
from experiments.trial import TrialState
from experiments.view import short_names, value_text

LOG_TAIL_LINES = 50
LOG_TAIL_LINE_LENGTH = 300
MAX_NAME_LENGTH = 128
MAX_TAG_LENGTH = 64
MEDIA_KEYS = PICTURES, PER_CLASS = ("pictures", "per_class")
"""Keys of the last row of a complete trial."""

Row = dict[str, Any]


@dataclass(frozen=True)
class RunHead:
    """What is said when a run is opened.

    Attributes:
        run_id: the same at each opening.
        name: for people.
        group: the sweep.
        job_type: the stage.
        config: the resolved config, nested, and `trial`: which one it is.
    """

    run_id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class RunEnd:
    """What is said when a trial has ended.

    Attributes:
        summary: replaces what the rows left there, key by key.
        exit_code: 0 for a trial that is complete or pruned.
    """

    summary: Mapping[str, Any]
    tags: tuple[str, ...]
    exit_code: int


def run_head(
    trial: StoredTrial, config: Mapping[str, Any], *, run_id: str, sweep: str, swept_keys: Sequence[str]
) -> RunHead:
    """Of a trial, begun or ended.

    Args:
        config: resolved, as plain values.
        swept_keys: of the sweep; those that the config has name the run.
    """
    return RunHead(
        run_id=run_id,
        name=_display_name(trial.number, config, swept_keys),
        group=sweep,
        job_type=trial.stage,
        tags=_tags(sweep, trial.stage),
        config={
            **config,
            "trial": {
                "number": trial.number,
                "signature": trial.signature,
                "stage": trial.stage,
                "split": value_at(config, "data.eval"),
                "code": trial.code,
            },
        },
    )


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def history_row(row: Mapping[str, Any]) -> Row:
    """An epoch's row of metrics.jsonl as W&B's history has it. What is not defined is left out.

    Returns:
        `epoch`, `loss`, `lr`, `duration_s`, the metrics by their flat names, the peaks of memory so far in 10^9 bytes
        where they were measured, and the time of the row (Unix seconds) where it says one.
    """
    found: Row = {name: row[name] for name in ("epoch", "loss", "lr", "duration_s") if row.get(name) is not None}
    if row.get("time") is not None:
        found["_timestamp"] = row["time"]
    usage = row.get("usage") or {}
    for name, key in (("device_bytes", "memory/gpu_gb"), ("host_bytes", "memory/host_gb")):
        if usage.get(name):
            found[key] = usage[name] / 1e9
    return found | {name: value for name, value in (row.get("metrics") or {}).items() if value is not None}


def step_of(row: Mapping[str, Any]) -> int:
    """W&B's step of an epoch's row, from 0: as many rows are before it."""
    return int(row["epoch"]) - 1


def media_step(rows: Sequence[Mapping[str, Any]]) -> int:
    """The step of the row of pictures and tables: after all epochs."""
    return 1 + max(map(step_of, rows), default=-1)


def run_end(result: TrialResult, *, sweep: str, stage: str, tail: str = "") -> RunEnd:
    """Of a trial with this result.

    Args:
        tail: the end of the trial's log, for one that failed.
    """
    summary: dict[str, Any] = {
        "state": result.state.value,
        "stop_reason": result.stop_reason,
        "attempts": result.attempts,
        "epochs": result.epochs,
        "duration_s": result.duration_s,
        "code": result.code,
        "reused_from": result.reused_from,
        **{name: value for name, value in result.metrics.items() if value is not None},
    }
    if tail:
        summary["log_tail"] = tail
    is_failure = result.state is TrialState.FAIL
    return RunEnd(summary=summary, tags=(*_tags(sweep, stage), result.state.value), exit_code=int(is_failure))


def per_class_table(metrics: Mapping[str, float | None]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: a row a class, a column a metric, in the result's order; None where undefined."""
    names = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    classes = list(dict.fromkeys(name.partition("/")[2] for name in metrics))
    rows = [[label, *(metrics.get(f"{name}/{label}") for name in names)] for label in classes if label != "mean"]
    return ["class", *names], rows


def log_tail(file: Path) -> str:
    """The last lines of a log, short and printable; empty where there is no log."""
    try:
        with file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - LOG_TAIL_LINES * LOG_TAIL_LINE_LENGTH * 4))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(printable(line)[:LOG_TAIL_LINE_LENGTH] for line in text.splitlines()[-LOG_TAIL_LINES:])


def _display_name(number: int, config: Mapping[str, Any], swept_keys: Sequence[str]) -> str:
    """`0003 lr=0.001 count=50 seed=0`."""
    short = short_names(swept_keys)
    values = [f"{short[key]}={value_text(value_at(config, key))}" for key in swept_keys]
    return " ".join([f"{number:04d}", *values, f"seed={config.get('seed')}"])[:MAX_NAME_LENGTH]


def _tags(*texts: str) -> tuple[str, ...]:
    """Each once, as short as W&B takes them."""
    return tuple(dict.fromkeys(text[:MAX_TAG_LENGTH] for text in texts if text))
