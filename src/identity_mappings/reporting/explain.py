"""`identity-mappings explain`: the way back from a cell, on the terminal."""

import math
import sys
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..parameters import load
from ..parameters.load import nearest
from .cells import Filled, Records, fill
from .diff import COLOURS
from .walk import Run, Walk, Walks, difference_text, place_of, spread_text

BARS = "▁▂▃▄▅▆▇█"
WALKED = 6  # more cells than these are listed only


def find(cells: list[Filled], table: str, row: str | None, column: str | None) -> list[Filled]:
    """The cells that words name: exactly, or else by a part of the name.

    Raises:
        UserError: there is none; says the nearest names.
    """
    for words, names_of in (
        (table, lambda cell: (cell.table.table, f"{cell.table.paper}, {cell.table.table}")),
        (row, lambda cell: (cell.row.name, *cell.row.texts)),
        (column, lambda cell: (cell.column,)),
    ):
        if words is None:
            continue
        found = _named(cells, words, names_of)
        if not found:
            names = list(dict.fromkeys(names_of(cell)[-1 if words is table else 0] for cell in cells))
            what = "table" if words is table else "row" if words is row else "column"
            raise UserError(f"explain: no {what} {words!r}: {nearest(words, names)}")
        cells = found
    return cells


def _named(cells: list[Filled], words: str, names_of) -> list[Filled]:
    words = words.casefold()
    exact = [cell for cell in cells if words in [name.casefold() for name in names_of(cell)]]
    return exact or [cell for cell in cells if any(words in name.casefold() for name in names_of(cell))]


def sparkline(run: Run, width: int = 48) -> str:
    """The test error over the iterations as a line of bars, on a logarithmic scale from its lowest to its highest."""
    tests = [math.log(max(test, 0.01)) for _, _, test in run.curve if test is not None]
    chosen = [tests[index * len(tests) // width] for index in range(width)] if len(tests) > width else tests
    low, span = min(chosen, default=0), (max(chosen, default=0) - min(chosen, default=0)) or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in chosen)


def show(scale: str, table: str, row: str | None, column: str | None, root: Path = Path()) -> int:
    """Print the way back from each cell that the words name; of many only their list."""
    project = load(root)
    records = Records(project, scale)
    cells = find(list(fill(project, scale, records)), table, row, column)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=140, highlight=False, no_color=True)
    if len(cells) > 1:
        console.print(f"{len(cells)} cells:")
        for cell in cells:
            value = f"{cell.text}, published {cell.published_text}"
            console.print(f"  {place_of(cell)}: {value}", markup=False, soft_wrap=True)
    if len(cells) > WALKED:
        console.print("Name the row, and the column where there are several, for the way back from one.")
        return 0
    walks = Walks(project, scale, records)
    for cell in cells:
        console.print()
        _print(console, walks.walk(cell))
    for reason in records.bad:
        console.print(f"not believed: {reason}", style="red", markup=False)
    return 0


def _print(console: Console, walk: Walk) -> None:
    cell = walk.cell

    def say(name: str, value: str, indent: int = 2) -> None:
        console.print(f"{'':{indent}}{name + ':':{24 - indent}} {value}", markup=False, soft_wrap=True)

    console.print(walk.place, style="bold", markup=False)
    say("published", cell.published_text)
    say("rebuilt", cell.text)
    if difference_text(cell):
        say("difference", difference_text(cell))
    if spread_text(cell):
        say("mean ± deviation", spread_text(cell))
    console.print(f"  {'verdict:':22} [{COLOURS.get(cell.verdict, 'dim')}]{cell.verdict}[/]")
    say("why", walk.reason)
    for name, value in walk.facts.items():
        say(name, value)
    for name, value in walk.shared.items():
        say(name, value)
    for run in walk.runs:
        error = "diverged" if run.error is None else f"{run.error:.2f} %"
        console.print(f"  seed {run.seed}: {error}", style="bold", markup=False)
        if bars := sparkline(run):
            say("test error", bars, 4)
        for name, value in {**run.facts, **run.commands}.items():
            say(name, value, 4)
    if walk.missing:
        console.print(f"  {walk.missing.runs} run(s) to go", style="bold")
        say("cost", walk.missing.cost, 4)
        for command in walk.missing.commands:
            say("train", command, 4)
    for name, text in (walk.parameters or {}).items():
        say(name, ", ".join(text.splitlines()))
