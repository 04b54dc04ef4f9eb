"""How far every run of a scale is: by its record, and where it is trained by heartbeat, checkpoints and log."""

import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..records import heartbeat, run
from ..records.experiment import Experiment
from ..records.speed import Spent, name_device, read_spent
from .cells import Records

FINISHED, DIVERGED = run.FINAL
RUNNING, INTERRUPTED, FAILED, WAITING, NO_DATA = "running", "interrupted", "failed", "waiting", "no data"
STATES = (FINISHED, DIVERGED, RUNNING, INTERRUPTED, FAILED, WAITING, NO_DATA)
RECORDED_STATES = (FINISHED, DIVERGED, INTERRUPTED, WAITING)  # that records tell, on every machine alike
# Behind a registration, or not fetched unless asked for: no run on it is wanted until it is here.
BY_HAND = ("imagenet", "voc-0712", "coco-2014")
TAIL = 8192  # bytes of a log that are looked at
LONGEST_LINE = 300
# The last line of a job that ended with an error: our own messages, Python's, the system's and Slurm's.
_ERROR = re.compile(
    r"^identity-mappings: |^[\w.]*(Error|Exception|Interrupt)\b|\bTraceback\b|\bKilled\b|\bAborted\b|\bcore dumped\b|"
    r"Segmentation fault|\b[Bb]us error|^slurmstepd: error|CANCELLED|out of memory|command not found"
)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RunProgress:
    """A wanted run, and how far it is."""

    # In the arithmetic to train it in: of its own unfinished run, of other finished runs, or else of the recipe.
    experiment: Experiment
    seed: int
    state: str
    record: run.Record | None = None  # finished, diverged, or of an unfinished run
    beat: heartbeat.Heartbeat | None = None  # the last heartbeat of a run without a final record
    written: float | None = None  # when, in seconds since the epoch
    checkpoint: int | None = None  # iteration of the newest
    log: Path | None = None  # of the job that failed, relative to the project
    message: str | None = None  # its last line

    @property
    def is_done(self) -> bool:
        return self.state in run.FINAL

    @property
    def iterations(self) -> int:
        """Of the whole run."""
        return self.experiment.parameters["recipe"]["iterations"]

    @property
    def iteration(self) -> int:
        """How far it is, or was before it stopped."""
        recorded = self.record.metrics["iterations"] if self.record else 0
        return max(recorded, self.beat.iteration if self.beat else 0, self.checkpoint or 0)

    @property
    def iterations_left(self) -> int:
        """Still to be computed; an interrupted run repeats those since its checkpoint."""
        if self.is_done:
            return 0
        return max(0, self.iterations - (self.iteration if self.state == RUNNING else self.checkpoint or 0))

    @cached_property
    def measurements(self) -> list[Spent]:
        """Its speed: from its record, and from a process whose sessions no record has yet."""
        found = [read_spent(self.record)] if self.record else []
        beat = self.beat
        if beat and not self.is_done and beat.state != heartbeat.STOPPED and beat.iteration > beat.from_iteration:
            device = name_device(beat.gpu, beat.cpu)
            seconds = (beat.world_size if beat.gpu else 1) * beat.device_seconds
            found.append(Spent(device, seconds, beat.iteration - beat.from_iteration, None))
        return found

    @property
    def seconds_spent(self) -> float:
        """Of devices; of a process that was killed up to its last heartbeat."""
        return sum(spent.seconds for spent in self.measurements)

    @property
    def device(self) -> str | None:
        return self.measurements[-1].device if self.measurements else None


def read_progress(records: Records, experiment: Experiment, seed: int) -> RunProgress:
    """How far a run is by its record alone.

    Tables show an experiment in one arithmetic, that of its finished runs; the others would be trained for nothing.
    """
    finished, choices = records.read_finished(experiment), [experiment, *experiment.alternatives]
    if finished:
        choices = [experiment.in_arithmetic(finished[0].metrics["arithmetic"])]
    for record in finished:
        if record.metrics["seed"] == seed:
            return RunProgress(choices[0], seed, record.metrics["status"], record)
    for alternative in choices:
        if record := records.read_unfinished(alternative, seed):
            return RunProgress(alternative, seed, INTERRUPTED, record, checkpoint=record.metrics["iterations"])
    return RunProgress(choices[0], seed, WAITING)


def list_runs(records: Records) -> list[RunProgress]:
    """Every wanted run of a scale in the order of work, and how far it is by its record."""
    wanted = records.project.list_runs_to_train(records.scale)
    return [read_progress(records, experiment, seed) for experiment, seed in wanted]


def find_progress(records: Records) -> tuple[list[RunProgress], list[RunProgress]]:
    """Every wanted run of a scale in the order of work, as far as it is here; and runs with seeds that nobody wants."""
    finder = _Finder(records)
    wanted = records.project.list_runs_to_train(records.scale)
    seeds: dict[str, tuple[Experiment, set[int]]] = {}
    for experiment, seed in wanted:
        seeds.setdefault(experiment.folder, (experiment, set()))[1].add(seed)
    others = [
        finder.find_other(experiment, seed)
        for experiment, known in seeds.values()
        for seed in sorted(finder.find_seeds(experiment) - known)
    ]
    return [finder.find(experiment, seed) for experiment, seed in wanted], others


