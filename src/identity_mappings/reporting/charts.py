"""The pictures of report.html: small SVG, drawn by charts.svg.jinja, whose values stand in attributes."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise

import pandas
from markupsafe import Markup

from ..parameters.reports import Figure, Signals, TrainingCurves
from .claims import Pair
from .propagation import FLOOR, NORMS
from .rendering import format_pixels, render_markup

COLOURS = ("#2f5f9e", "#b5402f", "#2c7d52", "#7d5592", "#a86c12", "#127a7a", "#704c36", "#b3437f", "#566577", "#737d14",
           "#222")  # fmt: skip
WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 46, 10, 34
MOST_POINTS = 130  # of a line: more cannot be told apart at this size

Points = list[tuple[float, ...]]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on a line of pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value; a little outside of the axis for values outside of it."""
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

    def label(self, tick: float) -> str:
        if self.logarithmic and not 0.01 <= tick < 1e4:
            return f"1e{round(math.log10(tick))}"
        return f"{tick:,.6g}"


HORIZONTAL, VERTICAL = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)  # pixels of the axes


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    label: str
    quantity: str
    colour: str
    points: Points  # (x, value)
    dashed: bool = False
    right: bool = False  # whether it belongs to the axis on the right
    band: Points = field(default_factory=list)  # (x, lowest, highest) of several runs; empty of one

    @property
    def values(self) -> str:
        return " ".join(f"{at:g},{value:.4g}" for at, value in thin(self.points))


