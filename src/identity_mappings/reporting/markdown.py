"""Tables of the Markdown pages."""

import tabulate

Rows = list[list[str]]


def padded(tables: list[Rows]) -> list[Rows]:
    """The same table in several versions, each column padded to the widest text of all versions."""
    widths = [max(len(row[column]) for rows in tables for row in rows) for column in range(len(tables[0][0]))]
    return [[[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows] for rows in tables]


def laid_out(rows: Rows) -> str:
    """A table whose texts are padded already; its headers come first."""
    before, tabulate.PRESERVE_WHITESPACE = tabulate.PRESERVE_WHITESPACE, True
    try:
        return tabulate.tabulate(rows[1:], rows[0], tablefmt="github", disable_numparse=True)
    finally:
        tabulate.PRESERVE_WHITESPACE = before


def grid(headers: list[str], rows: Rows) -> str:
    """A table."""
    return laid_out(padded([[headers, *rows]])[0])
