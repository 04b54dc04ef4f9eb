"""VGG (Simonyan & Zisserman 2015, Table 1, D and E): the yardstick of he2015 (Section 3.3, Figure 3). Only counted."""

import torch
from torch import Tensor, nn

from .depth import VGG_SIZE, stages

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # of each stage
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096


class Vgg(nn.Module):
    """3x3 convolutions with biases and ReLUs, five times followed by 2x2 max pooling; three linear layers.

    Args:
        depth: 16 or 19.
        classes: outputs.
        in_channels: of the images.

    Shape: (N, in_channels, 224, 224) to (N, classes).

    Raises:
        ValueError: another depth.
    """

    def __init__(self, depth: int, classes: int = 1000, in_channels: int = 3):
        super().__init__()
        stages("vgg", "basic", depth)
        layers: list[nn.Module] = []
        channels = in_channels
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        positions = (VGG_SIZE // 2 ** len(WIDTHS)) ** 2
        self.linear = nn.Sequential(
            nn.Linear(positions * channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(self.features(x), 1))