@dataclass(frozen=True)
class Chart:
    """Lines on axes; a pointer, or the arrow keys, find the values in the attributes."""

    title: str
    x_label: str
    lines: list[Line]
    x: Axis
    left: Axis
    left_label: str
    right: Axis | None = None
    right_label: str = ""

    def trace(self, line: Line) -> str:
        return self._place(line, thin(line.points))

    def trace_band(self, line: Line) -> str:
        band = thin(line.band)
        return self._place(line, [(at, high) for at, _, high in band] + [(at, low) for at, low, _ in reversed(band)])

    def _place(self, line: Line, points: Points) -> str:
        y = self.right if line.right else self.left
        return " ".join(f"{format_pixels(self.x.place(at))},{format_pixels(y.place(value))}" for at, value in points)

    def draw(self) -> Markup:
        size = {"width": WIDTH, "height": HEIGHT, "begin": LEFT, "end": WIDTH - RIGHT, "base": HEIGHT - BOTTOM}
        return render_markup("charts.svg.jinja", "line_chart", self, {**size, "middle": (TOP + HEIGHT - BOTTOM) / 2})


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """Every so many points, and the last."""
    if len(points) <= most:
        return points
    return [*points[: -1 : -(-len(points) // most)], points[-1]]


@dataclass(frozen=True)
class Panel:
    """A chart with the names of its curves: (label, colour, what stands for a curve that is not there)."""

    title: str
    chart: Markup | None
    legend: list[tuple[str, str, str]]


Curves = list[tuple[str, str, pandas.DataFrame]]  # label, colour, values


def draw_panels(figure: Figure, content: bytes, published: bool) -> list[Panel]:
    """The panels of a figure of curves, signals or responses, from its CSV.

    Args:
        published: whether the axes are the paper's.
    """
    table = pandas.read_csv(io.BytesIO(content))
    drawn = []
    for panel in figure.panels:
        rows = table[table["panel"] == panel.title]
        pairs = zip(panel.curves, cycle(COLOURS), strict=False)
        curves = [(curve.label, colour, rows[rows["curve"] == curve.label]) for curve, colour in pairs]
        measured = [curve for curve in curves if len(curve[2])]
        missing = "not run" if isinstance(figure, TrainingCurves) else "not measured"
        legend = [(label, colour, "" if len(values) else missing) for label, colour, values in curves]
        title = panel.title
        if not measured:
            charts = {title: None}
        elif isinstance(figure, TrainingCurves):
            charts = {title: _draw_training(title, figure, measured, published)}
        elif isinstance(figure, Signals):
            charts = {f"{title}: {name}": _draw_norms(title, column, name, measured) for column, name in NORMS.items()}
        else:
            charts = {title: _draw_responses(title, measured)}
        drawn += [Panel(name, chart, legend) for name, chart in charts.items()]
    return drawn


def _over_runs(values: pandas.DataFrame, column: str) -> tuple[Points, Points]:
    """The median over the runs at each iteration, and the lowest and highest where there are several."""
    groups = values.dropna(subset=[column]).groupby("iteration")[column]
    spread = groups.agg(["min", "max"])
    points = [(float(at), value) for at, value in groups.median().items()]
    return points, list(spread.itertuples(name=None)) if (groups.size() > 1).any() else []


def _draw_training(title: str, figure: TrainingCurves, curves: Curves, published: bool) -> Markup:
    with_loss = figure.dashed == "training loss"
    lines, longest = [], 1.0
    for label, colour, values in curves:
        training, _ = _over_runs(values, figure.dashed.replace(" ", "_"))
        test, band = _over_runs(values, "test_error")
        longest = max([longest, *(at for at, _ in training)])
        lines.append(Line(label, figure.dashed, colour, training, dashed=True))
        lines.append(Line(label, "test error", colour, test, right=with_loss, band=band))
    errors, x = Axis(0, figure.error_limit if published else 100.0, *VERTICAL), Axis(0, longest, *HORIZONTAL)
    if not with_loss:
        return Chart(title, "iterations", lines, x, errors, "error, %").draw()
    limits = figure.loss_limits if published else _limits([line for line in lines if line.dashed])
    losses = Axis(*limits, *VERTICAL, logarithmic=True)
    labels = "training loss (dashed)", "test error, %"
    return Chart(title, "iterations", lines, x, losses, labels[0], errors, labels[1]).draw()


def _limits(lines: list[Line]) -> tuple[float, float]:
    """Whole powers of ten around all values."""
    values = [value for line in lines for _, value in line.points if value > FLOOR]
    low, high = min(values, default=0.1), max(values, default=1)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)


def _draw_norms(title: str, column: str, name: str, curves: Curves) -> Markup:
    lines = []
    for label, colour, values in curves:
        norms = values.fillna({column: 0}).assign(**{column: lambda v: v[column].clip(lower=FLOOR)})
        for iteration, rows in norms.groupby("iteration"):
            when = f"after {iteration} iterations" if iteration else "at initialization"
            points = list(zip(rows["unit"].astype(float), rows[column], strict=True))
            lines.append(Line(label, when, colour, points, dashed=not iteration))
    x = Axis(0, max(at for line in lines for at, _ in line.points), *HORIZONTAL)
    y = Axis(*_limits(lines), *VERTICAL, logarithmic=True)
    return Chart(f"{title}: {name}", "unit (0: the stem)", lines, x, y, name).draw()


def _draw_responses(title: str, curves: Curves) -> Markup:
    name = "standard deviation"
    lines = [
        Line(label, name, colour, list(zip(rows["layer"].astype(float), rows["standard_deviation"], strict=True)))
        for label, colour, rows in curves
    ]
    x = Axis(0, max(at for line in lines for at, _ in line.points), *HORIZONTAL)
    y = Axis(0, max(value for line in lines for _, value in line.points) * 1.05, *VERTICAL)
    return Chart(title, "layer, in order", lines, x, y, name).draw()


def draw_small_curve(curve: Sequence[tuple[int, float | None, float | None]]) -> Markup:
    """Training error (dashed) and test error (solid) of a run, without axes, from 0 to 100 %."""
    if not curve:
        return Markup("")
    x, y = Axis(0, curve[-1][0], 1, 159), Axis(0, 100, 55, 3)
    paths = {}
    for style, index in (("dashed", 1), ("solid", 2)):
        points = thin([(row[0], row[index]) for row in curve if row[index] is not None], 40)
        if points:
            # Whole pixels, each relative to the one before: as short as SVG can say it.
            places = [(round(x.place(at)), round(y.place(value))) for at, value in points]
            ways = " ".join(f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(places)).replace(" -", "-")
            paths[style] = f"M{places[0][0]} {places[0][1]}l{ways}"
    return render_markup("charts.svg.jinja", "small_curve", paths)


def draw_interval(pair: Pair, span: float, beyond: float, gradient: bool, factor: float, published: bool) -> Markup:
    """A comparison: how far the one said to be higher lies above the other, with its error; hollow: on paper.

    Args:
        span: the picture shows -span to +span, in points, or powers of ten of gradients.
        beyond: standard errors from which a difference decides.
        factor: of gradients, from which one decides.
        published: whether to show the published difference.
    """
    x = Axis(-span, span, 8, 252)
    reach = math.log10(factor) if gradient else beyond * pair.error if pair.error else 0
    difference, paper = find_difference(pair, gradient), find_published_difference(pair) if published else None
    places = {
        "zero": x.place(0),
        "unsure": [x.place(-reach), x.place(reach)] if reach else None,
        "paper": paper is not None and x.place(paper),
        "found": difference is not None and x.place(difference),
        "error": pair.error and difference is not None and [x.place(difference + s * pair.error) for s in (-1, 1)],
    }
    return render_markup("charts.svg.jinja", "interval", pair, difference, paper, places)


def find_difference(pair: Pair, gradient: bool) -> float | None:
    """Higher less lower in points (of losses as they are), or the power of ten between two gradients."""
    lower, higher = (side.value if side else None for side in (pair.lower, pair.higher))
    if lower is None or higher is None:
        return None
    return math.log10(max(higher, FLOOR) / max(lower, FLOOR)) if gradient else higher - lower


def find_published_difference(pair: Pair) -> float | None:
    """The same of the published errors; None where one is "fail" or is not printed."""
    numbers = [value for value in pair.published if isinstance(value, (int, float))]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None
