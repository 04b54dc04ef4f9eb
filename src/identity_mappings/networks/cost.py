"""What a network costs, counted on its modules: weights, and multiply-adds by torch's FLOP counter."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .batch_norm import BatchNorm2d

COUNTED = {"convolution": "convolution", **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), "linear")}


@dataclass(frozen=True)
class Cost:
    """Weights of a network, and multiply-adds of one image's way through it.

    Attributes:
        weights: trainable, all of them: convolutions, linear layers, their biases, batch norm's scales and shifts.
        weights_without_batch_norm: those of convolutions and linear layers.
        convolution, linear: multiply-adds; projections, 1x1 shortcuts and gates are among the convolutions.
    """

    weights: int
    weights_without_batch_norm: int
    convolution: int
    linear: int

    @property
    def multiply_adds(self) -> int:
        return self.convolution + self.linear


def weights(network: nn.Module, batch_norm: bool = True) -> int:
    """Number of trainable weights; without `batch_norm`, those of convolutions and linear layers only.

    he2015 (Table 6) counts batch norm in (19.4 M for 1202 layers), he2016 (Table 4) leaves it out (10.2 M for 1001).
    """
    modules = (m for m in network.modules() if batch_norm or isinstance(m, (nn.Conv2d, nn.Linear)))
    return sum(p.numel() for m in modules for p in m.parameters(recurse=False))


def count(network: nn.Module, channels: int, size: int) -> Cost:
    """Cost of one image's way through the network, from the operations that torch really calls.

    Args:
        network: on the device "meta", where tensors have shapes but no numbers; of no other use afterwards.
        channels, size: of the image.

    Returns:
        The weights, and the multiply-adds of convolutions and of matrix products (torch counts two FLOPs for each);
        biases, batch norm, activations, pooling and additions are not counted, as in he2015.
    """
    for module in network.modules():
        if isinstance(module, (BatchNorm2d, nn.ReLU)):
            vars(module)["forward"] = _same  # counts nothing, keeps the shape, and is the slower half on this device
    counter = FlopCounterMode(display=False)
    image = torch.empty(1, channels, size, size, device="meta")
    with torch.no_grad(), counter:
        network.eval()(image)
    multiply_adds = {"convolution": 0, "linear": 0}
    for operation, flops in counter.get_flop_counts().get("Global", {}).items():
        multiply_adds[COUNTED[operation.__name__.split(".")[0]]] += flops // 2
    return Cost(weights(network), weights(network, batch_norm=False), **multiply_adds)


def _same(x: Tensor) -> Tensor:
    return x
