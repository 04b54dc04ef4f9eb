"""How far a training is: a small file beside its checkpoints, which `identity-mappings status` reads from outside.

No record depends on it: where it is missing, old or damaged, nothing changes but what status says.
"""

import contextlib
import json
import platform
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import psutil
from pydantic.dataclasses import dataclass

from .files import json_bytes, sha256

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
    process: dict[str, Any]  # of `identify_process`
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
        found = is_process_running(self.process)
        return self.state == RUNNING and (age < self.silence if found is None else found)


def identify_process() -> dict[str, Any]:
    """{"machine", "pid", "started"}: enough for `is_process_running` to find this process again; names no host."""
    process = psutil.Process()
    return {"machine": _identify_machine(), "pid": process.pid, "started": _get_start(process)}


def is_process_running(process: dict[str, Any]) -> bool | None:
    """Whether a process of `identify_process` is there; None where it cannot be seen, as on another machine."""
    if process.get("machine") != _identify_machine():
        return None
    try:
        found = psutil.Process(process["pid"])
        return found.status() != psutil.STATUS_ZOMBIE and abs(_get_start(found) - process["started"]) < 0.1
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _get_start(process: psutil.Process) -> float:
    """When it began, in seconds since the machine started: a clock that is set meanwhile does not change it."""
    return process.create_time() - psutil.boot_time()


def _identify_machine() -> str:
    """A hash of the host's name: a container, whose processes are its own, has another."""
    return sha256(platform.node().encode())[:12]


def write_heartbeat(folder: Path, heartbeat: Heartbeat) -> None:
    """Put it into a folder of checkpoints in one step. Where that fails nothing is written: no training ends of it."""
    partial = folder / PARTIAL
    try:
        partial.write_bytes(json_bytes(asdict(heartbeat)))
        partial.replace(folder / NAME)
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_heartbeat(folder: Path) -> None:
    """Remove what tells of a run that has its record."""
    with contextlib.suppress(OSError):
        for name in (NAME, PARTIAL):
            (folder / name).unlink(missing_ok=True)


def read_heartbeat(folder: Path) -> tuple[Heartbeat, float] | None:
    """The heartbeat in a folder of checkpoints and the time of its writing; None if there is none, or a damaged one."""
    try:
        written = (folder / NAME).stat().st_mtime
        found = json.loads((folder / NAME).read_bytes())
        return Heartbeat(**{field.name: found[field.name] for field in fields(Heartbeat)}), written
    except (OSError, ValueError, KeyError, TypeError):
        return None
