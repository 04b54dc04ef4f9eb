"""`identity-mappings figures`: every figure as SVG, PNG and CSV."""

import sys
from pathlib import Path

import matplotlib
import pandas
from matplotlib.figure import Figure as Drawing

from ..errors import UserError
from ..parameters import load
from ..parameters.reports import Figure, Responses, Signals, Units
from . import curves, diagrams, fingerprint, propagation
from .cells import Records
from .drawing import STYLE, to_files

ORIGIN = "figures.json"


def draw(records: Records, figure: Figure) -> tuple[Drawing, pandas.DataFrame]:
    """The drawing, and the numbers in it."""
    if isinstance(figure, Units):
        return diagrams.draw_units(records, figure)
    if isinstance(figure, Signals):
        return propagation.draw_signals(records, figure)
    if isinstance(figure, Responses):
        return propagation.draw_responses(records, figure)
    return curves.draw(records, figure)


def write(scale: str, root: Path = Path()) -> None:
    """Make every figure of a scale as SVG, PNG and CSV, and figures.json, which says from what."""
    project = load(root)
    records = Records(project, scale)
    folder = root / project.scale(scale).results / "figures"
    files: dict[str, bytes] = {}
    with matplotlib.rc_context(STYLE):
        for name, figure in project.figures.items():
            try:
                drawing, data = draw(records, figure)
            except UserError as error:
                raise UserError(f"{root / 'params' / 'figures' / name}.yaml: {error}") from None
            files |= to_files(drawing, name)
            files[f"{name}.csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    for reason in records.bad:
        print(f"invalid record: {reason}", file=sys.stderr)
    facts = {"scale": scale, "fingerprint": fingerprint.fingerprint(project, scale, "figures")}
    fingerprint.write(folder, files, ORIGIN, facts)
    print(f"{folder}: {', '.join(project.figures)}")
