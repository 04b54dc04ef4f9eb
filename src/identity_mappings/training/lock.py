"""One process for a run: two would write one another's checkpoints."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..records import run
from ..records.experiment import Experiment
from ..records.files import remove_partial_files
from . import checkpoint


@contextmanager
def hold_run(experiment: Experiment, seed: int, results: Path) -> Iterator[None]:
    """Hold a run for this process alone, and clear away what a killed one left half written.

    Raises:
        UserError: another process holds it.
        OSError: no right to write where its files go.
    """
    checkpoints, folder = run.checkpoints_of(results, experiment, seed), run.folder_of(results, experiment, seed)
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (checkpoints / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training this run: wait for it, or stop it") from None
        except OSError as error:
            print(f"{folder}: no lock ({error.strerror}): start no second process on it", file=sys.stderr, flush=True)
        checkpoint.remove_partial_files(checkpoints)
        for place in (folder, folder / run.PARTIAL):
            remove_partial_files(place, (run.METRICS, run.CURVE, run.PROVENANCE))
        yield
