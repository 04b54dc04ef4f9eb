"""Training curves: loss dashed on an axis of its own (he2016, Figures 1, 3, 6), or training error dashed on the axis of
the test error (he2015, Figure 6); test error solid.

The line is the run with the median test error; the band spans all seeds.
"""

from itertools import cycle

import pandas
from matplotlib.figure import Figure as Drawing

from ..parameters.reports import Curve, TrainingCurves
from ..records import run
from ..records.experiment import ARITHMETICS
from .cells import NO_COUNTERPART, NOT_RUN, Records
from .drawing import COLOURS, join_data, new_drawing

COLUMNS = ["panel", "curve", "seed", "iteration", "learning_rate", "training_loss", "training_error", "test_loss",
           "test_error"]  # fmt: skip
LEGEND_LINE = 0.06  # of the height of the axes


def find_typical(records: list[run.Record]) -> run.Record:
    """The run whose test error is the median (the lower of two); diverged runs come last."""
    ordered = sorted(records, key=lambda record: (record.test_error is None, record.test_error, record.path))
    return ordered[(len(ordered) - 1) // 2]


def load_curves(records: Records, curve: Curve) -> tuple[pandas.DataFrame | None, int | None, str]:
    """The curves of all runs of an experiment, by seed and iteration.

    Returns:
        The rows of every run's curve.csv; the seed of the typical run, whose curve is drawn as a line; the label. Where
        there is no run: None, None, and a label that says why.
    """
    experiment = records.project.resolve(curve.experiment, records.scale)
    found = records.read_finished(experiment) if experiment else []
    if not found:
        return None, None, f"{curve.label}: {NOT_RUN if experiment else NO_COUNTERPART}"
    rows = []
    for record in sorted(found, key=lambda record: record.metrics["seed"]):
        data = pandas.read_csv(record.path.parent / run.CURVE)
        data.insert(0, "curve", curve.label)
        data.insert(1, "seed", record.metrics["seed"])
        rows.append(data)
    typical = find_typical(found).metrics
    ending = "diverged" if typical["test_error"] is None else f"{typical['test_error']:.2f} %"
    ending += "" if typical["arithmetic"] == ARITHMETICS[0] else f" ({typical['arithmetic']})"
    return pandas.concat(rows, ignore_index=True), typical["seed"], f"{curve.label}: {ending}"


def draw(records: Records, figure: TrainingCurves) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and the numbers in it."""
    panels = len(figure.panels)
    columns = panels if panels == 3 else min(panels, 2)
    rows = -(-panels // columns)
    drawing = new_drawing(records, figure, 4.6 * columns, 3.3 * rows + 0.5)
    published, with_loss = records.settings.published, figure.dashed == "training loss"
    dashed, drawn = figure.dashed.replace(" ", "_"), []
    for panel, left in zip(figure.panels, drawing.subplots(rows, columns, squeeze=False).flat, strict=False):
        right = left.twinx() if with_loss else left
        left.set_title(panel.title, fontsize=9)
        left.set_xlabel("iterations")
        right.set_ylabel("test error, % (solid)" if with_loss else "error, %: training (dashed), test (solid)")
        if with_loss:
            left.set(ylabel="training loss (dashed)", yscale="log")
        handles, limit = [], 0.0
        for colour, curve in zip(cycle(COLOURS), panel.curves, strict=False):
            data, seed, label = load_curves(records, curve)
            if data is None:
                handles += right.plot([], [], color=colour, label=label)
                continue
            line = data[data["seed"] == seed]
            tests = line.dropna(subset=["test_error"])
            for axes, column in ((left, dashed), (right, "test_error")) if data["seed"].nunique() > 1 else ():
                band = data.dropna(subset=[column]).groupby("iteration")[column].agg(["min", "max"])
                axes.fill_between(band.index, band["min"], band["max"], color=colour, alpha=0.2, linewidth=0)
            left.plot(line["iteration"], line[dashed], "--", color=colour, linewidth=0.7, label=f"{label}, training")
            handles += right.plot(tests["iteration"], tests["test_error"], color=colour, linewidth=1.2, label=label)
            limit = max(limit, data["iteration"].max())
            data.insert(0, "panel", panel.title)
            drawn.append(data)
        if published and with_loss:
            left.set_ylim(*figure.loss_limits)
        if published:
            right.set_ylim(0, figure.error_limit)
        else:  # all of 0 to 100 %, and room above for the legend
            right.set_ylim(0, 100 / (0.93 - LEGEND_LINE * len(handles)))
            right.set_yticks(range(0, 101, 20))
        left.set_xlim(0, limit or 1)
        right.legend(handles=handles, loc="upper right", fontsize=7, framealpha=0.9)
    for unused in list(drawing.axes)[panels : rows * columns]:
        unused.set_visible(False)
    if any(data["seed"].nunique() > 1 for data in drawn):
        drawing.supxlabel("line: the median run; band: from the lowest to the highest of all runs", fontsize=8)
    return drawing, join_data(drawn, COLUMNS)
