"""VGG (Simonyan & Zisserman 2015, Table 1, D and E): the yardstick of he2015 (Section 3.3, Figure 3), and the
other backbone of its detections (Tables 7 and 8)."""

import torch
from torch import Tensor, nn

from .batch_norm import Scope
from .depth import SHORT_VGG_DEPTH, VGG_SIZE, VGG_STRIDE, stages
from .shortcuts import Dropout

CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4), SHORT_VGG_DEPTH: (1, 1, 1, 1, 1)}  # of each stage
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN, SHORT_HIDDEN = 4096, 512


class Vgg(nn.Module):
    """3x3 convolutions with biases and ReLUs, five times followed by 2x2 max pooling; three linear layers.

    Args:
        depth: 16 or 19.
        classes: outputs.
        in_channels: of the images.
        size: of the images, in pixels.
        dropout: of the outputs of the two hidden linear layers; None: none.

    Shape: (N, in_channels, size, size) to (N, classes).

    Raises:
        ValueError: another depth.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 1000,
        in_channels: int = 3,
        size: int = VGG_SIZE,
        dropout: float | None = None,
    ):
        super().__init__()
        stages("vgg", "basic", depth)
        self.scope = Scope()  # no batch norm looks at it
        layers: list[nn.Module] = []
        channels = in_channels
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        inputs, hidden = (size // VGG_STRIDE) ** 2 * channels, SHORT_HIDDEN if depth == SHORT_VGG_DEPTH else HIDDEN
        linear: list[nn.Module] = []
        for _ in range(2):
            linear += [nn.Linear(inputs, hidden), nn.ReLU(), *([Dropout(dropout)] if dropout else [])]
            inputs = hidden
        self.linear = nn.Sequential(*linear, nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(self.features(x), 1))
