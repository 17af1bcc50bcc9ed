"""What a trial is: its signature, its states and the legal ways between them. Pure.

Terminology: a *trial* is one resolved config evaluated once; an *attempt* is one process of a
trial; *replicates* are trials whose configs differ in the seed alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from experiments.space import Cell
from wsol.config import ExperimentConfig
from wsol.key_reads import unread_keys

Stage = Literal["search", "final"]
"""`final`: the best configuration of the search, trained again and measured on data that the search never saw."""


class TrialState(StrEnum):
    """Optuna's states, by Optuna's names."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"

    @property
    def is_finished(self) -> bool:
        """A finished trial is never run again by itself; `--retry-failed` takes up a FAIL."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Draw:
    """Where a sampled configuration comes from.

    Attributes:
        block: key of the block that drew it, see `SampledBlock.key`.
        number: of the draw in its block, from 0, counting those that led to no trial.
    """

    block: str
    number: int


@dataclass(frozen=True)
class TrialPlan:
    """A trial as the spec asks for it, whether or not it ever ran.

    Attributes:
        config: fully resolved.
        swept: the swept keys that this trial has, with its values, in the spec's order; the seed is not among them.
        signature: 64 hex digits, see `signature`.
        configuration: the same for all replicates, and for them alone: the hash of the config less its seed.
        cell: of the search, for the places of faults.
        stage: which part of the sweep it is of.
        draw: how a sampler came to it; None for a trial of a grid or zip.
    """

    config: ExperimentConfig
    swept: Mapping[str, Any]
    signature: str
    configuration: str
    cell: Cell = field(default_factory=lambda: Cell(values={}), compare=False, repr=False)
    stage: Stage = "search"
    draw: Draw | None = None

    def value(self, key: str) -> Any:
        """The resolved value of a dotted config key, whether this trial's block sweeps it or not."""
        value: Any = self.config
        for name in key.split("."):
            value = getattr(value, name)
        return value

    def reads(self, key: str) -> bool:
        """Whether the trainer reads a dotted config key in this trial."""
        return key not in unread_keys(self.config)


def signature(config: ExperimentConfig) -> str:
    """Identity of a trial: a hash of the whole resolved config less what cannot change a result.

    Defaults are hashed too, so a changed default gives new signatures and old results never mix
    with new ones. Values are hashed after validation, so `1e-3`, `0.001` and `1.0e-3` are one trial.
    """
    return signature_of(identity_texts(config))


def configuration(config: ExperimentConfig) -> str:
    """Identity of a configuration: the same hash less the seed."""
    return signature_of({**identity_texts(config), "seed": ""})


def identity_texts(config: ExperimentConfig) -> dict[str, str]:
    """The identity of a config as JSON, in parts: one for each of its sections and other keys, if it has any."""
    return {
        name: json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        for name, value in config.identity().items()
    }


def signature_of(texts: Mapping[str, str]) -> str:
    """The hash of a config's identity, given in the parts that `identity_texts` makes. An empty part is left out."""
    parts = [f'"{name}":{texts[name]}' for name in sorted(texts) if texts[name]]
    return hashlib.sha256(f"{{{','.join(parts)}}}".encode()).hexdigest()
