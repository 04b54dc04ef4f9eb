"""`identity-mappings signals` for all networks that the figures of a scale show."""

from ..evaluation.propagation import measure_signals
from ..parameters import load
from ..training.trainer import Options


def measure_all(scale: str, options: Options) -> None:
    """Measure what is not measured yet."""
    project = load(options.root)
    for experiment in project.list_for_signals(scale):
        measure_signals(experiment, project.scale(scale).signal_iterations, options)
