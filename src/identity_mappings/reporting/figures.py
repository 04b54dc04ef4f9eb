"""`identity-mappings figures`: every figure as SVG, PNG and CSV."""

import sys
from pathlib import Path

import matplotlib
import pandas
from matplotlib.figure import Figure as Drawing

from ..errors import UserError
from ..parameters import load
from ..parameters.reports import Figure, Responses, Signals, Units
from ..records.files import write_atomically
from . import curves, diagrams, propagation
from .cells import Records
from .drawing import STYLE, to_files


def draw(records: Records, figure: Figure) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and the numbers in it."""
    if isinstance(figure, Units):
        return diagrams.draw_units(records, figure)
    if isinstance(figure, Signals):
        return propagation.draw_signals(records, figure)
    if isinstance(figure, Responses):
        return propagation.draw_responses(records, figure)
    return curves.draw(records, figure)


def draw_all(records: Records) -> dict[str, bytes]:
    """Every figure of a scale as SVG, PNG and CSV, by file name."""
    files: dict[str, bytes] = {}
    with matplotlib.rc_context(STYLE):
        for name, figure in records.project.figures.items():
            try:
                drawing, data = draw(records, figure)
            except UserError as error:
                raise UserError(f"{records.project.root / 'params' / 'figures' / name}.yaml: {error}") from None
            files |= to_files(drawing, name)
            files[f"{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    return files


def write(scale: str, root: Path = Path()) -> None:
    """Make the figures of a scale."""
    records = Records(load(root), scale)
    folder = records.results / "figures"
    for name, content in draw_all(records).items():
        write_atomically(folder / name, content)
    for reason in records.bad:
        print(f"invalid record: {reason}", file=sys.stderr)
    print(f"{folder}: {', '.join(records.project.figures)}")
