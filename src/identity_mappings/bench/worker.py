"""One implementation of a training step in a process of its own, as its user would run it."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity

from ..data.images import Images
from ..networks.batch_norm import BatchNorm2d
from ..records.experiment import Experiment
from ..training import devices, memory
from ..training.assembly import build, get_recipe
from ..training.trainer import Options, Trainer

IMAGES = 2048  # at most; a step costs the same whatever random images show
OPERATIONS = 12  # of a profile; the others are added up


def make_random_images(experiment: Experiment) -> Images:
    """Random images in the form of the experiment's dataset."""
    dataset = experiment.parameters["dataset"]
    number = IMAGES if dataset["size"] < 100 else get_recipe(experiment).batch_size
    shape = (number, dataset["channels"], dataset["size"], dataset["size"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(dataset["classes"], (number,), generator=generator)
    return Images(pixels, labels, pixels[:500], labels[:500])


def make_our_step(experiment: Experiment, device: torch.device, runs: int) -> Callable[[int], None]:
    """The recipe's step of this project; with several `runs`, of all of them in turn."""
    recipe = get_recipe(experiment)
    devices.prepare(recipe.arithmetic, recipe.cpu_threads)
    options = Options(Path("results"), device="gpu" if device.type == "cuda" else "cpu")
    trainers = [Trainer(experiment, seed, device, options, make_random_images(experiment)) for seed in range(runs)]
    position = 0

    def steps(count: int) -> None:
        nonlocal position
        for iteration in range(position, position + count):
            for trainer in trainers:
                trainer.step(iteration)
        position += count

    return steps


def build_eager_network(experiment: Experiment) -> nn.Module:
    """The same network as plain PyTorch has it: torch's batch norm, over the whole batch."""
    network = build(experiment)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(child.channels, child.eps, child.momentum))
    return network


def build_published_network(experiment: Experiment, package: str, name: str) -> nn.Module:
    """The network of a name in the package pytorchcv or timm."""
    classes = experiment.parameters["dataset"]["classes"]
    if package == "timm":
        from timm import create_model

        return create_model(name, num_classes=classes)
    from pytorchcv.model_provider import get_model

    return get_model(name, pretrained=False, num_classes=classes)


def make_peer_step(
    network: nn.Module, experiment: Experiment, device: torch.device, layout: torch.memory_format
) -> Callable[[int], None]:
    """A step as tutorials have it: one batch that is there already, forward, loss, backward, SGD."""
    recipe = get_recipe(experiment)
    torch.set_num_threads(recipe.cpu_threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.arithmetic == "tf32"
    network.to(device, memory_format=layout).train()
    images = make_random_images(experiment)
    x = (images.training[: recipe.batch_size].float() / 255).to(device, memory_format=layout)
    y = images.training_labels[: recipe.batch_size].to(device)
    options = {"lr": 0.01, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), **options)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with devices.autocast(device, recipe.arithmetic):
                scores = network(x)
            F.cross_entropy(scores.float(), y).backward()
            optimizer.step()

    return steps


def profile(step: Callable[[], None], device: torch.device) -> list[dict[str, Any]]:
    """The operations of a step (kernels, on a GPU): {"name", "calls", "seconds", "share"}, the costliest first."""
    cuda = device.type == "cuda"
    with torch.profiler.profile(
        activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True
    ) as profiled:
        step()
        if cuda:
            torch.cuda.synchronize()
    found = [
        (event.key.replace("::", "."), event.count, seconds)
        for event in profiled.key_averages()
        if (seconds := (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6)
    ]
    found.sort(key=lambda row: -row[2])
    total, rows, others = sum(seconds for *_, seconds in found) or 1.0, found[:OPERATIONS], found[OPERATIONS:]
    if others:
        rows.append(("others", sum(calls for _, calls, _ in others), sum(seconds for *_, seconds in others)))
    return [
        {"name": name, "calls": calls, "seconds": round(seconds, 6), "share": round(seconds / total, 4)}
        for name, calls, seconds in rows
    ]


def serve(
    connection: Connection,
    experiment: Experiment,
    device: torch.device,
    implementation: str,
    name: str | None,
    runs: int,
) -> None:
    """Answer a connection's commands to its end: "profile", "memory", or a number of steps with their mean seconds.

    Args:
        implementation: "ours" in so many `runs` in turn, "eager", or a package that has the network as `name`.
    """
    if implementation == "ours":
        steps = make_our_step(experiment, device, runs)
    elif implementation == "eager":
        steps = make_peer_step(build_eager_network(experiment), experiment, device, torch.contiguous_format)
    else:
        layout = torch.channels_last if implementation == "timm" else torch.contiguous_format
        steps = make_peer_step(build_published_network(experiment, implementation, name), experiment, device, layout)

    def time_steps(count: int) -> float:
        begin = time.perf_counter()
        steps(count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / count

    time_steps(2)  # libraries choose, memory is taken, graphs are recorded
    connection.send("ready")
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        if command == "profile":
            connection.send(profile(lambda: steps(1), device))
        elif command == "memory":
            connection.send(memory.get_peak_bytes(device))
        else:
            connection.send(time_steps(command))
