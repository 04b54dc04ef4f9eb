"""The papers' tables: rebuilt, published, and side by side."""

import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..parameters.reports import Row
from ..records import run
from ..records.files import json_bytes, write_atomically
from . import claims, detections, findings, readme, reproductions, verdict
from .cells import FilledCell, count_cells, fill_cells, round_numbers
from .claims import Judged
from .rendering import format_padded, pad_columns, render
from .store import Records, describe_outdated_records

ORIGIN = "tables.json"
COUNTED_VERDICTS = (verdict.AGREES, verdict.TRUNCATED, verdict.DIFFERS, verdict.UNDECIDED)
TITLES = {
    "he2015": "Deep Residual Learning for Image Recognition (He et al. 2015, arXiv 1512.03385)",
    "he2016": "Identity Mappings in Deep Residual Networks (He et al. 2016, arXiv 1603.05027)",
}


def render_tables(records: Records, cells: list[FilledCell]) -> tuple[str, str]:
    """tables.md and paper.md: the same text, the same columns and widths, and other numbers."""
    tables = []
    for table in records.project.tables.values():
        by_place = {(cell.row.name, cell.column): cell for cell in cells if cell.table is table}
        rebuilt, published = (
            [[_fill_in(row, text, by_place, attribute) for text in row.texts] for row in table.rows]
            for attribute in ("text", "published_text")
        )
        tables.append((table, pad_columns([[table.columns, *rebuilt], [table.columns, *published]])))
    datasets = {each.parameters["dataset"]["name"] for each in records.project.list_to_train(records.scale)}
    fails = {name: limit for name, limit in records.reporting.fail_above.items() if name in datasets}
    values = {"scale": records.scale, "settings": records.settings, "titles": TITLES, "fails": fails}
    rebuilt_page, published_page = (
        render("tables.md.jinja", **values, tables=[(table, format_padded(texts[version])) for table, texts in tables])
        for version in (0, 1)
    )
    return rebuilt_page, published_page


def _fill_in(row: Row, text: str, cells: dict[tuple[str, str], FilledCell], attribute: str) -> str:
    """A text of a row with its cells in place of their names in braces."""
    return re.sub(r"\{([^}]*)\}", lambda name: getattr(cells[row.name, name[1]], attribute), text)


def render_comparison(records: Records, cells: list[FilledCell]) -> str:
    """comparison.md: published and rebuilt side by side, with spread and verdict."""
    tables = records.project.tables.values()
    return render(
        "comparison.md.jinja",
        scale=records.scale,
        settings=records.settings,
        rules=verdict.state_rules(records.project, records.scale),
        bad=records.bad,
        tables=[(table, [_compare_cell(cell, records) for cell in cells if cell.table is table]) for table in tables],
    )


def _compare_cell(cell: FilledCell, records: Records) -> dict[str, str]:
    def optional(value: float | None, form: str) -> str:
        return "" if value is None else form.format(value)

    exact = cell.text
    if isinstance(cell.measured, int):
        exact = f"{cell.measured:,}"
    elif cell.cell.share_of and cell.measured is not None:
        exact = f"{cell.measured:.2f}%"
    others = reproductions.describe(reproductions.find_numbers(records.project, cell.cell))
    texts = {
        "row": cell.row.name,
        "column": cell.column,
        "published": cell.published_text,
        "rebuilt": "" if cell.cell.quoted else exact,
        "n": str(len(cell.records) or ""),
        "mean ± sd": optional(cell.mean, "{:.2f}") + optional(cell.deviation, " ± {:.2f}"),
        "best": optional(cell.best, "{:.2f}"),
        "arithmetic or convention": cell.cell.counted or cell.arithmetic,
        "difference": optional(cell.difference, "{:+.2f}") if records.settings.published else "",
        "verdict": cell.verdict,
    }
    return {**texts, "others": others} if records.settings.published else texts


def metrics(cells: list[FilledCell]) -> dict[str, Any]:
    """metrics.json, for `dvc metrics diff`: the measured numbers by paper, table, row and column, and their count."""
    measured, wanted = count_cells(cells)
    tree: dict[str, Any] = {
        "cells": {
            "to be rebuilt": wanted,
            "measured": measured,
            **{word: sum(cell.verdict == word for cell in cells) for word in COUNTED_VERDICTS},
        }
    }
    for cell in cells:
        if cell.measured is not None:
            value: dict[str, Any] = {"value" if cell.cell.is_fact else "count": cell.measured}
            if cell.cell.is_error:
                value = {"runs": len(cell.records), "test_error": verdict.median(cell.errors), "mean": cell.mean}
            branch = tree.setdefault(cell.table.paper, {}).setdefault(cell.table.table, {})
            known = {name: number for name, number in value.items() if number is not None}
            branch.setdefault(cell.row.name, {})[cell.column] = round_numbers(known)
    return tree


def render_imported(records: Records) -> str:
    """Networks and detections on imported weights: tables of their own, whose numbers rebuild no cell."""
    paths = sorted((records.results / run.IMPORTED).glob("*/evaluation-*.json"))
    tests = [records.try_reading(partial(run.read_imported_test, path)) for path in paths]
    folders = detections.imported_folders(records.results)
    found = [records.try_reading(partial(detections.read_imported_detection, folder)) for folder in folders]
    return render(
        "imported.md.jinja",
        kind=run.IMPORTED_KIND,
        tests=list(filter(None, tests)),
        detections=[(r.metrics, r.provenance["params"]["resolved"]["backbone"]) for r in found if r],
    )


@dataclass(frozen=True)
class ScaleReport:
    """All that the pages of a scale say."""

    records: Records
    cells: list[FilledCell]
    claims: list[Judged]
    pages: dict[str, bytes]  # by file name


def make_report(project: Project, scale: str) -> ScaleReport:
    """tables.md, paper.md, comparison.md, README.md, metrics.json and tables.json of a scale."""
    records = Records(project, scale)
    cells, judged = list(fill_cells(records)), list(claims.judge_claims(records))
    rebuilt, published = render_tables(records, cells)
    rebuilt += render_imported(records)
    findings_page = findings.render_findings(records, cells, judged)  # notes bad records, which the comparison lists
    pages = {
        "paper.md": published.encode(),
        "tables.md": rebuilt.encode(),
        "comparison.md": render_comparison(records, cells).encode(),
        findings.NAME: findings_page.encode(),
        "metrics.json": json_bytes(metrics(cells)),
        ORIGIN: json_bytes({"scale": scale, "cells": [cell.as_json(project.root) for cell in cells]}),
    }
    return ScaleReport(records, cells, judged, pages)


def write_tables(scale: str, root: Path = Path()) -> None:
    """Make the pages of a scale."""
    project = load(root)
    report = make_report(project, scale)
    for reason in report.records.bad:
        print(f"invalid record: {reason}", file=sys.stderr)
    folder = root / project.scale(scale).results
    for name, content in report.pages.items():
        write_atomically(folder / name, content)
    if scale in project.reporting.side_by_side:
        readme.write_readme(project)
    if outdated := describe_outdated_records(project, scale):
        print(outdated, file=sys.stderr)
    print("{}: {} of {} cells measured".format(folder / "tables.md", *count_cells(report.cells)))
