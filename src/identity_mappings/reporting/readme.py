"""The part of the project's README that is made from the records."""

import re
from collections import Counter

from ..parameters import Project
from ..parameters.reports import TEST_ERROR
from ..records.files import write_atomically
from . import claims, reproductions
from .cells import FilledCell, count_cells, fill_cells
from .claims import CONTRADICTED, HOLDS, UNDECIDED, Judged, join_counts
from .rendering import format_grid, render
from .store import Records

NAME = "README.md"
BEGIN = "<!-- made from the records by `identity-mappings tables`: do not edit -->\n"
END = "<!-- end of what is made from the records -->\n"


def render_readme(project: Project) -> str | None:
    """README.md with what the records of all scales say now; None where there is no place for it."""
    path = project.root / NAME
    text = path.read_text("utf-8") if path.is_file() else ""
    if BEGIN not in text or END not in text:
        return None
    records = {scale: Records(project, scale) for scale in project.reporting.side_by_side}
    judged = {scale: list(claims.judge_claims(found)) for scale, found in records.items()}
    by_claim = (dict(zip(judged, together, strict=True)) for together in zip(*judged.values(), strict=True))
    made = render(
        "readme.md.jinja",
        claims=[row for each in by_claim if (row := _describe_claim(project, each))],
        scales={scale: list(fill_cells(found)) for scale, found in records.items()},
        count_cells=count_cells,
        tabulate_errors=_tabulate_errors,
    )
    return re.sub(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: f"\n{made}", text, flags=re.DOTALL)


def write_readme(project: Project) -> None:
    if (text := render_readme(project)) is not None:
        write_atomically(project.root / NAME, text.encode())


def is_current(project: Project) -> bool:
    text = render_readme(project)
    return text is None or text == (project.root / NAME).read_text("utf-8")


def _describe_claim(project: Project, judged: dict[str, Judged]) -> dict[str, str]:
    """What the paper, others and each scale say of a claim; empty for a claim that has no short form."""
    first = next(iter(judged.values()))
    if not first.claim.short:
        return {}
    sources = reproductions.count_sources(list(reproductions.compare_in_reports(project, first.claim)))
    of_sources = ", ".join(f"{sources[word]} {word}" for word in (HOLDS, CONTRADICTED, UNDECIDED) if sources[word])
    on_paper = _join_verdict(reproductions.judge_together(first.on_paper), first.on_paper) or "not printed"
    scales = {f"scale {name}": _join_verdict(each.verdict, each.counts) for name, each in judged.items()}
    return {"claim": first.claim.short, "paper": on_paper, "others": of_sources or "nobody", **scales}


def _join_verdict(verdict: str, counts: Counter[str]) -> str:
    return f"{verdict} ({join_counts(counts)})" if len(counts) > 1 else verdict


def _tabulate_errors(cells: list[FilledCell]) -> str:
    """Each trained experiment once, by the first cell that shows its test error."""
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        if cell.experiment and cell.cell.metric == TEST_ERROR and cell.records and cell.experiment.name not in rows:
            rows[cell.experiment.name] = {
                "experiment": f"`{cell.experiment.name}`",
                "dataset": cell.experiment.parameters["dataset"]["name"],
                "runs": str(len(cell.records)),
                "rebuilt": cell.text,
                "sd": "" if cell.deviation is None else f"± {cell.deviation:.2f}",
                "published, at scale `paper`": "" if cell.cell.published is None else str(cell.cell.published),
            }
    return format_grid(list(rows.values()))
