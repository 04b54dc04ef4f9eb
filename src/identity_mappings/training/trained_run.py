"""A run that is trained: how far it is, its checkpoints, and the record that it leaves."""

import math
import os
import sys
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import torch

from ..errors import UserError
from ..evaluation.single_view import Result
from ..networks.cost import weights
from ..records import git, heartbeat, provenance
from ..records import run as run_records
from ..records.experiment import Experiment
from ..records.files import write_atomically
from ..records.run import FIRST_LOSSES
from . import checkpoint, devices, memory
from .group import Group
from .optimizer import learning_rate
from .trainer import Options, Trainer

MOVING = "moving-statistics.pt"
COLUMNS = ("iteration", "learning_rate", "training_loss", "training_error", "test_loss", "test_error")
PROGRESS = (  # what a checkpoint holds of a run, beside the trainer's state
    *("iteration", "losses", "wrong", "images", "rows", "first_losses", "last", "best"),
    *("training_loss", "training_error", "diverged_at", "sessions"),
)
SHORTEST_SILENCE = 120.0
ITERATIONS_OF_SILENCE = 100  # a test of all images takes as long as some thirty iterations


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _format_number(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else format(value, ".9g")


class Run:
    """One of the runs that a process trains. It begins from its last checkpoint, where there is one."""

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
        self.iteration = 0  # completed iterations
        self.losses: list[float] = []  # of the iterations since the last row of the curve
        self.wrong = self.images = 0  # predictions in these, and images
        self.rows: list[list[str]] = []  # of curve.csv, as text
        self.first_losses: list[float] = []  # exact
        self.last: dict[str, Any] | None = None  # test, {"iteration", "wrong", "images", "test_error", "test_loss"}
        self.best: dict[str, Any] | None = None  # test
        self.training_loss: float | None = None  # of the last row
        self.training_error: float | None = None
        self.diverged_at: int | None = None  # iteration whose loss was not finite
        self.sessions: list[dict[str, Any]] = []  # of the processes before; the present one's is `session`
        with self.on_stream():
            self.trainer = (options.make_trainer or Trainer)(experiment, seed, device, options, group=group)
            saved = checkpoint.load_checkpoint(self.checkpoints, device, self.trainer.run_key)
            if saved is not None:
                self.trainer.restore(saved)
                vars(self).update({name: saved["progress"][name] for name in PROGRESS})
            digest = checkpoint.weights_sha256(self.trainer.network.state_dict()) if group.size > 1 else None
        if not group.same((self.iteration, digest)):
            raise UserError(f"{self.name}: not all processes see the same checkpoint: give them one folder (--results)")
        if saved is not None:
            self.say(f"resumes at iteration {self.iteration}")
        self.end = min(self.trainer.recipe.iterations, options.stop_after or self.trainer.recipe.iterations)
        self.begin, self.started = self.iteration, time.perf_counter()
        provenance.sources()  # what this process runs, whatever becomes of the files meanwhile
        self.session: dict[str, Any] = {
            "git": git.describe(options.root),
            "device": self.trainer.device_name,
            "started": _now(),
            "from_iteration": self.begin,
            "device_seconds": 0.0,
        }
        for reason in self.session["git"].get("unknown", ()) if self.under_way else ():
            self.say(f"the record cannot describe all sources: {reason}")
        self.steps: list[tuple[torch.Tensor, torch.Tensor, int]] = []  # whose losses are still on the device

    def on_stream(self) -> AbstractContextManager:
        """Context for work of the run on the device: runs that are trained at once have a CUDA stream each.

        After `finish_steps`, which reads numbers, nothing is queued: any stream may read the state.
        """
        return devices.use_stream(self.stream)

    def say(self, message: str) -> None:
        if self.group.leads:
            say(f"{self.name}: {message}")

    @property
    def under_way(self) -> bool:
        return self.iteration < self.end and self.diverged_at is None

    @property
    def next_row(self) -> int:
        """The iteration at which the next row of the curve ends, or the training."""
        log_every = self.trainer.recipe.log_every
        return min(self.end, (self.iteration // log_every + 1) * log_every)

    @property
    def status(self) -> str:
        if self.diverged_at is not None:
            return "diverged"
        return "finished" if self.iteration == self.trainer.recipe.iterations else "unfinished"

    def finish_steps(self) -> None:
        """Read what the last steps left on the device; test, and end a row of the curve, where the recipe wants it."""
        losses, wrong, images = zip(*self.steps, strict=True)
        self.steps = []
        if self.add_iterations(torch.stack(losses).tolist(), int(torch.stack(wrong).sum()), sum(images)):
            recipe, last = self.trainer.recipe, self.iteration == self.trainer.recipe.iterations
            if self.iteration % recipe.evaluate_every == 0 or last:
                if last and getattr(recipe, "test_statistics", "frozen") == "recomputed":  # a detector's are frozen
                    self.trainer.recompute_statistics()
                self.note_test(self.trainer.test())
            if self.iteration % recipe.log_every == 0 or last:
                self.end_row(learning_rate(recipe.learning_rate, self.iteration - 1))
        self.session |= {
            "finished": _now(),
            "to_iteration": self.iteration,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_memory_bytes": memory.get_peak_bytes(self.trainer.device),
        }
        why = self.trainer.why_eager
        if why and "eager" not in self.session:
            self.session["eager"] = why
            self.say(f"trains without CUDA graphs: {why}")

    def add_iterations(self, losses: list[float], wrong: int, images: int) -> bool:
        """Count iterations that were done; False from the first loss on that is not finite."""
        finite = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)
        done = losses if finite is None else losses[:finite]
        self.first_losses += done[: max(0, FIRST_LOSSES - len(self.first_losses))]
        self.losses += done
        self.iteration += len(done)
        self.wrong, self.images = self.wrong + wrong, self.images + images
        if finite is not None:
            self.diverged_at = self.iteration
        return finite is None

    def note_test(self, result: Result | dict[str, Any]) -> None:
        """Note a test of the network as it is after `iteration` iterations.

        Args:
            result: of a detector {"images", "mean_average_precision": in %, ...}; its error is 100 % less that.
        """
        if isinstance(result, Result):
            found = result.as_json()
        else:
            error = round(100 - result["mean_average_precision"], 6)
            found = {"test_error": error, **result, "test_loss": None}
        self.last = {"iteration": self.iteration, **found}
        if self.best is None or self.last["test_error"] < self.best["test_error"]:
            self.best = self.last

    def end_row(self, rate: float) -> None:
        """End a row of the curve at the present iteration, whose learning rate is `rate`."""
        if not self.losses:
            return
        tested = self.last if self.last and self.last["iteration"] == self.iteration else {}
        self.training_loss = math.fsum(self.losses) / len(self.losses)
        self.training_error = 100 * self.wrong / self.images if self.images else None
        training = self.iteration, rate, self.training_loss, self.training_error
        values = *training, tested.get("test_loss"), tested.get("test_error")
        self.rows.append([_format_number(value) for value in values])
        self.losses, self.wrong, self.images = [], 0, 0

    def format_curve(self) -> bytes:
        """curve.csv."""
        return "".join(",".join(row) + "\n" for row in [COLUMNS, *self.rows]).encode()

    def make_heartbeat(self, state: str, uncounted: float = 0.0, message: str | None = None) -> heartbeat.Heartbeat:
        """How far the run is now.

        Args:
            uncounted: seconds of the device that the session does not count yet.
            message: the error of a failed run.
        """
        recipe, seconds = self.trainer.recipe, time.perf_counter() - self.started
        iteration = self.iteration + len(self.steps)
        each = seconds / max(1, iteration - self.begin)
        return heartbeat.Heartbeat(
            state=state,
            iteration=iteration,
            of_iterations=recipe.iterations,
            from_iteration=self.begin,
            seconds=round(seconds, 3),
            device_seconds=round(self.session["device_seconds"] + uncounted, 3),
            training_loss=self.training_loss,
            test_error=self.last["test_error"] if self.last else None,
            gpu=self.trainer.device_name if self.trainer.device.type == "cuda" else None,
            cpu=provenance.find_cpu_model(),
            arithmetic=recipe.arithmetic,
            batch_size=recipe.batch_size,
            runs_at_once=self.session["runs_at_once"],
            world_size=self.group.size,
            silence=round(max(SHORTEST_SILENCE, ITERATIONS_OF_SILENCE * each), 3),
            process=heartbeat.identify_process(),
            message=message,
        )

    def write_checkpoint(self) -> None:
        """Write a checkpoint; where there is no room for it the run goes on, and the ones before stay."""
        progress = {name: getattr(self, name) for name in PROGRESS} | {"sessions": self._list_sessions()}
        state = {**self.trainer.state(), "progress": progress, "run": self.trainer.run_key}
        try:
            checkpoint.write_checkpoint(self.checkpoints, self.iteration, state)
        except OSError as error:
            newest = checkpoint.find_newest(self.checkpoints)
            kept = "there is none yet" if newest is None else f"the last one, of iteration {newest}, is kept"
            self.say(f"no checkpoint of iteration {self.iteration}: {error.strerror} ({kept}): free some room")

    def _list_sessions(self) -> list[dict[str, Any]]:
        return [*self.sessions, self.session] if "finished" in self.session else self.sessions

    def close(self) -> None:
        """End the session and write a checkpoint, before anything else."""
        self.trainer.close()
        self.sessions = self._list_sessions()
        self.session = {}
        if self.group.leads and self.sessions:
            self.write_checkpoint()

    def write_record(self) -> None:
        """Keep the weights of a run that is over, and write the record, if anything was done."""
        if not (self.group.leads and self.sessions):
            return
        self._say_outcome()  # before the record, which holds the log's hash
        over = self.status != "unfinished"
        if over:
            # Where it ended with recomputed statistics of batch norm, the moving ones are kept, too.
            states = {run_records.WEIGHTS: self.trainer.network.state_dict(), MOVING: self.trainer.moving}
            for name, state in states.items():
                if state is not None:
                    write_atomically(self.checkpoints / name, checkpoint.to_bytes(state))
        # A diverged run goes on to the end of its interval, so its weights depend on where it was interrupted.
        diverged = self.status == "diverged"
        digest = None if diverged else checkpoint.weights_sha256(self.trainer.network.state_dict())
        metrics, origin = self._describe_results(digest), self._describe_origin(digest)
        run_records.write_record(self.folder, metrics, self.format_curve(), origin)
        if over:
            run_records.copy_record(self.folder, self.checkpoints)
            heartbeat.remove_heartbeat(self.checkpoints)

    def _say_outcome(self) -> None:
        after, last = f"after {self.iteration} iterations", self.last or {}
        if self.status == "unfinished":
            self.say(f"unfinished after {self.iteration} iterations; rerun to resume")
        elif self.status == "diverged":
            self.say(f"diverged: the loss of iteration {self.diverged_at} is not finite")
        elif "mean_average_precision" in last:
            self.say(f"mAP {last['mean_average_precision']:.2f} % {after}")
        else:
            self.say(f"test error {last['test_error']:.2f} % {after}")

    def _describe_results(self, digest: str | None) -> dict[str, Any]:
        """metrics.json; `digest` is of the weights."""
        trainer, recipe = self.trainer, self.trainer.recipe
        last = self.last if self.status != "diverged" else None
        return {
            "format": run_records.FORMAT,
            "experiment": self.experiment.name,
            "digest": self.experiment.digest,
            "scale": self.experiment.scale,
            "seed": trainer.seed,
            "status": self.status,
            "iterations": self.iteration,
            "of_iterations": recipe.iterations,
            "protocol": trainer.feed.protocol,
            "test_error": last["test_error"] if last else None,
            "test": last,
            "best": self.best,
            "best_is": "the lowest test error of all tests: chosen on the test set, not a result",
            "training_loss": self.training_loss,
            "training_error": self.training_error,
            "diverged_at": self.diverged_at,
            "arithmetic": recipe.arithmetic,
            "cpu_threads": recipe.cpu_threads,
            "device": trainer.device_name,
            "weights": weights(trainer.network),
            "weights_sha256": digest,
            "first_losses": self.first_losses,
        }

    def _describe_origin(self, digest: str | None) -> dict[str, Any]:
        """provenance.json."""
        trainer = self.trainer
        settings = {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": torch.backends.cudnn.allow_tf32,
            "cpu_threads": torch.get_num_threads(),
            "workers": trainer.feed.workers,
            "world_size": trainer.group.size,
            "batch": trainer.recipe.batch_size,
            "env": devices.libraries(trainer.device),
        }
        origin = provenance.describe_run(
            self.experiment,
            trainer.seed,
            root=self.options.root,
            sessions=self.sessions,
            hardware=devices.describe(trainer.device),
            settings=settings,
            data=trainer.feed.counts,
            weights_sha256=digest,
            log=self.options.log,
        )
        return {**origin, "parents": trainer.parents}
