"""Where the records of signals and of layer responses lie."""

from pathlib import Path

from .experiment import Experiment
from .run import PARTIAL, folder_of

SIGNALS, SIGNALS_CSV, SIGNALS_DONE = "signals", "signals.csv", "signals.json"
RESPONSES, RESPONSES_CSV = "responses", "responses.csv"


def signals_of(results: Path, experiment: Experiment, iterations: int) -> Path:
    """Folder of an experiment's signals at initialization and after a number of iterations, with seed 0."""
    return results / SIGNALS / f"{experiment.folder}-{iterations}"


def responses_of(results: Path, experiment: Experiment, seed: int, finished: bool = True) -> Path:
    """Folder of the layer responses of a run; those of an unfinished one are in its partial/."""
    run = folder_of(results, experiment, seed)
    return (run if finished else run / PARTIAL) / RESPONSES
