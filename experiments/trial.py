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
from typing import Any

from wsol.config import ExperimentConfig


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
class TrialPlan:
    """A trial as the spec asks for it, whether or not it ever ran.

    Attributes:
        config: fully resolved.
        swept: the swept keys with this trial's values, in the spec's order; the seed is not among them.
        signature: 64 hex digits, see `signature`.
        places: where in the spec file each swept value stands, for messages.
    """

    config: ExperimentConfig
    swept: Mapping[str, Any]
    signature: str
    places: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def value(self, key: str) -> Any:
        """The resolved value of a dotted config key, whether this trial's block sweeps it or not."""
        value: Any = self.config
        for name in key.split("."):
            value = getattr(value, name)
        return value


def signature(config: ExperimentConfig) -> str:
    """Identity of a trial: a hash of the whole resolved config less what cannot change a result.

    Defaults are hashed too, so a changed default gives new signatures and old results never mix
    with new ones. Values are hashed after validation, so `1e-3`, `0.001` and `1.0e-3` are one trial.
    """
    text = json.dumps(config.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
