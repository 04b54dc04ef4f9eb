"""What all figures share: their look, and bytes that depend only on what is drawn."""

import io
import re
from html import escape
from typing import Any

import pandas
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing

from .cells import name_place
from .store import Records

COLOURS = (
    "#3b6fb6", "#c0392b", "#2e8b57", "#8e5ea2", "#d08a1d", "#17a2a2", "#7f5539", "#d45a9b", "#6b7a8f", "#9aa520",
    "#1b1b1b",
)  # fmt: skip
DPI = 150  # of PNG, whose text is wider than that of SVG: the layout has room for both
STYLE: dict[Any, Any] = {  # keys of matplotlib.rcParams
    "svg.hashsalt": "identity-mappings",  # the same identifiers every time
    "svg.fonttype": "none",  # text as text, which is small, and which a reader can search and copy
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "path.simplify": False,
}


def new_drawing(records: Records, figure: Any, width: float, height: float) -> Drawing:
    """An empty drawing with its title, which names a scale that is not the papers'."""
    settings = records.settings
    note = "" if settings.published else "\n" + ": ".join(filter(None, (f"scale {records.scale}", settings.caption)))
    drawing = Drawing(figsize=(width, height), layout="constrained")
    drawing.suptitle(f"{name_place(figure.paper, figure.figure)}: {figure.title}{note}", fontsize=9)
    return drawing


def join_data(drawn: list[pandas.DataFrame], columns: list[str]) -> pandas.DataFrame:
    """What was drawn, one below the other; these columns where nothing was."""
    return pandas.concat(drawn, ignore_index=True) if drawn else pandas.DataFrame(columns=columns)


def to_files(drawing: Drawing, name: str) -> dict[str, bytes]:
    """The drawing as SVG and PNG, by file name. In the SVG a line shows its label under the pointer.

    The layout is computed once for both, and rounded: its last digits are not the same every time.
    """
    drawing.set_dpi(DPI)
    if layout := drawing.get_layout_engine():
        layout.execute(drawing)
    drawing.set_layout_engine("none")
    for axes in drawing.axes:
        left, bottom, width, height = (round(value, 4) for value in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
    titles = {}
    for number, line in enumerate(line for axes in drawing.axes for line in axes.get_lines()):
        line.set_gid(f"line-{number}")
        titles[f"line-{number}"] = str(line.get_label())
    svg, png = io.BytesIO(), io.BytesIO()  # `savefig` would draw each of them twice
    FigureCanvasSVG(drawing).print_svg(svg, metadata={"Date": None, "Creator": None})
    drawing.set_dpi(DPI)
    FigureCanvasAgg(drawing).print_png(png, metadata={"Software": None})
    return {f"{name}.svg": _finish_svg(svg.getvalue().decode(), titles).encode(), f"{name}.png": png.getvalue()}


def _finish_svg(svg: str, titles: dict[str, str]) -> str:
    """Shorten an SVG: paths to tenths of a point, no space between elements. Give titles to elements by identifier."""

    def shorten(path: re.Match) -> str:
        numbers = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), path[0])
        return re.sub(r"\s*([MLCQz])\s*", r"\1", numbers)

    def add_title(group: re.Match) -> str:
        label = titles.get(group[1], "_")  # of what has no label "_child0" and the like
        return group[0] if label.startswith("_") else f"{group[0]}<title>{escape(label)}</title>"

    svg = re.sub(r' d="[^"]*"', shorten, svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", re.sub(r">\s+<", "><", svg))
    return re.sub(r'<g id="([^"]*)">', add_title, svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif"))
