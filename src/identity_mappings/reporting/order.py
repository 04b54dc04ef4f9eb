"""The order of work: which runs are done, and which is next."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..parameters import Project, load
from ..parameters.work import Step
from ..records import run
from ..records.experiment import Experiment
from .cells import Records

FINISHED, DIVERGED = run.FINAL
UNFINISHED, TO_DO = "unfinished", "to do"
STATES = (FINISHED, DIVERGED, UNFINISHED, TO_DO)


@dataclass(frozen=True)
class Wanted:
    """A run of the order of work, and how far it is.

    Attributes:
        record: finished or diverged; of an unfinished run the one in its partial/; None where nothing was begun.
    """

    step: Step
    experiment: Experiment
    seed: int
    record: run.Record | None

    @property
    def state(self) -> str:
        return self.record.metrics["status"] if self.record else TO_DO

    @property
    def done(self) -> bool:
        return self.state in run.FINAL

    @property
    def iterations_left(self) -> int:
        if self.done:
            return 0
        return self.experiment.parameters["recipe"]["iterations"] - (
            self.record.metrics["iterations"] if self.record else 0
        )


def wanted(project: Project, scale: str, records: Records) -> Iterator[Wanted]:
    """The runs of a scale in the order of work, each once."""
    seen, names = set(), {experiment.name for experiment in project.wanted(scale)}
    for step in project.order.steps:
        for name in step.experiments:
            experiment = project.resolve(name, scale) if name in names else None
            for seed in project.seeds(experiment)[: step.runs] if experiment else ():
                if (experiment.digest, seed) not in seen:
                    seen.add((experiment.digest, seed))
                    yield Wanted(step, experiment, seed, _record(records, experiment, seed))


def _record(records: Records, experiment: Experiment, seed: int) -> run.Record | None:
    for record in records.of(experiment):
        if record.metrics["seed"] == seed:
            return record
    for alternative in experiment.alternatives:
        folder = run.folder_of(records.results, alternative, seed) / run.PARTIAL
        try:
            if record := run.read(folder, alternative, seed, partial=True):
                return record
        except run.BadRecord as error:
            records.note(error)
    return None


def commands(runs: Iterable[Wanted], scale: str, device: str) -> Iterator[tuple[Wanted, list[str]]]:
    """What to type for the runs that are not done: the first of each job, and its commands.

    The runs of one experiment that a step wants are one job, which trains them at once. Before the first run of an
    experiment its first iterations are compared with themselves.
    """
    runs = list(runs)
    begun = {one.experiment.digest for one in runs if one.record}
    jobs: dict[tuple[str, str], list[Wanted]] = {}
    for one in runs:
        if not one.done and (device == "gpu" or one.step.device == "cpu"):
            jobs.setdefault((one.step.name, one.experiment.digest), []).append(one)
    # What a CPU can do comes last where there is a GPU.
    for mine in sorted(jobs.values(), key=lambda job: device == "gpu" and job[0].step.device == "cpu"):
        first = mine[0]
        options = ["--device", device] if scale == "paper" else ["--device", device, "--scale", scale]
        if (arithmetic := _arithmetic(mine)) is not None:
            options += ["--arithmetic", arithmetic]
        words = []
        if first.experiment.digest not in begun:
            begun.add(first.experiment.digest)
            words.append(["verify", first.experiment.name, "--twice", *options])
        seeds = [str(one.seed) for one in mine]
        words.append(["train", first.experiment.name, "--seed", *seeds, *options])
        yield first, [shlex.join(["identity-mappings", *line]) for line in words]


def _arithmetic(job: list[Wanted]) -> str | None:
    """Of the unfinished run that a job goes on with, if it is not the recipe's."""
    for one in job:
        arithmetic = one.record and one.record.metrics["arithmetic"]
        if arithmetic and arithmetic != one.experiment.parameters["recipe"]["arithmetic"]:
            return arithmetic
    return None


def show_next(scale: str, device: str, count: int, root: Path = Path()) -> int:
    """Print the next jobs of the order of work, with the commands to type; 1 if there is none."""
    project = load(root)
    records = Records(project, scale)
    runs = list(wanted(project, scale, records))
    done = sum(one.done for one in runs)
    print(f"# {done} of {len(runs)} runs are done")
    shown = 0
    for first, lines in commands(runs, scale, device):
        if shown == count:
            break
        state = first.step.why
        if first.record:
            state = f"goes on from its last checkpoint, about iteration {first.record.metrics['iterations']:,}"
        print(f"# {first.step.name}: {state}")
        print("\n".join(lines))
        shown += 1
    for reason in records.bad:
        print(f"# not believed: {reason}")
    return 0 if shown else 1
