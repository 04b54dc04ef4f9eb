"""What a network costs: its weights."""

from torch import nn


def weights(network: nn.Module, batch_norm: bool = True) -> int:
    """Number of trainable weights; without `batch_norm`, those of convolutions and linear layers only.

    he2015 (Table 6) counts batch norm in (19.4 M for 1202 layers), he2016 (Table 4) leaves it out (10.2 M for 1001).
    """
    modules = (m for m in network.modules() if batch_norm or isinstance(m, (nn.Conv2d, nn.Linear)))
    return sum(p.numel() for m in modules for p in m.parameters(recurse=False))
