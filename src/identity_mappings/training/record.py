"""What a run has done so far, which an exact resume needs, and the record that is made of it."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..evaluation.single_view import Result
from ..networks.cost import weights
from ..records import provenance, run
from ..records.experiment import Experiment
from ..records.files import write_atomically
from ..records.run import FIRST_LOSSES
from . import checkpoint, devices

if TYPE_CHECKING:
    from .trainer import Options, RunTrainer

MOVING = "moving-statistics.pt"
COLUMNS = ("iteration", "learning_rate", "training_loss", "training_error", "test_loss", "test_error")


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else format(value, ".9g")


@dataclass
class Progress:
    """Where a run stands."""

    iteration: int = 0  # completed iterations
    losses: list[float] = field(default_factory=list)  # of the iterations since the last row of the curve
    wrong: int = 0  # predictions in these
    images: int = 0  # of these
    rows: list[list[str]] = field(default_factory=list)  # of curve.csv, as text
    first_losses: list[float] = field(default_factory=list)  # exact
    last: dict[str, Any] | None = None  # test, {"iteration", "wrong", "images", "test_error", "test_loss"}
    best: dict[str, Any] | None = None  # test
    training_loss: float | None = None  # of the last row
    training_error: float | None = None
    diverged_at: int | None = None  # iteration whose loss was not finite
    sessions: list[dict[str, Any]] = field(default_factory=list)  # what `loop.Run` says of each process
    pending: bool = False  # whether the test and the row of this iteration are still to be made

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

    def end_row(self, learning_rate: float) -> None:
        """End a row of the curve at the present iteration."""
        if not self.losses:
            return
        tested = self.last if self.last and self.last["iteration"] == self.iteration else {}
        self.training_loss = math.fsum(self.losses) / len(self.losses)
        self.training_error = 100 * self.wrong / self.images if self.images else None
        training = self.iteration, learning_rate, self.training_loss, self.training_error
        values = *training, tested.get("test_loss"), tested.get("test_error")
        self.rows.append([_text(value) for value in values])
        self.losses, self.wrong, self.images = [], 0, 0

    def format_curve(self) -> bytes:
        """curve.csv."""
        return "".join(",".join(row) + "\n" for row in [COLUMNS, *self.rows]).encode()


def write(
    trainer: "RunTrainer", progress: Progress, status: str, experiment: Experiment, folder: Path, options: "Options"
) -> None:
    """Write metrics.json, curve.csv and provenance.json; `status` is "finished", "diverged" or "unfinished"."""
    recipe = trainer.recipe
    last = progress.last if status != "diverged" else None
    # A diverged run goes on to the end of its interval, so its weights depend on where it was interrupted.
    digest = None if status == "diverged" else checkpoint.weights_sha256(trainer.network.state_dict())
    metrics = {
        "format": run.FORMAT,
        "experiment": experiment.name,
        "digest": experiment.digest,
        "scale": experiment.scale,
        "seed": trainer.seed,
        "status": status,
        "iterations": progress.iteration,
        "of_iterations": recipe.iterations,
        "protocol": trainer.feed.protocol,
        "test_error": last and last["test_error"],
        "test": last,
        "best": progress.best,
        "best_is": "the lowest test error of all tests: chosen on the test set, not a result",
        "training_loss": progress.training_loss,
        "training_error": progress.training_error,
        "diverged_at": progress.diverged_at,
        "arithmetic": recipe.arithmetic,
        "cpu_threads": recipe.cpu_threads,
        "device": trainer.device_name,
        "weights": weights(trainer.network),
        "weights_sha256": digest,
        "first_losses": progress.first_losses,
    }
    settings = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cudnn.allow_tf32,
        "cpu_threads": torch.get_num_threads(),
        "workers": trainer.feed.workers,
        "world_size": trainer.group.size,
        "batch": recipe.batch_size,
        "env": devices.libraries(trainer.device),
    }
    origin = provenance.describe_run(
        experiment,
        trainer.seed,
        root=options.root,
        sessions=progress.sessions,
        hardware=devices.describe(trainer.device),
        settings=settings,
        data=trainer.feed.counts,
        weights_sha256=digest,
        log=options.log,
    )
    origin["parents"] = trainer.parents
    run.write(folder, metrics, progress.format_curve(), origin)


def keep_weights(trainer: "RunTrainer", checkpoints: Path) -> None:
    """Keep the trained weights for `evaluate`; the record, which comes after them, holds their hash.

    Where the run ended with recomputed statistics of batch norm, the moving ones are kept beside them.
    """
    for name, state in ((run.WEIGHTS, trainer.network.state_dict()), (MOVING, trainer.moving)):
        if state is not None:
            write_atomically(checkpoints / name, checkpoint.to_bytes(state))
