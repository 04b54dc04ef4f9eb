"""The CIFAR networks of both papers: he2015, Section 4.2; he2016, Section 3.1, Table 1 to 4 and Appendix."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from .batch_norm import BatchNorm2d
from .depth import units_per_stage
from .shortcuts import SHORTCUTS, Shortcut, ZeroPadding
from .units import ACTIVATIONS, Norm, ResidualUnit, post_activation, pre_activation, residual_function

STAGE_WIDTHS = (16, 32, 64)
BOTTLENECK_EXPANSION = 4


def convolutions_of(unit: str, in_channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    """The convolutions of one unit; the stride is on the first, also on a bottleneck's first 1x1 (he2015)."""
    conv = partial(nn.Conv2d, bias=False)
    if unit == "bottleneck":
        return [
            conv(in_channels, width, 1, stride),
            conv(width, width, 3, padding=1),
            conv(width, width * BOTTLENECK_EXPANSION, 1),
        ]
    first = conv(in_channels, width, 3, stride, padding=1)
    return [first] if unit == "single" else [first, conv(width, width, 3, padding=1)]


class CifarResNet(nn.Module):
    """3x3 convolution, three stages of residual units at 16, 32 and 64 channels, global average pooling, linear layer.

    Args:
        depth: number of weighted layers; 6n+2 with basic units, 9n+2 with bottleneck units.
        classes: outputs.
        in_channels: of the images (CIFAR: 3).
        unit: "basic" (two 3x3), "bottleneck" (1x1, 3x3, 1x1) or "single" (he2016, Table 3: "1-layer skip").
        activation: one of `ACTIVATIONS` (he2016, Figure 4).
        shortcut: {"kind": a key of `SHORTCUTS`, and its arguments}, on every unit (he2016, Table 1).
        shape_change: what brings x to a new size or width: "A" zero padding, "B" a 1x1 projection.
        shortcut_at_shape_change: "apply" the shortcut to these units too, or keep them plain ("identity"); open choice.
        projection_batch_norm: batch norm behind a projection; None takes the paper's: all but (b) and (e).
        pre_activate_zero_padding: whether option A, too, sees the pre-activated input; open choice.
        shortcut_class: class to use for a shortcut of the user's own.
        replicas, batch_norm_eps, batch_norm_momentum, running_statistics: see `BatchNorm2d`.

    Shape: (N, in_channels, H, W) to (N, classes), for any H and W.

    Raises:
        ValueError: a depth that the unit cannot make, or an unknown choice.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        in_channels: int = 3,
        unit: str = "basic",
        activation: str = "original",
        shortcut: Mapping[str, Any] | None = None,
        shape_change: str = "A",
        shortcut_at_shape_change: str = "apply",
        projection_batch_norm: bool | None = None,
        pre_activate_zero_padding: bool = False,
        shortcut_class: type[Shortcut] | None = None,
        replicas: int = 1,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
        running_statistics: str = "first-replica",
    ):
        super().__init__()
        for name, value, known in (
            ("activation", activation, ACTIVATIONS),
            ("shape_change", shape_change, ("A", "B")),
            ("shortcut_at_shape_change", shortcut_at_shape_change, ("apply", "identity")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        norm = partial(
            BatchNorm2d,
            replicas=replicas,
            eps=batch_norm_eps,
            momentum=batch_norm_momentum,
            kept=running_statistics,
        )
        options = dict(shortcut or {"kind": "identity"})
        kind = options.pop("kind")
        joined = partial(shortcut_class or SHORTCUTS[kind], **options)
        if projection_batch_norm is None:
            projection_batch_norm = activation not in ("bn-after-addition", "full-pre-activation")
        pre_activated = activation.endswith("pre-activation")

        # With pre-activation this BN-ReLU is the first unit's own, before the split (he2016, Appendix).
        conv1 = nn.Conv2d(in_channels, STAGE_WIDTHS[0], 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv1, norm(STAGE_WIDTHS[0]), nn.ReLU())

        units: list[nn.Module] = []
        channels = STAGE_WIDTHS[0]
        for stage, width in enumerate(STAGE_WIDTHS):
            for index in range(units_per_stage(unit, depth)):
                stride = 2 if stage and not index else 1
                out_channels = width * BOTTLENECK_EXPANSION if unit == "bottleneck" else width
                changes = stride != 1 or channels != out_channels
                path = _path(channels, out_channels, stride, shape_change, projection_batch_norm, norm)
                join = joined if not changes or shortcut_at_shape_change == "apply" else Shortcut
                convolved = kind == "convolution" and join is joined
                projected = changes and (shape_change == "B" or pre_activate_zero_padding)
                first = not units
                units.append(
                    ResidualUnit(
                        pre=nn.Identity() if first else pre_activation(activation, channels, norm),
                        residual=residual_function(convolutions_of(unit, channels, width, stride), activation, norm),
                        shortcut=join(channels, out_channels, stride, path, norm),
                        post=post_activation(activation, out_channels, norm),
                        pre_activated_shortcut=pre_activated and (convolved or projected),
                    )
                )
                channels = out_channels
        self.units = nn.Sequential(*units)
        self.last = pre_activation(activation, channels, norm)  # "an extra activation right after its addition"
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.last(self.units(self.stem(x))).mean((2, 3)))


def _path(channels: int, out_channels: int, stride: int, option: str, batch_norm: bool, norm: Norm) -> nn.Module:
    """What brings a shortcut's input to the unit's output shape: nothing, option A or B (he2015, Section 3.3)."""
    if stride == 1 and channels == out_channels:
        return nn.Identity()
    if option == "A":
        return ZeroPadding(channels, out_channels, stride)
    projection = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, norm(out_channels)) if batch_norm else projection
