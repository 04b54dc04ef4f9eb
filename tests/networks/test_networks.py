"""The assembled networks: weights, units, sizes and where the strides are."""

import pytest
import torch
from torch import nn

from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import CifarResNet

PRE_ACTIVATION = {"unit": "bottleneck", "activation": "full-pre-activation", "shape_change": "B"}
NETWORKS = {"basic": {"shape_change": "A"}, "bottleneck": PRE_ACTIVATION, "single": {"unit": "single"}}


def without_storage(**arguments):
    """A network to count, of any depth: its tensors hold no numbers."""
    with torch.device("meta"):
        return CifarResNet(**arguments)


@pytest.mark.parametrize(
    "depth, unit, units, layers",
    [
        (110, "basic", 54, 2),
        (1202, "basic", 600, 2),
        (164, "bottleneck", 54, 3),
        (1001, "bottleneck", 333, 3),
        (110, "single", 108, 1),
    ],
)
def test_number_of_units_and_weighted_layers(depth, unit, units, layers):
    network = without_storage(depth=depth, unit=unit)
    assert len(network.units) == units
    convolutions = [[m for m in u.residual.modules() if isinstance(m, nn.Conv2d)] for u in network.units]
    assert {len(found) for found in convolutions} == {layers}
    assert sum(map(len, convolutions)) + 2 == depth
    widths = [found[0].out_channels for found in convolutions]
    assert widths == [16] * (units // 3) + [32] * (units // 3) + [64] * (units // 3)


@pytest.mark.parametrize("depth, unit", [(14, "basic"), (20, "bottleneck"), (8, "single")])
def test_stride_stands_on_the_first_convolution_of_the_units_that_halve(depth, unit):
    """In bottleneck units that is the first 1x1; a projection has it too."""
    network = CifarResNet(depth=depth, unit=unit, shape_change="B")
    assert [conv.stride for conv in network.stem.modules() if isinstance(conv, nn.Conv2d)] == [(1, 1)]
    for index, module in enumerate(network.units):
        stride = 2 if index in (2, 4) else 1
        convolutions = [m for m in module.residual.modules() if isinstance(m, nn.Conv2d)]
        assert [conv.stride for conv in convolutions] == [(stride, stride)] + [(1, 1)] * (len(convolutions) - 1)
        assert all(m.stride == (stride, stride) for m in module.shortcut.modules() if isinstance(m, nn.Conv2d))
        kernels = {"basic": [3, 3], "bottleneck": [1, 3, 1], "single": [3]}[unit]
        assert [conv.kernel_size for conv in convolutions] == [(k, k) for k in kernels]


@pytest.mark.parametrize("size", [32, 8])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("unit, depth, widths", [("basic", 14, (16, 32, 64)), ("bottleneck", 20, (64, 128, 256))])
def test_sizes_through_the_network(size, channels, unit, depth, widths):
    network = CifarResNet(depth, classes=7, in_channels=channels, **NETWORKS[unit])
    shapes = []
    for module in network.units:
        module.register_forward_hook(lambda *arguments: shapes.append(tuple(arguments[-1].shape)))
    scores = network(torch.randn(2, channels, size, size))
    assert scores.shape == (2, 7)
    sizes = zip(widths, (size, size // 2, size // 4), strict=True)
    assert shapes == [(2, width, side, side) for width, side in sizes for _ in range(2)]


@pytest.mark.parametrize("unit", NETWORKS)
def test_only_gates_and_the_linear_layer_have_biases(unit):
    """Batch norm would cancel any other."""
    depth = {"basic": 14, "bottleneck": 20, "single": 8}[unit]
    network = CifarResNet(depth, **NETWORKS[unit])
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
    assert network.linear.bias is not None


def test_batch_norm_arguments_reach_every_batch_norm():
    network = CifarResNet(14, replicas=2, batch_norm_eps=1e-3, batch_norm_momentum=0.2, running_statistics="mean")
    norms = [m for m in network.modules() if isinstance(m, BatchNorm2d)]
    assert len(norms) == 13
    assert {(n.replicas, n.eps, n.momentum, n.kept) for n in norms} == {(2, 1e-3, 0.2, "mean")}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
