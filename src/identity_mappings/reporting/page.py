"""`identity-mappings report`: report.html, one file to open and take away; no network, the same bytes each time."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..durations import format_duration
from ..errors import UserError
from ..parameters import load
from ..parameters.claims import GRADIENTS
from ..parameters.reports import Row, Table
from ..records.files import sha256, write_atomically
from . import claims, findings, pictures, verdict
from .cells import NO_COUNTERPART, NOT_COMPARABLE, QUOTED, Records, name_place
from .claims import Judged, Pair, format_published
from .rendering import render
from .run_states import RunState, list_runs
from .tables import TITLES, Report, make_report
from .walk import Walk, Walks

NAME = "report.html"
LARGEST = 2**21  # bytes
VIEWS = {"rebuilt": "Rebuilt", "published": "Published", "difference": "Difference", "spread": "Spread"}
# The look of a verdict; the word itself stands beside each number.
TONES = {
    verdict.AGREES: "good", claims.HOLDS: "good", verdict.DIFFERS: "bad", claims.CONTRADICTED: "bad",
    verdict.UNDECIDED: "open", verdict.CUT_OFF: "open", claims.OPEN: "open", NOT_COMPARABLE: "apart",
    verdict.NOT_JUDGED: "apart",
}  # fmt: skip


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


def find_tone(verdict: str) -> str:
    return TONES.get(verdict, "none")


@dataclass(frozen=True)
class PageCell:
    """A cell of a table on the page."""

    id: str
    walk: Walk

    @property
    def tone(self) -> str:
        return find_tone(self.walk.cell.verdict)

    @property
    def word(self) -> str:
        """The verdict, unless the cell says it already."""
        return "" if self.walk.cell.verdict in (self.walk.cell.text, QUOTED) else self.walk.cell.verdict

    @property
    def runs_key(self) -> str:
        """Cells that show the same tests of the same runs share their description."""
        cell = self.walk.cell
        if not cell.records:
            return ""
        arithmetic = cell.records[0].metrics["arithmetic"]
        return slug(f"runs {cell.experiment.name} {cell.cell.tested_by} {cell.cell.metric.split('%')[0]} {arithmetic}")

    @property
    def parameters(self) -> dict[str, tuple[str, str]]:
        """Dataset, network and recipe, and the key under which the page holds each once."""
        texts = self.walk.parameters
        return {name: (f"{name}-{sha256(text.encode())[:12]}", text) for name, text in texts.items()}


Cells = dict[tuple[int, str, str], PageCell]  # by the identity of a table, row and column


def _walk_cells(made: Report) -> Cells:
    walks, ids, cells = Walks(made.records), Counter(), {}
    for cell in made.cells:
        name = slug(f"{cell.table.paper} {cell.table.table} {cell.row.name} {cell.column}")
        ids[name] += 1
        name += f"-{ids[name]}" if ids[name] > 1 else ""
        cells[id(cell.table), cell.row.name, cell.column] = PageCell(name, walks.walk(cell))
    return cells


def _split(cells: Cells, table: Table, row: Row, text: str) -> Iterator[str | PageCell]:
    """What stands in a place of a table: words and cells."""
    for index, part in enumerate(re.split(r"\{([^}]*)\}", text)):
        if index % 2:
            yield cells[id(table), row.name, part]
        elif part:
            yield part


def _find_rebuilt_errors(cells: Iterable[PageCell]) -> list[PageCell]:
    """Each rebuilt error once, at its first place."""
    seen: dict[Any, PageCell] = {}
    for cell in cells:
        filled = cell.walk.cell
        if filled.measured is not None and filled.cell.is_error:
            seen.setdefault((filled.experiment.digest, filled.cell.metric, filled.cell.tested_by), cell)
    return list(seen.values())


def _summarize(made: Report, runs: list[RunState]) -> list[tuple[str, str]]:
    """Numbers for the head of the page, each with what it counts."""
    fillable = [cell for cell in made.cells if cell.is_to_be_rebuilt]
    verdicts = Counter(cell.verdict for cell in fillable if cell.measured is not None)
    words = {verdict.AGREES: "agree", verdict.UNDECIDED: verdict.UNDECIDED, verdict.CUT_OFF: verdict.CUT_OFF}
    words |= {verdict.DIFFERS: "differ", NOT_COMPARABLE: NOT_COMPARABLE}
    return [
        (f"{sum(run.is_done for run in runs)} of {len(runs)}", "runs finished"),
        (f"{verdicts.total()} of {len(fillable)}", "cells measured"),
        *((str(verdicts[found]), word) for found, word in words.items() if verdicts[found]),
    ]


def _read_figures(records: Records) -> Iterator[dict[str, Any]]:
    """The figures that `identity-mappings figures` drew."""
    for name, figure in records.project.figures.items():
        path = records.results / "figures" / f"{name}.svg"
        try:
            svg = path.read_text("utf-8")
        except OSError as error:
            cure = f"make the figures first: identity-mappings figures --scale {records.scale}"
            raise UserError(f"{path}: {error.strerror}: {cure}") from None
        id_, place = f"figure-{slug(name)}", name_place(figure.paper, figure.figure)
        picture = pictures.embed_figure(svg, id_, f"{place}: {figure.title}")
        yield {"id": id_, "place": place, "picture": picture, "data": f"figures/{name}.csv"}


def _draw_pairs(records: Records, judged: Judged) -> list[tuple[Pair, Markup]]:
    """The comparisons of a claim, each with its picture; all have the same axis."""
    gradient, published = judged.claim.metric in GRADIENTS, records.settings.published
    pairs = [pair for pair in judged.pairs if pair.verdict != NO_COUNTERPART]
    sizes = [(pictures.find_difference(pair, gradient), pair.error or 0) for pair in pairs]
    sizes += [(pictures.find_published_difference(pair), 0) for pair in pairs if published]
    span = max((abs(size) + error for size, error in sizes if size is not None), default=1) or 1
    return [(pair, pictures.draw_comparison(pair, gradient, span, published)) for pair in pairs]


def render_report(made: Report) -> bytes:
    """report.html of a scale.

    Raises:
        UserError: the figures were not made, or the page is larger than what opens at once on a phone.
    """
    records, runs, cells = made.records, list_runs(made.records), _walk_cells(made)
    text = render(
        f"{NAME}.jinja",
        scale=records.scale,
        settings=records.settings,
        made=made,
        views=VIEWS,
        summary=_summarize(made, runs),
        rebuilt_errors=_find_rebuilt_errors(cells.values()),
        titles=TITLES,
        tables=records.project.tables.values(),
        split=partial(_split, cells),
        figures=_read_figures(records),
        draw_pairs=partial(_draw_pairs, records),
        times=findings.time_runs(records, runs),
        rules=verdict.state_rules(records.project, records.scale).values(),
        cells=cells.values(),
        parameters={key: text for cell in cells.values() for key, text in cell.parameters.values()},
        slug=slug,
        tone=find_tone,
        describe_left=findings.describe_left,
        format_duration=format_duration,
        draw_curve=pictures.draw_curve,
        format_published=format_published,
    )
    content = re.sub(r"\n\s*\n+", "\n", text).encode()
    if len(content) >= LARGEST:
        size = f"has {len(content):,} bytes, above 2 MiB"
        raise UserError(f"{NAME} of scale {records.scale} {size}: show fewer runs or figures")
    return content


def write(scale: str, root: Path = Path()) -> None:
    """Make report.html of a scale."""
    project = load(root)
    content = render_report(make_report(project, scale))
    path = root / project.scale(scale).results / NAME
    write_atomically(path, content)
    print(f"{path}: {len(content):,} bytes; open it in a browser")
