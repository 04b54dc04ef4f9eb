"""`identity-mappings status`: what is done, running, interrupted, failed and waiting, and how long the rest takes."""

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import UserError
from ..parameters import Project, load
from . import cells, times
from .cells import Records
from .forecast import (
    ESTIMATED,
    MEASURED,
    TOO_WIDE,
    UNKNOWN,
    Devices,
    Forecast,
    Part,
    devices_here,
    forecast,
    parse_devices,
)
from .run_states import FAILED, INTERRUPTED, NO_DATA, RUNNING, STATES, RunProgress, find_progress

FORMAT = 1
REFRESH_SECONDS = 5.0
WIDTH_OF_A_PIPE = 160
_EMPTY_CELLS = (cells.NOT_RUN, cells.NOT_COUNTED)
_NO_CELLS = ("quoted", cells.NOT_REBUILT, cells.NO_COUNTERPART)


@dataclass(frozen=True)
class Status:
    """How far a scale is.

    Attributes:
        runs: that tables and figures want.
        others: of the same experiments, with seeds that nobody wants.
        filled, fillable: cells of all tables with a rebuilt number, and those that can have one.
        left: of the runs whose data are there, on the kind of device that the scale is for.
        what_if: on the devices that were asked for.
        bad: why records were not believed.
    """

    scale: str
    when: datetime
    runs: list[RunProgress]
    others: list[RunProgress]
    filled: int
    fillable: int
    left: Forecast
    what_if: Forecast | None
    bad: list[str]

    @property
    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    @property
    def seconds_spent(self) -> float:
        return sum(run.seconds_spent for run in self.runs)

    def of_state(self, state: str) -> list[RunProgress]:
        return [run for run in self.runs if run.state == state]

    def as_json(self) -> dict[str, Any]:
        """What --json prints; the keys are explained in docs/monitoring.md and stay what they are within a format."""
        return {
            "format": FORMAT,
            "scale": self.scale,
            "time": self.when.isoformat(timespec="seconds"),
            "runs": {"wanted": len(self.runs), **{state.replace(" ", "_"): self.counts[state] for state in STATES}},
            "cells": {"filled": self.filled, "of": self.fillable},
            "device_seconds": {
                "spent": round(self.seconds_spent, 1),
                "left": round(self.left.device_seconds, 1),
                "runs_of_unknown_time": self.left.count(UNKNOWN, TOO_WIDE),
                "model": self.left.model,
            },
            "what_if": self.what_if and self.what_if.as_json(),
            "not_believed": self.bad,
            "list": [self._run(run) for run in self.runs],
        }

    def _run(self, run: RunProgress) -> dict[str, Any]:
        beat, metrics = run.beat, run.record.metrics if run.record else {}
        tested = metrics.get("test_error") if run.is_done or not beat else beat.test_error
        running = run.state == RUNNING
        return {
            "experiment": run.experiment.name,
            "digest": run.experiment.digest,
            "seed": run.seed,
            "state": run.state,
            "iteration": run.iteration,
            "of_iterations": run.iterations,
            "checkpoint": None if run.is_done else run.checkpoint,
            "training_loss": metrics.get("training_loss") if run.is_done or not beat else beat.training_loss,
            "test_error": tested,
            "device": run.device,
            "images_per_second": beat.images_per_second and round(beat.images_per_second, 2) if running else None,
            "seconds_left": beat.seconds_left and round(beat.seconds_left, 1) if running else None,
            "seconds_since_heartbeat": round(max(0.0, self.when.timestamp() - run.written), 1) if running else None,
            "seconds_spent": round(run.seconds_spent, 1),
            "log": run.log and run.log.as_posix(),
            "message": run.message,
        }


