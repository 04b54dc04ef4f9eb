"""How far a training is: a small file beside its checkpoints, which `identity-mappings status` reads from outside.

No record depends on it: where it is missing, old or damaged, nothing changes but what status says.
"""

import contextlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from . import machine
from .files import json_bytes

NAME, PARTIAL = "heartbeat.json", ".heartbeat.json.partial"
RUNNING, STOPPED, FAILED = "running", "stopped", "failed"


@dataclass(frozen=True)
class Heartbeat:
    """What a process that trains says of one of its runs.

    Attributes:
        state: "running"; "stopped" by a signal or --stop-after; "failed" by an error.
        iteration, of_iterations: done, and of the whole run.
        from_iteration: where this process began.
        seconds: of this process, from there to here.
        device_seconds: of these, this run's share of a device on which several are trained at once.
        training_loss: mean over the last row of the curve; None before the first.
        test_error: of the last test, in %; None before the first.
        gpu, cpu: model; `gpu` is None on a CPU.
        arithmetic, batch_size: of the recipe.
        runs_at_once: of this process.
        world_size: processes that train this run together.
        silence: seconds without a new heartbeat after which a process that cannot be looked up counts as gone.
        process: of `machine.this_process`.
        message: the error of a failed run.
    """

    state: str
    iteration: int
    of_iterations: int
    from_iteration: int
    seconds: float
    device_seconds: float
    training_loss: float | None
    test_error: float | None
    gpu: str | None
    cpu: str
    arithmetic: str
    batch_size: int
    runs_at_once: int
    world_size: int
    silence: float
    process: dict[str, Any]
    message: str | None = None

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

        Args:
            age: seconds since the file was written; decides where the process is on another machine.
        """
        if self.state != RUNNING:
            return False
        found = machine.is_running(self.process)
        return age < self.silence if found is None else found


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
    def is_number(value: object, kind: type = int) -> bool:
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

    counts = (found.iteration, found.of_iterations, found.from_iteration, found.batch_size, found.runs_at_once)
    times = (found.seconds, found.device_seconds, found.silence)
    results = (found.training_loss, found.test_error)
    texts = (found.state, found.cpu, found.arithmetic, found.gpu or "", found.message or "")
    return (
        all(is_number(value) for value in (*counts, found.world_size))
        and all(is_number(value, float) for value in times)
        and all(value is None or is_number(value, float) for value in results)
        and all(isinstance(value, str) for value in texts)
        and isinstance(found.process, dict)
    )
