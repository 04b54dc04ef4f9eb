"""The residual networks of both papers, on CIFAR (he2015, Section 4.2; he2016, Section 3.1, Tables 1 to 4 and
Appendix) and on ImageNet (he2015, Section 3.3 and Table 1; he2016, Section 5)."""

from typing import Any

from torch import nn

from .depth import stages
from .residual import ResidualNetwork
from .units import Norm

CIFAR_WIDTHS, IMAGENET_WIDTHS = (16, 32, 64), (64, 128, 256, 512)


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
            stem_channels=CIFAR_WIDTHS[0],
            widths=CIFAR_WIDTHS,
            units=stages("cifar", unit, depth),
            classes=classes,
            unit=unit,
            **choices,
        )

    def make_stem(self, norm: Norm) -> nn.Module:
        convolution = nn.Conv2d(self.in_channels, CIFAR_WIDTHS[0], 3, padding=1, bias=False)
        return nn.Sequential(convolution, norm(CIFAR_WIDTHS[0]), nn.ReLU(inplace=True))


class ImageNetResNet(ResidualNetwork):
    """7x7 convolution with stride 2, 3x3 max pooling with stride 2, four stages of residual units, global average
    pooling, linear layer.

    Stages 2 to 4 begin with stride 2 (he2015, Table 1: conv3_1, conv4_1, conv5_1). The pooling pads by 1. Any image
    size goes through the same weights, so the network is its own fully convolutional form: the linear layer at every
    position and the average of its scores are the linear layer of the average.

    Args:
        depth: 18, 34 (basic units), 50, 101, 152 or 200 (bottleneck units).
        classes: outputs.
        in_channels: of the images.
        unit, choices: see `ResidualNetwork`.
        stem_activation: BN-ReLU "before-pooling" (None: the same), as the papers have it, or "after-pooling", where
            an implementation leaves them to the first pre-activation unit (the same with bottleneck units, whose first
            projection shares the activation).

    Shape: (N, in_channels, H, W) to (N, classes), for any H and W; the papers train with 224 and test with 224 to 640.

    Raises:
        ValueError: a depth that the papers do not have, or an unknown choice.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 1000,
        in_channels: int = 3,
        unit: str = "basic",
        stem_activation: str | None = None,
        **choices: Any,
    ):
        if stem_activation not in (None, "before-pooling", "after-pooling"):
            raise ValueError(f"stem_activation {stem_activation!r} is neither before-pooling nor after-pooling")
        self.in_channels, self.pool_first = in_channels, stem_activation == "after-pooling"
        super().__init__(
            stem_channels=IMAGENET_WIDTHS[0],
            widths=IMAGENET_WIDTHS,
            units=stages("imagenet", unit, depth),
            classes=classes,
            unit=unit,
            **choices,
        )

    def make_stem(self, norm: Norm) -> nn.Module:
        convolution = nn.Conv2d(self.in_channels, IMAGENET_WIDTHS[0], 7, stride=2, padding=3, bias=False)
        pooling, activation = nn.MaxPool2d(3, stride=2, padding=1), [norm(IMAGENET_WIDTHS[0]), nn.ReLU(inplace=True)]
        return nn.Sequential(convolution, *([pooling, *activation] if self.pool_first else [*activation, pooling]))
