"""Runs, from their parameters to their records: read it from top to bottom."""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..durations import format_duration
from ..errors import RecordingFailed, UserError
from ..records import git, heartbeat, provenance
from ..records import run as run_records
from ..records.experiment import Experiment
from . import checkpoint, devices, memory, record
from .assembly import get_recipe
from .checkpoint import hold_run
from .group import Group, LostWorker
from .optimizer import learning_rate
from .progress import Heartbeats, Interrupted, progress_line, say
from .record import Progress
from .trainer import Options, Trainer


class Run:
    """One of the runs that a process trains: its trainer, how far it is, and where its files are."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        device: torch.device,
        options: Options,
        group: Group,
        stream: torch.cuda.Stream | None = None,
    ):
        self.experiment, self.options, self.group, self.stream = experiment, options, group, stream
        self.name = f"{experiment.name}, seed {seed}"
        self.folder = run_records.get_folder(options.results, experiment, seed)
        self.checkpoints = run_records.get_checkpoint_folder(options.results, experiment, seed)
        self.progress = Progress()
        with self.on_stream():
            self.trainer = (options.make_trainer or Trainer)(experiment, seed, device, options, group=group)
            saved = checkpoint.load(self.checkpoints, device, self.trainer.run_key)
            if saved is not None:
                self.trainer.restore(saved)
                self.progress = Progress(**saved["progress"])
            weights = checkpoint.weights_sha256(self.trainer.network.state_dict()) if group.size > 1 else None
        if not group.same((self.progress.iteration, weights)):
            raise UserError(f"{self.name}: not all processes see the same checkpoint: give them one folder (--results)")
        if saved is not None:
            self.say(f"resumes at iteration {self.progress.iteration}")
        self.end = min(self.trainer.recipe.iterations, options.stop_after or self.trainer.recipe.iterations)
        self.begin, self.started = self.progress.iteration, time.perf_counter()
        provenance.sources()  # what this process runs, whatever becomes of the files meanwhile
        self.session = {
            "git": git.describe(options.root),
            "device": self.trainer.device_name,
            "started": _now(),
            "from_iteration": self.begin,
            "device_seconds": 0.0,
        }
        for reason in self.session["git"].get("unknown", ()) if self.under_way else ():
            self.say(f"the record cannot describe all sources: {reason}")
        self.steps: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def on_stream(self) -> AbstractContextManager:
        """Context for work of the run on the device: runs that are trained at once have a CUDA stream each.

        After `finish_steps` and `test_and_log`, which read numbers, nothing is queued: any stream may read the state.
        """
        return devices.use_stream(self.stream)

    def say(self, message: str) -> None:
        if self.group.leads:
            say(f"{self.name}: {message}")

    @property
    def under_way(self) -> bool:
        return self.progress.iteration < self.end and self.progress.diverged_at is None

    @property
    def next_row(self) -> int:
        """The iteration at which the next row of the curve ends, or the training."""
        log_every = self.trainer.recipe.log_every
        return min(self.end, (self.progress.iteration // log_every + 1) * log_every)

    @property
    def status(self) -> str:
        if self.progress.diverged_at is not None:
            return "diverged"
        return "finished" if self.progress.iteration == self.trainer.recipe.iterations else "unfinished"

    def _say_outcome(self) -> None:
        progress, last = self.progress, self.progress.last
        after = f"after {progress.iteration} iterations"
        if self.status == "unfinished":
            self.say(f"unfinished {after}; rerun to resume")
        elif self.status == "diverged":
            self.say(f"diverged: the loss of iteration {progress.diverged_at} is not finite")
        elif "mean_average_precision" in last:
            self.say(f"mAP {last['mean_average_precision']:.2f} % {after}")
        else:
            self.say(f"test error {last['test_error']:.2f} % {after}")

    def finish_steps(self) -> None:
        """Read what the last steps left on the device; test, and end a row of the curve, where the recipe wants it."""
        losses, wrong, images = zip(*self.steps, strict=True)
        self.steps = []
        finite = self.progress.add_iterations(torch.stack(losses).tolist(), int(torch.stack(wrong).sum()), sum(images))
        self._update_session()  # a worker may be lost in the test
        if finite:
            self.test_and_log()
            self._update_session()

    def _update_session(self) -> None:
        self.session |= {
            "finished": _now(),
            "to_iteration": self.progress.iteration,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_memory_bytes": memory.get_peak_bytes(self.trainer.device),
        }
        why = self.trainer.why_eager
        if why and "eager" not in self.session:
            self.session["eager"] = why
            self.say(f"trains without CUDA graphs: {why}")

    def test_and_log(self) -> None:
        """Test, and end a row of the curve, where the recipe wants it.

        A checkpoint that is saved meanwhile is `pending`: a run that goes on from it does this first.
        """
        progress, recipe = self.progress, self.trainer.recipe
        progress.pending, last = True, progress.iteration == recipe.iterations
        if progress.iteration % recipe.evaluate_every == 0 or last:
            if last and getattr(recipe, "test_statistics", "frozen") == "recomputed":  # a detector's are frozen
                self.trainer.recompute_statistics()
            progress.note_test(self.trainer.test())
        if progress.iteration % recipe.log_every == 0 or last:
            progress.end_row(learning_rate(recipe.learning_rate, progress.iteration - 1))
        progress.pending = False

    def _save(self) -> None:
        state = {**self.trainer.state(), "progress": asdict(self.progress), "run": self.trainer.run_key}
        state["progress"]["sessions"] = self._list_sessions()
        checkpoint.save(self.checkpoints, self.progress.iteration, state)

    def rescue(self) -> str:
        """Save the last complete iteration after another worker was lost; returns what the newest checkpoint is."""
        if self.trainer.is_consistent and self.trainer.device.type == "cpu":  # a GPU may be within an iteration
            if self.steps:
                self.finish_steps()
            if self.progress.iteration > self.begin:
                self._save()
        last = checkpoint.newest(self.checkpoints)
        return "there is no checkpoint yet" if last is None else f"there is a checkpoint of iteration {last}"

    def _list_sessions(self) -> list[dict]:
        return [*self.progress.sessions, self.session] if "finished" in self.session else self.progress.sessions

    def try_to_save(self) -> None:
        """Write a checkpoint; where there is no room for it the run goes on, and the ones before stay."""
        try:
            self._save()
        except OSError as error:
            newest = checkpoint.newest(self.checkpoints)
            kept = "there is none yet" if newest is None else f"the last one, of iteration {newest}, is kept"
            self.say(f"no checkpoint of iteration {self.progress.iteration}: {error.strerror} ({kept}): free some room")

    def close(self) -> None:
        """End the session and save a checkpoint, before anything else."""
        self.trainer.close()
        self.progress.sessions = self._list_sessions()
        self.session = {}
        if self.group.leads and self.progress.sessions:
            self.try_to_save()

    def write_record(self) -> None:
        """Keep the weights of a run that is over, and write the record, if anything was done."""
        if not (self.group.leads and self.progress.sessions):
            return
        self._say_outcome()  # before the record, which holds the log's hash
        over = self.status != "unfinished"
        if over:
            record.keep_weights(self.trainer, self.checkpoints)
        record.write(self.trainer, self.progress, self.status, self.experiment, self.folder, self.options)
        if over:
            run_records.keep_copy(self.folder, self.checkpoints)
            heartbeat.remove_heartbeat(self.checkpoints)


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
            except LostWorker as error:
                interrupted.ignored = True  # torchrun sends SIGTERM to the others; they save and report first
                state = "; ".join(f"{run.name}: {run.rescue()}" for run in runs)
                gone = f"another process of this run is gone ({error})"
                raise UserError(f"{gone}; {state}: rerun to resume") from None
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
                checkpoint.clear(checkpoints)
        unfinished = len(ended) < len(wanted) or any(status == "unfinished" for status, _ in ended)
        return 128 + interrupted.signal if unfinished and interrupted.signal else 0


def _has_record(experiment: Experiment, seed: int, options: Options) -> bool:
    folder = run_records.get_folder(options.results, experiment, seed)
    try:
        finished = run_records.read(folder, experiment, seed) is not None
    except run_records.BadRecord as error:
        raise UserError(f"{error}: not trained again over it: move the folder away") from None
    if finished:
        say(f"{folder}: finished before; nothing to do")
        return True
    checkpoints = run_records.get_checkpoint_folder(options.results, experiment, seed)
    if run_records.restore(folder, checkpoints, experiment, seed):
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
        if run.progress.pending:
            with run.on_stream():
                run.test_and_log()
    counted = time.perf_counter()
    with (
        Heartbeats(runs, group.leads) as heartbeats,
        progress_line(name, recipe.iterations, begin, recipe.batch_size, group.leads) as show,
    ):
        while active := [run for run in runs if run.under_way]:
            stop, due = vote()
            if due:
                for run in active if group.leads else ():
                    run.try_to_save()
                saved = time.perf_counter()
            if stop:
                break
            # Lagging runs catch up first.
            first = min(run.progress.iteration for run in active)
            together = [run for run in active if run.progress.iteration == first]
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
            progress = runs[0].progress
            show(progress.iteration, progress.training_loss, progress.last and progress.last["test_error"])
            if estimate_pending:
                each = (time.perf_counter() - clock) / (progress.iteration - begin + 1)
                left, estimate_pending = each * (recipe.iterations - progress.iteration), False
                if left > 600:  # a person would not wait for it
                    threads, duration = recipe.cpu_threads, format_duration(left)
                    say(f"on this CPU, with {threads} thread(s), the run takes about {duration} more")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
