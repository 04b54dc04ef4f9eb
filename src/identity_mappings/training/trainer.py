"""A run's network, optimizer and images on a device, and the recipe's step."""

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as activation_checkpoint

from ..data.images import FOLDER, Images, load_images
from ..data.sampling import derive_seed
from ..errors import UserError
from ..evaluation import single_view
from ..networks.families import Network
from ..networks.shortcuts import Dropout
from ..networks.vgg import Vgg
from ..records.experiment import Experiment
from . import devices, memory
from .assembly import build, get_recipe, initialize
from .captured import Captured
from .feeds import Resident
from .group import Group
from .optimizer import Optimizer

MOST_QUEUED = 4  # steps: the host prepares the next ones meanwhile, and a signal need not wait for many


class RunTrainer(Protocol):
    """What trains a run: a `Trainer`, or for a detection a `detection.trainer.DetectionTrainer`."""

    recipe: SimpleNamespace
    seed: int
    device: torch.device
    device_name: str
    group: Group
    run_key: dict[str, Any]  # what a checkpoint must be of
    feed: Any  # where images come from, with `counts`, `protocol` and `workers`, as the record states them
    parents: dict[str, str]  # what the run began from: its hash
    moving: dict[str, Tensor] | None  # batch norm's statistics before they were recomputed

    @property
    def network(self) -> nn.Module: ...
    @property
    def why_eager(self) -> str | None: ...
    def step(self, iteration: int) -> tuple[Tensor, Tensor, int]: ...
    def recompute_statistics(self) -> None: ...
    def test(self) -> single_view.Result | dict[str, Any]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Options:
    """Options of `train`; on one kind of device none affects results."""

    results: Path  # folder of the records
    data_folder: Path = FOLDER  # of the datasets
    root: Path = Path()  # of the project
    device: str = "gpu"  # or "cpu"
    stop_after: int | None = None  # iteration after which to stop with a checkpoint and a partial record
    checkpoint_seconds: float = 300  # between checkpoints
    log: Path | None = None  # file that takes standard error, for the provenance
    eager: bool | str = False  # whether a GPU's steps are launched kernel by kernel, not recorded and replayed; or why
    recompute: bool | None = None  # activation checkpointing, unit by unit; None: where memory is short
    workers: int | None = None  # processes that decode, for each that trains; None: what the device suggests
    make_trainer: Callable[..., "RunTrainer"] | None = None  # takes the place of `Trainer`, where runs are detections


class Forward(nn.Module):
    """The scores that a residual network gives the images of one replica.

    Args:
        recompute: whether its units are computed again in the backward pass, instead of kept.
        arithmetic: of the recipe.
    """

    def __init__(self, network: Network, recompute: bool, arithmetic: str):
        super().__init__()
        self.network, self.recompute, self.arithmetic = network, recompute, arithmetic

    def forward(self, x: Tensor, replica: int) -> Tensor:
        network, scope = self.network, self.network.scope
        with scope.select(replica), devices.autocast(x.device, self.arithmetic):
            if self.recompute and not isinstance(network, Vgg):
                x = network.stem(x)
                contexts = lambda: (nullcontext(), scope.select(replica, repeated=True))  # noqa: E731
                for unit in network.units:
                    x = activation_checkpoint(
                        unit, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
                    )
                scores = network.linear(network.last(x).mean((2, 3)))
            else:
                scores = network(x)
            return scores.float() if scores.dtype == torch.bfloat16 else scores


