"""`identity-mappings explain`: the way back from a cell, on the terminal; and `identity-mappings diff`."""

import math
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..errors import UserError
from ..parameters import Project, load
from ..parameters.reading import nearest
from . import reproductions, verdict
from .cells import FilledCell, fill_cells
from .store import Records
from .trace import Trace, TracedRun, Tracer

COLOURS = {verdict.AGREES: "green", verdict.DIFFERS: "red", verdict.UNDECIDED: "yellow", verdict.TRUNCATED: "yellow"}
BARS = "▁▂▃▄▅▆▇█"
MOST_CELLS = 6  # more cells than these are listed only


def find_cells(cells: list[FilledCell], table: str, row: str | None, column: str | None) -> list[FilledCell]:
    """The cells that words name: exactly, or else by a part of the name.

    Raises:
        UserError: there is none; says the nearest names.
    """
    for what, words, get_names in (
        ("table", table, lambda cell: (f"{cell.table.paper}, {cell.table.table}", cell.table.table)),
        ("row", row, lambda cell: (cell.row.name, *cell.row.texts)),
        ("column", column, lambda cell: (cell.column,)),
    ):
        if words is None:
            continue
        exact = [cell for cell in cells if words.casefold() in [name.casefold() for name in get_names(cell)]]
        found = exact or [
            cell for cell in cells if any(words.casefold() in name.casefold() for name in get_names(cell))
        ]
        if not found:
            names = list(dict.fromkeys(get_names(cell)[0] for cell in cells))
            raise UserError(f"explain: no {what} {words!r}: {nearest(words, names)}")
        cells = found
    return cells


def draw_bars(run: TracedRun, width: int = 48) -> str:
    """The test error over the iterations as a line of bars, on a logarithmic scale from its lowest to its highest."""
    tests = [math.log(max(test, 0.01)) for _, _, test in run.curve if test is not None]
    chosen = [tests[index * len(tests) // width] for index in range(width)] if len(tests) > width else tests
    low, span = min(chosen, default=0), (max(chosen, default=0) - min(chosen, default=0)) or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in chosen)


def print_traces(scale: str, table: str, row: str | None, column: str | None, root: Path = Path()) -> int:
    """Print the way back from each cell that the words name, and what else is known of it; of many only a list."""
    project = load(root)
    records = Records(project, scale)
    cells = find_cells(list(fill_cells(records)), table, row, column)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=140, highlight=False, no_color=True)
    if len(cells) > 1:
        console.print(f"{len(cells)} cells:")
        for cell in cells:
            text = f"  {cell.place}: {cell.text}, published {cell.published_text}"
            console.print(text, markup=False, soft_wrap=True)
    if len(cells) > MOST_CELLS:
        console.print("Name a row, and a column where there are several, to trace one cell.")
        return 0
    tracer = Tracer(records)
    others = [name for name in project.reporting.list_beside(scale) if name != scale]
    beside = {name: {cell.place: cell for cell in fill_cells(Records(project, name))} for name in others}
    for cell in cells:
        console.print()
        _print(console, tracer.trace(cell))
        for name, same in beside.items():
            _say(console, {f"scale {name}": f"{same[cell.place].text}{_count_runs(same[cell.place])}"})
        _print_others(console, project, cell)
    for reason in records.bad:
        console.print(f"invalid record: {reason}", style="red", markup=False)
    return 0


def _say(console: Console, texts: dict[str, str], indent: int = 2) -> None:
    for name, text in texts.items():
        if text:
            console.print(f"{'':{indent}}{name + ':':{24 - indent}} {text}", markup=False, soft_wrap=True)


def _count_runs(cell: FilledCell) -> str:
    return f" (n = {len(cell.records)})" if cell.records else ""


def _print(console: Console, trace: Trace) -> None:
    say, texts = partial(_say, console), trace.texts
    console.print(trace.cell.place, style="bold", markup=False)
    say({name: texts[name] for name in ("published", "rebuilt", "difference")} | {"mean ± deviation": texts["spread"]})
    console.print(f"  {'verdict:':22} [{COLOURS.get(trace.cell.verdict, 'dim')}]{trace.cell.verdict}[/]")
    say({"why": trace.reason, **trace.facts})
    say(trace.shared)
    for run in trace.runs:
        error = "diverged" if run.error is None else f"{run.error:.2f} %"
        console.print(f"  seed {run.seed}: {error}", style="bold", markup=False)
        say({"test error": draw_bars(run), **run.facts, **run.commands}, 4)
    if trace.missing:
        console.print(f"  {trace.missing.runs} run(s) to go", style="bold")
        say({"time to go": trace.missing.time}, 4)
        for command in trace.missing.commands:
            say({"train": command}, 4)
    say({name: ", ".join(text.splitlines()) for name, text in trace.parameters.items()})


def _print_others(console: Console, project: Project, cell: FilledCell) -> None:
    """What others report of a cell: their medians, and each number with its source."""
    found = reproductions.find_numbers(project, cell.cell)
    if not found:
        return
    console.print(f"  others: {reproductions.count_independent(found)} source(s)", style="bold")
    for key, summary in reproductions.summarize(found).items():
        _say(console, {reproductions.name_statistic(*key) or "last epoch": summary.text}, 4)
    for one in found:
        source = reproductions.describe_report(project, one.report)
        words = [*source.values(), *reproductions.list_remarks(one)]
        counts = "" if one.number.counts else "not counted: "
        _say(console, {reproductions.format_number(one.number): counts + "; ".join(words)}, 4)


def show_differences(scale: str, root: Path = Path()) -> int:
    """Print published and rebuilt values; 1 if any cell contradicts the paper, else 0."""
    records = Records(load(root), scale)
    cells = list(fill_cells(records))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for table in records.project.tables.values():
        shown = Table(title=f"{table.paper}, {table.table}", title_justify="left", show_edge=False)
        for name in ("row", "column"):
            shown.add_column(name)
        for name in ("published", "rebuilt", "n", "verdict"):
            shown.add_column(name, justify="right", no_wrap=True)
        for cell in (cell for cell in cells if cell.table is table and cell.is_to_be_rebuilt):
            runs, judged = str(len(cell.records) or ""), f"[{COLOURS.get(cell.verdict, 'dim')}]{cell.verdict}[/]"
            shown.add_row(cell.row.name, cell.column, cell.published_text, cell.text, runs, judged)
        if shown.rows:
            console.print(shown, "")
    for reason in records.bad:
        console.print(f"invalid record: {reason}", style="red", markup=False)
    counts = {word: sum(cell.verdict == word for cell in cells) for word in COLOURS}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()), highlight=False)
    if not records.settings.published:
        console.print(f"Scale {scale}: {records.settings.description}", markup=False, highlight=False)
    return int(counts[verdict.DIFFERS] > 0)
