"""Damaged specs: whatever is done to a file, a SpecError is all that comes of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import SpecError
from experiments.input_checks import check_inputs
from experiments.spec import SweepSpec, load_spec

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = [*sorted((REPOSITORY / "sweeps").glob("*.yaml")), *sorted((REPOSITORY / "tests" / "golden").glob("*.yaml"))]
"""What is shipped, and the golden specs: between them they have every kind of block, rule and section."""

NASTY = [
    "\t",
    "\0",
    "\xa0",
    "é",
    "\u2028",
    "&a",
    "*a",
    "!x",
    "|",
    ">",
    "'",
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "#",
    "-",
]
NASTY += [
    "~",
    "null",
    ".nan",
    "1e999",
    "-1",
    "0",
    "9" * 30,
    "true",
    "? ",
    "<<",
    "%",
    "@",
    "\\",
    "\n",
    " ",
    "digits",
    "/",
]
NASTY += ["when: {}", "{min: 1}", "int: [1, 2]", "step: 0", "choice: []", "range: [1, 9e9, 1]", "trials: 3", "seed: 1"]
NASTY += ["extends: quickstart.yaml", "${A:-1}", "${", "model.pooling", "[1, [2]]", "sampler: gp", "only: [{}]"]
SETTINGS = [
    "train.epochs=3",
    "seeds=2",
    "search[0].trials=2",
    "search[1]=x",
    "final=null",
    "a=",
    "=b",
    "x.y=[",
    "seeds[0]=7",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A spec with some lines dropped, doubled or moved and some characters replaced."""
    lines = draw(st.sampled_from(SEEDS)).read_text("utf-8").splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["drop", "double", "move", "insert", "replace", "cut"]))
        if kind == "drop":
            lines[at] = ""
        elif kind == "double":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif kind == "move":
            lines.append(lines.pop(at))
        elif kind == "cut":
            del lines[at + 1 :]
        else:
            line = lines[at]
            start = draw(st.integers(0, len(line)))
            stop = start if kind == "insert" else draw(st.integers(start, len(line)))
            lines[at] = line[:start] + draw(st.sampled_from(NASTY) | st.text(max_size=3)) + line[stop:]
    content = "".join(lines).encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, len(content)))
    return content[:at] + draw(st.sampled_from([b"", b"", b"", b"\xff", b"\r", b"\x00"])) + content[at:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has what specs extend."""
    made = tmp_path_factory.mktemp("specs")
    for seed in SEEDS:
        shutil.copy(seed, made)
    return made


@settings(max_examples=300, deadline=None)
@given(mutated(), st.lists(st.sampled_from(SETTINGS), max_size=2))
def test_a_damaged_spec_is_a_spec_or_a_spec_error(folder: Path, content: bytes, given_settings: list[str]) -> None:
    file = folder / "fuzzed.yaml"
    file.write_bytes(content)
    where = str(file)
    try:
        spec = load_spec(file, given_settings)
        assert isinstance(spec, SweepSpec)
        assert spec.corners
        check_inputs(spec)
    except SpecError as error:
        where = error.where
    assert re.fullmatch(rf"{folder}/[\w.]+\.yaml(:\d+)?|--set .*", where, re.DOTALL)
