"""Tables as a page shows them: text with what it is sorted and shaded by. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.view import duration_text, value_text


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as it is shown; of any origin, escaped where it is written.
        sort: what the column is sorted by; None: the text, and after all numbers.
        shade: 0 to 1, how strongly the cell is coloured; None: not at all.
        is_best: of its column or row; marked by more than a colour.
        title: shown when the pointer rests on it.
    """

    text: str
    sort: float | None = None
    shade: float | None = None
    is_best: bool = False
    title: str = ""


@dataclass(frozen=True)
class DataTable:
    """A table with the same number of cells in each row.

    Attributes:
        id: different from all others of a page; letters, digits and dashes.
        caption: what it shows.
        numeric: positions of columns that are aligned to the right.
        note: below it.
    """

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = field(default_factory=frozenset)
    note: str = ""


MAX_TITLE = 1000


def text_cell(text: str, *, most: int = 60) -> Cell:
    """Text of any length on one line; what does not fit is shown when the pointer rests on it."""
    line = " ".join(text.split())
    return Cell(line) if len(line) <= most else Cell(line[: most - 1] + "…", title=line[:MAX_TITLE])


def figure_cell(value: float | None, *, digits: int = 4) -> Cell:
    """A metric; a dash where it is undefined."""
    return Cell("–") if value is None else Cell(f"{value:.{digits}f}", sort=value)


def value_cell(value: object) -> Cell:
    """A value of a config key."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number:
        return Cell(value_text(value), sort=float(value))  # type: ignore[arg-type]
    return text_cell(value_text(value))


def number_cell(value: int) -> Cell:
    """A count, or a trial's number."""
    return Cell(str(value), sort=value)


def duration_cell(seconds: float) -> Cell:
    """A time."""
    return Cell(duration_text(seconds), sort=round(seconds, 3))


def shades(values: Sequence[float | None]) -> list[float | None]:
    """Each value between the least, 0, and the greatest, 1; all 0 where they are equal."""
    known = [value for value in values if value is not None]
    if not known:
        return [None] * len(values)
    low, high = min(known), max(known)
    width = high - low
    return [None if value is None else (value - low) / width if width else 0.0 for value in values]