class Trainer:
    """The network, its optimizer and its images; `step` is an iteration of the recipe.

    Everything stays in channels_last, and a batch passes the network replica by replica (see `BatchNorm2d`): on a CPU
    1.3 to 2.3 times as fast as the whole batch, and with half of the memory. Replicas are dealt out to the group.
    """

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        device: torch.device,
        options: Options,
        images: Images | None = None,
        group: Group | None = None,
    ):
        self.recipe = recipe = get_recipe(experiment)
        self.seed, self.device, self.group = seed, device, group or Group()
        self.device_name = devices.get_name(device)
        self.run_key = {"digest": experiment.digest, "seed": seed}
        self.parents: dict[str, str] = {}
        self.replicas = recipe.batch_size // recipe.batch_norm_samples
        self.own_replicas = self.group.get_share(self.replicas)  # replicas that this process computes
        dataset = experiment.parameters["dataset"]
        self.feed: Any  # a `Streamed` or a `Resident`
        if recipe.crop and images is None:
            from .streamed import Streamed  # and with it torchvision, which takes two seconds

            folder, workers = options.data_folder, options.workers
            self.feed = Streamed(dataset, recipe, seed, device, self.group, folder, workers)
        else:
            self.feed = Resident(images or load_images(dataset, options.data_folder), recipe, seed, device)
        with torch.random.fork_rng(devices=[]):
            # Reaches what `initialize` does not know: parameters of the user's own shortcut.
            torch.manual_seed(derive_seed(seed, "construction"))
            self.network = build(experiment, options.root)
        initialize(self.network, recipe, seed)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.network.parameters())
        self.buffers = list(self.network.buffers())  # of batch norm: (replicas, C)
        self.optimizer = Optimizer(self.network, recipe)
        self.dropouts = [module for module in self.network.modules() if isinstance(module, Dropout)]
        self.masks = torch.Generator(device=device)
        for dropout in self.dropouts:
            dropout.generator = self.masks
        recompute = options.recompute
        if recompute is None:
            recompute = memory.is_short(self.network, experiment, self.feed.shape, device)
        if recompute and self.dropouts:
            raise UserError(f"{experiment.name}: its dropout masks are drawn once: call it with --no-recompute")
        if self.dropouts and self.group.size > 1:
            raise UserError(f"{experiment.name}: its dropout masks are those of one process: start one")
        self.model = self.group.model(Forward(self.network, recompute, recipe.arithmetic))
        eager = "--eager" if options.eager is True else options.eager or (self.group.size > 1 and "several processes")
        self.eager = (eager or None) if device.type == "cuda" else None
        recorded_on = torch.device("cpu") if self.eager else device
        self.recorded_step = Captured(self._step, self._state, recorded_on, [self.masks] if self.dropouts else [])
        self.recorded_test = Captured(self._count_errors, list, recorded_on)
        self.queued: deque[torch.cuda.Event] = deque()  # the ends of steps that the device may not have reached
        self.moving: dict[str, Tensor] | None = None

    def step(self, iteration: int) -> tuple[Tensor, Tensor, int]:
        """One iteration: loss, wrong predictions (both still on the device) and images of the batch.

        Queues work on the current CUDA stream, and waits where more than `MOST_QUEUED` steps are queued.
        """
        size = self.feed.seek(iteration)
        self.optimizer.prepare(iteration)
        if self.dropouts:
            self.masks.manual_seed(derive_seed(self.seed, "dropout", iteration))
        loss, wrong = self.recorded_step(size)
        if self.device.type == "cuda":
            self.queued.append(torch.cuda.Event())
            self.queued[-1].record()
            self.wait(MOST_QUEUED)
        return loss, wrong, size

    def wait(self, queued: int = 0) -> None:
        """Wait until no more than so many steps are queued."""
        while len(self.queued) > queued:
            self.queued.popleft().synchronize()

    @property
    def why_eager(self) -> str | None:
        """Why a GPU's steps, or tests, are not replayed as CUDA graphs; None where they are, and on a CPU."""
        return self.eager or self.recorded_step.failure or self.recorded_test.failure

    def close(self) -> None:
        """End the processes that decode, and free the memory of CUDA graphs."""
        self.feed.close()
        self.recorded_step.clear()
        self.recorded_test.clear()

    def _step(self, size: int) -> tuple[Tensor, Tensor]:
        """The work of an iteration on a batch of `size` images: what `feed` and `optimizer` were set to."""
        loss = torch.zeros((), device=self.device)
        wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        self.optimizer.zero_grad()
        for replica in self.own_replicas:
            x, y = self.feed.replica(size, replica)
            with self.group.accumulating(self.model, last=replica == self.own_replicas[-1]):
                scores = self.model(x, replica)
                replica_loss = F.cross_entropy(scores, y, reduction="sum") / size
                (replica_loss * self.group.size).backward()  # the group takes the mean of its processes
            loss += replica_loss.detach()
            wrong += (scores.detach().argmax(1) != y).sum()
        if self.group.size > 1:
            loss, wrong = self._share(loss, wrong)
        self.optimizer.update()
        return loss, wrong

    def _share(self, loss: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over all processes; every process takes each replica's moving statistics from where it is computed.

        So each has the whole state after every step, and any can save it.
        """
        own = torch.zeros(self.replicas, 1, dtype=torch.bool, device=self.device)
        own[self.own_replicas] = True
        rows = [torch.where(own, buffer, 0).flatten() for buffer in self.buffers]
        flat = self.group.sum(torch.cat([loss.view(1), wrong.view(1).to(loss.dtype), *rows]))
        sums = flat[2:].split([buffer.numel() for buffer in self.buffers])
        for buffer, total in zip(self.buffers, sums, strict=True):
            buffer.copy_(total.view_as(buffer))
        return flat[0], flat[1].to(wrong.dtype)

    def _state(self) -> list[Tensor]:
        return [*self.parameters, *self.buffers, *self.optimizer.momentum]

    def recompute_statistics(self) -> None:
        """Take batch norm's statistics from training images, in views that come after those of the training."""
        self.moving = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with devices.autocast(self.device, self.recipe.arithmetic):
            self.feed.statistics(self.network)
        if self.group.size > 1:
            self._share(torch.zeros((), device=self.device), torch.zeros((), dtype=torch.int64, device=self.device))

    def test(self) -> single_view.Result:
        """Test error of the network as it is."""
        return self.feed.test(self.network, self._run_count)

    def _run_count(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        return self.recorded_test(len(images), images, labels)

    def _count_errors(self, _: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), devices.autocast(self.device, self.recipe.arithmetic):
            scores = self.network(self.feed.augmentation.normalize(images)).float()
        return single_view.count_errors(scores, labels)

    def state(self) -> dict:
        """What a checkpoint holds. No generator's state: each random number follows from the seed and the iteration."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
