"""`identity-mappings figures`: every figure as SVG, PNG and CSV.

Training curves: loss dashed on an axis of its own (he2016, Figures 1, 3, 6), or training error dashed on the axis of
the test error (he2015, Figure 6); test error solid. The line is the run with the median test error; the band spans all
seeds.

How signals run through the networks: norms by unit, and the layer responses (he2015, Figure 7).
"""

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import matplotlib
import pandas
from matplotlib.figure import Figure as Drawing

from ..errors import UserError
from ..parameters import load
from ..parameters.reports import Curve, Figure, Panel, Responses, Signals, TrainingCurves, Units
from ..records import measurement, run
from ..records.experiment import ARITHMETICS, Experiment
from ..records.files import write_atomically
from ..records.measurement import RESPONSES_CSV, SIGNALS_CSV, get_responses_folder, get_signals_folder
from . import units
from .cells import NO_COUNTERPART, NOT_RUN
from .drawing import COLOURS, STYLE, join_data, new_drawing, to_files
from .store import Records

CURVE_COLUMNS = ["panel", "curve", "seed", "iteration", "learning_rate", "training_loss", "training_error", "test_loss",
                 "test_error"]  # fmt: skip
LEGEND_LINE = 0.06  # of the height of the axes
NOT_MEASURED = "not measured"
NORMS = {"forward_norm": "norm of the signal", "gradient_norm": "norm of the gradient"}
FLOOR = 1e-300  # of what a logarithmic axis shows


def find_typical(records: list[run.Record]) -> run.Record:
    """The run whose test error is the median (the lower of two); diverged runs come last."""
    ordered = sorted(records, key=lambda record: (record.test_error is None, record.test_error, record.path))
    return ordered[(len(ordered) - 1) // 2]


def read_curves(records: Records, curve: Curve) -> tuple[pandas.DataFrame | None, int | None, str]:
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


def draw_curves(records: Records, figure: TrainingCurves) -> tuple[Drawing, pandas.DataFrame]:
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
            data, seed, label = read_curves(records, curve)
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
    return drawing, join_data(drawn, CURVE_COLUMNS)


def _read_measurements(
    records: Records, panel: Panel, get_folder: Callable[[Experiment], Path], name: str, drawn: list[pandas.DataFrame]
) -> Iterator[tuple[str, pandas.DataFrame | None, str]]:
    """Colour, record and label of each curve of a panel; where there is no record None, and why.

    The records are added to `drawn` too; a bad one is noted with `records`.
    """
    for colour, curve in zip(cycle(COLOURS), panel.curves, strict=False):
        experiment = records.project.resolve(curve.experiment, records.scale)
        if experiment is None:
            yield colour, None, f"{curve.label}: {NO_COUNTERPART}"
            continue
        alternatives = experiment.alternatives
        experiment = next((other for other in alternatives if (get_folder(other) / name).is_file()), experiment)
        folder = get_folder(experiment)
        content = records.try_reading(partial(measurement.read_experiment, folder, name, experiment))
        try:
            data = None if content is None else pandas.read_csv(io.BytesIO(content))
        except ValueError as error:  # pandas: no columns, or no table
            records.note_problem(f"{folder / name}: not a table ({error}): remove the folder to have it made again")
            data = None
        if data is None:
            yield colour, None, f"{curve.label}: {NOT_MEASURED}"
            continue
        data.insert(0, "panel", panel.title)
        data.insert(1, "curve", curve.label)
        drawn.append(data)
        yield colour, data, curve.label


def draw_signals(records: Records, figure: Signals) -> tuple[Drawing, pandas.DataFrame]:
    """A row of axes a panel: signal and gradient by unit, at initialization dashed, after the training solid."""
    iterations = records.settings.signal_iterations
    drawing = new_drawing(records, figure, 11, 2.7 * len(figure.panels) + 0.6)
    drawn: list[pandas.DataFrame] = []
    get_folder = partial(get_signals_folder, records.results, iterations=iterations)
    for row, panel in zip(drawing.subplots(len(figure.panels), 2, squeeze=False), figure.panels, strict=True):
        handles = []
        for colour, data, label in _read_measurements(records, panel, get_folder, SIGNALS_CSV, drawn):
            for axes, column in zip(row, NORMS, strict=True):
                for iteration, norms in data.groupby("iteration") if data is not None else ():
                    style, width = ("-", 1.2) if iteration else ("--", 0.8)
                    when = f"{label}, after {iteration} iterations"
                    values = norms[column].clip(lower=FLOOR)
                    axes.plot(norms["unit"], values, style, color=colour, linewidth=width, label=when)
            handles += row[1].plot([], [], color=colour, label=label)
        for axes, text in zip(row, NORMS.values(), strict=True):
            axes.set(yscale="log", xlabel="unit (0: the stem)", ylabel=text)
            axes.set_title(panel.title, fontsize=8)
        row[1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    drawing.supxlabel(f"dashed: at initialization; solid: after {iterations} iterations of the recipe", fontsize=8)
    return drawing, join_data(drawn, ["panel", "curve", "iteration", "unit", "channels", "size", *NORMS])


def draw_responses(records: Records, figure: Responses) -> tuple[Drawing, pandas.DataFrame]:
    """Above in the order of the layers, below sorted by size, as the paper shows them; of seed 0."""
    drawing = new_drawing(records, figure, 5.5 * len(figure.panels), 5.2)
    drawn: list[pandas.DataFrame] = []
    get_folder = partial(get_responses_folder, records.results, seed=0)
    for column, panel in zip(drawing.subplots(2, len(figure.panels), squeeze=False).T, figure.panels, strict=True):
        for colour, data, label in _read_measurements(records, panel, get_folder, RESPONSES_CSV, drawn):
            if data is None:
                column[0].plot([], [], color=colour, label=label)
                continue
            values = data["standard_deviation"]
            column[0].plot(data["layer"], values, color=colour, linewidth=1, label=label)
            column[1].plot(data["layer"], values.sort_values(ascending=False), color=colour, linewidth=1, label=label)
        column[0].set_title(panel.title, fontsize=8)
        column[0].legend(fontsize=7)
        for axes, text in zip(column, ("layer, in order", "layer, sorted by response"), strict=True):
            axes.set(xlabel=text, ylabel="standard deviation")
            axes.set_ylim(bottom=0)
    return drawing, join_data(drawn, ["panel", "curve", "layer", "name", "standard_deviation"])


def draw_figure(records: Records, figure: Figure) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and the numbers in it."""
    if isinstance(figure, Units):
        return units.draw_units(records, figure)
    if isinstance(figure, Signals):
        return draw_signals(records, figure)
    if isinstance(figure, Responses):
        return draw_responses(records, figure)
    return draw_curves(records, figure)


def draw_figures(records: Records) -> dict[str, bytes]:
    """Every figure of a scale as SVG, PNG and CSV, by file name."""
    files: dict[str, bytes] = {}
    with matplotlib.rc_context(STYLE):
        for name, figure in records.project.figures.items():
            try:
                drawing, data = draw_figure(records, figure)
            except UserError as error:
                raise UserError(f"{records.project.root / 'params' / 'figures' / name}.yaml: {error}") from None
            files |= to_files(drawing, name)
            files[f"{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    return files


def write_figures(scale: str, root: Path = Path()) -> None:
    """Make the figures of a scale."""
    records = Records(load(root), scale)
    folder = records.results / "figures"
    for name, content in draw_figures(records).items():
        write_atomically(folder / name, content)
    for reason in records.bad:
        print(f"invalid record: {reason}", file=sys.stderr)
    print(f"{folder}: {', '.join(records.project.figures)}")
