"""Residual units: the five places of activation of he2016, Figure 4 and Table 2."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from .shortcuts import Shortcut

ACTIVATIONS = (
    "original",  # (a) conv-BN-ReLU ... conv-BN, addition, ReLU
    "bn-after-addition",  # (b) conv-BN-ReLU ... conv, addition, BN-ReLU
    "relu-before-addition",  # (c) conv-BN-ReLU ... conv-BN-ReLU, addition
    "relu-only-pre-activation",  # (d) ReLU-conv-BN ... ReLU-conv-BN, addition
    "full-pre-activation",  # (e) BN-ReLU-conv ... BN-ReLU-conv, addition
)

Norm = Callable[[int], nn.Module]

# ReLUs work in place, which computes the same with less memory; but not where the shortcut needs their input.


def pre_activation(activation: str, channels: int, norm: Norm) -> nn.Module:
    """What stands before the first convolution of a unit: BN-ReLU (e), ReLU (d), or nothing (a to c).

    That of the first unit is "right after conv1 and before splitting" (he2016, Section 4.1): the BN-ReLU of the stem.
    Whether conv1 has a batch norm with (d), too, the paper does not say; here it has, as all convolutions of (d) do.
    """
    if activation == "full-pre-activation":
        return nn.Sequential(norm(channels), nn.ReLU(inplace=True))
    return nn.ReLU() if activation == "relu-only-pre-activation" else nn.Identity()


def post_activation(activation: str, channels: int, norm: Norm, in_place: bool = True) -> nn.Module:
    """f of Equation 2, what stands after the addition: ReLU (a), BN-ReLU (b), or the identity (c to e).

    Args:
        in_place: whether the addition's output may be overwritten; a shortcut of the user's own may need it.
    """
    if activation == "bn-after-addition":
        return nn.Sequential(norm(channels), nn.ReLU(inplace=True))
    return nn.ReLU(in_place) if activation == "original" else nn.Identity()


def residual_function(convolutions: Iterable[nn.Conv2d], activation: str, norm: Norm) -> nn.Sequential:
    """F of Equation 1 behind its pre-activation: the convolutions, and between and after them what Figure 4 shows."""
    *inner, last = convolutions
    layers: list[nn.Module] = []
    for convolution in inner:
        layers += [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]
    layers.append(last)
    if activation in ("original", "relu-before-addition", "relu-only-pre-activation"):
        layers.append(norm(last.out_channels))
    if activation == "relu-before-addition":
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ResidualUnit(nn.Module):
    """x_{l+1} = f(y), y = the shortcut's join of x_l and F(x_l) (he2016, Equations 1 and 2).

    Args:
        pre: activation before the first convolution; the identity in a first unit, whose pre-activation stands before
            the split (he2016, Appendix).
        residual: F behind `pre`.
        shortcut: joins the branches.
        post: f, the activation after the addition.
        pre_activated_shortcut: whether the shortcut, too, takes its input behind `pre`.
    """

    def __init__(
        self, pre: nn.Module, residual: nn.Module, shortcut: Shortcut, post: nn.Module, pre_activated_shortcut: bool
    ):
        super().__init__()
        self.pre, self.residual, self.shortcut, self.post = pre, residual, shortcut, post
        self.pre_activated_shortcut = pre_activated_shortcut

    def forward(self, x: Tensor) -> Tensor:
        activated = self.pre(x)
        y = self.shortcut(activated if self.pre_activated_shortcut else x, self.residual(activated))
        return self.post(y)


class AsymmetricUnit(nn.Module):
    """x_{l+1} = x_l + F(f^(x_l)), with the activation behind the addition (he2016, Section 4.1, Figure 5(b)).

    Args:
        unit: a pre-activation unit; its F and its shortcut are used.
        after: f^ of the next unit, which here stands behind this one's addition and acts on its residual branch only.

    Shape: takes x (what the shortcut sees) and f^(x) (what F sees), and returns both for the next unit.
    """

    def __init__(self, unit: ResidualUnit, after: nn.Module):
        super().__init__()
        self.residual, self.shortcut, self.after = unit.residual, unit.shortcut, after
        self.pre_activated_shortcut = unit.pre_activated_shortcut

    def forward(self, x: Tensor, activated: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shortcut(activated if self.pre_activated_shortcut else x, self.residual(activated))
        return y, self.after(y)
