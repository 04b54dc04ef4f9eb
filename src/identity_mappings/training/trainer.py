"""A run's network, optimizer and images on a device, and the recipe's step."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from .. import data
from ..data.augmentation import Augmentation
from ..data.images import Images
from ..data.sampling import DeviceViews, Sampler, stream
from ..errors import UserError
from ..evaluation import single_view
from ..networks.shortcuts import Dropout
from ..records.experiment import Experiment
from . import devices, memory
from .assembly import build, initialize, recipe_of
from .captured import Captured
from .optimizer import Optimizer

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
        eager: whether a GPU's steps are launched kernel by kernel, not recorded and replayed.
        recompute: whether units are computed again in the backward pass instead of kept; None: where memory is short.
    """

    results: Path
    data_folder: Path = data.FOLDER
    root: Path = Path()
    device: str = "gpu"
    stop_after: int | None = None
    checkpoint_seconds: float = 300
    log: Path | None = None
    eager: bool = False
    recompute: bool | None = None


class Trainer:
    """The network, its optimizer and its images on a device; `step` is an iteration of the recipe.

    Everything stays in channels_last, and a batch passes the network replica by replica (see `BatchNorm2d`): on a CPU
    1.3 to 2.3 times as fast as the whole batch in rows of channels, and with half of the memory.
    """

    def __init__(
        self, experiment: Experiment, seed: int, device: torch.device, options: Options, images: Images | None = None
    ):
        self.recipe = recipe = recipe_of(experiment)
        self.seed, self.device = seed, device
        self.run = {"digest": experiment.digest, "seed": seed}
        self.images = images or data.load(experiment.parameters["dataset"], options.data_folder)
        self.labels = self.images.training_labels.to(device)
        self.test_images, self.test_labels = self.images.test.to(device), self.images.test_labels.to(device)
        self.sampler = Sampler(
            len(self.images.training), recipe.batch_size, recipe.epoch_end, recipe.crop_padding, recipe.flip, seed
        )
        self.views = DeviceViews(self.sampler, device)
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
        self.network.to(device, memory_format=torch.channels_last)
        self.parameters = list(self.network.parameters())
        self.replicas = recipe.batch_size // recipe.batch_norm_samples
        self.optimizer = Optimizer(self.network, recipe)
        self.dropouts = [module for module in self.network.modules() if isinstance(module, Dropout)]
        self.masks = torch.Generator(device=device)
        for dropout in self.dropouts:
            dropout.generator = self.masks
        self.recompute = options.recompute
        if self.recompute is None:
            self.recompute = memory.is_short(self.network, recipe, self.images.training.shape[1:], device)
        if self.recompute and self.dropouts:
            raise UserError(f"{experiment.name}: units with dropout cannot be computed again: its masks are drawn once")
        where = torch.device("cpu") if options.eager else device
        self.recorded_step = Captured(self._step, self._state, where, [self.masks] if self.dropouts else [])
        self.recorded_test = Captured(self._count, list, where)

    def step(self, iteration: int) -> tuple[Tensor, Tensor, int]:
        """One iteration: loss, wrong predictions (both still on the device) and images of the batch."""
        with self.recorded_step.before():
            size = self.views.seek(iteration)
            self.optimizer.prepare(iteration)
            if self.dropouts:
                self.masks.manual_seed(stream(self.seed, "dropout", iteration))
        loss, wrong = self.recorded_step(size)
        return loss, wrong, size

    def _step(self, size: int) -> tuple[Tensor, Tensor]:
        """The work of an iteration on a batch of `size` images: what `views` and `optimizer` were set to."""
        loss = torch.zeros((), device=self.device)
        wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        self.optimizer.zero_grad()
        for replica in range(self.replicas):
            view = self.views.part(size, replica, self.replicas)
            x, y = self.augmentation.view(view), self.labels[view.image]
            with self.network.part.of(replica):
                scores = self._scores(x, replica)
                of_replica = F.cross_entropy(scores, y, reduction="sum") / size
                of_replica.backward()
            loss += of_replica.detach()
            wrong += (scores.detach().argmax(1) != y).sum()
        self.optimizer.update()
        return loss, wrong

    def _scores(self, x: Tensor, replica: int) -> Tensor:
        with devices.autocast(self.device, self.recipe.arithmetic):
            if not self.recompute:
                return self.network(x).float()
            part = self.network.part
            x = self.network.stem(x)
            for unit in self.network.units:
                x = recomputed(
                    unit,
                    x,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=lambda: (nullcontext(), part.repeated(replica)),
                )
            return self.network.linear(self.network.last(x).mean((2, 3))).float()

    def _state(self) -> list[Tensor]:
        return [*self.parameters, *self.network.buffers(), *self.optimizer.state_dict()["momentum"]]

    def wait(self) -> None:
        """Let what reads the network, or the losses of `step`, come after the steps."""
        self.recorded_step.wait()

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
        self.wait()
        normalize = self.augmentation.normalize
        return single_view.test(self.network, self.test_images, self.test_labels, normalize, counted=self._counted)

    def _counted(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wrong, loss = self.recorded_test(len(images), images, labels)
        self.recorded_test.wait()
        return wrong, loss

    def _count(self, _: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), devices.autocast(self.device, self.recipe.arithmetic):
            scores = self.network(self.augmentation.normalize(images)).float()
        return single_view.count(scores, labels)

    def state(self) -> dict:
        self.wait()
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
