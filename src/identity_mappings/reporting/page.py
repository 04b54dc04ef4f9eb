"""`identity-mappings report`: report.html, one file to open and take away; no network, the same bytes each time."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..durations import format_duration
from ..errors import UserError
from ..parameters import Project, load
from ..parameters.reports import Row, Table, Units
from ..records.files import write_atomically
from . import findings, reproductions, verdict
from .cells import NO_COUNTERPART, NOT_RUN, QUOTED, FilledCell, count_cells, name_place
from .claims import CONTRADICTED, HOLDS, UNDECIDED, Judged, Pair, format_published, join_counts
from .pictures import draw_curve, embed_figure
from .rendering import render
from .reproductions import Compared, Found, judge_together
from .run_states import list_runs
from .tables import TITLES, ScaleReport, make_report
from .trace import Trace, Tracer

NAME = "report.html"
LARGEST = 5 * 2**19  # bytes
PUBLISHED, OTHERS = "published", "others"


class Pool:
    """Values that several entries of the page share, each once; an entry has the index."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._indices: dict[str, int] = {}

    def add(self, value: Any) -> int:
        index = self._indices.setdefault(json.dumps(value), len(self.values))
        if index == len(self.values):
            self.values.append(value)
        return index


@dataclass(frozen=True)
class PageCell:
    """A cell of a table with what each scale, the first of which is the largest, and others have for it."""

    id: str
    scales: dict[str, FilledCell]
    found: list[Found]

    @property
    def first(self) -> FilledCell:
        return next(iter(self.scales.values()))

    @property
    def of_others(self) -> tuple[str, str]:
        """The median that is nearest to the papers' statistic and recipe, and what it is of; empty without any."""
        for key, summary in reproductions.summarize(self.found).items():
            everybody = reproductions.count_independent(self.found)
            of = f" of {everybody}" if summary.sources < everybody else ""
            span = f"{summary.lowest:.2f} to {summary.highest:.2f}" if summary.lowest < summary.highest else ""
            sources = f"{summary.sources}{of} {'source' if everybody == 1 else 'sources'}"
            return f"{summary.median:.2f}", ", ".join(filter(None, (span, sources, reproductions.name_statistic(*key))))
        return "", ""

    @property
    def elsewhere(self) -> str:
        """What the largest other scale and others have of a cell that the first scale has not run."""
        if self.first.verdict != NOT_RUN:
            return ""
        measured = [f"{name} {cell.text}" for name, cell in self.scales.items() if cell.measured is not None]
        median, _ = self.of_others
        return " · ".join([*measured[:1], *([f"others {median}"] if median else [])])


def label(column: str) -> str:
    return "Rebuilt" if column == "paper" else column.capitalize()


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")


def _join_cells(project: Project, reports: dict[str, ScaleReport]) -> dict[tuple[int, str, str], PageCell]:
    """The cells of all scales by the identity of their table, row and column."""
    ids: Counter[str] = Counter()
    cells = {}
    for together in zip(*(report.cells for report in reports.values()), strict=True):
        cell = together[0]
        name = slug(f"{cell.table.paper} {cell.table.table} {cell.row.name} {cell.column}")
        ids[name] += 1
        name += f"-{ids[name]}" if ids[name] > 1 else ""
        found = reproductions.find_numbers(project, cell.cell)
        place = (id(cell.table), cell.row.name, cell.column)
        cells[place] = PageCell(name, dict(zip(reports, together, strict=True)), found)
    return cells


def _split(cells: dict[tuple[int, str, str], PageCell], table: Table, row: Row, text: str) -> Iterator[str | PageCell]:
    """What stands in a place of a table: words and cells."""
    for index, part in enumerate(re.split(r"\{([^}]*)\}", text)):
        if index % 2:
            yield cells[id(table), row.name, part]
        elif part:
            yield part


