"""How much memory a training step needs, and what is done where that is more than there is."""

import copy
import ctypes
import math
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..networks.depth import bound_activations
from ..networks.families import Network
from ..records import machine
from ..records.experiment import Experiment
from .assembly import build, get_recipe

SHARE = 0.7  # of a device's memory, for what the forward pass keeps; the rest for weights, gradients, workspaces


def count_kept_bytes(network: Network, images: int, shape: Sequence[int], bits16: bool = False) -> int:
    """Bytes that a forward pass keeps for the backward pass, counted on tensors without content.

    Args:
        images: of one replica, which pass the network together.
        shape: (C, H, W) of an image.
        bits16: whether convolutions work in bfloat16.
    """
    storages: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = (storage, storage.nbytes())  # held, or its address would be another's
        return tensor

    replica = copy.deepcopy(network).to("meta").train()
    weights = {parameter.untyped_storage()._cdata for parameter in replica.parameters()}
    x = torch.empty(images, *shape, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), replica.scope.select(0):
        if bits16:
            x = x.bfloat16()
            replica.bfloat16()
        replica(x)
    return sum(size for key, (_, size) in storages.items() if key not in weights)


def get_total_bytes(device: torch.device) -> int:
    """Bytes of a device's memory; on a CPU those that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return machine.count_memory()


def get_peak_bytes(device: torch.device) -> int:
    """Bytes: on a GPU allocated, on a CPU the most that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_short(network: Network, experiment: Experiment, shape: Sequence[int], device: torch.device) -> bool:
    """Whether a step would not fit, so that units are computed again in the backward pass instead of kept.

    What fits by a bound is not counted: tensors on the meta device import the compiler, which takes 1.5 s.
    """
    recipe, room = get_recipe(experiment), SHARE * get_total_bytes(device)
    parameters = experiment.parameters["network"]
    is_custom = parameters.get("shortcut", {}).get("kind") == "custom"  # may keep more
    if not is_custom and bound_activations(parameters, shape[-1]) * recipe.batch_norm_samples <= room:
        return False
    return count_kept_bytes(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16") > room


def estimate_needed_bytes(experiment: Experiment, root: Path = Path()) -> int:
    """Bytes of a device's memory that a training of an experiment takes, counted without making anything."""
    recipe, dataset = get_recipe(experiment), experiment.parameters["dataset"]
    with torch.device("meta"):
        network = build(experiment, root)
    side = recipe.crop_size if experiment.streamed else dataset["size"]
    shape = (dataset["channels"], side, side)
    activations = count_kept_bytes(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16")
    activations *= 2 if recipe.epoch_end == "short-batch" else 1  # a CUDA graph for each size of a batch
    weights = 6 * sum(parameter.nbytes for parameter in network.parameters())  # gradients, momentum, copies for a check
    if experiment.streamed:
        return activations + weights + 4 * recipe.batch_size * math.prod(shape)
    padded = 4 * (side + 2 * recipe.crop_padding) ** 2  # a word for each pixel (data.augmentation)
    return activations + weights + dataset["training_images"] * padded + dataset["test_images"] * math.prod(shape)


def group_runs(
    runs: Sequence[tuple[Experiment, int]], device: torch.device, root: Path = Path()
) -> Iterator[list[tuple[Experiment, int]]]:
    """Runs, as (experiment, seed), in groups that fit a device at once; at least one each."""
    group: list[tuple[Experiment, int]] = []
    free = budget = SHARE * get_total_bytes(device)
    sizes: dict[str, int] = {}
    for experiment, seed in runs:
        if (digest := experiment.digest) not in sizes:
            sizes[digest] = estimate_needed_bytes(experiment, root)
        if group and sizes[digest] > free:
            yield group
            group, free = [], budget
        group.append((experiment, seed))
        free -= sizes[digest]
    if group:
        yield group


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step: on a CPU, page faults were up to a third of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    for parameter, value in ((-3, 1 << 30), (-1, -1)):  # M_MMAP_THRESHOLD; M_TRIM_THRESHOLD: never
        mallopt(parameter, value)
