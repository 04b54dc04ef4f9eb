"""What a training tells while it is under way, and what it hears: a line on a terminal, heartbeats, signals."""

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from ..records import heartbeat, machine

try:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError:  # training needs torch alone
    Progress = None

if TYPE_CHECKING:
    from .loop import Run

SECONDS_BETWEEN_HEARTBEATS = 5.0
SHORTEST_SILENCE = 120.0
ITERATIONS_OF_SILENCE = 100  # a test of all images takes as long as some thirty iterations


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Interrupted:
    """Notes SIGTERM and SIGINT, so that a run ends between two iterations, with a checkpoint.

    Attributes:
        signal: that came.
        deaf: whether they are without effect to the end of the process, which is ending by itself.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deaf = False

    def __enter__(self) -> "Interrupted":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_IGN if self.deaf else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number


class ProgressLine:
    """Iteration, loss, test error, images per second and time left; silent unless standard error is a terminal."""

    def __init__(self, name: str, iterations: int, begin: int, batch_size: int, shown: bool):
        self.begin, self.batch_size, self.started = begin, batch_size, time.perf_counter()
        self.progress = None
        if shown and Progress is not None and sys.stderr.isatty():
            from rich.console import Console

            count = TextColumn("{task.completed}/{task.total}  {task.fields[state]}")
            columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
            self.progress = Progress(*columns, console=Console(stderr=True))
            self.task = self.progress.add_task(name, total=iterations, completed=begin, state="")

    def __enter__(self) -> "ProgressLine":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress:
            self.progress.stop()

    def show(self, iteration: int, loss: float | None, test_error: float | None) -> None:
        if self.progress:
            rate = (iteration - self.begin) * self.batch_size / (time.perf_counter() - self.started)
            state = f"loss {loss:.3f}" if loss is not None else ""
            state += f"  test error {test_error:.2f} %" if test_error is not None else ""
            self.progress.update(self.task, completed=iteration, state=f"{state}  {rate:,.0f} images/s")


class Heartbeats:
    """Says every few seconds how far the runs of a process are; what `identity-mappings status` reads.

    Args:
        runs: of this process.
        shown: whether this process speaks for its group.
    """

    def __init__(self, runs: Sequence["Run"], shown: bool):
        self.runs = runs if shown else ()
        self.process, self.cpu = machine.this_process(), machine.cpu_model()
        self.started = self.written = time.perf_counter()

    def __enter__(self) -> "Heartbeats":
        self.write(heartbeat.RUNNING)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            lines = str(error).splitlines()
            self.write(heartbeat.FAILED, message=lines[0] if lines else type(error).__name__)
            return
        for run in self.runs:  # a finished run goes on to its record
            if run.status == "unfinished":
                self.write(heartbeat.STOPPED, [run])

    def beat(self, working: Sequence["Run"], counted: float) -> None:
        """Note the present iteration, if it is time to.

        Args:
            working: the runs that share the device.
            counted: the time, of `time.perf_counter`, up to which their sessions count.
        """
        now = time.perf_counter()
        if now - self.written >= SECONDS_BETWEEN_HEARTBEATS:
            share = (now - counted) / len(working)
            self.write(heartbeat.RUNNING, extra={id(run): share for run in working})

    def write(
        self,
        state: str,
        runs: Sequence["Run"] | None = None,
        extra: dict[int, float] | None = None,
        message: str | None = None,
    ) -> None:
        self.written = time.perf_counter()
        seconds = self.written - self.started
        for run in self.runs if runs is None else runs:
            progress, recipe, device = run.progress, run.trainer.recipe, run.trainer.device
            iteration = progress.iteration + len(run.steps)
            each = seconds / max(1, iteration - run.begin)
            found = heartbeat.Heartbeat(
                state=state,
                iteration=iteration,
                of_iterations=recipe.iterations,
                from_iteration=run.begin,
                seconds=round(seconds, 3),
                device_seconds=round(run.session["device_seconds"] + (extra or {}).get(id(run), 0.0), 3),
                training_loss=progress.training_loss,
                test_error=progress.last and progress.last["test_error"],
                gpu=run.trainer.device_name if device.type == "cuda" else None,
                cpu=self.cpu,
                arithmetic=recipe.arithmetic,
                batch_size=recipe.batch_size,
                runs_at_once=len(self.runs),
                world_size=run.group.size,
                silence=round(max(SHORTEST_SILENCE, ITERATIONS_OF_SILENCE * each), 3),
                process=self.process,
                message=message,
            )
            heartbeat.write(run.checkpoints, found)
