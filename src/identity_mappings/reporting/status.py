"""`identity-mappings status`: what is wanted, finished, unfinished."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..parameters import load
from ..records import run
from ..records.files import parse_json
from .cells import Records


def show(scale: str, root: Path = Path()) -> None:
    """Print a line for each wanted experiment."""
    project = load(root)
    records = Records(project, scale)
    results = root / project.scale(scale).results
    shown = Table(show_edge=False)
    for name in ("experiment", "digest", "finished", "diverged", "unfinished"):
        shown.add_column(name, no_wrap=True)
    for experiment in project.wanted(scale):
        found = records.of(experiment)
        diverged = sum(record.metrics["status"] == "diverged" for record in found)
        partial = []
        for path in sorted((results / "runs" / experiment.folder).glob(f"seed*/{run.PARTIAL}/{run.METRICS}")):
            try:
                metrics = parse_json(path.read_bytes())
                partial.append(f"seed {metrics['seed']}: {metrics['iterations']} of {metrics['of_iterations']}")
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                records.bad.append(f"{path}: not a record of a run")
        finished = f"{len(found)} of {len(project.seeds(experiment))}"
        shown.add_row(experiment.name, experiment.digest, finished, str(diverged or ""), ", ".join(partial))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(shown)
    for reason in records.bad:
        console.print(f"not believed: {reason}", style="red", markup=False)
