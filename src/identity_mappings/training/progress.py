"""The progress line of a run, on a terminal only."""

import sys
import time
from types import TracebackType

try:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError:  # training needs torch alone
    Progress = None


class ProgressLine:
    """Iteration, loss, test error, images per second and time left; silent unless standard error is a terminal."""

    def __init__(self, name: str, iterations: int, begin: int, batch_size: int, shown: bool = True):
        self.begin, self.batch_size, self.started = begin, batch_size, time.perf_counter()
        self.progress = None
        if shown and Progress is not None and sys.stderr.isatty():
            from rich.console import Console

            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.progress.add_task(name, total=iterations, completed=begin, state="")

    def __enter__(self) -> "ProgressLine":
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.progress:
            self.progress.stop()

    def show(self, iteration: int, loss: float | None, test_error: float | None) -> None:
        if self.progress:
            rate = (iteration - self.begin) * self.batch_size / (time.perf_counter() - self.started)
            state = f"loss {loss:.3f}" if loss is not None else ""
            state += f"  test error {test_error:.2f} %" if test_error is not None else ""
            self.progress.update(self.task, completed=iteration, state=f"{state}  {rate:,.0f} images/s")