def _describe_cell(project: Project, cell: PageCell, tracers: dict[str, Tracer], pool: Pool) -> dict[str, Any]:
    """What a click on a cell shows."""
    summaries = reproductions.summarize(cell.found)
    return {
        "place": name_place(cell.first.table.paper, cell.first.table.table),
        "row": cell.first.row.name,
        "column": cell.first.column,
        "published": cell.first.published_text,
        "scales": {name: _describe_trace(tracers[name].trace(filled), pool) for name, filled in cell.scales.items()},
        "sources": reproductions.count_independent(cell.found),
        "summaries": [
            [reproductions.name_statistic(*key) or "last epoch", each.text] for key, each in summaries.items()
        ],
        "numbers": [pool.add(_describe_number(project, one)) for one in cell.found],
    }


def _describe_number(project: Project, one: Found) -> dict[str, Any]:
    return {
        "value": reproductions.format_number(one.number),
        "source": reproductions.describe_report(project, one.report),
        "remarks": reproductions.list_remarks(one),
        "counts": one.number.counts,
    }


def _describe_trace(trace: Trace, pool: Pool) -> dict[str, Any]:
    """The way back from what a scale has for a cell."""
    found: dict[str, Any] = {"text": trace.cell.text, "verdict": trace.cell.verdict, "reason": trace.reason}
    if trace.cell.verdict in (NO_COUNTERPART, QUOTED):
        return found
    runs = [
        {
            "seed": run.seed,
            "error": "diverged" if run.error is None else f"{run.error:.2f} %",
            "facts": run.facts,
            "commands": run.commands,
            "curve": draw_curve(run.curve),
        }
        for run in trace.runs
    ]
    found["numbers"] = {"difference": trace.texts["difference"], "mean ± deviation": trace.texts["spread"]}
    found["runs"] = pool.add({"shared": trace.shared, "runs": runs}) if runs else None
    found["missing"] = trace.missing and pool.add(asdict(trace.missing))
    found["facts"] = trace.facts
    found["parameters"] = {name: pool.add(text) for name, text in trace.parameters.items()}
    return found


@dataclass(frozen=True)
class Entry:
    """What one column of the matrix says of a claim."""

    id: str
    badges: list[tuple[str, str]]  # text and verdict; none where there is nothing to compare
    note: str
    comparisons: list[dict[str, Any]]  # that a click shows


def _describe_pair(pair: Pair) -> dict[str, Any]:
    sides = [[name, f"{side.text} (n = {len(side.values)})" if side else ""] for name, side, _ in pair.both]
    return {"sides": sides, "difference": pair.difference, "verdict": pair.verdict}


def _describe_printed(pair: Pair) -> dict[str, Any]:
    sides = [[name, format_published(value)] for name, _, value in pair.both if value is not None]
    return {"sides": sides, "difference": "", "verdict": pair.on_paper}


def _describe_compared(project: Project, one: Compared) -> dict[str, Any]:
    report, (lower, higher) = project.reproductions.reports[one.report], one.values
    return {
        "sides": [[name, f"{value:.2f}"] for name, value in zip(one.names, one.values, strict=True)],
        "difference": f"{higher - lower:+.2f} ± {one.error:.2f}",
        "verdict": one.verdict,
        "source": reproductions.describe_report(project, report),
    }


def _fill_matrix(project: Project, reports: dict[str, ScaleReport]) -> list[tuple[Judged, dict[str, Entry]]]:
    """Each claim, and what the papers' own numbers, each scale and others say of it."""
    matrix = []
    for together in zip(*(report.claims for report in reports.values()), strict=True):
        first, entries = together[0], {}

        def add(column: str, badges: list[tuple[str, str]], note: str, comparisons: list[dict[str, Any]]) -> None:
            shown = badges if comparisons else []
            entries[column] = Entry(f"claim-{first.claim.name}-{column}", shown, note, comparisons)  # noqa: B023

        on_paper, printed = first.on_paper, [_describe_printed(pair) for pair in first.pairs if pair.on_paper]
        add(PUBLISHED, [(judge_together(on_paper),) * 2], join_counts(on_paper), printed)
        for scale, judged in zip(reports, together, strict=True):
            pairs = [_describe_pair(pair) for pair in judged.pairs if pair.verdict != NO_COUNTERPART]
            note = "" if judged.verdict == NOT_RUN else join_counts(judged.counts)
            add(scale, [(judged.verdict,) * 2], note, pairs)
        compared = list(reproductions.compare_in_reports(project, first.claim))
        sources = reproductions.count_sources(compared)
        badges = [(f"{sources[word]} {word}", word) for word in (HOLDS, CONTRADICTED, UNDECIDED) if sources[word]]
        add(OTHERS, badges, "of the sources", [_describe_compared(project, one) for one in compared])
        matrix.append((first, entries))
    return matrix


