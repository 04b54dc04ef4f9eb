"""A shortcut that no table has: SkipInit (De and Smith 2020), y = h(x) + alpha F(x) with alpha learned."""

import torch
from torch import Tensor, nn

from identity_mappings.networks.shortcuts import Shortcut


class SkipInit(Shortcut):
    def __init__(self, *unit, initial: float):
        super().__init__(*unit)
        self.alpha = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.path(x) + self.alpha * f
