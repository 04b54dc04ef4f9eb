"""The training of runs, several at once, from their parameters to their records: read it from top to bottom."""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from ..durations import format_duration
from ..errors import RecordingFailed, UserError
from ..records import run as run_records
from ..records.experiment import Experiment
from . import checkpoint, devices, memory
from .assembly import get_recipe
from .checkpoint import hold_run
from .group import Group, first_line, is_lost_worker
from .progress import Heartbeats, Interrupted, progress_line
from .trained_run import Run, say
from .trainer import Options


def train(experiments: Experiment | Sequence[Experiment], seeds: int | Sequence[int], options: Options) -> int:
    """Train runs of experiments, each with all seeds, to their records; returns the exit status.

    Each begins from its last checkpoint, where there is one. Several runs are trained at once, on one device; each is
    what it would be alone. Several processes, started by torchrun, train one run after the other together.

    Leaves metrics.json, curve.csv and provenance.json in results/runs/EXPERIMENT-DIGEST/seedK, and the trained
    weights with the checkpoints. A loss that is not finite ends a run as a record with the status "diverged". After
    `stop_after` iterations, or on SIGTERM and SIGINT, there is a checkpoint and a record in partial/ instead.

    Raises:
        UserError: no data, no device, another process at work on the same run, or one of the group's lost; or
            experiments that no process can train at once.
    """
    experiments = [experiments] if isinstance(experiments, Experiment) else experiments
    seeds = [seeds] if isinstance(seeds, int) else seeds
    every = {(experiment.folder, seed): (experiment, seed) for experiment in experiments for seed in seeds}
    wanted = [pair for pair in every.values() if not _has_record(*pair, options)]
    if not wanted:
        return 0
    first, group = wanted[0][0], Group.from_environment()
    if len({(get_recipe(e).arithmetic, get_recipe(e).cpu_threads) for e, _ in wanted}) > 1:
        names = ", ".join(dict.fromkeys(experiment.name for experiment, _ in wanted))
        raise UserError(f"{names}: differ in arithmetic or cpu_threads, which are set for a process: train them apart")
    device = devices.set_up(options.device, first, options.root, group)
    with ExitStack() as held, Interrupted() as interrupted:
        for experiment, seed in wanted if group.leads else ():
            held.enter_context(hold_run(experiment, seed, options.results))
        # Check again under the lock: another process may have finished some.
        if group.size == 1 and not (wanted := [pair for pair in wanted if not _has_record(*pair, options)]):
            return 0
        held.enter_context(group.joined(device))
        if not group.same([(experiment.folder, seed) for experiment, seed in wanted]):
            raise UserError(f"{first.name}: not all processes see the same records: give them one folder (--results)")
        several = len(wanted) > 1 and group.size == 1 and not any(experiment.detects for experiment, _ in wanted)
        batches = memory.group_runs(wanted, device, options.root) if several else ([pair] for pair in wanted)
        ended: list[tuple[str, Path]] = []  # not the runs: their memory is the next batch's
        for batch in batches:
            if interrupted.signal:
                break
            at_once = len(batch) > 1 and device.type == "cuda"
            streams = [torch.cuda.Stream(device) if at_once else None for _ in batch]
            runs = [
                Run(experiment, seed, device, options, group, stream)
                for (experiment, seed), stream in zip(batch, streams, strict=True)
            ]
            try:
                _iterate(runs, options, lambda: interrupted.signal is not None)
            except RecordingFailed:
                for run in runs:
                    run.trainer.close()  # the command starts again in this process's place
                raise
            except RuntimeError as error:
                if not is_lost_worker(error, group):
                    raise
                interrupted.ignored = True  # torchrun sends SIGTERM to the others; they report first
                last = checkpoint.find_newest(runs[0].checkpoints)
                saved = "no checkpoint yet" if last is None else f"a checkpoint of iteration {last}"
                gone = f"{runs[0].name}: another process of this run is gone ({first_line(error)})"
                raise UserError(f"{gone}; there is {saved}: rerun to resume") from None
            for run in runs:
                run.close()
            for run in runs:
                run.write_record()
                ended.append((run.status, run.checkpoints))
            del runs, run
            gc.collect()  # a trainer and its recorded steps refer to each other
        # Checkpoints are kept until all runs have their records: Snakemake removes the outputs of a killed job.
        for status, checkpoints in ended if group.leads else ():
            if status != "unfinished":
                checkpoint.remove_checkpoints(checkpoints)
        unfinished = len(ended) < len(wanted) or any(status == "unfinished" for status, _ in ended)
        return 128 + interrupted.signal if unfinished and interrupted.signal else 0


