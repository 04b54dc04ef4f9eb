"""One implementation of a training step, in a process of its own: as its user would run it, beside no other.

Reads a JSON specification from its first argument and then, line by line, how many steps to take; answers in JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.images import Images
from ..networks.batch_norm import BatchNorm2d
from ..records.experiment import Experiment
from ..training import devices, memory
from ..training.assembly import build, recipe_of
from ..training.trainer import Options, Trainer
from . import profile

IMAGES = 2048  # at most, and of ImageNet's size fewer; a step costs the same whatever the images are; these are random


def images_of(experiment: Experiment) -> Images:
    """Random ones in the form of the experiment's dataset."""
    dataset = experiment.parameters["dataset"]
    number = IMAGES if dataset["size"] < 100 else recipe_of(experiment).batch_size
    shape = (number, dataset["channels"], dataset["size"], dataset["size"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(dataset["classes"], (number,), generator=generator)
    return Images(pixels, labels, pixels[:500], labels[:500])


def ours(experiment: Experiment, device: torch.device, runs: int, eager: bool = False) -> Callable[[int], None]:
    """The recipe's step of this project; of several runs at once where `runs` is more than 1."""
    recipe = recipe_of(experiment)
    devices.prepare(recipe.arithmetic, recipe.cpu_threads)
    options = Options(Path("results"), device="gpu" if device.type == "cuda" else "cpu", eager=eager)
    trainers = [Trainer(experiment, seed, device, options, images_of(experiment)) for seed in range(runs)]
    position = 0

    def steps(count: int) -> None:
        nonlocal position
        for iteration in range(position, position + count):
            for trainer in trainers:
                trainer.step(iteration)
        position += count

    return steps


def eager_network(experiment: Experiment) -> nn.Module:
    """The same network as plain PyTorch has it: torch's batch norm, over the whole batch."""
    network = build(experiment)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.channels, child.eps, child.momentum))
    return network


def published_network(experiment: Experiment, name: str) -> nn.Module:
    """The network of a name in the package pytorchcv."""
    from pytorchcv.model_provider import get_model

    return get_model(name, pretrained=False, num_classes=experiment.parameters["dataset"]["classes"])


def timm_network(experiment: Experiment, name: str) -> nn.Module:
    """The network of a name in the package timm."""
    from timm import create_model

    return create_model(name, num_classes=experiment.parameters["dataset"]["classes"])


def peer(
    network: nn.Module, experiment: Experiment, device: torch.device, channels_last: bool = False
) -> Callable[[int], None]:
    """A step as tutorials have it: one batch that is there already, forward, loss, backward, SGD."""
    recipe = recipe_of(experiment)
    torch.set_num_threads(recipe.cpu_threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.arithmetic == "tf32"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(device, memory_format=layout).train()
    images = images_of(experiment)
    x = (images.training[: recipe.batch_size].float() / 255).to(device, memory_format=layout)
    y = images.training_labels[: recipe.batch_size].to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with devices.autocast(device, recipe.arithmetic):
                scores = network(x)
            F.cross_entropy(scores.float(), y).backward()
            optimizer.step()

    return steps


def make(specification: dict[str, Any], experiment: Experiment, device: torch.device) -> Callable[[int], None]:
    kind = specification["implementation"]
    if kind == "ours":
        return ours(experiment, device, specification["runs"])
    if kind == "eager":
        return peer(eager_network(experiment), experiment, device)
    if kind == "timm":
        return peer(timm_network(experiment, specification["timm"]), experiment, device, channels_last=True)
    return peer(published_network(experiment, specification["pytorchcv"]), experiment, device)


def main() -> None:
    specification = json.loads(sys.argv[1])
    experiment = Experiment(
        specification["experiment"], "paper", specification["parameters"], custom_source=specification["custom_source"]
    )
    device = torch.device(specification["device"])
    steps = make(specification, experiment, device)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    steps(2)  # libraries choose, memory is taken, graphs are recorded
    finish()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = line.split()
        if command[0] == "profile":
            answer = {"operations": profile.operations(lambda: steps(1), device)}
        elif command[0] == "memory":
            answer = {"peak_memory_bytes": memory.peak(device)}
        else:
            begin = time.perf_counter()
            steps(int(command[0]))
            finish()
            answer = {"seconds": (time.perf_counter() - begin) / int(command[0])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