def _read_figures(project: Project, reports: dict[str, ScaleReport]) -> Iterator[dict[str, Any]]:
    """The figures that `identity-mappings figures` drew; drawings of units, which all scales share, of the first."""
    for name, figure in project.figures.items():
        place, pictures = name_place(figure.paper, figure.figure), {}
        for scale, report in list(reports.items())[: 1 if isinstance(figure, Units) else None]:
            path = report.records.results / "figures" / f"{name}.svg"
            try:
                svg = path.read_text("utf-8")
            except OSError as error:
                cure = f"make the figures first: identity-mappings figures --scale {scale}"
                raise UserError(f"{path}: {error.strerror}: {cure}") from None
            pictures[scale] = embed_figure(svg, f"{slug(name)}-{scale}", f"{place}: {figure.title}")
        yield {"id": f"figure-{slug(name)}", "place": place, "pictures": pictures}


def render_report(project: Project, scale: str) -> bytes:
    """report.html of a scale and of those that are shown beside it, as far as there are results of these.

    Raises:
        UserError: the figures were not made, or the page is larger than what opens at once on a phone.
    """
    names = project.reporting.list_beside(scale)
    made = [
        name for name in names if name == scale or (project.root / project.scale(name).results / "figures").is_dir()
    ]
    reports = {name: make_report(project, name) for name in made}
    cells, matrix, pool = _join_cells(project, reports), _fill_matrix(project, reports), Pool()
    tracers = {name: Tracer(report.records) for name, report in reports.items()}
    runs = {name: list_runs(report.records) for name, report in reports.items()}
    data = {
        "labels": {name: label(name) for name in (PUBLISHED, *reports, OTHERS)},
        "cells": {cell.id: _describe_cell(project, cell, tracers, pool) for cell in cells.values()},
        "claims": {
            entry.id: {"says": judged.claim.says, "column": column, "comparisons": entry.comparisons}
            for judged, entries in matrix
            for column, entry in entries.items()
        },
        "shared": pool.values,
    }
    finished = [name for name in reports if all(run.is_done for run in runs[name])]
    text = render(
        f"{NAME}.jinja",
        reports=reports,
        runs=runs,
        count_cells=count_cells,
        labels=data["labels"],
        figure_labels={name: name for name in reports},
        others=project.reproductions,
        titles=TITLES,
        tables=project.tables.values(),
        split=partial(_split, cells),
        matrix=matrix,
        figures=list(_read_figures(project, reports)),
        drawn=next(iter([*finished, *reports])),  # the scale whose figures are shown first
        times={name: findings.time_runs(report.records, runs[name]) for name, report in reports.items()},
        rules={name: verdict.state_rules(project, name) for name in reports},
        data=Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
        slug=slug,
        describe_left=findings.describe_left,
        format_duration=format_duration,
    )
    content = re.sub(r"\n\s*\n+", "\n", text).encode()
    if len(content) >= LARGEST:
        raise UserError(f"{NAME} has {len(content):,} bytes, above 2.5 MiB: show fewer runs or figures")
    return content


def write_page(scale: str, root: Path = Path()) -> None:
    """Make report.html of a scale and of those that are shown beside it."""
    project = load(root)
    path = root / project.scale(project.reporting.list_beside(scale)[0]).results / NAME
    content = render_report(project, scale)
    write_atomically(path, content)
    print(f"{path}: {len(content):,} bytes; open it in a browser")
