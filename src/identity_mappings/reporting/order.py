"""The order of work: which runs are done, and which is next."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..parameters import load
from ..parameters.claims import Step
from ..records import run
from ..records.experiment import ARITHMETICS, Experiment
from .cells import Records

FINISHED, DIVERGED = run.FINAL
UNFINISHED, TO_DO = "unfinished", "to do"
STATES = (FINISHED, DIVERGED, UNFINISHED, TO_DO)


@dataclass(frozen=True)
class PlannedRun:
    """A run of the order of work, and how far it is."""

    step: Step
    # In the arithmetic to train it in: of its own unfinished run, of other finished runs, or else of the recipe.
    experiment: Experiment
    seed: int
    record: run.Record | None  # of an unfinished run the one in its partial/; None where nothing was begun

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


def plan_runs(records: Records) -> Iterator[PlannedRun]:
    """The runs of a scale in the order of work, each once; a scale for CPUs has them all on a CPU."""
    project, settings = records.project, records.settings
    seen, names = set(), {experiment.name for experiment in project.wanted(records.scale)}
    if settings.experiments is None:  # runs that choose a parameter, which no table shows
        names |= {name for step in project.order.steps for name in step.experiments if project.holds_out(name)}
    for step in project.order.steps:
        if settings.device == "cpu":
            step = step.model_copy(update={"device": "cpu"})
        for name in step.experiments:
            experiment = project.resolve(name, records.scale) if name in names else None
            for seed in project.seeds(experiment)[: step.runs] if experiment and not experiment.untrainable else ():
                if (experiment.folder, seed) not in seen:
                    seen.add((experiment.folder, seed))
                    yield PlannedRun(step, *find_run(records, experiment, seed))


def find_run(records: Records, experiment: Experiment, seed: int) -> tuple[Experiment, int, run.Record | None]:
    """A run in its arithmetic, with its record.

    Tables show an experiment in one arithmetic, that of its finished runs; the others would be trained for nothing.
    """
    finished, choices = records.read_finished(experiment), [experiment, *experiment.alternatives]
    if finished:
        choices = [experiment.in_arithmetic(finished[0].metrics["arithmetic"])]
    for record in finished:
        if record.metrics["seed"] == seed:
            return choices[0], seed, record
    for alternative in choices:
        if record := records.read_unfinished(alternative, seed):
            return alternative, seed, record
    return choices[0], seed, None


def training_options(scale: str, arithmetic: str) -> list[str]:
    """--scale and --arithmetic, where they are not the defaults."""
    options = [] if scale == "paper" else ["--scale", scale]
    return options if arithmetic == ARITHMETICS[0] else [*options, "--arithmetic", arithmetic]


def plan_jobs(
    runs: Iterable[PlannedRun], scale: str, device: str, at_once: int = 1
) -> Iterator[tuple[list[PlannedRun], list[str]]]:
    """The runs of each job that is not done, and the commands to type for it.

    The runs of one experiment that a step wants are trained at once. Before the first run of an experiment its first
    iterations are compared with themselves.

    Args:
        device: "gpu": runs that a CPU can do come last; "cpu": only these.
        at_once: experiments of one job.
    """
    runs = list(runs)
    begun = {planned.experiment.digest for planned in runs if planned.record}
    by_experiment: dict[tuple[str, str], list[PlannedRun]] = {}
    for planned in runs:
        if not planned.done and (device == "gpu" or planned.step.device == "cpu"):
            by_experiment.setdefault((planned.step.name, planned.experiment.digest), []).append(planned)
    alike: dict[tuple, list[list[PlannedRun]]] = {}  # experiments that can be one job
    for same in by_experiment.values():
        last = device == "gpu" and same[0].step.device == "cpu"
        arithmetic = same[0].experiment.parameters["recipe"]["arithmetic"]
        key = (last, same[0].step.name, tuple(planned.seed for planned in same), arithmetic)
        alike.setdefault(key, []).append(same)
    for (_, _, seeds, arithmetic), jobs in sorted(alike.items(), key=lambda item: item[0][0]):
        for first in range(0, len(jobs), at_once):
            job = [planned for same in jobs[first : first + at_once] for planned in same]
            experiments = {planned.experiment.digest: planned.experiment.name for planned in job}
            options = ["--device", device, *training_options(scale, arithmetic)]
            new = [name for digest, name in experiments.items() if digest not in begun]
            begun.update(experiments)
            commands = [["verify", *new, "--twice", *options]] if new else []
            commands.append(["train", *experiments.values(), "--seed", *map(str, seeds), *options])
            yield job, [shlex.join(["identity-mappings", *command]) for command in commands]


def show_next(scale: str, device: str, count: int, at_once: int, root: Path = Path()) -> int:
    """Print the next jobs of the order of work, with the commands to type; 1 if there is none."""
    records = Records(load(root), scale)
    runs = list(plan_runs(records))
    print(f"# {sum(planned.done for planned in runs)} of {len(runs)} runs are done")
    jobs = list(islice(plan_jobs(runs, scale, device, at_once), count))
    step = None
    for job, commands in jobs:
        if job[0].step != step:
            step = job[0].step
            print(f"# {step.name}: {step.why}")
        for planned in job:
            if planned.record:
                done = f"{planned.record.metrics['iterations']:,} iterations"
                print(f"# {planned.experiment.name}, seed {planned.seed}: {done}; goes on where its checkpoints are")
        print("\n".join(commands))
    if not jobs:
        left = sum(not planned.done for planned in runs)
        print(f"# the other {left} are for a GPU: --device gpu" if left else "# nothing is left to do")
    for reason in records.bad:
        print(f"# invalid record: {reason}")
    return 0 if jobs else 1
