"""The CIFAR networks of both papers: he2015, Section 4.2; he2016, Section 3.1, Table 1 to 4 and Appendix."""

from typing import Any

from torch import nn

from .depth import stages
from .residual import ResidualNetwork
from .units import Norm

STAGE_WIDTHS = (16, 32, 64)


class CifarResNet(ResidualNetwork):
    """3x3 convolution, three stages of residual units at 16, 32 and 64 channels, global average pooling, linear layer.

    Args:
        depth: number of weighted layers; 6n+2 with basic units, 9n+2 with bottleneck units.
        classes: outputs.
        in_channels: of the images (CIFAR: 3).
        unit, choices: see `ResidualNetwork`.

    Shape: (N, in_channels, H, W) to (N, classes), for any H and W.

    Raises:
        ValueError: a depth that the unit cannot make, or an unknown choice.
    """

    def __init__(self, depth: int, classes: int = 10, in_channels: int = 3, unit: str = "basic", **choices: Any):
        self.in_channels = in_channels
        super().__init__(
            stem_channels=STAGE_WIDTHS[0],
            widths=STAGE_WIDTHS,
            units=stages("cifar", unit, depth),
            classes=classes,
            unit=unit,
            **choices,
        )

    def make_stem(self, norm: Norm) -> nn.Module:
        convolution = nn.Conv2d(self.in_channels, STAGE_WIDTHS[0], 3, padding=1, bias=False)
        return nn.Sequential(convolution, norm(STAGE_WIDTHS[0]), nn.ReLU(inplace=True))
