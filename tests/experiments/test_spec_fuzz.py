"""Damaged specs: whatever is done to a file, a SpecError is all that comes of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import SpecError
from experiments.input_checks import check_inputs
from experiments.spec import SweepSpec, load_spec

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "sweeps").glob("*.yaml"))

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


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A shipped spec with some lines dropped, doubled or moved and some characters replaced."""
    lines = draw(st.sampled_from(SHIPPED)).read_text("utf-8").splitlines(keepends=True)
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


@settings(max_examples=120, deadline=None)
@given(mutated())
def test_a_damaged_spec_is_a_spec_or_a_spec_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(content)
    where = str(file)
    try:
        spec = load_spec(file)
        assert isinstance(spec, SweepSpec)
        assert spec.plans
        check_inputs(spec)
    except SpecError as error:
        where = error.where
    assert re.fullmatch(rf"{file}(:\d+)?", where)
