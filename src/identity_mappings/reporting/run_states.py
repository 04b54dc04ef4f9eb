"""How far every run of a scale is: from its record, its heartbeat, its checkpoints and the log of its job."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..parameters import Project
from ..records import heartbeat, run
from ..records.experiment import Experiment
from . import order, times
from .cells import Records

FINISHED, DIVERGED = run.FINAL
RUNNING, INTERRUPTED, FAILED, WAITING, NO_DATA = "running", "interrupted", "failed", "waiting", "no data"
STATES = (FINISHED, DIVERGED, RUNNING, INTERRUPTED, FAILED, WAITING, NO_DATA)
# Behind a registration, or not to be fetched unasked: no run on it is wanted until it is here.
BY_HAND = ("imagenet", "voc-0712", "coco-2014")
TAIL = 8192  # bytes of a log that are looked at
LONGEST_LINE = 300
OF_A_RUN = re.compile(r"seed(\d+)\.log")
OF_A_TEST = re.compile(r"seed\d+-.*\.log")
# What the last line of a job says that ended with an error: our own messages, Python's, the system's and Slurm's.
_ERROR = re.compile(
    r"^identity-mappings: |^[\w.]*(Error|Exception|Interrupt)\b|\bTraceback\b|\bKilled\b|\bAborted\b|\bcore dumped\b|"
    r"Segmentation fault|\b[Bb]us error|^slurmstepd: error|CANCELLED|out of memory|command not found"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RunProgress:
    """A wanted run, and how far it is.

    Attributes:
        experiment: in its arithmetic.
        record: finished, diverged, or the one of an unfinished run.
        beat: the last heartbeat of a run without a final record.
        written: when; seconds since the epoch.
        checkpoint: iteration of the newest.
        log: of the job that failed, relative to the project.
        message: the last line of it.
    """

    experiment: Experiment
    seed: int
    state: str
    record: run.Record | None = None
    beat: heartbeat.Heartbeat | None = None
    written: float | None = None
    checkpoint: int | None = None
    log: Path | None = None
    message: str | None = None

    @property
    def is_done(self) -> bool:
        return self.state in run.FINAL

    @property
    def name(self) -> str:
        return f"{self.experiment.name}, seed {self.seed}"

    @property
    def iterations(self) -> int:
        """Of the whole run."""
        return self.experiment.parameters["recipe"]["iterations"]

    @property
    def iteration(self) -> int:
        """How far it is; of a run that does not run any more, how far it was."""
        recorded = self.record.metrics["iterations"] if self.record else 0
        return max(recorded, self.beat.iteration if self.beat else 0, self.checkpoint or 0)

    @property
    def saved(self) -> int:
        """The iteration from which it goes on when it is started again."""
        return self.checkpoint or 0

    @property
    def iterations_left(self) -> int:
        """That are still to be computed: of a run that is interrupted those since its checkpoint again."""
        if self.is_done:
            return 0
        return max(0, self.iterations - (self.iteration if self.state == RUNNING else self.saved))

    @cached_property
    def evidence(self) -> list[times.Spent]:
        """What is known of its speed: from its record, and from a process whose sessions no record has yet."""
        found = [times.spent(self.record)] if self.record else []
        if self.beat and not self.is_done and self.beat.state != heartbeat.STOPPED:
            done = self.beat.iteration - self.beat.from_iteration
            name = times.device_name(self.beat.gpu, self.beat.cpu, self.beat.arithmetic)
            processes = self.beat.world_size if self.beat.gpu else 1
            if done > 0:
                found.append(times.Spent(name, processes * self.beat.device_seconds, done, None))
        return found

    @property
    def seconds_spent(self) -> float:
        """Of devices; of a process that was killed as far as its last heartbeat tells."""
        return sum(spent.seconds for spent in self.evidence)

    @property
    def device(self) -> str | None:
        return self.evidence[-1].device if self.evidence else None


def find_progress(project: Project, scale: str, records: Records) -> tuple[list[RunProgress], list[RunProgress]]:
    """Every wanted run of a scale, those of the order of work first; and runs with seeds that no table wants."""
    finder = _Finder(project, scale, records)
    wanted = list(_wanted(project, scale))
    seeds: dict[str, tuple[Experiment, set[int]]] = {}
    for experiment, seed in wanted:
        seeds.setdefault(experiment.folder, (experiment, set()))[1].add(seed)
    others = [
        finder.find_other(experiment, seed)
        for experiment, known in seeds.values()
        for seed in sorted(finder.seeds_of(experiment) - known)
    ]
    return [finder.find(experiment, seed) for experiment, seed in wanted], others


def _wanted(project: Project, scale: str) -> Iterator[tuple[Experiment, int]]:
    """Each wanted run once: by the order of work, then those that do not stand there."""
    by_name = {experiment.name: experiment for experiment in project.wanted(scale)}
    seen = set()
    steps = [(step.experiments, step.runs) for step in project.order.steps]
    for names, runs in [*steps, (by_name, None)]:
        for name in names:
            if experiment := by_name.get(name):
                folder = experiment.folder
                for seed in project.seeds(experiment)[:runs]:
                    if (folder, seed) not in seen:
                        seen.add((folder, seed))
                        yield experiment, seed


class _Finder:
    """Looks runs up in the folders of a scale, each of which it lists once."""

    def __init__(self, project: Project, scale: str, records: Records):
        self.project, self.records = project, records
        self.results = project.root / project.scale(scale).results
        self.logs = project.root / "logs" / project.scale(scale).results
        self.with_checkpoints = _names(self.results / "checkpoints")
        self.with_logs = _names(self.logs)
        self.with_records = _names(self.results / "runs")
        self._folders: dict[int, dict[str, Experiment]] = {}  # of an experiment in each arithmetic
        self._failures: dict[str, list[tuple[float, Path, str]]] = {}

    def seeds_of(self, experiment: Experiment) -> set[int]:
        """Seeds of an experiment that were begun here."""
        places = (("runs", self.with_records), ("checkpoints", self.with_checkpoints))
        there = [self.results / name / experiment.folder for name, known in places if experiment.folder in known]
        return {int(name[4:]) for folder in there for name in _names(folder) if re.fullmatch("seed[0-9]+", name)}

    def find_other(self, experiment: Experiment, seed: int) -> RunProgress:
        """A run with a seed that no table wants; a bad record of it is nobody's concern."""
        try:
            record = run.read(run.folder_of(self.results, experiment, seed), experiment, seed)
        except run.BadRecord:
            record = None
        if record:
            return RunProgress(experiment, seed, record.metrics["status"], record)
        return self.find(experiment, seed)

    def find(self, wanted: Experiment, seed: int) -> RunProgress:
        experiment, seed, record = order.find_run(self.records, wanted, seed)
        if record and record.metrics["status"] in run.FINAL:
            return RunProgress(experiment, seed, record.metrics["status"], record)
        if id(wanted) not in self._folders:
            self._folders[id(wanted)] = {other.folder: other for other in wanted.alternatives}
        beat, written, folder = None, None, experiment.folder
        for name in (folder, *self._folders[id(wanted)]):
            if name in self.with_checkpoints and (found := self._trained(name, seed)):
                (beat, written), folder = found, name
                experiment = self._folders[id(wanted)].get(name, experiment)
                break
        checkpoint = self._checkpoint(folder, seed)

        def progress(state: str, log: Path | None = None, message: str | None = None) -> RunProgress:
            return RunProgress(experiment, seed, state, record, beat, written, checkpoint, log, message)

        if beat and beat.is_alive(max(0.0, time.time() - written)):
            return progress(RUNNING)
        if failure := self._failure(folder, seed, written or 0.0):
            return progress(FAILED, *failure)
        if beat and beat.state == heartbeat.FAILED:
            return progress(FAILED, None, _shown(beat.message or ""))
        if beat or record or checkpoint is not None:
            return progress(INTERRUPTED)
        return progress(NO_DATA if self._lacks_data(experiment) else WAITING)

    def _trained(self, folder: str, seed: int) -> tuple[heartbeat.Heartbeat, float] | None:
        return heartbeat.read(self.results / "checkpoints" / folder / f"seed{seed}")

    def _checkpoint(self, folder: str, seed: int) -> int | None:
        if folder not in self.with_checkpoints:
            return None
        names = _names(self.results / "checkpoints" / folder / f"seed{seed}")
        found = [int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)-[0-9a-f]+\.pt", name))]
        return max(found, default=None)

    def _lacks_data(self, experiment: Experiment) -> bool:
        name, data = experiment.parameters["dataset"]["name"], self.project.root / "data"
        return name in BY_HAND and not ((data / name).is_dir() or (data / "shards" / name).is_dir())

    def _failure(self, folder: str, seed: int, since: float) -> tuple[Path, str] | None:
        """The newest log of a job of this run that ended with an error after `since`, and its last line."""
        if folder not in self.with_logs:
            return None
        if folder not in self._failures:
            paths = [self.logs / folder / name for name in _names(self.logs / folder) if name.endswith(".log")]
            read = [(path, _last_line(path)) for path in paths if not OF_A_TEST.fullmatch(path.name)]
            self._failures[folder] = [(_time_of(path), path, line) for path, line in read if line]
        # The last heartbeat of a training that fails and the last line of its log are of one moment.
        mine = [found for found in self._failures[folder] if _is_of(found[1].name, seed) and found[0] > since - 10]
        if not mine:
            return None
        _, path, line = max(mine)
        return path.relative_to(self.project.root), line


def _is_of(name: str, seed: int) -> bool:
    """Whether a log is of a run: its own, or that of a job that trains several seeds."""
    if match := OF_A_RUN.fullmatch(name):
        return int(match[1]) == seed
    seeds = re.search(r"seeds?_((?:\d+_?)+)", name)
    return str(seed) in seeds[1].split("_") if seeds else True


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last_line(path: Path) -> str | None:
    """The last line of a log that ends with an error, as text of one line; None of another log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return None
    last = next((shown for line in reversed(lines) if (shown := _shown(line))), "")
    return last if _ERROR.search(last) else None


def _shown(line: str) -> str:
    """Without what would move a terminal's cursor, and not longer than a person reads."""
    text = _CONTROL.sub("", line).strip()
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"
