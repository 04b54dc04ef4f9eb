"""What all residual networks of both papers are: a stem, stages of residual units, global average pooling, a linear
layer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from .batch_norm import BatchNorm2d, Scope
from .shortcuts import SHORTCUTS, Shortcut, ZeroPadding
from .units import ACTIVATIONS, Norm, ResidualUnit, post_activation, pre_activation, residual_function

BOTTLENECK_EXPANSION = 4


def convolutions_of(
    unit: str, in_channels: int, width: int, stride: int, bottleneck_stride: str = "1x1"
) -> list[nn.Conv2d]:
    """The convolutions of one unit.

    The stride is on the first, also on a bottleneck's first 1x1 (he2015); with `bottleneck_stride` "3x3" on its 3x3, as
    the released code (fb.resnet.torch) has it.
    """
    conv = partial(nn.Conv2d, bias=False)
    if unit == "bottleneck":
        first, second = (stride, 1) if bottleneck_stride == "1x1" else (1, stride)
        return [
            conv(in_channels, width, 1, first),
            conv(width, width, 3, second, padding=1),
            conv(width, width * BOTTLENECK_EXPANSION, 1),
        ]
    begin = conv(in_channels, width, 3, stride, padding=1)
    return [begin] if unit == "single" else [begin, conv(width, width, 3, padding=1)]


class ResidualNetwork(nn.Module):
    """Stages of residual units; `CifarResNet` and `ImageNetResNet` say which, and what stands before them.

    Args:
        stem_channels: of the stem's output.
        widths: of the 3x3 convolutions, by stage; every stage but the first begins with stride 2.
        units: number of units, by stage.
        classes: outputs.
        unit: "basic" (two 3x3), "bottleneck" (1x1, 3x3, 1x1) or "single" (he2016, Table 3: "1-layer skip").
        activation: one of `ACTIVATIONS` (he2016, Figure 4).
        shortcut: {"kind": a key of `SHORTCUTS`, and its arguments}, on every unit (he2016, Table 1); "convolution" is
            option C of he2015, "none" its plain networks.
        shape_change: what brings x to a new size or width: "A" zero padding, "B" a 1x1 projection.
        shortcut_at_shape_change: "apply" the shortcut to these units too, or keep them plain ("identity"); open choice.
        projection_batch_norm: batch norm behind a projection; None takes the paper's: all but (b) and (e).
        pre_activate_zero_padding: whether option A, too, sees the pre-activated input; open choice.
        bottleneck_stride: which convolution of a bottleneck has the stride, "1x1" (None: the same) or "3x3".
        shortcut_class: class to use for a shortcut of the user's own.
        replicas, batch_norm_eps, batch_norm_momentum, running_statistics: see `BatchNorm2d`.

    Raises:
        ValueError: an unknown choice.
    """

    def __init__(
        self,
        *,
        stem_channels: int,
        widths: Sequence[int],
        units: Sequence[int],
        classes: int,
        unit: str = "basic",
        activation: str = "original",
        shortcut: Mapping[str, Any] | None = None,
        shape_change: str = "A",
        shortcut_at_shape_change: str = "apply",
        projection_batch_norm: bool | None = None,
        pre_activate_zero_padding: bool = False,
        bottleneck_stride: str | None = None,
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
            ("bottleneck_stride", bottleneck_stride, (None, "1x1", "3x3")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(map(str, known))}")
        self.scope = Scope()  # whose samples the batch norms see
        norm = partial(
            BatchNorm2d,
            replicas=replicas,
            eps=batch_norm_eps,
            momentum=batch_norm_momentum,
            kept=running_statistics,
            scope=self.scope,
        )
        options = dict(shortcut or {"kind": "identity"})
        kind = options.pop("kind")
        if shortcut_class is None and kind not in SHORTCUTS:
            raise ValueError(f"shortcut {kind!r} is none of {', '.join(SHORTCUTS)}")
        joined: Callable[..., Shortcut] = partial(shortcut_class or SHORTCUTS[kind], **options)
        if projection_batch_norm is None:
            projection_batch_norm = activation not in ("bn-after-addition", "full-pre-activation")
        pre_activated = activation.endswith("pre-activation")

        # With pre-activation its BN-ReLU is the first unit's own, before the split (he2016, Appendix).
        self.stem = self.make_stem(norm)
        made: list[nn.Module] = []
        channels = stem_channels
        for stage, (width, count) in enumerate(zip(widths, units, strict=True)):
            for index in range(count):
                stride = 2 if stage and not index else 1
                out_channels = width * BOTTLENECK_EXPANSION if unit == "bottleneck" else width
                changes = stride != 1 or channels != out_channels
                join = joined if not changes or shortcut_at_shape_change == "apply" else Shortcut
                convolved = kind in ("convolution", "none") and join is joined
                path = (
                    nn.Identity()
                    if convolved
                    else _path(channels, out_channels, stride, shape_change, projection_batch_norm, norm)
                )
                projected = changes and (shape_change == "B" or pre_activate_zero_padding)
                convolutions = convolutions_of(unit, channels, width, stride, bottleneck_stride or "1x1")
                made.append(
                    ResidualUnit(
                        pre=pre_activation(activation, channels, norm) if made else nn.Identity(),
                        residual=residual_function(convolutions, activation, norm),
                        shortcut=join(channels, out_channels, stride, path, norm),
                        post=post_activation(activation, out_channels, norm, in_place=shortcut_class is None),
                        pre_activated_shortcut=pre_activated and (convolved or projected),
                    )
                )
                channels = out_channels
        self.units = nn.Sequential(*made)
        self.last = pre_activation(activation, channels, norm)  # "an extra activation right after its addition"
        self.linear = nn.Linear(channels, classes)

    def make_stem(self, norm: Norm) -> nn.Module:
        """What stands before the first unit; called while the network is being made."""
        raise NotImplementedError

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
