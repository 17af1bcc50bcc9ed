"""A spec as its sweep in the results folder has it: with the generation that `--code new` began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.spec import SweepSpec, load_spec
from experiments.store import SweepStore
from experiments.stored_code import stored_generation


def load_spec_of_sweep(file: Path, settings: Sequence[str], results: Path) -> SweepSpec:
    """Reads a spec for a look at its sweep.

    Args:
        results: folder of all sweeps.

    Raises:
        SpecError: for every fault of the file and of the settings.
        UserError: where it cannot be told which trials are the sweep's, see `read_stored_code`.
    """
    spec = load_spec(file, settings)
    code = stored_generation(SweepStore(results / spec.name))
    return load_spec(file, settings, code=code) if code else spec
