"""The papers' tables: rebuilt, published, and side by side."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..parameters import Project, load
from ..records import imported, run
from ..records.files import json_bytes
from . import claims, detections, facts, findings, fingerprint, readme, verdict
from .cells import NO_COUNTERPART, NOT_REBUILT, Filled, Records, fill
from .claims import Judged
from .markdown import grid, laid_out, padded

ORIGIN = "tables.json"
COUNTED_VERDICTS = (verdict.AGREES, verdict.CUT_OFF, verdict.DIFFERS, verdict.UNDECIDED)
NOT_TO_BE_REBUILT = ("quoted", NO_COUNTERPART, NOT_REBUILT)
TITLES = {
    "he2015": "Deep Residual Learning for Image Recognition (He et al. 2015, arXiv 1512.03385)",
    "he2016": "Identity Mappings in Deep Residual Networks (He et al. 2016, arXiv 1603.05027)",
}
INTRODUCTION = """\
`tables.md` holds the values rebuilt here, `paper.md` the published ones, in one layout, so that a diff of the two shows
the cells that differ. Test errors are in % at the last iteration, the median of the runs; `comparison.md` says how many
runs there are, how they spread and whether they agree with the paper. Runs are in float32 unless the arithmetic stands
beside the number. Quoted values come from other papers."""


def documents(project: Project, scale: str, cells: list[Filled]) -> tuple[str, str]:
    """tables.md and paper.md: the same text, the same columns and widths, and other numbers."""
    head = []
    if not project.scale(scale).published:
        head = [f"**Scale `{scale}`.** {project.scale(scale).description}", ""]
    versions: tuple[list[str], list[str]] = ([], [])
    paper = None
    for table in project.tables.values():
        mine = {(cell.row.name, cell.column): cell for cell in cells if cell.table is table}
        rebuilt, published = padded(
            [[table.columns, *_rows(table.rows, mine, text)] for text in (_rebuilt_text, _published_text)]
        )
        for lines, rows in zip(versions, (rebuilt, published), strict=True):
            if table.paper != paper:
                lines += [f"# {TITLES.get(table.paper, table.paper)}", "", *head, INTRODUCTION, ""]
            lines += [f"## {table.table}", "", table.title, "", laid_out(rows), ""]
        paper = table.paper
    return "\n".join(versions[0]), "\n".join(versions[1])


def _rebuilt_text(cell: Filled) -> str:
    return cell.text


def _published_text(cell: Filled) -> str:
    return cell.published_text


def _rows(rows: list, cells: dict[tuple[str, str], Filled], text: Callable[[Filled], str]) -> list[list[str]]:
    def filled(row: Any, template: str) -> str:
        return re.sub(r"\{([^}]*)\}", lambda name: text(cells[row.name, name[1]]), template)

    return [[filled(row, template) for template in row.texts] for row in rows]


def _exact(cell: Filled) -> str:
    """A rebuilt value with all the digits that it has."""
    if isinstance(cell.measured, int):
        return f"{cell.measured:,}"
    if cell.cell.share_of and cell.measured is not None:
        return f"{cell.measured:.2f}%"
    return "" if cell.verdict == "quoted" else cell.text


def _optional(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def comparison(project: Project, scale: str, cells: list[Filled], bad: list[str]) -> str:
    """comparison.md: published and rebuilt side by side, with spread and verdict."""
    lines = ["# Published and rebuilt", ""]
    settings = project.scale(scale)
    if settings.published:
        lines += [verdict.rule(project.reporting, project.datasets_shown(scale)), ""]
        lines += [verdict.COUNT_RULE, ""]
        lines += [facts.RULE.format(differs=project.reporting.differs_beyond), ""]
    else:
        lines += [f"**Scale `{scale}`.** {settings.description} So there is no verdict.", ""]
    lines += [
        "Rebuilt is the median at the last iteration, except where the metric is a mean. *Best* is the median of each "
        "run's lowest test error: it is chosen on the test set, as many reproductions do, and is not a result. Nor is "
        "the best of several runs, which he2015 prints for ResNet-110: it is shown and not judged.",
        "",
    ]
    if bad:
        lines += ["Records that were not believed, and fill no cell:", "", *(f"- {reason}" for reason in bad), ""]
    headers = [
        "row", "column", "published", "rebuilt", "n", "mean ± sd", "best",
        "arithmetic or convention", "difference", "verdict",
    ]  # fmt: skip
    for table in project.tables.values():
        rows = []
        for cell in (cell for cell in cells if cell.table is table):
            spread = _optional(cell.mean) + (f" ± {cell.deviation:.2f}" if cell.deviation is not None else "")
            rows.append(
                [
                    cell.row.name,
                    cell.column,
                    cell.published_text,
                    _exact(cell),
                    str(len(cell.records) or ""),
                    spread,
                    _optional(cell.best),
                    cell.cell.counted or cell.arithmetic,
                    _optional(cell.difference, "+.2f") if settings.published else "",
                    cell.verdict,
                ]
            )
        lines += [f"## {table.paper}, {table.table}", "", grid(headers, rows), ""]
    return "\n".join(lines)


def metrics(cells: list[Filled]) -> dict[str, Any]:
    """metrics.json, for `dvc metrics diff`: the measured numbers by paper, table, row and column, and their count."""
    counts = {word: sum(cell.verdict == word for cell in cells) for word in COUNTED_VERDICTS}
    tree: dict[str, Any] = {
        "cells": {
            "to be rebuilt": sum(cell.verdict not in NOT_TO_BE_REBUILT for cell in cells),
            "measured": sum(cell.measured is not None for cell in cells),
            **counts,
        }
    }
    for cell in cells:
        if cell.measured is not None:
            value: dict[str, Any] = {"count": cell.measured}
            if cell.cell.is_fact:
                value = {"value": cell.measured}
            elif not cell.cell.is_cost:
                value = {"runs": len(cell.records), "test_error": verdict.median(cell.errors), "mean": cell.mean}
            place = tree.setdefault(cell.table.paper, {}).setdefault(cell.table.table, {})
            place.setdefault(cell.row.name, {})[cell.column] = {
                name: round(number, 4) if isinstance(number, float) else number
                for name, number in value.items()
                if number is not None
            }
    return tree


def _imported(results: Path, bad: list[str]) -> str:
    """Networks that were trained elsewhere, by other recipes: a table of their own, whose numbers rebuild no cell."""
    rows = []
    for path in sorted((results / imported.FOLDER).glob("*/evaluation-*.json")):
        try:
            record = imported.read(path)
        except run.BadRecord as error:
            bad.append(str(error))
            continue
        rows.append(
            [
                f"{record['name']} (ResNet-{record['network']['depth']}, {imported.KIND})",
                record["source"],
                record["protocol"],
                f"{record['test_error']:.2f}",
                f"{record['top_5_error']:.2f}",
            ]
        )
    if not rows:
        return ""
    text = "Tested here by the papers' protocols, but trained elsewhere: no cell above is filled by them."
    shown = grid(["weights", "source", "protocol", "top-1 (%)", "top-5 (%)"], rows)
    return "\n".join([f"# {imported.KIND.capitalize()}", "", text, "", shown, ""])


def collect(project: Project, scale: str) -> tuple[list[Filled], list[str]]:
    """All cells of a scale, and the records that were not believed."""
    records = Records(project, scale)
    return list(fill(project, scale, records)), records.bad


@dataclass(frozen=True)
class Report:
    """All that is told of a scale's records.

    Attributes:
        records: that were read.
        cells, claims: filled and judged.
        pages: {file name: content}.
    """

    records: Records
    cells: list[Filled]
    claims: list[Judged]
    pages: dict[str, bytes]

    @property
    def bad(self) -> list[str]:
        """Why records were not believed."""
        return self.records.bad


def report(project: Project, scale: str) -> Report:
    """tables.md, paper.md, comparison.md, README.md and metrics.json of a scale."""
    records = Records(project, scale)
    cells = list(fill(project, scale, records))
    judged = list(claims.judge(project, scale, records))
    rebuilt, published = documents(project, scale, cells)
    results = project.root / project.scale(scale).results
    more = "\n".join(filter(None, (table(results, records.bad) for table in (_imported, detections.imported_table))))
    findings_page = findings.page(project, scale, records, cells, judged)
    pages = {
        "paper.md": published.encode(),
        "tables.md": (f"{rebuilt}\n{more}" if more else rebuilt).encode(),
        "comparison.md": comparison(project, scale, cells, records.bad).encode(),
        findings.NAME: findings_page.encode(),
        "metrics.json": json_bytes(metrics(cells)),
    }
    return Report(records, cells, judged, pages)


def write(scale: str, root: Path = Path()) -> None:
    """Make the pages of a scale, and tables.json, which says from what."""
    project = load(root)
    made = report(project, scale)
    for reason in made.bad:
        print(f"not believed: {reason}", file=sys.stderr)
    facts = {
        "scale": scale,
        "fingerprint": fingerprint.fingerprint(project, scale, "tables"),
        "cells": [cell.as_json(project.root) for cell in made.cells],
    }
    folder = root / project.scale(scale).results
    fingerprint.write(folder, made.pages, ORIGIN, facts)
    if scale in readme.SCALES:
        readme.write(project)
    measured = sum(cell.measured is not None for cell in made.cells)
    print(f"{folder / 'tables.md'}: {measured} of {len(made.cells)} cells measured")
