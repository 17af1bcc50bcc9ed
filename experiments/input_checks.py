"""Whether the files that a spec names are there, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.spec import SweepSpec
from experiments.trial import TrialPlan
from wsol.config import DIGITS_ROOT
from wsol.data.digits import SPLITS
from wsol.data.images import DataError
from wsol.data.voc import check_layout


def check_inputs(spec: SweepSpec) -> None:
    """Checks data folders, split files, weights files and proposal files, each once.

    Raises:
        SpecError: at the line of the key that names what is missing.
    """
    _each(spec, lambda plan: (plan.config.data.root, plan.config.data.train, plan.config.data.eval), "data.root", _data)
    _each(spec, lambda plan: plan.config.model.weights, "model.weights", _weights)
    _each(spec, lambda plan: plan.config.proposals.file, "proposals.file", _proposals)


def _each(spec: SweepSpec, what: Callable[[TrialPlan], Any], key: str, check: Callable[[Any], None]) -> None:
    """Runs `check` on every distinct value; a DataError becomes a SpecError at the line that gave the value."""
    for value, plan in {what(plan): plan for plan in reversed(spec.plans)}.items():
        try:
            check(value)
        except DataError as error:
            raise spec.error(f"{key}: {error}", key=key, plan=plan) from None


def _data(value: tuple[str, str, str]) -> None:
    root, train, evaluation = value
    if root != DIGITS_ROOT:
        check_layout(Path(root), splits=[train, evaluation])
        return
    for split in (train, evaluation):
        if split not in SPLITS:
            raise DataError(f"got split {split!r} of the digits data set; expected one of {', '.join(SPLITS)}")


def _weights(weights: str) -> None:
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise DataError(f"no such file: {weights}")


def _proposals(file: str | None) -> None:
    if file is not None and not Path(file).is_file():
        raise DataError(f"no such file: {file}")
