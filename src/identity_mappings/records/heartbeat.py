"""How far a training is: a small file beside its checkpoints, which `identity-mappings status` reads from outside.

No record depends on it: where it is missing, old or damaged, nothing changes but what status says.
"""

import contextlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from . import machine
from .files import json_bytes

NAME, PARTIAL = "heartbeat.json", ".heartbeat.json.partial"
RUNNING, STOPPED, FAILED = "running", "stopped", "failed"


@dataclass(frozen=True)
class Heartbeat:
    """What a process that trains says of one of its runs."""

    state: str  # "running"; "stopped" by a signal or --stop-after; "failed" by an error
    iteration: int
    of_iterations: int
    from_iteration: int  # where this process began
    seconds: float  # of this process, from there to here
    device_seconds: float  # of these, this run's share of a device on which several are trained at once
    training_loss: float | None  # mean over the last row of the curve; None before the first
    test_error: float | None  # of the last test, in %; None before the first
    gpu: str | None  # model; None on a CPU
    cpu: str
    arithmetic: str
    batch_size: int
    runs_at_once: int  # of this process
    world_size: int  # processes that train this run together
    silence: float  # seconds without a heartbeat after which a process that cannot be looked up counts as gone
    process: dict  # of `machine.identify_process`
    message: str | None = None  # the error of a failed run

    @property
    def seconds_an_iteration(self) -> float | None:
        """On the clock, at this process's mean speed; None before the first iteration."""
        done = self.iteration - self.from_iteration
        return self.seconds / done if done > 0 and self.seconds > 0 else None

    @property
    def images_per_second(self) -> float | None:
        each = self.seconds_an_iteration
        return self.batch_size / each if each else None

    @property
    def seconds_left(self) -> float | None:
        """To the end of the run."""
        each = self.seconds_an_iteration
        return each * max(0, self.of_iterations - self.iteration) if each else None

    def is_alive(self, age: float) -> bool:
        """Whether its process is still at work.

        Where it is on another machine, `age` decides: the seconds since the file was written.
        """
        found = machine.is_running(self.process)
        return self.state == RUNNING and (age < self.silence if found is None else found)


def write(folder: Path, heartbeat: Heartbeat) -> None:
    """Put it into a folder of checkpoints in one step. Where that fails nothing is written: no training ends of it."""
    partial = folder / PARTIAL
    try:
        partial.write_bytes(json_bytes(asdict(heartbeat)))
        partial.replace(folder / NAME)
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove what tells of a run that has its record."""
    with contextlib.suppress(OSError):
        for name in (NAME, PARTIAL):
            (folder / name).unlink(missing_ok=True)


def read(folder: Path) -> tuple[Heartbeat, float] | None:
    """The heartbeat in a folder of checkpoints and the time of its writing; None if there is none that makes sense."""
    try:
        written = (folder / NAME).stat().st_mtime
        found = json.loads((folder / NAME).read_bytes())
        heartbeat = Heartbeat(**{field.name: found[field.name] for field in fields(Heartbeat)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (heartbeat, written) if _is_sound(heartbeat) else None


def _is_sound(found: Heartbeat) -> bool:
    """Whether all values are of their type, and numbers are finite and not negative."""

    def fits(value: object, kind: type) -> bool:
        if isinstance(value, (int, float)) and (isinstance(value, bool) or not math.isfinite(value) or value < 0):
            return False
        return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))

    return all(fits(getattr(found, field.name), field.type) for field in fields(Heartbeat))
