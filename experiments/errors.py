"""Faults of the user's input. The command line prints them as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_YAML_CONSTANTS = {"None": "null", "True": "true", "False": "false"}


class UserError(Exception):
    """Something the user can mend: exit status 2, nothing was started."""


class SpecError(UserError):
    """A sweep spec says something that cannot be run. `where` is FILE:LINE, or the option that says it."""

    def __init__(self, message: str, *, file: Path | str, line: int | None = None) -> None:
        self.where = f"{file}:{line}" if line is not None else str(file)
        super().__init__(f"{self.where}: {message}")


def printable(text: str) -> str:
    """Text of any origin for a terminal: what would move the cursor or change colours is spelled out."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def shown(value: object) -> str:
    """A value as an error shows it: short, on one line, with control characters escaped; YAML's names of constants."""
    text = _YAML_CONSTANTS.get(repr(value)) or repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """`; did you mean X?` with the nearest allowed name, or nothing where none is near."""
    near = difflib.get_close_matches(str(given), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