class _Finder:
    """Looks runs up in the folders of a scale, each of which it lists once."""

    def __init__(self, records: Records):
        self.project, self.records, self.results = records.project, records, records.results
        self.logs = self.project.root / "logs" / records.settings.results
        self.with_checkpoints = _list(self.results / "checkpoints")
        self.with_logs = _list(self.logs)
        self.with_records = _list(self.results / "runs")
        self._failures: dict[str, list[tuple[float, Path, str]]] = {}

    def find_seeds(self, experiment: Experiment) -> set[int]:
        """Seeds of an experiment that were begun here."""
        places = (("runs", self.with_records), ("checkpoints", self.with_checkpoints))
        folders = [self.results / name / experiment.folder for name, known in places if experiment.folder in known]
        return {int(name[4:]) for folder in folders for name in _list(folder) if re.fullmatch("seed[0-9]+", name)}

    def find_other(self, experiment: Experiment, seed: int) -> RunProgress:
        """A run with a seed that no table wants; a bad record of it is passed over."""
        try:
            record = run.read(run.get_folder(self.results, experiment, seed), experiment, seed)
        except run.BadRecord:
            record = None
        if record:
            return RunProgress(experiment, seed, record.metrics["status"], record)
        return self.find(experiment, seed)

    def find(self, wanted: Experiment, seed: int) -> RunProgress:
        recorded = read_progress(self.records, wanted, seed)
        if recorded.is_done:
            return recorded
        experiment, record = recorded.experiment, recorded.record
        by_folder = {other.folder: other for other in wanted.alternatives}  # in each arithmetic
        beat, written, folder = None, None, experiment.folder
        for name in (folder, *by_folder):
            if name in self.with_checkpoints and (found := heartbeat.read_heartbeat(self._checkpoints(name, seed))):
                (beat, written), folder, experiment = found, name, by_folder.get(name, experiment)
                break
        names = _list(self._checkpoints(folder, seed)) if folder in self.with_checkpoints else ()
        matches = (re.fullmatch(r"checkpoint-(\d+)-[0-9a-f]+\.pt", name) for name in names)
        checkpoint = max((int(match[1]) for match in matches if match), default=None)
        log, message = None, None
        if beat and beat.is_alive(max(0.0, time.time() - written)):
            state = RUNNING
        elif failure := self._find_failure(folder, seed, written or 0.0):
            state, (log, message) = FAILED, failure
        elif beat and beat.state == heartbeat.FAILED:
            state, message = FAILED, _shorten(beat.message or "")
        elif beat or record or checkpoint is not None:
            state = INTERRUPTED
        else:
            name, data = experiment.parameters["dataset"]["name"], self.project.root / "data"
            lacking = name in BY_HAND and not ((data / name).is_dir() or (data / "shards" / name).is_dir())
            state = NO_DATA if lacking else WAITING
        return RunProgress(experiment, seed, state, record, beat, written, checkpoint, log, message)

    def _checkpoints(self, folder: str, seed: int) -> Path:
        return self.results / "checkpoints" / folder / f"seed{seed}"

    def _find_failure(self, folder: str, seed: int, since: float) -> tuple[Path, str] | None:
        """The newest log of a job of this run that ended with an error after `since`, and its last line."""
        if folder not in self.with_logs:
            return None
        if folder not in self._failures:
            names = [name for name in _list(self.logs / folder) if name.endswith(".log")]
            trainings = [name for name in names if not re.fullmatch(r"seed\d+-.*\.log", name)]
            read = (_read_failure(self.logs / folder / name) for name in trainings)
            self._failures[folder] = list(filter(None, read))
        # The last heartbeat of a training that fails and the last line of its log are of one moment.
        failures = (
            found for found in self._failures[folder] if _belongs_to(found[1].name, seed) and found[0] > since - 10
        )
        _, path, line = max(failures, default=(0, None, ""))
        return path and (path.relative_to(self.project.root), line)


def _belongs_to(name: str, seed: int) -> bool:
    """Whether a log is of a run: its own, or that of a job that trains several seeds."""
    if match := re.fullmatch(r"seed(\d+)\.log", name):
        return int(match[1]) == seed
    seeds = re.search(r"seeds?_((?:\d+_?)+)", name)
    return str(seed) in seeds[1].split("_") if seeds else True


def _list(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def _read_failure(path: Path) -> tuple[float, Path, str] | None:
    """When a log that ends with an error was written, and its last line; None of another log."""
    try:
        with path.open("rb") as file:
            written = os.fstat(file.fileno()).st_mtime
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    last = next((text for line in reversed(lines) if (text := _shorten(line))), "")
    return (written, path, last) if _ERROR.search(last) else None


def _shorten(line: str) -> str:
    """Without what would move a terminal's cursor, and not longer than a person reads."""
    text = _CONTROL.sub("", line).strip()
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"
