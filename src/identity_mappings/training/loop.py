"""One run, from its parameters to its record: read it from top to bottom."""

import fcntl
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, SimpleNamespace

import torch
from torch.nn import functional as F

from .. import data
from ..data.augmentation import Augmentation
from ..data.sampling import Sampler, stream
from ..errors import UserError
from ..evaluation import single_view
from ..networks.shortcuts import Dropout
from ..records import run
from ..records.experiment import Experiment
from . import checkpoint, devices, record
from .assembly import build, initialize, recipe_of
from .optimizer import Optimizer, learning_rate
from .progress import ProgressLine
from .state import Progress

STATISTICS_BATCHES = 400  # for recomputed batch norm statistics: about an epoch of CIFAR


@dataclass(frozen=True)
class Options:
    """What a call of `train` may choose without changing a bit of the result.

    Attributes:
        results: folder of the records.
        data_folder: folder of the datasets.
        root: of the project.
        device: "gpu" or "cpu".
        stop_after: iteration after which to stop with a checkpoint and a partial record.
        checkpoint_seconds: time between checkpoints.
        log: file that takes standard error, for the provenance.
    """

    results: Path
    data_folder: Path = data.FOLDER
    root: Path = Path()
    device: str = "gpu"
    stop_after: int | None = None
    checkpoint_seconds: float = 300
    log: Path | None = None


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Trainer:
    """The network, its optimizer and its images on a device; `step` is an iteration of the recipe."""

    def __init__(self, experiment: Experiment, seed: int, device: torch.device, options: Options):
        self.recipe = recipe = recipe_of(experiment)
        self.seed, self.device = seed, device
        self.run = {"digest": experiment.digest, "seed": seed}
        self.images = data.load(experiment.parameters["dataset"], options.data_folder)
        self.labels = self.images.training_labels.to(device)
        self.test_images, self.test_labels = self.images.test.to(device), self.images.test_labels.to(device)
        self.sampler = Sampler(
            len(self.images.training), recipe.batch_size, recipe.epoch_end, recipe.crop_padding, recipe.flip, seed
        )
        self.augmentation = Augmentation(
            self.images.training,
            recipe.normalization,
            recipe.crop_padding,
            recipe.padding_colour,
            recipe.channel_mean,
            recipe.channel_deviation,
            device,
        )
        with torch.random.fork_rng(devices=[]):
            # Reaches what `initialize` does not know: parameters of the user's own shortcut.
            torch.manual_seed(stream(seed, "construction"))
            self.network = build(experiment, options.root)
        initialize(self.network, recipe, seed)
        self.network.to(device)
        self.optimizer = Optimizer(self.network, recipe)
        self.dropouts = [module for module in self.network.modules() if isinstance(module, Dropout)]
        self.masks = torch.Generator(device=device)
        for dropout in self.dropouts:
            dropout.generator = self.masks

    def step(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """One iteration: loss, wrong predictions (both still on the device) and images of the batch."""
        view = self.sampler.view(iteration)
        x, y = self.augmentation.view(view), self.labels[view.image.to(self.device)]
        if self.dropouts:
            self.masks.manual_seed(stream(self.seed, "dropout", iteration))
        with devices.autocast(self.device, self.recipe.arithmetic):
            scores = self.network(x).float()
        loss = F.cross_entropy(scores, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step(iteration)
        return loss.detach(), (scores.detach().argmax(1) != y).sum(), len(y)

    @property
    def device_name(self) -> str:
        """The kind of device, as records state it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def recompute_statistics(self) -> None:
        """Take batch norm's statistics from training images, in views that come after those of the training."""
        steps = range(self.recipe.iterations, self.recipe.iterations + STATISTICS_BATCHES)
        batches = (self.augmentation.view(self.sampler.view(step)) for step in steps)
        with devices.autocast(self.device, self.recipe.arithmetic):
            single_view.recompute_statistics(self.network, batches)

    def test(self) -> single_view.Result:
        """Test error of the network as it is."""
        with devices.autocast(self.device, self.recipe.arithmetic):
            return single_view.test(self.network, self.test_images, self.test_labels, self.augmentation.normalize)

    def state(self) -> dict:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class Interrupted:
    """Notes SIGTERM and SIGINT, so that a run ends between two iterations, with a checkpoint."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "Interrupted":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number


def train(experiment: Experiment, seed: int, options: Options) -> int:
    """Train a run to its record, going on from its last checkpoint; returns the exit status.

    Leaves metrics.json, curve.csv and provenance.json in results/runs/EXPERIMENT-DIGEST/seedK, and the trained
    weights with the checkpoints. A loss that is not finite ends the run as a record with the status "diverged". After
    `stop_after` iterations, or on SIGTERM and SIGINT, there is a checkpoint and a record in partial/ instead.

    Raises:
        UserError: no data, no device, another process at work on the same run.
    """
    folder = run.folder_of(options.results, experiment, seed)
    checkpoints = run.checkpoints_of(options.results, experiment, seed)
    if _has_record(folder, experiment, seed):
        say(f"{folder}: finished before; nothing to do")
        return 0
    recipe = recipe_of(experiment)
    device = devices.choose(options.device, experiment, options.root)
    devices.prepare(recipe.arithmetic, recipe.cpu_threads)
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (checkpoints / "lock").open("w") as lock, Interrupted() as interrupted:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is training this run: wait for it, or stop it") from None
        trainer = Trainer(experiment, seed, device, options)
        progress = _resume(trainer, checkpoints, device)
        if progress.iteration:
            say(f"{experiment.name}, seed {seed}: goes on from iteration {progress.iteration}")
        _iterate(trainer, progress, options, checkpoints, experiment.name, lambda: interrupted.signal is not None)
        if not progress.iteration and interrupted.signal:
            return 128 + interrupted.signal
        status = _status(progress, recipe)
        unfinished = f"unfinished after {progress.iteration} iterations; call again to go on"
        outcome = unfinished if status == "unfinished" else _outcome(progress)
        say(f"{experiment.name}, seed {seed}: {outcome}")  # before the record, which holds the log's hash
        record.write(trainer, progress, status, experiment, folder, options)
        if status == "unfinished":
            _save(trainer, progress, checkpoints)
            return 128 + interrupted.signal if interrupted.signal else 0
        record.keep_weights(trainer, checkpoints)
        checkpoint.clear(checkpoints)
        return 0


def _has_record(folder: Path, experiment: Experiment, seed: int) -> bool:
    try:
        return run.read(folder, experiment, seed) is not None
    except run.BadRecord as error:
        raise UserError(f"{error}: not trained again over it: move the folder away") from None


def _resume(trainer: Trainer, checkpoints: Path, device: torch.device) -> Progress:
    saved = checkpoint.load(checkpoints, device)
    if saved is None:
        return Progress()
    trainer.restore(saved)
    return Progress.restored(saved["progress"])


def _save(trainer: Trainer, progress: Progress, checkpoints: Path) -> None:
    checkpoint.save(
        checkpoints, progress.iteration, {**trainer.state(), "progress": progress.saved(), "run": trainer.run}
    )


def _iterate(
    trainer: Trainer,
    progress: Progress,
    options: Options,
    checkpoints: Path,
    name: str,
    interrupted: Callable[[], bool],
) -> None:
    """Iterate to the end, to `stop_after`, to an interruption, or to a loss that is not finite."""
    recipe = trainer.recipe
    begin, started, clock = progress.iteration, _now(), time.perf_counter()
    progress.sessions.append({"started": started, "from_iteration": begin})
    end = min(recipe.iterations, options.stop_after or recipe.iterations)
    saved, unsaid = clock, trainer.device.type == "cpu"
    with ProgressLine(name, recipe.iterations, begin, recipe.batch_size) as line:
        while progress.iteration < end and progress.diverged_at is None and not interrupted():
            # Losses stay on the device up to the next row, test or stop: reading one would wait for it.
            until = min(end, (progress.iteration // recipe.log_every + 1) * recipe.log_every)
            losses, wrong, images = [], [], 0
            for iteration in range(progress.iteration, until):
                loss, mistakes, size = trainer.step(iteration)
                losses.append(loss)
                wrong.append(mistakes)
                images += size
                if interrupted() or time.perf_counter() - saved >= options.checkpoint_seconds:
                    break
            healthy = progress.take(torch.stack(losses).tolist(), int(torch.stack(wrong).sum()), images)
            if healthy:
                _note(trainer, progress)
            line.show(progress.iteration, progress.training_loss, progress.last and progress.last["test_error"])
            now = time.perf_counter()
            if unsaid:
                _say_how_long((now - clock) / (progress.iteration - begin + 1), recipe, progress.iteration)
                unsaid = False
            progress.sessions[-1] |= {
                "finished": _now(),
                "to_iteration": progress.iteration,
                "seconds": round(now - clock, 3),
            }
            if healthy and now - saved >= options.checkpoint_seconds and progress.iteration < end:
                _save(trainer, progress, checkpoints)
                saved = time.perf_counter()
    if "finished" not in progress.sessions[-1]:
        progress.sessions.pop()


def _say_how_long(seconds: float, recipe: SimpleNamespace, iteration: int) -> None:
    """On a CPU: say how long the rest takes at `seconds` an iteration, if a person would not wait for it."""
    left = seconds * (recipe.iterations - iteration)
    if left > 600:
        say(f"on this CPU, with {recipe.cpu_threads} thread(s), the whole run takes {devices.duration(left)} more")


def _note(trainer: Trainer, progress: Progress) -> None:
    """Test and end a row of the curve, where the recipe wants it."""
    recipe = trainer.recipe
    last = progress.iteration == recipe.iterations
    if progress.iteration % recipe.evaluate_every == 0 or last:
        if last and recipe.test_statistics == "recomputed":
            trainer.recompute_statistics()
        result = trainer.test()
        progress.tested(result.wrong, result.images, result.loss)
    if progress.iteration % recipe.log_every == 0 or last:
        progress.row(learning_rate(recipe.learning_rate, progress.iteration - 1))


def _status(progress: Progress, recipe: SimpleNamespace) -> str:
    if progress.diverged_at is not None:
        return "diverged"
    return "finished" if progress.iteration == recipe.iterations else "unfinished"


def _outcome(progress: Progress) -> str:
    if progress.diverged_at is not None:
        return f"diverged: the loss of iteration {progress.diverged_at} is not finite"
    return f"test error {progress.last['test_error']:.2f} % after {progress.iteration} iterations"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
