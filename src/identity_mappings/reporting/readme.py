"""The part of the project's README that is made from the records."""

import re
from typing import Any

from ..parameters import Project
from ..records.files import parse_json, write_atomically
from .rendering import format_grid
from .rendering import render as render_template

NAME = "README.md"
SCALES = ("paper", "overnight")  # whose records are committed
BEGIN = "<!-- made from the records by `identity-mappings tables`: do not edit -->\n"
END = "<!-- end of what is made from the records -->\n"


def render(project: Project) -> str | None:
    """README.md with what the tables of the committed scales hold now; None where there is no place for it."""
    path = project.root / NAME
    text = path.read_text("utf-8") if path.is_file() else ""
    if BEGIN not in text or END not in text:
        return None
    origins = {scale: project.root / project.scale(scale).results / "tables.json" for scale in SCALES}
    cells = {scale: parse_json(path.read_bytes())["cells"] for scale, path in origins.items() if path.is_file()}
    made = render_template("readme.md.jinja", scales=cells, errors=_tabulate_errors)
    return re.sub(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", lambda _: f"\n{made}", text, flags=re.DOTALL)


def write(project: Project) -> None:
    if (text := render(project)) is not None:
        write_atomically(project.root / NAME, text.encode())


def is_current(project: Project) -> bool:
    text = render(project)
    return text is None or text == (project.root / NAME).read_text("utf-8")


def _tabulate_errors(cells: list[dict[str, Any]]) -> str:
    """Each trained experiment once, by the first cell that shows its test error."""
    shown = {}
    for cell in cells:
        if cell["metric"] == "test error %" and cell["runs"]:
            shown.setdefault(cell["experiment"], cell)
    rows = [["experiment", "dataset", "runs", "rebuilt", "sd", "published, at scale `paper`"]]
    for name, cell in shown.items():
        published = "" if cell["published"] is None else str(cell["published"])
        spread = "" if cell["std"] is None else f"± {cell['std']:.2f}"
        rebuilt = f"{cell['measured']:.2f}" if isinstance(cell["measured"], float) else cell["measured"]
        rows.append([f"`{name}`", cell["dataset"], str(cell["runs"]), rebuilt, spread, published])
    return format_grid(rows)
