"""From a trainer and its progress to the record of a run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.cost import weights
from ..records import provenance, run
from ..records.experiment import Experiment
from ..records.files import write_atomically
from . import checkpoint, devices
from .state import Progress

MOVING = "moving-statistics.pt"

if TYPE_CHECKING:
    from .trainer import Options, Trainer


def write(
    trainer: "Trainer", progress: Progress, status: str, experiment: Experiment, folder: Path, options: "Options"
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
    origin = provenance.gather(
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
    origin["parents"] = getattr(trainer, "parents", {})
    run.write(folder, metrics, progress.curve(), origin)


def keep_weights(trainer: "Trainer", checkpoints: Path) -> None:
    """Keep the trained weights for `evaluate`; the record, which comes after them, holds their hash.

    Where the run ended with recomputed statistics of batch norm, the moving ones are kept beside them.
    """
    for name, state in ((run.WEIGHTS, trainer.network.state_dict()), (MOVING, trainer.moving)):
        if state is not None:
            write_atomically(checkpoints / name, checkpoint.to_bytes(state))
