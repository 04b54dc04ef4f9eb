"""`identity-mappings report`: report.html, one file to open and take away; no network, the same bytes each time."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..errors import UserError
from ..parameters import load
from ..parameters.claims import GRADIENTS
from ..parameters.reports import Row, Table, Units
from ..records.files import sha256
from . import charts, claims, findings, fingerprint, order, verdict
from .cells import NO_COUNTERPART, NOT_COMPARABLE, QUOTED, name_place
from .claims import Judged, Pair, format_published
from .rendering import render
from .rules import state_rules
from .tables import TITLES, Report, make_report
from .times import Times, tabulate_times
from .walk import Walk, Walks, describe_time

NAME, ORIGIN = "report.html", "report.json"
LARGEST = 2**20  # bytes
VIEWS = {"rebuilt": "Rebuilt", "published": "Published", "difference": "Difference", "spread": "Spread"}
# The look of a verdict; the word itself stands beside each number.
TONES = {
    verdict.AGREES: "good", claims.HOLDS: "good", verdict.DIFFERS: "bad", claims.CONTRADICTED: "bad",
    verdict.UNDECIDED: "open", verdict.CUT_OFF: "open", claims.OPEN: "open", NOT_COMPARABLE: "apart",
    verdict.NOT_JUDGED: "apart",
}  # fmt: skip


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


@dataclass(frozen=True)
class PageCell:
    """A cell of a table on the page."""

    id: str
    walk: Walk
    words: dict[str, str]  # its texts by view

    @property
    def tone(self) -> str:
        return TONES.get(self.walk.cell.verdict, "none")

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
    def parameters(self) -> dict[str, str]:
        """The names under which the page holds dataset, network and recipe, each once."""
        return {name: f"{name}-{sha256(text.encode())[:12]}" for name, text in self.walk.parameters.items()}


class Page:
    """What the template shows of a scale."""

    views = VIEWS
    left_text = staticmethod(findings.describe_left)
    hours = staticmethod(describe_time)
    small_curve = staticmethod(charts.draw_small_curve)
    published_text = staticmethod(format_published)

    def __init__(self, made: Report):
        self.made, self.project, self.scale = made, made.records.project, made.records.scale
        self.settings = made.records.settings
        walks, ids = Walks(made.records), Counter()
        self.cells: dict[tuple[int, str, str], PageCell] = {}
        for cell in made.cells:
            name = slug(f"{cell.table.paper} {cell.table.table} {cell.row.name} {cell.column}")
            ids[name] += 1
            name += f"-{ids[name]}" if ids[name] > 1 else ""
            walk = walks.walk(cell)
            self.cells[id(cell.table), cell.row.name, cell.column] = PageCell(name, walk, walk.texts)

    @cached_property
    def runs(self) -> list[order.PlannedRun]:
        return list(order.plan_runs(self.made.records))

    @property
    def times(self) -> list[Times]:
        return tabulate_times(self.made.records, self.runs)

    @property
    def papers(self) -> list[tuple[str, str, list[Table]]]:
        """A short name of each paper, its title, and its tables."""
        tables: dict[str, list[Table]] = {}
        for table in self.project.tables.values():
            tables.setdefault(table.paper, []).append(table)
        return [
            (
                f"Tables of {paper}" if paper in TITLES else "More tables",
                TITLES.get(paper, "Beyond the papers' tables"),
                found,
            )
            for paper, found in tables.items()
        ]

    def parts(self, table: Table, row: Row, text: str) -> Iterator[str | PageCell]:
        """What stands in a place of a table: words and cells."""
        for index, part in enumerate(re.split(r"\{([^}]*)\}", text)):
            if index % 2:
                yield self.cells[id(table), row.name, part]
            elif part:
                yield part

    @staticmethod
    def anchor(table: Table) -> str:
        return slug(f"table {table.paper} {table.table}")

    def counts(self, table: Table) -> str:
        """How much of a table is measured."""
        cells = [cell for cell in self.made.cells if cell.table is table and cell.is_to_be_rebuilt]
        return f"{sum(cell.measured is not None for cell in cells)} of {len(cells)} cells" if cells else ""

    @property
    def rebuilt_errors(self) -> list[PageCell]:
        """Each rebuilt error once, at its first place."""
        seen: dict[Any, PageCell] = {}
        for cell in self.cells.values():
            filled = cell.walk.cell
            if filled.has_error:
                seen.setdefault((filled.experiment.digest, filled.cell.metric, filled.cell.tested_by), cell)
        return list(seen.values())

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Numbers for the head of the page, each with what it counts."""
        fillable = [cell for cell in self.made.cells if cell.is_to_be_rebuilt]
        verdicts = Counter(cell.verdict for cell in fillable if cell.measured is not None)
        words = {verdict.AGREES: "agree", verdict.UNDECIDED: verdict.UNDECIDED, verdict.CUT_OFF: verdict.CUT_OFF}
        words |= {verdict.DIFFERS: "differ", NOT_COMPARABLE: NOT_COMPARABLE}
        return [
            (f"{sum(planned.done for planned in self.runs)} of {len(self.runs)}", "runs finished"),
            (f"{verdicts.total()} of {len(fillable)}", "cells measured"),
            *((str(verdicts[found]), word) for found, word in words.items() if verdicts[found]),
        ]

    @property
    def runs_by_key(self) -> dict[str, Walk]:
        """One walk for each description of runs."""
        return {cell.runs_key: cell.walk for cell in self.cells.values() if cell.runs_key}

    @property
    def parameters_by_key(self) -> dict[str, str]:
        cells = self.cells.values()
        return {key: cell.walk.parameters[name] for cell in cells for name, key in cell.parameters.items()}

    @property
    def figures(self) -> Iterator[dict[str, Any]]:
        for name, figure in self.project.figures.items():
            path = self.made.records.results / "figures" / f"{name}.csv"
            try:
                content = path.read_bytes()
            except OSError as error:
                cure = f"make the figures first: identity-mappings figures --scale {self.scale}"
                raise UserError(f"{path}: {error.strerror}: {cure}") from None
            drawn = isinstance(figure, Units)
            yield {
                "id": f"figure-{slug(name)}",
                "figure": figure,
                "place": name_place(figure.paper, figure.figure),
                "panels": [] if drawn else charts.draw_panels(figure, content, self.settings.published),
                "units": charts.draw_units(content) if drawn else [],
                "data": f"figures/{name}.csv",
            }

    @staticmethod
    def tone(verdict: str) -> str:
        return TONES.get(verdict, "none")

    def draw_pairs(self, judged: Judged) -> list[tuple[Pair, Markup]]:
        """The comparisons of a claim, each with its picture; all have the same axis."""
        gradient, reporting = judged.claim.metric in GRADIENTS, self.project.reporting
        pairs = [pair for pair in judged.pairs if pair.verdict != NO_COUNTERPART]
        sizes = [charts.find_difference(pair, gradient) for pair in pairs]
        sizes += [charts.find_published_difference(pair) for pair in pairs if self.settings.published]
        sizes += [reporting.differs_beyond * pair.error for pair in pairs if pair.error]
        span = max((abs(size) for size in sizes if size is not None), default=1) * 1.15 or 1
        limits = reporting.differs_beyond, gradient, reporting.gradient_factor
        return [(pair, charts.draw_interval(pair, span, *limits, self.settings.published)) for pair in pairs]

    @property
    def rules(self) -> list[str]:
        return list(state_rules(self.project, self.scale).values())


def render_report(made: Report) -> bytes:
    """report.html of a scale.

    Raises:
        UserError: the figures were not made, or the page is larger than what opens at once on a phone.
    """
    page = Page(made)
    text = render(f"{NAME}.jinja", page=page, scale=page.scale, settings=page.settings)
    content = re.sub(r"\n\s*\n+", "\n", text).encode()
    if len(content) >= LARGEST:
        size = f"has {len(content):,} bytes, above 1 MiB"
        raise UserError(f"{NAME} of scale {page.scale} {size}: show fewer runs or figures")
    return content


def write(scale: str, root: Path = Path()) -> None:
    """Make report.html of a scale, and report.json, which says from what."""
    project = load(root)
    content = render_report(make_report(project, scale))
    folder = root / project.scale(scale).results
    facts = {"scale": scale, "fingerprint": fingerprint.fingerprint(project, scale, Path(ORIGIN).stem)}
    fingerprint.write(folder, {NAME: content}, ORIGIN, facts)
    print(f"{folder / NAME}: {len(content):,} bytes; open it in a browser")
