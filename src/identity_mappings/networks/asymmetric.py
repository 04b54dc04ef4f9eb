"""The step from the original to the pre-activation unit: he2016, Section 4.1, Figure 5 and Equations 9 and 10."""

from torch import Tensor, nn

from .residual import ResidualNetwork


class AsymmetricUnit(nn.Module):
    """x_{l+1} = x_l + F(f^(x_l)), written with the activation after the addition, as Figure 5(b) draws it.

    Args:
        unit: a pre-activation unit; its F and its shortcut are used.
        after: f^ of the next unit, which here stands after this one's addition and acts on its residual branch only.

    Shape: takes x (what the shortcut sees) and f^(x) (what F sees), and returns both for the next unit.
    """

    def __init__(self, unit: nn.Module, after: nn.Module):
        super().__init__()
        self.residual, self.shortcut, self.after = unit.residual, unit.shortcut, after
        self.pre_activated_shortcut = unit.pre_activated_shortcut

    def forward(self, x: Tensor, activated: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shortcut(activated if self.pre_activated_shortcut else x, self.residual(activated))
        return y, self.after(y)


class AsymmetricNetwork(nn.Module):
    """A pre-activation network in the form of Figure 5(b): the same modules, each activation moved across the addition.

    Args:
        network: with full or ReLU-only pre-activation; its modules are shared, not copied.

    Raises:
        ValueError: a network whose activations act on both branches: it has no such form.
    """

    def __init__(self, network: ResidualNetwork):
        super().__init__()
        if not all(isinstance(unit.post, nn.Identity) for unit in network.units):
            raise ValueError("only a network with pre-activation has an asymmetric form: this one activates x itself")
        self.stem, self.linear = network.stem, network.linear
        activations = [*(unit.pre for unit in list(network.units)[1:]), network.last]
        self.units = nn.ModuleList(map(AsymmetricUnit, network.units, activations))

    def forward(self, x: Tensor) -> Tensor:
        x = activated = self.stem(x)
        for unit in self.units:
            x, activated = unit(x, activated)
        return self.linear(activated.mean((2, 3)))
