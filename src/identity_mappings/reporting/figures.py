"""Training curves as he2016 draws them (Figures 1, 3, 6): loss dashed on the left axis, test error solid on the
right."""

import io
from itertools import cycle
from pathlib import Path

import matplotlib
import pandas
from matplotlib.figure import Figure as Drawing

from ..parameters import Project, load
from ..parameters.reports import Curve, TrainingCurves
from ..records import run
from . import fingerprint
from .cells import NO_COUNTERPART, NOT_RUN, Records

ORIGIN = "figures.json"
COLOURS = ("#3b6fb6", "#c0392b", "#2e8b57", "#8e5ea2", "#d08a1d")
STYLE = {
    "svg.hashsalt": "identity-mappings",  # the same identifiers every time
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "path.simplify": False,
}


def typical(records: list[run.Record]) -> run.Record:
    """The run whose test error is the median (the lower of two); diverged runs come last."""
    ordered = sorted(records, key=lambda record: (record.test_error is None, record.test_error, record.path))
    return ordered[(len(ordered) - 1) // 2]


def curve_of(project: Project, scale: str, records: Records, curve: Curve) -> tuple[pandas.DataFrame | None, str]:
    """The curve to draw and its label, or None and why there is none."""
    experiment = project.resolve(curve.experiment, scale)
    if experiment is None:
        return None, f"{curve.label}: {NO_COUNTERPART}"
    found = records.of(experiment)
    if not found:
        return None, f"{curve.label}: {NOT_RUN}"
    record = typical(found)
    data = pandas.read_csv(record.path.parent / run.CURVE)
    data.insert(0, "curve", curve.label)
    data.insert(1, "seed", record.metrics["seed"])
    ending = "diverged" if record.test_error is None else f"{record.test_error:.2f} %"
    return data, f"{curve.label}: {ending}"


def draw(project: Project, scale: str, records: Records, figure: Figure) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and the numbers in it."""
    panels = len(figure.panels)
    columns = min(panels, 2)
    rows = -(-panels // columns)
    drawing = Drawing(figsize=(4.6 * columns, 3.3 * rows + 0.5), layout="constrained")
    settings = project.scale(scale)
    note = "" if settings.published else f"\nscale {scale}: shortened networks on other data, not the paper's"
    drawing.suptitle(f"{figure.paper}, {figure.figure}: {figure.title}{note}", fontsize=9)
    drawn = []
    for panel, left in zip(figure.panels, drawing.subplots(rows, columns, squeeze=False).flat, strict=False):
        right = left.twinx()
        left.set_title(panel.title, fontsize=9)
        left.set_xlabel("iterations")
        left.set_ylabel("training loss (dashed)")
        right.set_ylabel("test error, % (solid)")
        left.set_yscale("log")
        handles, limit = [], 0.0
        for colour, curve in zip(cycle(COLOURS), panel.curves, strict=False):
            data, label = curve_of(project, scale, records, curve)
            if data is None:
                handles += right.plot([], [], color=colour, label=label)
                continue
            tests = data.dropna(subset=["test_error"])
            left.plot(data["iteration"], data["training_loss"], "--", color=colour, linewidth=0.7)
            handles += right.plot(tests["iteration"], tests["test_error"], color=colour, linewidth=1.2, label=label)
            limit = max(limit, data["iteration"].max())
            data.insert(0, "panel", panel.title)
            drawn.append(data)
        if settings.published:
            left.set_ylim(*figure.loss_limits)
        right.set_ylim(0, figure.error_limit if settings.published else 100)
        left.set_xlim(0, limit or 1)
        right.legend(handles=handles, loc="upper right", fontsize=7, framealpha=0.9)
    for unused in drawing.axes[panels : rows * columns] if panels < rows * columns else []:
        unused.set_visible(False)
    names = ["panel", "curve", "seed", "iteration", "learning_rate", "training_loss", "training_error"]
    empty = pandas.DataFrame(columns=[*names, "test_loss", "test_error"])
    return drawing, pandas.concat(drawn, ignore_index=True) if drawn else empty


def saved(drawing: Drawing, form: str) -> bytes:
    """The drawing as bytes that depend on nothing but what is drawn."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    drawing.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()


def write(scale: str, root: Path = Path()) -> None:
    """Make every figure of a scale as SVG, PNG and CSV, and figures.json, which says from what."""
    project = load(root)
    records = Records(project, scale)
    folder = root / project.scale(scale).results / "figures"
    files: dict[str, bytes] = {}
    with matplotlib.rc_context(STYLE):
        for name, figure in project.figures.items():
            drawing, data = draw(project, scale, records, figure)
            files |= {f"{name}.{form}": saved(drawing, form) for form in ("svg", "png")}
            files[f"{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    facts = {"scale": scale, "fingerprint": fingerprint.fingerprint(project, scale, "figures")}
    fingerprint.write(folder, files, ORIGIN, facts)
    print(f"{folder}: {', '.join(project.figures)}")
