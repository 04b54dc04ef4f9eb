"""`identity-mappings report`: report.html, one file to open and take away; no network, the same bytes each time."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ..errors import UserError
from ..parameters import Project, load
from ..parameters.claims import GRADIENTS
from ..parameters.reports import Row, Table, Units
from ..records.files import sha256
from . import charts, claims, facts, findings, fingerprint, order, times, verdict
from .cells import NO_COUNTERPART, NOT_COMPARABLE, NOT_RUN
from .claims import Judged, Pair
from .tables import NOT_TO_BE_REBUILT, TITLES, Report, report
from .walk import Walk, Walks, difference_text, hours_text, spread_text

NAME, ORIGIN = "report.html", "report.json"
LARGEST = 2**20  # bytes
VIEWS = {"rebuilt": "Rebuilt", "published": "Published", "difference": "Difference", "spread": "Spread"}
# The look of a word; the word itself stands beside each number.
TONES = {
    verdict.AGREES: "good", claims.HOLDS: "good", verdict.DIFFERS: "bad", claims.CONTRADICTED: "bad",
    verdict.UNDECIDED: "open", verdict.CUT_OFF: "open", claims.OPEN: "open", NOT_COMPARABLE: "apart",
    verdict.NOT_JUDGED: "apart",
}  # fmt: skip
MEANINGS = {
    verdict.AGREES: "as close to the paper as the spread of the runs lets us tell",
    verdict.DIFFERS: "further from the paper than the spread of the runs explains",
    verdict.UNDECIDED: "too few runs, or too close to call",
    verdict.CUT_OFF: "the paper's figure is cut off, not rounded",
    NOT_COMPARABLE: "a smaller network on other data: not the paper's experiment",
    verdict.NOT_JUDGED: "chosen by the test set",
    NOT_RUN: "no record: nothing is filled in",
}


@dataclass(frozen=True)
class PageCell:
    """A cell of a table on the page; `words` are its texts by view."""

    id: str
    walk: Walk
    words: dict[str, str]

    @property
    def tone(self) -> str:
        return TONES.get(self.walk.cell.verdict, "none")

    @property
    def word(self) -> str:
        """The verdict, unless the cell says it already."""
        said = self.walk.cell.verdict
        return "" if said == self.walk.cell.text or said == "quoted" else said

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
        """Of dataset, network and recipe, the name under which the page holds them: each once."""
        parts = (self.walk.parameters or {}).items()
        return {name: f"{name}-{sha256(text.encode())[:12]}" for name, text in parts}


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


class Page:
    """What the templates ask.

    Args:
        made: all that is told of the scale's records.
        figures: folder of the figures' data.
    """

    views, meanings = VIEWS, MEANINGS

    def __init__(self, project: Project, scale: str, made: Report, figures: Path):
        self.project, self.scale, self.made, self.folder = project, scale, made, figures
        self.settings = project.scale(scale)
        walks, ids = Walks(project, scale, made.records), Counter()
        self.cells: dict[tuple[int, str, str], PageCell] = {}
        for cell in made.cells:
            name = slug(f"{cell.table.paper} {cell.table.table} {cell.row.name} {cell.column}")
            ids[name] += 1
            name += f"-{ids[name]}" if ids[name] > 1 else ""
            words = {
                "rebuilt": cell.text,
                "published": cell.published_text,
                "difference": difference_text(cell),
                "spread": spread_text(cell),
            }
            self.cells[id(cell.table), cell.row.name, cell.column] = PageCell(name, walks.walk(cell), words)
        self._walks = walks

    @cached_property
    def runs(self) -> list[order.Wanted]:
        return list(order.wanted(self.project, self.scale, self.made.records))

    @property
    def papers(self) -> list[tuple[str, str, list[Table]]]:
        """A short name of each paper, its title, and its tables."""
        tables = list(self.project.tables.values())
        names = dict.fromkeys(table.paper for table in tables)
        return [
            (
                f"Tables of {name}" if name in TITLES else "More tables",
                TITLES.get(name, "Beyond the papers' tables"),
                [table for table in tables if table.paper == name],
            )
            for name in names
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
        mine = [cell for cell in self.made.cells if cell.table is table and cell.verdict not in NOT_TO_BE_REBUILT]
        return f"{sum(cell.measured is not None for cell in mine)} of {len(mine)} cells" if mine else ""

    @property
    def rebuilt_errors(self) -> list[PageCell]:
        """Each rebuilt error once, at its first place."""
        seen: dict[Any, PageCell] = {}
        for cell in self.cells.values():
            filled = cell.walk.cell
            if filled.measured is not None and filled.cell.is_error:
                key = (filled.experiment.digest, filled.cell.metric, filled.cell.tested_by)
                seen.setdefault(key, cell)
        return list(seen.values())

    @property
    def summary(self) -> list[tuple[str, str]]:
        """Numbers for the head of the page, each with what it counts."""
        done = sum(one.done for one in self.runs)
        asked = [cell for cell in self.made.cells if cell.verdict not in NOT_TO_BE_REBUILT]
        measured = [cell for cell in asked if cell.measured is not None]
        verdicts = Counter(cell.verdict for cell in measured)
        found = [
            (f"{done} of {len(self.runs)}", "runs finished"),
            (f"{len(measured)} of {len(asked)}", "cells measured"),
        ]
        words = (verdict.AGREES, verdict.UNDECIDED, verdict.CUT_OFF, verdict.DIFFERS, NOT_COMPARABLE)
        said = {verdict.AGREES: "agree", verdict.DIFFERS: "differ"}
        found += [(str(verdicts[word]), said.get(word, word)) for word in words if verdicts[word]]
        return found

    @property
    def spent_and_left(self) -> list[times.Times]:
        return times.times(self.project, self.runs, self.made.records.costs())

    @staticmethod
    def hours(seconds: float | None) -> str:
        return "" if seconds is None else hours_text(seconds)

    left_text = staticmethod(findings.left_text)

    @property
    def runs_by_key(self) -> dict[str, Walk]:
        """One walk for each description of runs."""
        return {cell.runs_key: cell.walk for cell in self.cells.values() if cell.runs_key}

    @property
    def parameters_by_key(self) -> dict[str, str]:
        parts = (
            (key, cell.walk.parameters[name]) for cell in self.cells.values() for name, key in cell.parameters.items()
        )
        return dict(parts)

    @staticmethod
    def small_curve(run) -> Markup:
        return charts.small_curve(run.curve)

    @property
    def figures(self) -> Iterator[dict[str, Any]]:
        for name, figure in self.project.figures.items():
            path = self.folder / f"{name}.csv"
            try:
                content = path.read_bytes()
            except OSError as error:
                cure = f"make the figures first: identity-mappings figures --scale {self.scale}"
                raise UserError(f"{path}: {error.strerror}: {cure}") from None
            drawn = isinstance(figure, Units)
            yield {
                "id": f"figure-{slug(name)}",
                "figure": figure,
                "place": ("" if figure.paper == "own" else f"{figure.paper}, ") + figure.figure,
                "panels": [] if drawn else charts.panels(figure, content, self.settings.published),
                "units": charts.units(content) if drawn else [],
                "data": f"figures/{name}.csv",
            }

    @property
    def claims(self) -> list[dict[str, Any]]:
        return [self._claim(judged) for judged in self.made.claims]

    def _claim(self, judged: Judged) -> dict[str, Any]:
        gradient = judged.claim.metric in GRADIENTS
        reporting, compare = self.project.reporting, self.settings.published
        pairs = [pair for pair in judged.pairs if pair.verdict != NO_COUNTERPART]
        sizes = [abs(value) for pair in pairs for value in (charts.gap(pair, gradient),) if value is not None]
        sizes += [abs(value) for pair in pairs for value in (charts.paper_gap(pair),) if compare and value is not None]
        sizes += [reporting.differs_beyond * pair.error for pair in pairs if pair.error]
        span = max(sizes, default=1) * 1.15 or 1
        return {
            "claim": judged.claim,
            "verdict": judged.verdict,
            "tone": TONES.get(judged.verdict, "none"),
            "source": ("ours; " if judged.claim.paper == "own" else f"{judged.claim.paper}, ") + judged.claim.source,
            "axis": "powers of ten" if gradient else "points" if judged.claim.metric.endswith("%") else "loss",
            "pairs": [self._pair(pair, judged.claim.metric, span, gradient, compare) for pair in pairs],
        }

    def _pair(self, pair: Pair, metric: str, span: float, gradient: bool, compare: bool) -> dict[str, Any]:
        reporting = self.project.reporting
        shown = (
            pair if compare else Pair(pair.names, pair.lower, pair.higher, (None, None), None, pair.error, pair.verdict)
        )
        sides = zip(pair.names, (pair.lower, pair.higher), pair.published, strict=True)
        return {
            "verdict": pair.verdict,
            "tone": TONES.get(pair.verdict, "none"),
            "picture": charts.interval(shown, span, reporting.differs_beyond, gradient, reporting.gradient_factor),
            "difference": findings.difference_text(pair.lower, pair.higher, metric, pair.error)
            if pair.lower and pair.higher
            else "",
            "sides": [
                {
                    "name": name,
                    "value": f"{findings.value_text(side, metric)} (n = {len(side.values)})" if side else "",
                    "published": findings.published_text(published) if compare and published is not None else "",
                }
                for name, side, published in sides
            ],
            "on_paper": pair.on_paper if compare else None,
        }

    @property
    def rules(self) -> list[str]:
        """The rules of the verdicts, in words, as HTML."""
        texts = [
            verdict.rule(self.project.reporting, self.project.datasets_shown(self.scale)),
            verdict.COUNT_RULE,
            facts.RULE.format(differs=self.project.reporting.differs_beyond),
            claims.rule(self.project, self.scale),
        ]
        return [_emphasized(text) for text in texts]


def _emphasized(text: str) -> Markup:
    """*so* and **so** of a rule as HTML."""
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text))


def render(project: Project, scale: str, made: Report) -> bytes:
    """report.html of a scale.

    Raises:
        UserError: the figures were not made, or the page is larger than what opens at once on a phone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("identity_mappings.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = Page(project, scale, made, made.records.results / "figures")
    text = environment.get_template(f"{NAME}.jinja").render(page=page, scale=scale, settings=page.settings)
    content = (re.sub(r"\n\s*\n+", "\n", text) + "\n").encode()
    if len(content) >= LARGEST:
        raise UserError(f"{NAME} of scale {scale} has {len(content):,} bytes, above 1 MiB: show fewer runs or figures")
    return content


def write(scale: str, root: Path = Path()) -> None:
    """Make report.html of a scale, and report.json, which says from what."""
    project = load(root)
    made = report(project, scale)
    content = render(project, scale, made)
    folder = root / project.scale(scale).results
    facts = {"scale": scale, "fingerprint": fingerprint.fingerprint(project, scale, Path(ORIGIN).stem)}
    fingerprint.write(folder, {NAME: content}, ORIGIN, facts)
    print(f"{folder / NAME}: {len(content):,} bytes; open it in a browser")
