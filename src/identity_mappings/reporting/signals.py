"""`identity-mappings signals` for all networks that the figures of a scale show."""

from ..evaluation.propagation import measure_signals
from ..parameters import load
from ..records.files import hash_file, json_bytes, write_atomically
from ..records.measurement import SIGNALS, SIGNALS_CSV, SIGNALS_DONE
from ..training.trainer import Options
from .fingerprint import hash_signal_inputs


def measure_all(scale: str, options: Options) -> None:
    """Measure what is not measured yet, and end with signals.json, which lists the records that there should be."""
    project = load(options.root)
    settings, results = project.scale(scale), options.root / options.results
    folders = [
        measure_signals(experiment, settings.signal_iterations, options)
        for experiment in project.list_for_signals(scale)
    ]
    files = {f"{folder.name}/{SIGNALS_CSV}": hash_file(folder / SIGNALS_CSV) for folder in folders}
    done = {"scale": scale, "fingerprint": hash_signal_inputs(project, scale), "files": files}
    write_atomically(results / SIGNALS / SIGNALS_DONE, json_bytes(done))
