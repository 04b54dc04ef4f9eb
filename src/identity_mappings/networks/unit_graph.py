"""The operations of residual units and what feeds them, from the modules that are trained (torch.fx)."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .batch_norm import BatchNorm2d
from .residual import ResidualNetwork
from .shortcuts import Dropout, ZeroPadding
from .units import AsymmetricUnit

TRUNK, RESIDUAL, GATE = "trunk", "residual", "gate"


@dataclass(frozen=True)
class Operation:
    """A node of the graph.

    Attributes:
        name: tells it apart.
        label: as a figure shows it; "+" and "×" join branches, "× 0.5" scales one.
        inputs: names of the operations that feed it.
        branch: TRUNK (the shortcut, the addition and what follows it), RESIDUAL (F with its activations) or GATE.
        unit: which of the units owns it, from 0; -1: it stands before the first.
    """

    name: str
    label: str
    inputs: tuple[str, ...]
    branch: str
    unit: int


class _Consecutive(nn.Module):
    """Units in a row; of the form of Figure 5(b) where an activation stands `before` them."""

    def __init__(self, units: list[nn.Module], before: nn.Module | None = None):
        super().__init__()
        self.before, self.units = before, nn.ModuleList(units)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.before is None:
            for unit in self.units:
                x = unit(x)
            return x
        activated = self.before(x)
        for unit in self.units:
            x, activated = unit(x, activated)
        return x, activated


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if type(module) in (BatchNorm2d, Dropout, ZeroPadding):
            return True
        return module.__module__.startswith("torch.nn") and not isinstance(module, (nn.Sequential, nn.ModuleList))


def operations(network: ResidualNetwork, first: int = 1, count: int = 1, asymmetric: bool = False) -> list[Operation]:
    """The operations of `count` consecutive units, in the order of the forward pass.

    Args:
        first: index of the first unit; unit 0 of a pre-activation network has its activation in the stem.
        asymmetric: of a pre-activation network, written as in Figure 5(b): each activation belongs to the unit before.

    Raises:
        ValueError: the network has no such units.
    """
    every: list[Any] = list(network.units)
    units = every[first : first + count]
    if first < 0 or count < 1 or len(units) < count:
        raise ValueError(f"units {first} to {first + count - 1} of a network that has {len(network.units)}")
    if asymmetric:
        activations: list[nn.Module] = [*(unit.pre for unit in every[1:]), network.last]
        before, after = units[0].pre, activations[first : first + count]
        module = _Consecutive([AsymmetricUnit(*pair) for pair in zip(units, after, strict=True)], before)
    else:
        module = _Consecutive(units)
    found: list[Operation] = []
    names: dict[str, str] = {}
    for node in _Tracer().trace(module).nodes:
        if node.op in ("get_attr", "output"):
            continue
        sources = [names[parent.name] for parent in node.all_input_nodes if parent.name in names]
        owner = module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(owner, nn.Identity):
            names[node.name] = sources[0]
            continue
        names[node.name] = node.name
        path = next(reversed(node.meta["nn_module_stack"]), "") if node.op == "call_function" else str(node.target)
        unit = int(path.split(".")[1]) if path.startswith("units.") else -1
        branches = {operation.branch for operation in found if operation.name in sources}
        label, branch = _label(node, owner, module), _branch(node, path, branches)
        found.append(Operation(node.name, label, tuple(sources), branch, unit))
    return found


def _branch(node: fx.Node, path: str, sources: set[str]) -> str:
    if any(name in path.split(".") for name in ("residual", "pre", "after", "before")):
        return RESIDUAL
    if node.target is operator.mul:
        return RESIDUAL if RESIDUAL in sources else TRUNK
    return GATE if "gate" in path.split(".") or sources == {GATE} else TRUNK


def _label(node: fx.Node, module: nn.Module | None, root: nn.Module) -> str:
    if node.op == "placeholder":
        return "x"
    if isinstance(module, nn.Conv2d):
        return f"{module.kernel_size[0]}x{module.kernel_size[1]} conv, {module.out_channels}"
    if isinstance(module, BatchNorm2d):
        return "BN"
    if isinstance(module, Dropout):
        return f"dropout {module.ratio:g}"
    if module is not None:
        return type(module).__name__.replace("ZeroPadding", "stride, pad channels")
    if node.target is torch.conv2d or getattr(node.target, "__name__", "") == "conv2d":
        weight = root.get_parameter(str(node.all_input_nodes[1].target))
        bias = " + b" if node.args[2] is not None else ""
        return f"{weight.shape[2]}x{weight.shape[3]} conv{bias}"
    if node.target is operator.add:
        return "+"
    if node.target is operator.mul:
        constants = [argument for argument in node.args if not isinstance(argument, fx.Node)]
        return f"× {constants[0]:g}" if constants else "×"
    if node.target is operator.sub:
        return "1 -"
    return getattr(node.target, "__name__", str(node.target))
