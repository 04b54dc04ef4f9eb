"""Residual units as he2016 draws them (Figures 2, 4 and 5), laid out from the module graph of the real networks."""

import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import FancyBboxPatch, Rectangle

from ..errors import UserError
from ..networks.residual import ResidualNetwork
from ..networks.unit_graph import GATE, RESIDUAL, TRUNK, Operation, operations
from ..parameters.reports import Drawn, Units
from ..training.assembly import build
from .cells import NO_COUNTERPART
from .drawing import new_drawing
from .store import Records

COLUMNS = {GATE: -1.35, TRUNK: 0.0, RESIDUAL: 1.35}
FILL = {"conv": "#dbe7f5", "BN": "#f3e3c8", "ReLU": "#f6d5d0", "": "#e4e4e4"}
UNITS = ("#f1f4f1", "#f5f1f7")
WIDTH, HEIGHT, RADIUS = 1.15, 0.56, 0.2


def _find_rows(operations: list[Operation]) -> dict[str, int]:
    """The row of each operation: one below the lowest of those that feed it."""
    rows: dict[str, int] = {}
    for operation in operations:
        rows[operation.name] = max((rows[name] + 1 for name in operation.inputs), default=0)
    return rows


def _is_join(operation: Operation) -> bool:
    return operation.label in ("+", "×")


def _find_fill(operation: Operation) -> str:
    return "#fff" if operation.label == "x" else next(FILL[kind] for kind in FILL if kind in operation.label)


def _find_ends(operations: list[Operation]) -> list[Operation]:
    """Those whose output leaves the units: that feed nothing, and the last of the trunk."""
    fed = {name for operation in operations for name in operation.inputs}
    last = [operation for operation in operations if operation.branch == TRUNK][-1]
    return [operation for operation in operations if operation.name not in fed or operation is last]


def _draw_panel(axes: Axes, found: list[Operation], deepest: int) -> None:
    rows = _find_rows(found)
    left = COLUMNS[GATE] if any(o.branch == GATE for o in found) else COLUMNS[TRUNK]
    edges = left - WIDTH / 2 - 0.25, COLUMNS[RESIDUAL] + WIDTH / 2 + 0.1
    position = {o.name: (COLUMNS[o.branch], -float(rows[o.name])) for o in found}
    height = {o.name: RADIUS if _is_join(o) else HEIGHT / 2 for o in found}
    arrow = {"arrowstyle": "-|>", "color": "#333333", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    for unit in sorted({o.unit for o in found if o.unit >= 0}) if max(o.unit for o in found) else ():
        heights = [position[o.name][1] for o in found if o.unit == unit]
        bottom, top = min(heights) - 0.42, max(heights) + 0.42
        axes.add_patch(Rectangle((edges[0], bottom), edges[1] - edges[0], top - bottom, color=UNITS[unit % 2]))
    for operation in found:
        x, y = position[operation.name]
        for source in operation.inputs:
            a, b = position[source]
            start = b - height[source]
            if a == x:
                axes.annotate("", (x, y + height[operation.name]), (a, start), arrowprops=arrow)
            elif _is_join(operation):  # a branch comes back: down, then sideways into the sign
                if any(xo == a and y < yo < b for xo, yo in position.values()):  # around what stands below it
                    axes.plot([a - WIDTH / 2, a - WIDTH / 2 - 0.15], [b, b], color="#333333", linewidth=0.9)
                    a, start = a - WIDTH / 2 - 0.15, b
                axes.plot([a, a], [start, y], color="#333333", linewidth=0.9)
                side = RADIUS + 0.06 if a > x else -RADIUS - 0.06
                axes.annotate("", (x + side, y), (a, y), arrowprops=arrow)
            else:  # a branch leaves: sideways, then down
                turn = start - (1 - 2 * height[source]) / 4 if height[source] < 0.4 else start
                axes.plot([a, a, x], [start, turn, turn], color="#333333", linewidth=0.9)
                axes.annotate("", (x, y + height[operation.name]), (x, turn), arrowprops=arrow)
    for operation in found:
        x, y = position[operation.name]
        if _is_join(operation):
            circle = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "#333333", "linewidth": 0.9}
            axes.text(x, y, operation.label, ha="center", va="center", fontsize=9, bbox=circle)
            continue
        box = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=_find_fill(operation), edgecolor="#333333", linewidth=0.8,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y, operation.label, ha="center", va="center", fontsize=6.5)
    for end in _find_ends(found):
        x, y = position[end.name]
        axes.annotate("", (x, y - height[end.name] - 0.45), (x, y - height[end.name]), arrowprops=arrow)
    axes.set_xlim(*edges)
    axes.set_ylim(-deepest - 0.9, 0.5)
    axes.set_aspect("equal")
    axes.axis("off")


def _find_operations(records: Records, panel: Drawn) -> list[Operation] | None:
    experiment = records.project.resolve(panel.experiment, records.scale)
    if experiment is None:
        return None
    with torch.device("meta"):
        network = build(experiment, records.project.root)
    if not isinstance(network, ResidualNetwork):
        raise UserError(f"{panel.experiment} has no units: draw another experiment")
    try:
        return operations(network, panel.first, panel.count, panel.asymmetric)
    except ValueError as error:
        raise UserError(f"{panel.experiment}: {error}") from None


def draw_units(records: Records, figure: Units) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and its graph: one row an operation, with those that feed it.

    Raises:
        UserError: a panel asks for units that its network does not have.
    """
    graphs = [_find_operations(records, panel) for panel in figure.panels]
    deepest = max((max(_find_rows(graph).values()) for graph in graphs if graph), default=1)
    ratios = [1.5 if graph and any(o.branch == GATE for o in graph) else 1.0 for graph in graphs]
    width = (1.9 if len(graphs) > 3 else 2.4) * sum(ratios) + 0.4
    drawing = new_drawing(records, figure, width, 0.55 * deepest + 1.3)
    panels = drawing.subplots(1, len(graphs), squeeze=False, width_ratios=ratios)[0]
    drawn = []
    for axes, panel, graph in zip(panels, figure.panels, graphs, strict=True):
        title = panel.title.replace(": ", ":\n") if graph else f"{panel.title}: {NO_COUNTERPART}"
        axes.set_title(title, fontsize=8)
        axes.axis("off")
        if graph:
            _draw_panel(axes, graph, deepest)
            drawn += [(panel.title, o.name, o.label, o.branch, o.unit, " ".join(o.inputs)) for o in graph]
    return drawing, pandas.DataFrame(drawn, columns=["panel", "operation", "label", "branch", "unit", "inputs"])
