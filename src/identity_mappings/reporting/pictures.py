"""The pictures of report.html: the figures' SVG, and the curve of a run."""

import re
from collections.abc import Sequence

from markupsafe import Markup, escape


def embed_figure(svg: str, name: str, title: str) -> Markup:
    """A figure that matplotlib drew, for a page with several of them.

    Args:
        name: goes before the identifiers, which would be those of other figures otherwise.
        title: what a screen reader says.
    """
    not_needed = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|; font-family: [^;\"]*"  # the page has its own
    svg = re.sub(not_needed, "", "<svg" + svg.partition("<svg")[2])
    svg = re.sub(r"(\.\d\d)\d+(?=[^<>]*>)", r"\1", svg)  # hundredths of a point, in attributes
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))


def draw_curve(curve: Sequence[tuple[int, float | None, float | None]]) -> Markup:
    """Training error (dashed) and test error of a run, by (iteration, training error, test error)."""
    lines = []
    for style, column in (("dashed", 1), ("solid", 2)):
        rows = [(row[0], error) for row in curve if (error := row[column]) is not None]
        rows = rows[: -1 : len(rows) // 40 + 1] + rows[-1:]  # no more can be told apart at this size
        points = " ".join(f"{160 * iteration / curve[-1][0]:.0f},{58 - 0.58 * error:.0f}" for iteration, error in rows)
        lines.append(f'<polyline class="{style}" points="{points}"/>')
    title = "<title>training error (dashed) and test error, from 0 to 100 %</title>"
    return Markup(f'<svg class="curve" viewBox="0 0 160 58" role="img">{title}{"".join(lines)}</svg>' if curve else "")
