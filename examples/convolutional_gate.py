"""A shortcut that no table has: exclusive gating with a convolutional gate, as in Highway networks.

he2016's gates are single 1x1 convolutions without batch norm. Here the gate has what the residual function has: two 3x3
convolutions with batch norm. The bias of the last batch norm is the gate's initial bias b_g.
"""

import torch
from torch import Tensor, nn

from identity_mappings.networks.shortcuts import Shortcut


class ConvolutionalGate(Shortcut):
    """y = (1 - g(x)) * h(x) + g(x) * F(x), with g(x) = sigmoid(BN(W2 ReLU(BN(W1 x)))), W1 and W2 of 3x3.

    Args:
        gate_bias: initial bias of the last batch norm; -6 begins near the identity: sigmoid(-6) = 0.0025.
    """

    def __init__(self, in_channels, out_channels, stride, path, norm, *, gate_bias: float):
        super().__init__(in_channels, out_channels, stride, path, norm)
        self.gate = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            norm(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
        )
        nn.init.constant_(self.gate[-1].bias, gate_bias)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return (1 - g) * self.path(x) + g * f