def find_status(project: Project, scale: str, devices: Devices | None = None) -> Status:
    """Read what is there now.

    Args:
        devices: for `what_if`; None: without.
    """
    settings, records = project.scale(scale), Records(project, scale)
    runs, others = find_progress(project, scale, records)
    filled = [
        cell for cell in cells.fill(project, scale, records) if cell.text not in _NO_CELLS and not cell.cell.quoted
    ]
    kind = times.GPU if settings.device == "gpu" else times.CPU
    # Where nothing was trained on a GPU yet, the hours are those of what was.
    on_gpus = any((run.device or "").startswith(times.GPU) for run in runs)
    width = max((run.experiment.gpus for run in runs), default=1)
    left = forecast(runs, others, records.costs(), Devices(kind if on_gpus else times.CPU, width))
    return Status(
        scale,
        datetime.now(UTC),
        runs,
        others,
        sum(cell.text not in _EMPTY_CELLS for cell in filled),
        len(filled),
        left,
        forecast(runs, others, records.costs(), devices) if devices else None,
        records.bad,
    )


def show(
    scale: str, *, watch: bool = False, as_json: bool = False, what_if: str | None = None, root: Path = Path()
) -> int:
    """Print the status of a scale; 0.

    Args:
        watch: show it again every few seconds, until Ctrl-C; in a pipe it is shown once.
        as_json: print `Status.as_json` instead.
        what_if: "gpu=N", "cpu=N" or "here": print how long the rest would take there instead.

    Raises:
        UserError: a mistake in params/, in the name of the scale, or in `what_if`.
    """
    if watch and (as_json or what_if is not None):
        raise UserError("status: --watch shows the status itself: leave out --json and --what-if")
    project = load(root)
    devices = None
    if what_if is not None:
        devices = parse_devices(what_if) or devices_here(project.scale(scale).device)
    if watch and sys.stdout.isatty():
        _watch(project, scale)
        return 0
    status = find_status(project, scale, devices)
    if as_json:
        print(json.dumps(status.as_json(), indent=1, ensure_ascii=False))
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)
    if status.what_if:
        for line in say_forecast(status.what_if):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        return 0
    console.print(_page(status, whole=True))
    if watch:
        print("shown once: standard output is not a terminal", file=sys.stderr)
    return 0


def _watch(project: Project, scale: str) -> None:
    with Live(_page(find_status(project, scale)), screen=True, auto_refresh=False) as live:
        while True:
            live.update(_page(find_status(project, scale)), refresh=True)
            time.sleep(REFRESH_SECONDS)


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h"), (90 * 86400, 86400, "days")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if unit > 60 and value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 31557600:.1f} years"


def _page(status: Status, whole: bool = False) -> Group:
    """Of a terminal; `whole`: with the runs that are done and waiting, by experiment."""
    parts: list[Any] = []
    if whole:
        parts += [_experiments(status), ""]
    for table in (_running(status), _interrupted(status), _failed(status)):
        if table is not None:
            parts += [table, ""]
    parts += [Text(line) for line in _summary(status)]
    parts += [Text(f"not believed: {reason}", style="red") for reason in status.bad]
    return Group(*parts)


def _table(title: str, style: str, *columns: str, wide: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", title_style=f"bold {style}", show_edge=False, box=None)
    for name in columns:
        right = name in ("seed", "iteration", "loss", "test error", "images/s", "left", "goes on from")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != wide, overflow="fold")
    return table


def _experiments(status: Status) -> Table:
    shown = [state for state in STATES if status.counts[state]]
    table = _table("experiments", "default", "experiment", "digest", *shown)
    by_folder: dict[str, list[RunProgress]] = {}
    for run in status.runs:
        by_folder.setdefault(run.experiment.folder, []).append(run)
    for runs in by_folder.values():
        states = Counter(run.state for run in runs)
        table.add_row(
            runs[0].experiment.name, runs[0].experiment.digest, *(str(states[state] or "") for state in shown)
        )
    return table


def _running(status: Status) -> Table | None:
    runs = [run for run in (*status.runs, *status.others) if run.state == RUNNING]
    if not runs:
        return None
    columns = ("experiment", "seed", "iteration", "loss", "test error", "images/s", "left", "device")
    table = _table("running", "green", *columns, wide="device")
    for run in runs:
        beat = run.beat
        rate, left = beat.images_per_second, beat.seconds_left
        table.add_row(
            Text(run.experiment.name),
            str(run.seed),
            f"{run.iteration:,} of {run.iterations:,}",
            "" if beat.training_loss is None else f"{beat.training_loss:.3f}",
            "" if beat.test_error is None else f"{beat.test_error:.2f} %",
            f"{rate:,.0f}" if rate and rate >= 10 else f"{rate:.2g}" if rate else "",
            duration(left) if left is not None else "",
            Text(f"{beat.gpu or beat.cpu}{_shared(run)}"),
        )
    return table


