"""What a network costs, computed from its parameters alone: no module, no torch. An independent check of `cost`."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from identity_mappings.networks.cost import Cost
from identity_mappings.networks.depth import LAYERS_OF_UNIT, SHORT_VGG_DEPTH, stages

# (width of the stages, kernel of the stem, its stride, stride of the pooling behind it)
ASSEMBLIES = {"cifar": ((16, 32, 64), 3, 1, 1), "imagenet": ((64, 128, 256, 512), 7, 2, 2)}
VGG_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4), SHORT_VGG_DEPTH: (1, 1, 1, 1, 1)}
VGG_WIDTHS = (64, 128, 256, 512, 512)


class _Layer(NamedTuple):
    """A convolution with k x k kernel over an output of `pixels` positions; a linear layer has k = pixels = 1."""

    inputs: int
    outputs: int
    kernel: int = 1
    pixels: int = 1
    bias: bool = False
    linear: bool = False
    multiplies: bool = True

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 + self.outputs * self.bias

    @property
    def multiply_adds(self) -> int:
        return self.inputs * self.outputs * self.kernel**2 * self.pixels * self.multiplies


def closed_form(network: Mapping[str, Any], classes: int, channels: int, size: int) -> Cost | None:
    """Cost of the network of resolved parameters; None for a shortcut of the user's own.

    Args:
        network: as in an experiment's resolved parameters.
        classes: outputs.
        channels, size: of the image.

    Raises:
        ValueError: a depth that the network cannot have.
    """
    if network.get("shortcut", {}).get("kind") == "custom":
        return None
    layers, norms = _list_layers(network, classes, channels, size)
    weights = sum(layer.weights for layer in layers)
    multiply_adds = [sum(layer.multiply_adds for layer in layers if layer.linear == linear) for linear in (False, True)]
    return Cost(weights + 2 * norms, weights, *multiply_adds)


def _list_layers(network: Mapping[str, Any], classes: int, channels: int, size: int) -> tuple[list[_Layer], int]:
    """The layers of a network, and the sum of the channels of its batch norms."""
    family = network.get("family") or "cifar"
    if family == "vgg":
        return _list_vgg(network["depth"], classes, channels, size), 0
    widths, kernel, stride, pooling = ASSEMBLIES[family]
    unit, activation = network["unit"], network["activation"]
    inner = LAYERS_OF_UNIT[unit] - 1
    size = _halve(size, stride)
    layers, norms = [_Layer(channels, widths[0], kernel, size**2)], widths[0]
    size = _halve(size, pooling)
    inputs, first = widths[0], True
    for width, count in zip(widths, stages(family, unit, network["depth"]), strict=True):
        for index in range(count):
            stride = 2 if width != widths[0] and not index else 1
            outputs, before, size = width * (4 if unit == "bottleneck" else 1), size, _halve(size, stride)
            late = unit == "bottleneck" and network.get("bottleneck_stride") == "3x3"
            sizes = [before if late else size, *[size] * inner]
            ends = [inputs, *[width] * inner, outputs]
            kernels = (1, 3, 1) if unit == "bottleneck" else (3,) * (inner + 1)
            layers += [_Layer(*ends[i : i + 2], kernels[i], sizes[i] ** 2) for i in range(inner + 1)]
            # As many norms as convolutions; before them with full pre-activation, where the stem has the first.
            norms += sum(ends[:-1]) - first * inputs if activation == "full-pre-activation" else sum(ends[1:])
            for layer, normed in _list_shortcut(network, inputs, outputs, stride, size**2):
                layers.append(layer)
                norms += outputs * normed
            inputs, first = outputs, False
    if activation == "full-pre-activation":
        norms += inputs
    return [*layers, _Layer(inputs, classes, bias=True, linear=True)], norms


def _list_shortcut(
    network: Mapping[str, Any], inputs: int, outputs: int, stride: int, pixels: int
) -> Iterator[tuple[_Layer, bool]]:
    """The 1x1 convolutions beside F, and whether batch norm follows."""
    kind, changes = network["shortcut"]["kind"], stride > 1 or inputs != outputs
    if changes and network.get("shortcut_at_shape_change") == "identity":
        kind = "identity"
    if kind == "convolution":
        yield _Layer(inputs, outputs, pixels=pixels), True
    elif changes and network["shape_change"] == "B" and kind != "none":
        normed = network.get("projection_batch_norm")
        if normed is None:
            normed = network["activation"] not in ("bn-after-addition", "full-pre-activation")
        used = not (kind == "scaled" and network["shortcut"]["shortcut_scale"] == 0)
        yield _Layer(inputs, outputs, pixels=pixels, multiplies=used), normed
    if kind.endswith("gate"):
        yield _Layer(inputs, outputs, pixels=pixels, bias=True), False


def _list_vgg(depth: int, classes: int, channels: int, size: int) -> list[_Layer]:
    stages("vgg", "basic", depth)
    layers, inputs = [], channels
    for width, count in zip(VGG_WIDTHS, VGG_CONVOLUTIONS[depth], strict=True):
        ends = [inputs, *[width] * count]
        layers += [_Layer(ends[i], width, 3, size**2, bias=True) for i in range(count)]
        inputs, size = width, size // 2
    hidden = 512 if depth == SHORT_VGG_DEPTH else 4096
    ends = (inputs * size**2, hidden, hidden, classes)
    return [*layers, *(_Layer(ends[i], ends[i + 1], bias=True, linear=True) for i in range(3))]


def _halve(size: int, stride: int) -> int:
    """Positions left by a stride: all kernels here pad so that it is size / stride, rounded up."""
    return -(-size // stride)
