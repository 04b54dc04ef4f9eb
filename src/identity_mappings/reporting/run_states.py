"""How far every run of a scale is: by its record, and where it is trained by heartbeat, checkpoints and log."""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..records import heartbeat, run
from ..records.experiment import Experiment
from ..records.speed import Spent, name_device, read_spent
from .store import Records

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
class RunState:
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


def lacks_data(root: Path, experiment: Experiment) -> bool:
    """Whether a dataset that only a person can get is not here; the others are fetched or made when they are needed."""
    name, data = experiment.parameters["dataset"]["name"], root / "data"
    return name in BY_HAND and not ((data / name).exists() or (data / "shards" / name).exists())


def read_state(records: Records, experiment: Experiment, seed: int) -> RunState:
    """How far a run is by its record alone: the same on every machine.

    Tables show an experiment in one arithmetic, that of its finished runs; the others would be trained for nothing.
    """
    finished, choices = records.read_finished(experiment), [experiment, *experiment.alternatives]
    if finished:
        choices = [experiment.in_arithmetic(finished[0].metrics["arithmetic"])]
    for record in finished:
        if record.metrics["seed"] == seed:
            return RunState(choices[0], seed, record.metrics["status"], record)
    for alternative in choices:
        if partial := records.read_unfinished(alternative, seed):
            return RunState(alternative, seed, INTERRUPTED, partial, checkpoint=partial.metrics["iterations"])
    return RunState(choices[0], seed, WAITING)


def list_runs(records: Records) -> list[RunState]:
    """Every wanted run of a scale in the order of work, and how far it is by its record."""
    wanted = records.project.list_runs_to_train(records.scale)
    return [read_state(records, experiment, seed) for experiment, seed in wanted]


def find_runs(records: Records) -> tuple[list[RunState], list[RunState]]:
    """Every wanted run of a scale in the order of work, as far as it is here; and runs with seeds that nobody wants."""
    project = records.project
    others = [
        _find_unwanted(records, experiment, seed)
        for experiment in project.list_to_train(records.scale)
        for seed in sorted(_find_seeds(records.results, experiment) - set(project.seeds(experiment)))
    ]
    return [_find(records, *run) for run in project.list_runs_to_train(records.scale)], others


def _find_seeds(results: Path, experiment: Experiment) -> set[int]:
    """Seeds of an experiment that were begun here."""
    folders = [path for name in ("runs", "checkpoints") for path in (results / name / experiment.folder).glob("seed*")]
    return {int(path.name[4:]) for path in folders if path.name[4:].isdecimal()}


def _find_unwanted(records: Records, experiment: Experiment, seed: int) -> RunState:
    """A run with a seed that no table wants; a bad record of it is passed over."""
    with contextlib.suppress(run.BadRecord):
        if record := run.read_record(run.get_folder(records.results, experiment, seed), experiment, seed):
            return RunState(experiment, seed, record.metrics["status"], record)
    return _find(records, experiment, seed)


def _find(records: Records, wanted: Experiment, seed: int) -> RunState:
    """How far a run is by its record, and where it is trained by its heartbeat, checkpoints and log."""
    recorded = read_state(records, wanted, seed)
    if recorded.is_done:
        return recorded
    experiment, record, beat, written = recorded.experiment, recorded.record, None, None
    for other in (experiment, *wanted.alternatives):
        if found := heartbeat.read_heartbeat(run.get_checkpoint_folder(records.results, other, seed)):
            (beat, written), experiment = found, other
            break
    names = [path.name for path in run.get_checkpoint_folder(records.results, experiment, seed).glob("checkpoint-*.pt")]
    checkpoint = max((int(name.split("-")[1]) for name in names), default=None)
    log, message = None, None
    if beat and beat.is_alive(max(0.0, time.time() - (written or 0))):
        state = RUNNING
    elif failure := _find_failure(records, experiment, seed, written or 0.0):
        state, (log, message) = FAILED, failure
    elif beat and beat.state == heartbeat.FAILED:
        state, message = FAILED, _shorten(beat.message or "")
    elif beat or record or checkpoint is not None:
        state = INTERRUPTED
    else:
        state = NO_DATA if lacks_data(records.project.root, experiment) else WAITING
    return RunState(experiment, seed, state, record, beat, written, checkpoint, log, message)


def _find_failure(records: Records, experiment: Experiment, seed: int, since: float) -> tuple[Path, str] | None:
    """The newest log of a job of this run that ended with an error after `since`, and its last line."""
    root = records.project.root
    logs = (root / "logs" / records.settings.results / experiment.folder).glob("*.log")
    found = [failure for path in logs if _belongs_to(path.name, seed) and (failure := _read_failure(path))]
    # The last heartbeat of a training that fails and the last line of its log are of one moment.
    newest = max((failure for failure in found if failure[0] > since - 10), default=None)
    return newest and (newest[1].relative_to(root), newest[2])


def _belongs_to(name: str, seed: int) -> bool:
    """Whether a log is of a run: its own, or that of a job that trains several seeds."""
    if match := re.fullmatch(r"seed(\d+)\.log", name):
        return int(match[1]) == seed
    if re.match(r"seed\d+-", name):  # of a test
        return False
    seeds = re.search(r"seeds?_((?:\d+_?)+)", name)
    return str(seed) in seeds[1].split("_") if seeds else True


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
