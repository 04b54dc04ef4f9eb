"""How a residual unit joins its two branches: the shortcuts of he2016, Table 1 and Figure 2.

Every class is called with the input x of the shortcut and the output f of the residual function, and returns what the
addition gives. `path` brings x to the shape of f: nothing where the shapes agree, option A or B of he2015 elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ZeroPadding(nn.Module):
    """Option A of he2015 (Section 3.3): every `stride`-th pixel, and zeros for the new channels; no parameters.

    Shape: (N, C_in, H, W) to (N, C_out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        # Pooling of single pixels is x[:, :, ::stride, ::stride] with a gradient that keeps x's layout in memory; in
        # another layout it made all operations of the units before it slow.
        taken = F.avg_pool2d(x, 1, self.stride) if self.stride > 1 else x
        return F.pad(taken, (0, 0, 0, 0, 0, self.new_channels))


class Shortcut(nn.Module):
    """The identity shortcut, y = h(x) + F(x) (he2016, Equation 1), and the base of all others.

    Args:
        in_channels, out_channels, stride: of the unit.
        path: module that brings x to the shape of F(x).
        norm: makes a batch norm for a number of channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, path: nn.Module, norm: Callable[[int], nn.Module]
    ):
        super().__init__()
        self.path = path

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.path(x) + f


class NoShortcut(Shortcut):
    """A plain layer of he2015 (Sections 3.3 and 4.2): y = F(x)."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return f


class Scaled(Shortcut):
    """Constant scaling (Figure 2b): y = shortcut_scale * h(x) + residual_scale * F(x). A scale of 0 is a plain net."""

    def __init__(self, *unit: Any, shortcut_scale: float, residual_scale: float):
        super().__init__(*unit)
        self.shortcut_scale, self.residual_scale = shortcut_scale, residual_scale

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        scaled = f if self.residual_scale == 1 else self.residual_scale * f
        return scaled if self.shortcut_scale == 0 else self.shortcut_scale * self.path(x) + scaled


class Gate(nn.Conv2d):
    """g(x) = sigmoid(W_g x + b_g), a 1x1 convolution with a bias and no batch norm (he2016, Section 3.1).

    The paper does not say how W_g begins: it is initialized and decays like any convolution, b_g does neither. It does
    not mention batch norm here either, which would take b_g away again.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, bias: float):
        super().__init__(in_channels, out_channels, 1, stride)
        self.initial_bias = bias
        assert self.bias is not None
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(x))


class ExclusiveGate(Shortcut):
    """Exclusive gating (Figure 2c): y = (1 - g(x)) * h(x) + g(x) * F(x), element by element."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *path_and_norm: Any, gate_bias: float):
        super().__init__(in_channels, out_channels, stride, *path_and_norm)
        self.gate = Gate(in_channels, out_channels, stride, gate_bias)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        g = self.gate(x)
        return (1 - g) * self.path(x) + g * f


class ShortcutOnlyGate(ExclusiveGate):
    """Shortcut-only gating (Figure 2d): y = (1 - g(x)) * h(x) + F(x)."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return (1 - self.gate(x)) * self.path(x) + f


class Convolution(Shortcut):
    """1x1 convolution with batch norm on every unit (Figure 2e; option C of he2015): y = BN(W x) + F(x).

    he2016 does not mention batch norm here; he2015, Section 3.4, has it "right after each convolution".
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, path: nn.Module, norm: Callable[[int], nn.Module]
    ):
        super().__init__(in_channels, out_channels, stride, nn.Identity(), norm)
        self.path = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


class Dropout(nn.Module):
    """Dropout whose masks come from `generator`, so that a mask is a function of seed and iteration.

    Args:
        ratio: share of the elements that is dropped, each by itself: he2016 does not say so, Caffe's layer does.
        inverted: divide by 1 - ratio in training, so that the expectation is x, as the layers of Caffe and torch do.
            Otherwise the expectation is (1 - ratio) x: in training what is kept stays as it is, a test multiplies by
            1 - ratio (Srivastava et al. 2014, Section 4).
    """

    def __init__(self, ratio: float, inverted: bool = True):
        super().__init__()
        self.ratio, self.inverted = ratio, inverted
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x if self.inverted else x * (1 - self.ratio)
        keep = torch.empty_like(x).bernoulli_(1 - self.ratio, generator=self.generator)
        return x * keep / (1 - self.ratio) if self.inverted else x * keep


class DropoutShortcut(Shortcut):
    """Dropout on the output of the identity shortcut (Figure 2f): y = dropout(h(x)) + F(x).

    `inverted`, see `Dropout`, is an open choice: by he2016, Section 3.1, dropout "statistically imposes a scale of
    lambda with an expectation of 0.5 on the shortcut"; the layer of Caffe, which the authors used, keeps 1.
    """

    def __init__(self, *unit: Any, ratio: float, inverted: bool | None = None):
        super().__init__(*unit)
        self.dropout = Dropout(ratio, inverted is not False)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.dropout(self.path(x)) + f


SHORTCUTS: dict[str, type[Shortcut]] = {
    "identity": Shortcut,
    "none": NoShortcut,
    "scaled": Scaled,
    "exclusive-gate": ExclusiveGate,
    "shortcut-only-gate": ShortcutOnlyGate,
    "convolution": Convolution,
    "dropout": DropoutShortcut,
}
