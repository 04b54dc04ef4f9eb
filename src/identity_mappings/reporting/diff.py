"""`identity-mappings diff`: the comparison on the terminal."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..parameters import load
from . import verdict
from .tables import NOT_TO_BE_REBUILT, collect

COLOURS = {verdict.AGREES: "green", verdict.DIFFERS: "red", verdict.UNDECIDED: "yellow", verdict.CUT_OFF: "yellow"}


def show(scale: str, root: Path = Path()) -> int:
    """Print published and rebuilt values; 1 if any cell contradicts the paper, else 0."""
    project = load(root)
    cells, bad = collect(project, scale)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    settings = project.scale(scale)
    for table in project.tables.values():
        shown = Table(title=f"{table.paper}, {table.table}", title_justify="left", show_edge=False)
        for name in ("row", "column"):
            shown.add_column(name)
        for name in ("published", "rebuilt", "n", "verdict"):
            shown.add_column(name, justify="right", no_wrap=True)
        mine = [cell for cell in cells if cell.table is table and cell.verdict not in NOT_TO_BE_REBUILT]
        if not mine:
            continue
        for cell in mine:
            colour = COLOURS.get(cell.verdict, "dim")
            runs = str(len(cell.records) or "")
            judged = f"[{colour}]{cell.verdict}[/]"
            shown.add_row(cell.row.name, cell.column, cell.published_text, cell.text, runs, judged)
        console.print(shown, "")
    for reason in bad:
        console.print(f"not believed: {reason}", style="red", markup=False)
    counts = {word: sum(cell.verdict == word for cell in cells) for word in COLOURS}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()), highlight=False)
    if not settings.published:
        console.print(f"Scale {scale}: {settings.description}", markup=False, highlight=False)
    return int(counts[verdict.DIFFERS] > 0)