def _has_record(experiment: Experiment, seed: int, options: Options) -> bool:
    folder = run_records.get_folder(options.results, experiment, seed)
    try:
        finished = run_records.read_record(folder, experiment, seed) is not None
    except run_records.BadRecord as error:
        raise UserError(f"{error}: not trained again over it: move the folder away") from None
    if finished:
        say(f"{folder}: finished before; nothing to do")
        return True
    checkpoints = run_records.get_checkpoint_folder(options.results, experiment, seed)
    if run_records.restore_record(folder, checkpoints, experiment, seed):
        say(f"{folder}: finished before, restored from {checkpoints}: remove both folders to train it again")
        return True
    return False


def _iterate(runs: list[Run], options: Options, interrupted: Callable[[], bool]) -> None:
    """Iterate to the end, to `stop_after`, to an interruption, or to a loss that is not finite."""
    group, recipe = runs[0].group, runs[0].trainer.recipe
    clock = saved = time.perf_counter()
    begin, estimate_pending = runs[0].begin, runs[0].trainer.device.type == "cpu" and group.leads

    def vote() -> Sequence[bool]:
        """Whether to stop, and whether a checkpoint is due; the same in all processes of a group."""
        return group.any(interrupted(), time.perf_counter() - saved >= options.checkpoint_seconds)

    name = runs[0].experiment.name if len(runs) == 1 else f"{len(runs)} runs"
    for run in runs:
        run.session["runs_at_once"] = len(runs)
    counted = time.perf_counter()
    with (
        Heartbeats(runs, group.leads) as heartbeats,
        progress_line(name, recipe.iterations, begin, recipe.batch_size, group.leads) as show,
    ):
        while active := [run for run in runs if run.under_way]:
            stop, due = vote()
            if due:
                for run in active if group.leads else ():
                    run.write_checkpoint()
                saved = time.perf_counter()
            if stop:
                break
            # Lagging runs catch up first.
            first = min(run.iteration for run in active)
            together = [run for run in active if run.iteration == first]
            # Losses stay on the device up to the next row, test or stop: reading one would wait for it.
            for iteration in range(first, min(run.next_row for run in together)):
                if iteration > first and any(vote()):
                    break
                for run in together:
                    with run.on_stream():
                        run.steps.append(run.trainer.step(iteration))
                heartbeats.beat(together, counted)
            for run in together:
                with run.on_stream():
                    run.finish_steps()
            before, counted = counted, time.perf_counter()
            for run in together:
                share = (counted - before) / len(together)
                run.session["device_seconds"] = round(run.session["device_seconds"] + share, 3)
            heartbeats.beat(together, counted)
            first_run = runs[0]
            show(first_run.iteration, first_run.training_loss, first_run.last and first_run.last["test_error"])
            if estimate_pending:
                each = (time.perf_counter() - clock) / (first_run.iteration - begin + 1)
                left, estimate_pending = each * (recipe.iterations - first_run.iteration), False
                if left > 600:  # a person would not wait for it
                    threads, duration = recipe.cpu_threads, format_duration(left)
                    say(f"on this CPU, with {threads} thread(s), the run takes about {duration} more")
