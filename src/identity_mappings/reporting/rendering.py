"""Pages from the templates in `templates/`, and the grids in them."""

import re
import textwrap
from functools import cache
from typing import Any

import tabulate
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

Rows = list[list[str]]


def pad_columns(tables: list[Rows]) -> list[Rows]:
    """Versions of one table, each column padded to the widest text of all versions."""
    widths = [max(len(row[column]) for rows in tables for row in rows) for column in range(len(tables[0][0]))]
    return [[[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows] for rows in tables]


def format_padded(rows: Rows) -> str:
    """A Markdown table of padded texts, the headers first."""
    before, tabulate.PRESERVE_WHITESPACE = tabulate.PRESERVE_WHITESPACE, True
    try:
        return tabulate.tabulate(rows[1:], rows[0], tablefmt="github", disable_numparse=True)
    finally:
        tabulate.PRESERVE_WHITESPACE = before


def format_grid(rows: list[dict[str, str]] | Rows) -> str:
    """A Markdown table of {column: text}, or of lists, the headers first; "None." where there are no rows."""
    if not rows:
        return "None."
    if isinstance(rows[0], dict):
        rows = [list(rows[0]), *(list(row.values()) for row in rows)]
    return format_padded(pad_columns([rows])[0])


def wrap(text: str) -> str:
    """A paragraph in lines of 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def emphasize(text: str) -> Markup:
    """*Words* and **words** of Markdown as HTML."""
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text))


def format_hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"


@cache
def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("identity_mappings.reporting"),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"grid": format_grid, "wrap": wrap, "emphasize": emphasize}
    return found


def render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)


def render_macro(template: str, macro: str, *values: Any) -> str:
    """One macro of a template, as text of one line."""
    return " ".join(str(getattr(environment().get_template(template).module, macro)(*values)).split())
