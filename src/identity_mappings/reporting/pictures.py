"""The pictures of report.html: the figures' SVG, and small ones of a run and of a comparison."""

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from .claims import Pair
from .propagation import FLOOR

WIDTH = 260  # of the picture of a comparison


def embed_figure(svg: str, name: str, title: str) -> Markup:
    """A figure that matplotlib drew, for a page with several of them.

    Args:
        name: goes before the identifiers, which would be those of other figures otherwise.
        title: what a screen reader says.
    """
    not_needed = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|; font-family: [^;\"]*"  # the page has its own
    svg = re.sub(not_needed, "", "<svg" + svg.partition("<svg")[2])
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def draw_curve(curve: Sequence[tuple[int, float | None, float | None]]) -> Markup:
    """Training error (dashed) and test error of a run, by (iteration, training error, test error)."""
    lines = []
    for style, column in (("dashed", 1), ("solid", 2)):
        rows = [row for row in curve if row[column] is not None]
        rows = rows[: -1 : len(rows) // 40 + 1] + rows[-1:]  # no more can be told apart at this size
        points = " ".join(f"{160 * row[0] / curve[-1][0]:.0f},{58 - 0.58 * row[column]:.0f}" for row in rows)
        lines.append(f'<polyline class="{style}" points="{points}"/>')
    title = "<title>training error (dashed) and test error, from 0 to 100 %</title>"
    return Markup(f'<svg class="curve" viewBox="0 0 160 58" role="img">{title}{"".join(lines)}</svg>' if curve else "")


def draw_comparison(pair: Pair, gradient: bool, span: float, published: bool) -> Markup:
    """How far the one said to be higher lies above the other, with its standard error; hollow: on paper.

    Args:
        gradient: whether the comparison is of gradients.
        span: the picture shows -span to +span, in points, or powers of ten of gradients.
        published: whether to show the published difference.
    """

    def place(difference: float) -> str:
        return f"{WIDTH / 2 + max(-1, min(difference / span, 1)) * (WIDTH / 2 - 8):.0f}"

    difference, paper = find_difference(pair, gradient), find_published_difference(pair) if published else None
    shapes = [f'<path d="M{WIDTH // 2} 0v20"/>']
    if paper is not None:
        shapes.append(f'<circle class="paper" cx="{place(paper)}" cy="10" r="5"/>')
    if difference is not None:
        error = pair.error or 0
        shapes.append(f'<path class="error" d="M{place(difference - error)} 10H{place(difference + error)}"/>')
        shapes.append(f'<circle class="{pair.verdict.split()[0]}" cx="{place(difference)}" cy="10" r="5"/>')
    return Markup(f'<svg class="comparison" viewBox="0 0 {WIDTH} 20" aria-hidden="true">{"".join(shapes)}</svg>')


def find_difference(pair: Pair, gradient: bool) -> float | None:
    """Higher less lower in points (of losses as they are), or the power of ten between two gradients."""
    if pair.lower is None or pair.higher is None:
        return None
    lower, higher = pair.lower.value, pair.higher.value
    return math.log10(max(higher, FLOOR) / max(lower, FLOOR)) if gradient else higher - lower


def find_published_difference(pair: Pair) -> float | None:
    """The same of the published errors; None where one is "fail" or is not printed."""
    numbers = [value for value in pair.published if isinstance(value, (int, float))]
    return numbers[1] - numbers[0] if len(numbers) == 2 else None
