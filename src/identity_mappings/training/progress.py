"""The progress line, heartbeats and signal handling of a process that trains."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..records import heartbeat
from .group import first_line
from .trained_run import Run

SECONDS_BETWEEN_HEARTBEATS = 5.0


class Interrupted:
    """Notes SIGTERM and SIGINT, so that a run ends between two iterations, with a checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None  # that came
        self.ignored = False  # whether signals have no effect any more: the process is ending by itself

    def __enter__(self) -> "Interrupted":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if self.ignored else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number


@contextmanager
def progress_line(name: str, iterations: int, begin: int, batch_size: int, shown: bool) -> Iterator[Callable]:
    """A function of iteration, loss and test error (or None) that shows them with images per second and time left.

    Silent unless standard error is a terminal.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    count = TextColumn("{task.completed}/{task.total}  {task.fields[state]}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    started = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as line:
        task = line.add_task(name, total=iterations, completed=begin, state="")

        def show(iteration: int, loss: float | None, test_error: float | None) -> None:
            rate = (iteration - begin) * batch_size / (time.perf_counter() - started)
            state = f"loss {loss:.3f}" if loss is not None else ""
            state += f"  test error {test_error:.2f} %" if test_error is not None else ""
            line.update(task, completed=iteration, state=f"{state}  {rate:,.0f} images/s")

        yield show


class Heartbeats:
    """Writes every few seconds how far the runs of a process are; what `identity-mappings status` reads."""

    def __init__(self, runs: Sequence[Run], shown: bool):
        self.runs = runs if shown else ()
        self.written = time.perf_counter()

    def __enter__(self) -> "Heartbeats":
        for run in self.runs:
            heartbeat.write_heartbeat(run.checkpoints, run.make_heartbeat(heartbeat.RUNNING))
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for run in self.runs:
            if error is not None:
                heartbeat.write_heartbeat(
                    run.checkpoints, run.make_heartbeat(heartbeat.FAILED, message=first_line(error))
                )
            elif run.status == "unfinished":  # a finished run goes on to its record
                heartbeat.write_heartbeat(run.checkpoints, run.make_heartbeat(heartbeat.STOPPED))

    def beat(self, working: Sequence[Run], counted: float) -> None:
        """Note the present iteration, if it is time to.

        `working` runs share the device; their sessions include its time up to `counted` (of `time.perf_counter`).
        """
        now = time.perf_counter()
        if now - self.written >= SECONDS_BETWEEN_HEARTBEATS:
            self.written = now
            for run in self.runs:
                uncounted = (now - counted) / len(working) if run in working else 0.0
                heartbeat.write_heartbeat(run.checkpoints, run.make_heartbeat(heartbeat.RUNNING, uncounted))
