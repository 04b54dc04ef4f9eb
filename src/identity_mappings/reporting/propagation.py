"""Figures of how signals run through the networks: norms by unit, and the layer responses (he2015, Figure 7)."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import pandas
from matplotlib.figure import Figure as Drawing

from ..parameters.reports import Panel, Responses, Signals
from ..records import measurement
from ..records.experiment import Experiment
from ..records.measurement import RESPONSES_CSV, SIGNALS_CSV, get_responses_folder, get_signals_folder
from .cells import NO_COUNTERPART, Records
from .drawing import COLOURS, join_data, new_drawing

NOT_MEASURED = "not measured"
NORMS = {"forward_norm": "norm of the signal", "gradient_norm": "norm of the gradient"}
FLOOR = 1e-300  # of what a logarithmic axis shows


def _read(
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
        for colour, data, label in _read(records, panel, get_folder, SIGNALS_CSV, drawn):
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
        for colour, data, label in _read(records, panel, get_folder, RESPONSES_CSV, drawn):
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
