"""The parts of a page, in the order in which they are read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from experiments.report.plotly_figure import Figure
from experiments.report.table import DataTable


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    kind: ClassVar[str] = "paragraph"
    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    kind: ClassVar[str] = "command"
    text: str
    caption: str


@dataclass(frozen=True)
class TablePart:
    """A table.

    Attributes:
        filterable: with a field to filter its rows.
    """

    kind: ClassVar[str] = "table"
    table: DataTable
    filterable: bool = False


@dataclass(frozen=True)
class FigurePart:
    """A figure, with its table folded beneath."""

    kind: ClassVar[str] = "figure"
    figure: Figure


@dataclass(frozen=True)
class Picture:
    """An image file.

    Attributes:
        data: a `data:` URL.
        alt: what it shows.
    """

    data: str
    alt: str


@dataclass(frozen=True)
class Pictures:
    """Image files side by side."""

    kind: ClassVar[str] = "pictures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class LogText:
    """Lines of a log, folded."""

    kind: ClassVar[str] = "log"
    title: str
    text: str


Part = Paragraph | Command | TablePart | FigurePart | Pictures | LogText


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it.

    Attributes:
        id: different from all others of a page, and from those of tables and figures.
    """

    id: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """All of a report.

    Attributes:
        name: of the sweep.
        question: that it asks; may be empty.
        sentence: the answer.
        facts: label and text of what is to be seen first.
        answer: parts of the first screen, below the sentence.
    """

    name: str
    question: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    answer: tuple[Part, ...]
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """All of them, in order."""
        parts = [*self.answer, *(part for section in self.sections for part in section.parts)]
        return [part.figure for part in parts if isinstance(part, FigurePart)]
