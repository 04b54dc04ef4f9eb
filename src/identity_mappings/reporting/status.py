"""`identity-mappings status`: what is done, running, interrupted, failed and waiting, and how long the rest takes."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..durations import format_duration
from ..errors import UserError
from ..parameters import Project, load
from ..records.heartbeat import Heartbeat
from ..records.machine import count_cores
from ..records.provenance import find_cpu_model
from ..records.speed import CPU, name_device, read_speeds
from ..training.driver import query_driver
from .cells import count_cells, fill_cells
from .rendering import render
from .run_states import FAILED, INTERRUPTED, NO_DATA, RUNNING, STATES, RunState, find_runs
from .store import Records, describe_outdated_records
from .times import Left, choose_devices, estimate_left, gather_speeds

FORMAT = 2
REFRESH_SECONDS = 5.0
WIDTH_OF_A_PIPE = 160


@dataclass(frozen=True)
class Status:
    """How far a scale is."""

    scale: str
    caption: str  # what the scale trains; empty of the papers' own
    when: datetime
    runs: list[RunState]  # that tables and figures want
    others: list[RunState]  # of the same experiments, with seeds that nobody wants
    filled: int  # cells of all tables with a rebuilt number
    fillable: int  # cells that can have one
    left: Left  # of the runs whose data are there
    at_once: int  # runs that this machine can train at once, each on a device like those of `left`
    bad: list[str]  # why records were not believed
    outdated: str | None  # how many records are of other parameters than params/ has, and what to do

    @property
    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    @property
    def seconds_spent(self) -> float:
        return sum(run.seconds_spent for run in self.runs)

    @property
    def seconds_here(self) -> float | None:
        """How long this machine needs for what is left; None where nothing is left, or it has no such device."""
        return max(self.left.longest, self.left.seconds / self.at_once) if self.left.seconds and self.at_once else None

    def of_state(self, state: str) -> list[RunState]:
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
                "left": round(self.left.seconds, 1),
                "runs_of_unknown_time": self.left.unknown,
                "runs_scaled_by_multiply_adds": self.left.scaled,
                "devices": self.left.devices,
            },
            "seconds_left_here": self.seconds_here and round(self.seconds_here, 1),
            "not_believed": self.bad,
            "outdated": self.outdated,
            "list": [self._run_as_json(run) for run in self.runs],
        }

    def _run_as_json(self, run: RunState) -> dict[str, Any]:
        metrics, beat = run.record.metrics if run.record else {}, run.beat
        losses = metrics if run.is_done or not beat else vars(beat)
        rate, left, silent = None, None, None
        if beat and run.written and run.state == RUNNING:
            rate, left = beat.images_per_second, beat.seconds_left
            silent = max(0.0, self.when.timestamp() - run.written)
        return {
            "experiment": run.experiment.name,
            "digest": run.experiment.digest,
            "seed": run.seed,
            "state": run.state,
            "iteration": run.iteration,
            "of_iterations": run.iterations,
            "checkpoint": None if run.is_done else run.checkpoint,
            "training_loss": losses.get("training_loss"),
            "test_error": losses.get("test_error"),
            "device": run.device,
            "images_per_second": rate and round(rate, 2),
            "seconds_left": left and round(left, 1),
            "seconds_since_heartbeat": silent and round(silent, 1),
            "seconds_spent": round(run.seconds_spent, 1),
            "log": run.log and run.log.as_posix(),
            "message": run.message,
        }


def find_status(project: Project, scale: str) -> Status:
    """Read what is there now."""
    records = Records(project, scale)
    runs, others = find_runs(records)
    counts = count_cells(fill_cells(records))
    speeds = gather_speeds([*runs, *others], read_speeds(project.root, leave_out=records.results))
    devices = choose_devices(speeds, records.settings.device, name_device(None, find_cpu_model()))
    to_do = [run for run in runs if run.state != NO_DATA]
    left = estimate_left(to_do, speeds, devices)
    at_once = _count_at_once(to_do, left)
    found = runs, others, *counts, left, at_once, records.bad, describe_outdated_records(project, scale)
    return Status(scale, records.settings.caption, datetime.now(UTC), *found)


def _count_at_once(runs: list[RunState], left: Left) -> int:
    if all(device.startswith(CPU) for device in left.devices):
        threads = (run.experiment.parameters["recipe"]["cpu_threads"] for run in runs)
        return max(1, count_cores() // max(threads, default=1))
    return len(query_driver().usable)


def print_status(scale: str, watch: bool = False, as_json: bool = False, root: Path = Path()) -> None:
    """Print the status of a scale.

    Args:
        watch: show it again every few seconds, until Ctrl-C; in a pipe it is shown once.
        as_json: print `Status.as_json` instead.

    Raises:
        UserError: a mistake in params/, or in the name of the scale.
    """
    if watch and as_json:
        raise UserError("status: --watch shows the status itself: leave out --json")
    project = load(root)
    if watch and sys.stdout.isatty():
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                live.update(_layout(find_status(project, scale)), refresh=True)
                time.sleep(REFRESH_SECONDS)
    status = find_status(project, scale)
    if as_json:
        print(json.dumps(status.as_json(), indent=1, ensure_ascii=False))
        return
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)
    console.print(_layout(status, whole=True))
    if watch:
        print("shown once: standard output is not a terminal", file=sys.stderr)


def _layout(status: Status, whole: bool = False) -> Group:
    """Of a terminal; `whole`: with the runs that are done and waiting, by experiment."""
    tables = [_tabulate_experiments(status)] if whole else []
    begun = ("experiment", "seed", "iteration")
    running = [(run, run.beat) for run in (*status.runs, *status.others) if run.beat and run.state == RUNNING]
    columns = (*begun, "loss", "test error", "images/s", "left", "device")
    tables.append(_tabulate("running", "green", columns, (_describe_running(*each) for each in running)))
    interrupted = status.of_state(INTERRUPTED)
    heard = [f"{datetime.fromtimestamp(run.written):%d %b %H:%M}" if run.written else "" for run in interrupted]
    rows = [(*_begin(run), f"{run.checkpoint or 0:,}", when) for run, when in zip(interrupted, heard, strict=True)]
    tables.append(_tabulate("interrupted", "yellow", (*begun, "resumes at", "last heartbeat"), rows))
    failed = [
        (*_begin(run)[:2], f"{run.log.as_posix() if run.log else 'no log'}: {run.message or 'no message'}")
        for run in status.of_state(FAILED)
    ]
    tables.append(_tabulate("failed", "red", (*begun[:2], "log and its last line"), failed))
    summary = render("status.txt.jinja", status=status, states=STATES, format_duration=format_duration).splitlines()
    parts: list[Any] = [part for table in tables if table.rows for part in (table, "")]
    return Group(
        *parts, *map(Text, summary), *(Text(f"invalid record: {reason}", style="red") for reason in status.bad)
    )


def _tabulate(title: str, style: str, columns: Sequence[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table, whose last column is folded where it is wide."""
    table = Table(title=title, title_justify="left", title_style=f"bold {style}", show_edge=False, box=None)
    for name in columns:
        right = name in ("seed", "iteration", "loss", "test error", "images/s", "left", "resumes at")
        fold = name in ("device", "log and its last line")
        table.add_column(name, justify="right" if right else "left", no_wrap=not fold, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _tabulate_experiments(status: Status) -> Table:
    states = [state for state in STATES if status.counts[state]]
    by_folder: dict[str, list[RunState]] = {}
    for run in status.runs:
        by_folder.setdefault(run.experiment.folder, []).append(run)
    counts = ((runs[0].experiment, Counter(run.state for run in runs)) for runs in by_folder.values())
    rows = ((e.name, e.digest, *(str(count[state] or "") for state in states)) for e, count in counts)
    return _tabulate("experiments", "default", ("experiment", "digest", *states), rows)


def _begin(run: RunState) -> tuple[str, str, str]:
    return run.experiment.name, str(run.seed), f"{run.iteration:,} of {run.iterations:,}"


def _describe_running(run: RunState, beat: Heartbeat) -> tuple[str, ...]:
    rate, left = beat.images_per_second, beat.seconds_left
    shared = f", {beat.runs_at_once} runs at once" if beat.runs_at_once > 1 else ""
    return (
        *_begin(run),
        "" if beat.training_loss is None else f"{beat.training_loss:.3f}",
        "" if beat.test_error is None else f"{beat.test_error:.2f} %",
        f"{rate:,.0f}" if rate and rate >= 10 else f"{rate:.2g}" if rate else "",
        "" if left is None else format_duration(left),
        f"{beat.gpu or beat.cpu}" + (f", {beat.world_size} processes" if beat.world_size > 1 else shared),
    )
