"""Specs from text, for the tests of everything that takes a spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import SpecError
from experiments.spec import SweepSpec, load_spec

EXPERIMENT = """\
experiment:
  task: wsddn
  data: {root: digits}
  model: {backbone: tiny, weights: none}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a spec. `{EXPERIMENT}` in the text stands for a valid experiment of four lines."""

    def write(text: str) -> Path:
        file = tmp_path / "sweep.yaml"
        file.write_text(text.replace("{EXPERIMENT}\n", EXPERIMENT), "utf-8")
        return file

    return write


@pytest.fixture
def load(spec_file: Callable[[str], Path]) -> Callable[[str], SweepSpec]:
    """Text -> spec."""
    return lambda text: load_spec(spec_file(text))


@pytest.fixture
def fault(spec_file: Callable[[str], Path]) -> Callable[[str], str]:
    """Text of a spec that is refused -> the message, less the folder."""

    def refused(text: str) -> str:
        file = spec_file(text)
        with pytest.raises(SpecError, match="sweep.yaml") as error:
            load_spec(file)
        return str(error.value).replace(f"{file.parent}/", "")

    return refused
