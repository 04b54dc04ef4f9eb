"""One implementation of a training step in a process of its own, as its user would run it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from identity_mappings.data.images import Images
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.records.experiment import Experiment
from identity_mappings.training import devices, memory
from identity_mappings.training.assembly import build, get_recipe
from identity_mappings.training.trainer import Options, Trainer

OURS, NOT_RECORDED, EAGER = "ours", "ours, not recorded", "eager"
# The packages' names for our networks.
PYTORCHCV = {
    "cifar10-resnet20": "resnet20_cifar10",
    "cifar10-resnet56": "resnet56_cifar10",
    "cifar10-resnet110": "resnet110_cifar10",
    "cifar10-resnet164-full-pre-activation": "preresnet164bn_cifar10",
    "cifar10-resnet1001-full-pre-activation": "preresnet1001_cifar10",
    "cifar10-resnet1202": "resnet1202_cifar10",
}
TIMM = {"imagenet-resnet50": "resnet50", "imagenet-resnet101": "resnet101", "imagenet-resnet152": "resnet152"}
PACKAGES = {"pytorchcv": PYTORCHCV, "timm": TIMM}
IMAGES = 2048  # at most; a step costs the same whatever random images show
SECONDS = 2.0  # that a round takes, if one step is not longer
WARM_UP = 3  # steps: libraries choose algorithms, memory is taken, graphs are recorded and checked


def make_random_images(experiment: Experiment) -> Images:
    """Random images in the form of the experiment's dataset."""
    dataset = experiment.parameters["dataset"]
    number = IMAGES if dataset["size"] < 100 else get_recipe(experiment).batch_size
    shape = (number, dataset["channels"], dataset["size"], dataset["size"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(dataset["classes"], (number,), generator=generator)
    return Images(pixels, labels, pixels[:500], labels[:500])


def build_eager_network(experiment: Experiment) -> nn.Module:
    """The same network in plain PyTorch: torch's batch norm, over the whole batch."""
    network = build(experiment)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.channels, child.eps, child.momentum))
    return network


def build_published_network(experiment: Experiment, package: str) -> nn.Module:
    """The network of pytorchcv or timm."""
    name, classes = PACKAGES[package][experiment.name], experiment.parameters["dataset"]["classes"]
    if package == "timm":
        from timm import create_model

        return create_model(name, num_classes=classes)
    from pytorchcv.model_provider import get_model

    return get_model(name, pretrained=False, num_classes=classes)


def make_peer_step(experiment: Experiment, device: torch.device, implementation: str) -> Callable[[], None]:
    """A step as tutorials have it: one batch that is there already, forward, loss, backward, SGD."""
    recipe = get_recipe(experiment)
    torch.set_num_threads(recipe.cpu_threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.arithmetic == "tf32"
    eager = implementation == EAGER
    network = build_eager_network(experiment) if eager else build_published_network(experiment, implementation)
    layout = torch.channels_last if implementation == "timm" else torch.contiguous_format
    network.to(device, memory_format=layout).train()
    images = make_random_images(experiment)
    x = (images.training[: recipe.batch_size].float() / 255).to(device, memory_format=layout)
    y = images.training_labels[: recipe.batch_size].to(device)
    options = {"lr": 0.01, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), **options)

    def step() -> None:
        optimizer.zero_grad()
        with devices.autocast(device, recipe.arithmetic):
            scores = network(x)
        F.cross_entropy(scores.float(), y).backward()
        optimizer.step()

    return step


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that memory is used up."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Measured:
    """An implementation of a network's step, warmed up.

    Args:
        implementation: "ours", the same "not recorded" as a CUDA graph, "eager" PyTorch, or a package.
        runs: of ours, that share the device.

    Raises:
        MemoryError: it does not fit.
    """

    def __init__(self, experiment: Experiment, device: torch.device, implementation: str, runs: int):
        self.recipe, self.device = get_recipe(experiment), device
        self.implementation, self.runs = implementation, runs
        self.seconds: list[float] = []
        self.trainers: list[Trainer] = []
        self.streams: list[torch.cuda.Stream | None] = []  # of the trainers
        self.iteration = 0
        try:
            if implementation in (OURS, NOT_RECORDED):
                devices.prepare(self.recipe.arithmetic, self.recipe.cpu_threads)
                options = Options(Path("results"), eager=implementation == NOT_RECORDED)
                for seed in range(runs):
                    at_once = runs > 1 and device.type == "cuda"
                    self.streams.append(torch.cuda.Stream(device) if at_once else None)
                    with devices.use_stream(self.streams[-1]):
                        images = make_random_images(experiment)
                        self.trainers.append(Trainer(experiment, seed, device, options, images))
                self.step = self._step_trainers
            else:
                self.step = make_peer_step(experiment, device, implementation)
            self._time_steps(WARM_UP)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError("does not fit into memory") from error
            raise

    def _step_trainers(self) -> None:
        for trainer, stream in zip(self.trainers, self.streams, strict=True):
            with devices.use_stream(stream):
                trainer.step(self.iteration)
        self.iteration += 1

    def _time_steps(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter() - begin) / steps

    def run_round(self) -> None:
        """Note the seconds of a step of one run, over steps of about `SECONDS` in all."""
        last = self.seconds[-1] * self.runs if self.seconds else self._time_steps(1)
        steps = max(1, min(200, round(SECONDS / last)))
        self.seconds.append(self._time_steps(steps) / self.runs)

    def describe(self) -> dict[str, Any]:
        """Its row in the record."""
        return {
            "implementation": self.implementation,
            "arithmetic": self.recipe.arithmetic,
            "runs_at_once": self.runs,
            "eager": self.trainers[0].why_eager if self.trainers else None,  # where a GPU's steps are not recorded
            "seconds": [round(value, 6) for value in self.seconds],
            "peak_memory_bytes": memory.get_peak_bytes(self.device),
        }


measured: Measured  # by this process


def start(*arguments: Any) -> None:
    global measured
    measured = Measured(*arguments)


def run_round() -> None:
    measured.run_round()


def describe() -> dict[str, Any]:
    return measured.describe()
