"""The order of work: which runs are done, and which is next."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..parameters import Project, load
from ..parameters.claims import Step
from ..records import run
from ..records.experiment import ARITHMETICS, Experiment
from .cells import Records

FINISHED, DIVERGED = run.FINAL
UNFINISHED, TO_DO = "unfinished", "to do"
STATES = (FINISHED, DIVERGED, UNFINISHED, TO_DO)


@dataclass(frozen=True)
class Wanted:
    """A run of the order of work, and how far it is.

    Attributes:
        experiment: in the arithmetic in which it is to be trained: that of its own unfinished run, that in which other
            runs of the experiment are finished, or else the recipe's.
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
        whole = self.experiment.parameters["recipe"]["iterations"]
        return whole - (self.record.metrics["iterations"] if self.record else 0)


def wanted(project: Project, scale: str, records: Records) -> Iterator[Wanted]:
    """The runs of a scale in the order of work, each once; those of a scale for CPUs are all for a CPU."""
    seen, names = set(), {experiment.name for experiment in project.wanted(scale)}
    if project.scale(scale).experiments is None:  # choices, which no table shows
        names |= {name for step in project.order.steps for name in step.experiments if project.holds_out(name)}
    steps = project.order.steps
    if project.scale(scale).device == "cpu":
        steps = [step.model_copy(update={"device": "cpu"}) for step in steps]
    for step in steps:
        for name in step.experiments:
            experiment = project.resolve(name, scale) if name in names else None
            for seed in project.seeds(experiment)[: step.runs] if experiment and not experiment.untrainable else ():
                if (experiment.folder, seed) not in seen:
                    seen.add((experiment.folder, seed))
                    yield Wanted(step, *find_run(records, experiment, seed))


def find_run(records: Records, experiment: Experiment, seed: int) -> tuple[Experiment, int, run.Record | None]:
    """A run in its arithmetic, with its record.

    Tables show an experiment in one arithmetic, that of its finished runs; the others would be trained for nothing.
    """
    finished = records.of(experiment)
    for record in finished:
        if record.metrics["seed"] == seed:
            return experiment.in_arithmetic(record.metrics["arithmetic"]), seed, record
    if finished:
        chosen = [experiment.in_arithmetic(finished[0].metrics["arithmetic"])]
    else:
        chosen = [experiment, *experiment.alternatives]
    for alternative in chosen:
        if record := records.unfinished(alternative, seed):
            return alternative, seed, record
    return chosen[0], seed, None


def commands(
    runs: Iterable[Wanted], scale: str, device: str, at_once: int = 1
) -> Iterator[tuple[list[Wanted], list[str]]]:
    """What to type for the runs that are not done: the runs of each job, and its commands.

    The runs of one experiment that a step wants are trained at once. Before the first run of an experiment its first
    iterations are compared with themselves.

    Args:
        device: "gpu", where what a CPU can do comes last; or "cpu", for which there is nothing else.
        at_once: experiments of one job.
    """
    runs = list(runs)
    begun = {one.experiment.digest for one in runs if one.record}
    by_experiment: dict[tuple[str, str], list[Wanted]] = {}
    for one in runs:
        if not one.done and (device == "gpu" or one.step.device == "cpu"):
            by_experiment.setdefault((one.step.name, one.experiment.digest), []).append(one)
    alike: dict[tuple, list[list[Wanted]]] = {}
    for mine in by_experiment.values():
        last = device == "gpu" and mine[0].step.device == "cpu"
        seeds = tuple(one.seed for one in mine)
        arithmetic = mine[0].experiment.parameters["recipe"]["arithmetic"]
        alike.setdefault((last, mine[0].step.name, seeds, arithmetic), []).append(mine)
    for (_, _, seeds, arithmetic), jobs in sorted(alike.items(), key=lambda item: item[0][0]):
        for first in range(0, len(jobs), at_once):
            job = [one for mine in jobs[first : first + at_once] for one in mine]
            experiments = {one.experiment.digest: one.experiment.name for one in job}
            options = ["--device", device, *(() if scale == "paper" else ("--scale", scale))]
            options += () if arithmetic == ARITHMETICS[0] else ("--arithmetic", arithmetic)
            new = [name for digest, name in experiments.items() if digest not in begun]
            begun.update(experiments)
            lines = [["verify", *new, "--twice", *options]] if new else []
            lines.append(["train", *experiments.values(), "--seed", *map(str, seeds), *options])
            yield job, [shlex.join(["identity-mappings", *line]) for line in lines]


def show_next(scale: str, device: str, count: int, at_once: int, root: Path = Path()) -> int:
    """Print the next jobs of the order of work, with the commands to type; 1 if there is none."""
    project = load(root)
    records = Records(project, scale)
    runs = list(wanted(project, scale, records))
    print(f"# {sum(one.done for one in runs)} of {len(runs)} runs are done")
    jobs, said = list(islice(commands(runs, scale, device, at_once), count)), None
    for job, lines in jobs:
        if job[0].step != said:
            said = job[0].step
            print(f"# {said.name}: {said.why}")
        for one in (one for one in job if one.record):
            done = one.record.metrics["iterations"]
            print(f"# {one.experiment.name}, seed {one.seed}: {done:,} iterations; goes on where its checkpoints are")
        print("\n".join(lines))
    if not jobs:
        left = sum(not one.done for one in runs)
        print(f"# the other {left} are for a GPU: --device gpu" if left else "# nothing is left to do")
    for reason in records.bad:
        print(f"# not believed: {reason}")
    return 0 if jobs else 1
