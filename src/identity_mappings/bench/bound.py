"""What arithmetic and memory traffic allow at best: from the network, and from rates that are measured."""

import time
from dataclasses import dataclass

import torch

from ..networks.cost import count
from ..records.experiment import Experiment
from ..training import devices, memory
from ..training.assembly import build, recipe_of

# Of a tensor that the backward pass needs: written and read forward; read backward; its gradient written and read.
PASSES = 5


@dataclass(frozen=True)
class Rates:
    """Attributes:
    copy: bytes per second, read and written.
    arithmetic: floating-point operations per second of a matrix product.
    """

    copy: float
    arithmetic: float


def _best(action, device: torch.device, repetitions: int = 7) -> float:
    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    action()
    seconds = []
    for _ in range(repetitions):
        finish()
        begin = time.perf_counter()
        action()
        finish()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def rates(device: torch.device, arithmetic: str, threads: int) -> Rates:
    """Of copying 256 MiB, and of a product of square matrices, in an arithmetic."""
    devices.prepare(arithmetic, threads)
    source = torch.zeros(1 << 26, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _best(lambda: target.copy_(source), device)
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
    matrix = torch.randn(size, size, device=device).to(dtype)
    return Rates(copied, 2 * size**3 / _best(lambda: matrix @ matrix, device))


def work(experiment: Experiment) -> tuple[float, float]:
    """Of a step: floating-point operations (three times those of the forward pass), and bytes of memory traffic."""
    recipe, dataset = recipe_of(experiment), experiment.parameters["dataset"]
    with torch.device("meta"):
        forward = 2 * count(build(experiment), dataset["channels"], dataset["size"]).multiply_adds
        network = build(experiment)  # another one: counting leaves activations out
    shape = (dataset["channels"], dataset["size"], dataset["size"])
    kept = memory.kept(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16")
    replicas = recipe.batch_size // recipe.batch_norm_samples
    return 3.0 * forward * recipe.batch_size, float(PASSES * replicas * kept)


def seconds(operations: float, traffic: float, found: Rates) -> float:
    """The least time of a step: computing and moving can overlap, so the longer of the two."""
    return max(operations / found.arithmetic, traffic / found.copy)
