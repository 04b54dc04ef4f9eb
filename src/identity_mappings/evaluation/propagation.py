"""How signals run through a network: forward and backward norms by unit, and the spread of layer responses."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.batch_norm import BatchNorm2d


class UnitSignal(NamedTuple):
    """What passes the output of a residual unit (x_{l+1} of he2016, Equation 1).

    Attributes:
        unit: from 1; 0 is the stem's output, x of the first unit.
        channels, size: of the output.
        forward_norm: mean over the images of the L2 norm of x.
        gradient_norm: mean over the images of the L2 norm of dE/dx, E the sum of the images' losses.
    """

    unit: int
    channels: int
    size: int
    forward_norm: float
    gradient_norm: float


def signals(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, list[UnitSignal]]:
    """Mean loss of a batch, and the norms at the stem and at every unit, as a training iteration would see them.

    Batch norm uses the batch's statistics; its moving ones, the weights, their gradients and the mode are left as they
    were.

    Args:
        network: with `stem` and `units`.
        x: images as the network sees them, (N, C, H, W).
        y: their labels, (N).
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    gradients, training = [parameter.grad for parameter in network.parameters()], network.training
    network.zero_grad(set_to_none=True)  # or the old gradients would be added to, in place
    hooks = [module.register_forward_hook(keep) for module in (network.stem, *network.units)]
    network.train()
    try:
        losses = F.cross_entropy(network(x).float(), y, reduction="none")
        losses.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        network.train(training)

    def norm(tensor: Tensor) -> float:
        return float(torch.linalg.vector_norm(tensor.detach().double().flatten(1), dim=1).mean())

    found = [
        UnitSignal(unit, output.shape[1], output.shape[2], norm(output), norm(output.grad))
        for unit, output in enumerate(outputs)
    ]
    return float(losses.detach().double().mean()), found


class LayerResponse(NamedTuple):
    """Attributes:
    layer: from 1, in the order of the forward pass.
    name: of the module that gives the response.
    standard_deviation: over all images, channels and positions.
    """

    layer: int
    name: str
    standard_deviation: float


def response_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """What gives the response of each 3x3 layer: the batch norm right behind it, or itself (pre-activation).

    he2015, Section 4.2 and Figure 7: "the output of each 3x3 layer, after BN and before other nonlinearity".
    """
    found = []
    for parent, sequence in network.named_modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        children = list(sequence.named_children())
        for index, (name, module) in enumerate(children):
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                behind = children[index + 1] if index + 1 < len(children) else (name, module)
                chosen = behind if isinstance(behind[1], BatchNorm2d) else (name, module)
                found.append((f"{parent}.{chosen[0]}", chosen[1]))
    return found


@torch.no_grad()
def responses(
    network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor], batch_size: int = 500
) -> list[LayerResponse]:
    """Standard deviation of the response of each 3x3 layer (he2015, Figure 7), the network as in a test.

    Args:
        network: trained; batch norm uses its moving statistics. Left in training mode.
        images: uint8 (N, C, H, W).
        normalize: from uint8 images to what the network sees.
    """
    modules = response_modules(network)
    sums = {name: [0, 0.0, 0.0] for name, _ in modules}  # elements, sum, sum of squares

    def add(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values, total = output.double(), sums[name]
            total[0] += values.numel()
            total[1] += float(values.sum())
            total[2] += float(values.square().sum())

        return hook

    hooks = [module.register_forward_hook(add(name)) for name, module in modules]
    network.eval()
    try:
        for batch in images.split(batch_size):
            network(normalize(batch))
    finally:
        for hook in hooks:
            hook.remove()
        network.train()

    def deviation(elements: int, total: float, squares: float) -> float:
        return max(0.0, squares / elements - (total / elements) ** 2) ** 0.5

    return [LayerResponse(index, name, deviation(*sums[name])) for index, (name, _) in enumerate(modules, 1)]


def csv(rows: Iterable[NamedTuple], *columns: tuple[str, object]) -> bytes:
    """Rows as CSV, behind `columns` of (name, value) that all of them share."""
    rows = list(rows)
    lines = [",".join([*(name for name, _ in columns), *rows[0]._fields])]
    for row in rows:
        values = (format(value, ".9g") if isinstance(value, float) else str(value) for value in row)
        lines.append(",".join([*(str(value) for _, value in columns), *values]))
    return ("\n".join(lines) + "\n").encode()
