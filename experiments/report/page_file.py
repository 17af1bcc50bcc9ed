"""A page as one file of HTML: everything it needs inside, and nothing that it was not given as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from experiments.report.plotly_figure import Figure
from experiments.report.section import Page

_ASSETS = files("experiments.report") / "page_assets"


def page_html(page: Page) -> str:
    """The page. Same page, same text.

    Text from specs, data sets, logs and exceptions is only ever text: Jinja escapes it, what does not print is
    spelled out, and figures are JSON in which no tag can end. A Content-Security-Policy forbids the page any request.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_asset("page.html.j2"))
    return template.render(
        page=page,
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=_plotly() if page.figures else "",
        figures=_figures_json(page.figures),
    )


def _visible(value: Any) -> Any:
    """Control characters spelled out. Writing directions of the text itself stay: they are letters to their readers."""
    if type(value) is not str:
        return value
    return value if value.isprintable() else "".join(map(_visible_character, value))


_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn what follows them, and so could disguise it."""


def _visible_character(char: str) -> str:
    if char in "\n\t" or (char.isprintable() and char not in _OVERRIDES):
        return char
    if char in "\u200e\u200f":  # marks of a direction turn nothing else
        return char
    return f"\\u{ord(char):04x}" if ord(char) > 0xFF else f"\\x{ord(char):02x}"


def _figures_json(figures: Sequence[Figure]) -> str:
    """For a script element: `<` is spelled out, so that no text can end it."""
    values = {figure.id: {"data": figure.data, "layout": figure.layout} for figure in figures}
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plotly() -> str:
    """plotly.js, of which no part may end the script element that it is in."""
    import plotly

    text = (files(plotly) / "package_data" / "plotly.min.js").read_text("utf-8")
    return text.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")
