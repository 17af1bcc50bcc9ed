"""A figure for plotly.js with the table that says the same. Figures are plain dictionaries: nothing is drawn here."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from experiments.errors import printable
from experiments.report.table import DataTable

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Told apart whatever one's colour vision. Source: Okabe and Ito, Color Universal Design (2008)."""
PAGE_SCALE = "page"
"""Stands for a scale from faint to strong, which page.js makes of the page's colours."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "cross", "x", "triangle-up")


@dataclass(frozen=True)
class Figure:
    """What plotly.js draws.

    Attributes:
        id: different from all others of a page; letters, digits and dashes.
        title: above it.
        alt: in one sentence what there is to see, for those who do not see it.
        data: traces.
        layout: without colours of text and background, which the page sets for light and dark.
        table: the same, in figures.
        note: below it.
    """

    id: str
    title: str
    alt: str
    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    table: DataTable
    note: str = ""


def label(text: str, *, most: int = 60) -> str:
    """Text of any origin for a label: plotly.js takes `<b>` and the like in labels for markup."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return html.escape(printable(short).replace("\n", " "), quote=False)


def axis(title: str, **options: Any) -> dict[str, Any]:
    """An axis with a title that does not lie on the ticks."""
    return {"title": {"text": label(title)}, "automargin": True, **options}
