"""How much memory a training step needs, and what is done where that is more than there is."""

import copy
import os
import resource
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .trainer import Trainer

SHARE = 0.7  # of a device's memory, for what the forward pass keeps; the rest for weights, gradients, workspaces


def kept(network: nn.Module, images: int, shape: Sequence[int], bits16: bool = False) -> int:
    """Bytes that a forward pass keeps for the backward pass, counted on tensors without content.

    Args:
        images: that pass the network together: those of one replica.
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
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), replica.part.of(0):
        if bits16:
            x = x.bfloat16()
            replica.bfloat16()
        replica(x)
    return sum(size for key, (_, size) in storages.items() if key not in weights)


def total(device: torch.device) -> int:
    """Bytes of a device's memory; a CPU's is the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak(device: torch.device) -> int:
    """Bytes: on a GPU allocated, on a CPU the most that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_short(network: nn.Module, recipe: SimpleNamespace, shape: Sequence[int], device: torch.device) -> bool:
    """Whether a step would not fit, so that units are computed again in the backward pass instead of kept."""
    needed = kept(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16")
    return needed > SHARE * total(device)


def fitting(trainer: "Trainer", device: torch.device) -> int:
    """How many runs like a trainer's fit on its device at once; at least 1."""
    recipe, network = trainer.recipe, trainer.network
    shape = trainer.feed.shape
    activations = kept(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16")
    weights = 4 * sum(parameter.nbytes for parameter in network.parameters())  # gradients, momentum, a copy
    return max(1, int(SHARE * total(device) // (activations + weights + trainer.feed.nbytes)))


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step: on a CPU, page faults were up to a third of a step."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    for parameter, value in ((-3, 1 << 30), (-1, -1)):  # M_MMAP_THRESHOLD; M_TRIM_THRESHOLD: never
        mallopt(parameter, value)