def _shared(run: RunProgress) -> str:
    if run.beat.world_size > 1:
        return f", {run.beat.world_size} processes"
    return f", {run.beat.runs_at_once} runs at once" if run.beat.runs_at_once > 1 else ""


def _interrupted(status: Status) -> Table | None:
    runs = status.of_state(INTERRUPTED)
    if not runs:
        return None
    table = _table("interrupted", "yellow", "experiment", "seed", "iteration", "goes on from", "last heard of")
    for run in runs:
        heard = datetime.fromtimestamp(run.written).strftime("%d %b %H:%M") if run.written else ""
        table.add_row(
            Text(run.experiment.name),
            str(run.seed),
            f"{run.iteration:,} of {run.iterations:,}",
            f"{run.saved:,}",
            heard,
        )
    return table


def _failed(status: Status) -> Table | None:
    runs = status.of_state(FAILED)
    if not runs:
        return None
    table = _table("failed", "red", "experiment", "seed", "log and its last line", wide="log and its last line")
    for run in runs:
        said = f"{run.log.as_posix() if run.log else 'no log'}: {run.message or 'no message'}"
        table.add_row(Text(run.experiment.name), str(run.seed), Text(said))
    return table


def _summary(status: Status) -> list[str]:
    counts = status.counts
    done = sum(run.is_done for run in status.runs)
    others = [f"{counts[state]} {state}" for state in STATES if state not in ("finished",) and counts[state]]
    lines = [f"{status.scale}: {done} of {len(status.runs)} runs done; {', '.join(others) or 'nothing is left'}"]
    lines.append(f"cells filled: {status.filled} of {status.fillable}")
    left, unknown = status.left, status.left.count(UNKNOWN, TOO_WIDE)
    hours = f"device time: {duration(status.seconds_spent)} spent"
    if left.runs > unknown:
        hours += f", about {duration(left.device_seconds)} to go ({left.model})"
    if unknown:
        hours += f", and {unknown} runs of unknown time"
    lines.append(f"{hours}; --what-if gpu=N or cpu=N says when it would end")
    if counts[NO_DATA]:
        lines.append(f"no data: {counts[NO_DATA]} runs want ImageNet: `identity-mappings data fetch imagenet` says how")
    return lines


def say_forecast(found: Forecast) -> list[str]:
    """The answer in one line, then what it rests on, a line for each kind of network."""
    devices = f"{found.devices} ({found.model.partition(' ')[2] or found.model})" if found.model else str(found.devices)
    unknown = found.count(UNKNOWN, TOO_WIDE)
    if not found.runs:
        return [f"{devices}: nothing is left to train"]
    if found.seconds is None:
        answer = (
            f"{devices}: unknown: none of the {found.runs} runs that are left, nor any like them, was trained on a "
        )
        answer += f"{found.devices.kind} yet" if not found.model else f"{found.model}, or has enough devices"
        answer += "; a few minutes of the first runs are enough to tell"
    else:
        least = "at least " if unknown else "about "
        answer = f"{devices}: {least}{duration(found.seconds)} for {_count(found.runs - unknown)}"
        answer += f", without {unknown} of unknown time" if unknown else ""
        estimated = found.count(ESTIMATED)
        answer += f" ({estimated} of them estimated by multiply-adds)" if estimated else ""
    return [answer, *(_say_part(part) for part in found.parts)]


def _count(runs: int) -> str:
    return f"{runs} run{'s' if runs != 1 else ''}"


def _say_part(part: Part) -> str:
    runs = _count(part.runs)
    if part.basis in (MEASURED, ESTIMATED):
        rests = _count(part.records)
        of = f"estimated by multiply-adds from {rests} of {part.like}" if part.like else f"measured in {rests}"
        return f"  {part.name}: {runs}, {part.seconds_an_iteration:.3g} s an iteration, {of}"
    why = "more devices than these for one run" if part.basis == TOO_WIDE else "unknown: nothing to tell it by"
    return f"  {part.name}: {runs}, {why}"
