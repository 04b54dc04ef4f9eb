"""The pictures of report.html: small SVG, whose values stand in attributes for the pointer to find."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle, pairwise
from statistics import median

from markupsafe import Markup

from ..parameters.reports import Figure, Responses, Signals, TrainingCurves
from .claims import Pair
from .propagation import FLOOR, NORMS

COLOURS = (
    "#2f5f9e",
    "#b5402f",
    "#2c7d52",
    "#7d5592",
    "#a86c12",
    "#127a7a",
    "#704c36",
    "#b3437f",
    "#566577",
    "#737d14",
    "#222",
)
WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 46, 10, 34
MOST = 130  # points of a line: more cannot be told apart at this size


@dataclass(frozen=True)
class Axis:
    """Values on a line of pixels.

    Attributes:
        low, high: values at its ends.
        start, end: pixels of these.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        value = math.log10(max(value, self.low)) if self.logarithmic else value
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, -(-(last - first) // 6))
            return [10.0**power for power in range(first, last + 1, step)]
        raw = (self.high - self.low) / 5 or 1
        size = 10 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        points: (x, value).
        band: (x, lowest, highest) of several runs; empty of one.
        right: whether it belongs to the axis on the right.
    """

    label: str
    quantity: str
    colour: str
    points: list[tuple[float, float]]
    dashed: bool = False
    right: bool = False
    band: Sequence[tuple[float, float, float]] = ()


def number(value: float, logarithmic: bool = False) -> str:
    """A number on an axis."""
    if logarithmic and not 0.01 <= value < 1e4:
        return f"1e{round(math.log10(value))}"
    return f"{value:,.6g}"


def _pixels(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _thinned(points: list, most: int = MOST) -> list:
    if len(points) <= most:
        return points
    step = -(-len(points) // most)
    return [*points[:-1:step], points[-1]]


def line_chart(
    title: str, x_label: str, lines: list[Line], x: Axis, left: Axis, right: Axis | None, labels: tuple[str, str]
) -> Markup:
    """Lines on axes; a pointer, or the arrow keys, find the values in the attributes."""
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" data-x="{escape(x_label)}" '
        f'data-plot="{x.start} {x.end} {x.low:.9g} {x.high:.9g}" aria-label="{escape(title)}">'
    ]
    for axis, at, anchor in ((left, LEFT - 6, "end"), (right, WIDTH - RIGHT + 6, "start")):
        for tick in axis.ticks if axis else ():
            y = _pixels(axis(tick))
            if axis is left:
                parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            text = number(tick, axis.logarithmic)
            parts.append(f'<text class="tick" x="{at}" y="{y}" dy="3.5" text-anchor="{anchor}">{text}</text>')
    base = HEIGHT - BOTTOM
    for tick in x.ticks:
        at = _pixels(x(tick))
        parts.append(f'<text class="tick" x="{at}" y="{base + 14}" text-anchor="middle">{number(tick)}</text>')
    middle = (TOP + base) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">{escape(x_label)}</text>')
    parts.append(f'<text class="name" transform="translate(11 {middle}) rotate(-90)">{escape(labels[0])}</text>')
    if right:
        turned = f"translate({WIDTH - 6} {middle}) rotate(-90)"
        parts.append(f'<text class="name" transform="{turned}">{escape(labels[1])}</text>')
    for line in lines:
        y = right if line.right and right else left
        points = _thinned(line.points)
        if line.band:
            above = [f"{_pixels(x(at))},{_pixels(y(high))}" for at, _, high in _thinned(list(line.band))]
            below = [f"{_pixels(x(at))},{_pixels(y(low))}" for at, low, _ in reversed(_thinned(list(line.band)))]
            parts.append(f'<polygon class="band" fill="{line.colour}" points="{" ".join([*above, *below])}"/>')
        drawn = " ".join(f"{_pixels(x(at))},{_pixels(y(value))}" for at, value in points)
        values = " ".join(f"{at:g},{value:.4g}" for at, value in points)
        parts.append(
            f'<polyline class="line{" dashed" if line.dashed else ""}" stroke="{line.colour}" points="{drawn}" '
            f'data-label="{escape(line.label)}" data-quantity="{escape(line.quantity)}" data-values="{values}"/>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))


@dataclass(frozen=True)
class Panel:
    """A chart with the names of its curves: (label, colour, what stands for a curve that is not there)."""

    title: str
    chart: Markup | None
    legend: list[tuple[str, str, str]]


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def panels(figure: Figure, content: bytes, published: bool) -> list[Panel]:
    """The panels of a figure of curves, signals or responses, from its CSV.

    Args:
        published: whether the axes are the paper's.
    """
    rows = _rows(content)
    found = []
    for panel in figure.panels:
        mine = [row for row in rows if row["panel"] == panel.title]
        coloured = [
            (curve.label, colour, [row for row in mine if row["curve"] == curve.label])
            for curve, colour in zip(panel.curves, cycle(COLOURS), strict=False)
        ]
        there = [entry for entry in coloured if entry[2]]
        missing = "not run" if isinstance(figure, TrainingCurves) else "not measured"
        legend = [(label, colour, "" if part else missing) for label, colour, part in coloured]
        if not there:
            found.append(Panel(panel.title, None, legend))
        elif isinstance(figure, TrainingCurves):
            found.append(Panel(panel.title, _training(panel.title, figure, there, published), legend))
        elif isinstance(figure, Signals):
            for column, name in NORMS.items():
                title = f"{panel.title}: {name}"
                found.append(Panel(title, _signals(title, column, name, there), legend))
        elif isinstance(figure, Responses):
            found.append(Panel(panel.title, _responses(panel.title, there), legend))
    return found


def _over_runs(rows: Iterable[dict[str, str]], column: str) -> tuple[list, list]:
    """The median over the runs at each iteration, and the lowest and highest where there are several."""
    values: dict[float, list[float]] = {}
    for row in rows:
        if row.get(column):
            values.setdefault(float(row["iteration"]), []).append(float(row[column]))
    points = [(at, median(found)) for at, found in sorted(values.items())]
    several = any(len(found) > 1 for found in values.values())
    return points, [(at, min(found), max(found)) for at, found in sorted(values.items())] if several else []


def _training(title: str, figure: TrainingCurves, there: list, published: bool) -> Markup:
    with_loss = figure.dashed == "training loss"
    lines, longest = [], 1.0
    for label, colour, rows in there:
        training, _ = _over_runs(rows, figure.dashed.replace(" ", "_"))
        test, band = _over_runs(rows, "test_error")
        longest = max([longest, *(at for at, _ in training)])
        lines.append(Line(label, figure.dashed, colour, training, dashed=True))
        lines.append(Line(label, "test error", colour, test, right=with_loss, band=band))
    low, high = figure.loss_limits if published else _limits([line for line in lines if line.dashed])
    top = figure.error_limit if published else 100.0
    errors = Axis(0, top, HEIGHT - BOTTOM, TOP)
    left = Axis(low, high, HEIGHT - BOTTOM, TOP, logarithmic=True) if with_loss else errors
    x = Axis(0, longest, LEFT, WIDTH - RIGHT)
    names = ("training loss (dashed)", "test error, %") if with_loss else ("error, %", "")
    return line_chart(title, "iterations", lines, x, left, errors if with_loss else None, names)


def _limits(lines: list[Line]) -> tuple[float, float]:
    """Whole powers of ten around all values."""
    values = [value for line in lines for _, value in line.points if value > FLOOR]
    low, high = min(values, default=0.1), max(values, default=1)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)


def _signals(title: str, column: str, name: str, there: list) -> Markup:
    lines = []
    for label, colour, rows in there:
        for iteration in sorted({int(row["iteration"]) for row in rows}):
            points = [
                (float(row["unit"]), max(float(row[column] or 0), FLOOR))
                for row in rows
                if int(row["iteration"]) == iteration
            ]
            when = f"after {iteration} iterations" if iteration else "at initialization"
            lines.append(Line(label, when, colour, points, dashed=not iteration))
    low, high = _limits(lines)
    x = Axis(0, max(at for line in lines for at, _ in line.points), LEFT, WIDTH - RIGHT)
    left = Axis(low, high, HEIGHT - BOTTOM, TOP, logarithmic=True)
    return line_chart(title, "unit (0: the stem)", lines, x, left, None, (name, ""))


def _responses(title: str, there: list) -> Markup:
    lines = [
        Line(label, "standard deviation", colour, [(float(r["layer"]), float(r["standard_deviation"])) for r in rows])
        for label, colour, rows in there
    ]
    x = Axis(0, max(at for line in lines for at, _ in line.points), LEFT, WIDTH - RIGHT)
    left = Axis(0, max(value for line in lines for _, value in line.points) * 1.05, HEIGHT - BOTTOM, TOP)
    return line_chart(title, "layer, in order", lines, x, left, None, ("standard deviation", ""))


def small_curve(curve: list[tuple[int, float, float | None]]) -> Markup:
    """Training error (dashed) and test error (solid) of a run, without axes; logarithmic from 0.1 to 100 %."""
    if not curve:
        return Markup("")
    x, y = Axis(0, curve[-1][0], 1, 159), Axis(0.1, 100, 55, 3, logarithmic=True)
    tests = [(at, test) for at, _, test in curve if test is not None]
    training = [(at, error) for at, error, _ in curve]
    lines = ['<path class="grid" d="M0 38h160M0 20h160"/>']
    for name, points in (("dashed", training), ("solid", tests)):
        places = [(round(x(at)), round(y(value))) for at, value in _thinned(points, 40)]
        lines += [f'<path class="line {name}" d="{_path(places)}"/>'] if places else []
    title = "<title>training error (dashed) and test error, 0.1 to 100 %</title>"
    return Markup(f'<svg class="small-curve" viewBox="0 0 160 58" role="img">{title}{"".join(lines)}</svg>')


def _path(points: list[tuple[int, int]]) -> str:
    """A line through whole pixels, each as its way from the one before: as short as SVG can say it."""
    ways = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points)]
    return f"M{points[0][0]} {points[0][1]}l" + " ".join(f"{dx} {dy}" for dx, dy in ways).replace(" -", "-")


def interval(pair: Pair, span: float, beyond: float, gradient: bool, factor: float) -> Markup:
    """A comparison: how far the one said to be higher lies above the other, with its error; hollow: on paper.

    Args:
        span: the picture shows -span to +span, in points, or powers of ten of gradients.
        beyond: standard errors from which a difference decides.
        factor: of gradients, from which one decides.
    """
    x = Axis(-span, span, 8, 252)
    reach = math.log10(factor) if gradient else beyond * pair.error if pair.error else 0
    parts = ['<svg class="interval" viewBox="0 0 260 30" role="img">']
    found, paper = gap(pair, gradient), paper_gap(pair)
    said = [] if found is None else [f"{found:+.2g}" + (f" ± {pair.error:.2g}" if pair.error else "")]
    said += [] if paper is None else [f"on paper {paper:+.2f}"]
    parts.append(f"<title>{escape('; '.join(said) or 'not run')}</title>")
    if reach:
        left, right = x(-reach), x(reach)
        parts.append(f'<rect class="unsure" x="{_pixels(left)}" width="{_pixels(right - left)}" y="3" height="24"/>')
    parts.append(f'<line class="zero" x1="{_pixels(x(0))}" x2="{_pixels(x(0))}" y1="1" y2="29"/>')
    if paper is not None:
        at = _pixels(x(paper))
        parts.append(f'<path class="paper" d="M{at} 9l6 6l-6 6l-6 -6z"/>')
    if found is not None:
        at = x(found)
        if pair.error:
            ends = _pixels(x(found - pair.error)), _pixels(x(found + pair.error))
            parts.append(f'<line class="error" x1="{ends[0]}" x2="{ends[1]}" y1="15" y2="15"/>')
        parts.append(f'<circle class="found {pair.verdict.split()[0]}" cx="{_pixels(at)}" cy="15" r="5"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def gap(pair: Pair, gradient: bool) -> float | None:
    """Higher less lower in points (of losses as they are), or the power of ten between two gradients."""
    values = [side.value if side else None for side in (pair.lower, pair.higher)]
    if None in values:
        return None
    if gradient:
        return math.log10(max(values[1], FLOOR) / max(values[0], FLOOR))
    return values[1] - values[0]


def paper_gap(pair: Pair) -> float | None:
    """The same of the published errors; None where one is "fail" or is not printed."""
    numbers = [value for value in pair.published if isinstance(value, (int, float))]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None


def units(content: bytes) -> list[tuple[str, Markup]]:
    """Residual units of a figure, by panel: the layout of `diagrams`, as small SVG."""
    from .diagrams import COLUMNS, FILL, rows_of  # needs torch

    rows = _rows(content)
    return [
        (title, _unit([_Box(row) for row in rows if row["panel"] == title], COLUMNS, FILL, rows_of))
        for title in dict.fromkeys(row["panel"] for row in rows)
    ]


class _Box:
    """An operation, as `networks.unit_graph.Operation` has it, from a row of the figure's CSV."""

    def __init__(self, row: dict[str, str]):
        self.name, self.label, self.branch = row["operation"], row["label"], row["branch"]
        self.inputs = tuple(row["inputs"].split())


def _unit(boxes: list[_Box], columns: dict[str, float], fill: dict[str, str], rows_of) -> Markup:
    rows = rows_of(boxes)
    used = [columns[box.branch] for box in boxes]
    left, step, width, height = min(used), 34, 92, 22
    place = {
        box.name: ((columns[box.branch] - left) * 78 + width / 2 + 10, rows[box.name] * step + height / 2 + 4)
        for box in boxes
    }
    size = f"{(max(used) - left) * 78 + width + 20:.0f} {max(rows.values()) * step + height + 24}"
    parts = [f'<svg class="unit" viewBox="0 0 {size}" width="{size.split()[0]}" role="img">']
    joins = {box.name for box in boxes if box.label in ("+", "×")}
    half = {box.name: 9 if box.name in joins else height / 2 for box in boxes}
    for box in boxes:
        x, y = place[box.name]
        for source in box.inputs:
            a, b = place[source]
            start = b + half[source]
            if a == x:
                between = [p for p in place.values() if p[0] == x and b < p[1] < y]
                route = f"M{a} {start}V{y - half[box.name]}"
                if between:  # around what stands between
                    route = f"M{a - width / 2} {b}h-7V{y}H{x - half[box.name]}"
            elif box.name in joins:
                below = any(p[0] == a and b < p[1] < y for p in place.values())
                bend = f"M{a + width / 2} {b}h7V{y}" if below else f"M{a} {start}V{y}"
                route = f"{bend}H{x + (half[box.name] if a > x else -half[box.name])}"
            else:
                route = f"M{a} {start}v{(step - height) / 4:g}H{x}V{y - half[box.name]}"
            parts.append(f'<path class="arrow" d="{route}"/>')
    fed = {name for box in boxes for name in box.inputs}
    trunk = [box for box in boxes if columns[box.branch] == 0][-1]
    for box in boxes:
        x, y = place[box.name]
        if box.name not in fed or box is trunk:
            parts.append(f'<path class="arrow" d="M{x} {y + half[box.name]}v16"/>')
        if box.name in joins:
            parts.append(f'<circle class="box" cx="{x}" cy="{y}" r="9"/>')
        else:
            colour = "#fff" if box.label == "x" else next(fill[kind] for kind in fill if kind in box.label)
            parts.append(
                f'<rect class="box" fill="{colour}" x="{x - width / 2}" y="{y - height / 2}" width="{width}" '
                f'height="{height}" rx="4"/>'
            )
        parts.append(f'<text x="{x}" y="{y}" dy="4">{escape(box.label)}</text>')
    parts.append("</svg>")
    return Markup("".join(parts).replace(".0 ", " ").replace('.0"', '"'))
