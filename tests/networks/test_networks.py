"""The assembled networks: weights, units, sizes and where the strides are."""

import pytest
import torch
from torch import nn

from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.cifar import CifarResNet
from identity_mappings.networks.cost import weights
from identity_mappings.networks.depth import units_per_stage

PRE_ACTIVATION = {"unit": "bottleneck", "activation": "full-pre-activation", "shape_change": "B"}
NETWORKS = {"basic": {"shape_change": "A"}, "bottleneck": PRE_ACTIVATION, "single": {"unit": "single"}}

# depth, other arguments, convolution and linear weights, with batch norm, and what the papers print of one of the two.
COUNTS = [
    (20, {}, 268_346, 269_722, (0.27, 2)),
    (32, {}, 461_882, 464_154, (0.46, 2)),
    (44, {}, 655_418, 658_586, (0.66, 2)),
    (56, {}, 848_954, 853_018, (0.85, 2)),
    (110, {}, 1_719_866, 1_727_962, (1.7, 1)),
    (1202, {}, 19_331_642, 19_421_274, (19.4, 1)),
    (164, PRE_ACTIVATION, 1_679_034, 1_703_258, (1.7, 1)),
    (1001, PRE_ACTIVATION, 10_178_490, 10_327_706, (10.2, 1)),
]


def without_storage(**arguments):
    """A network to count, of any depth: its tensors hold no numbers."""
    with torch.device("meta"):
        return CifarResNet(**arguments)


@pytest.mark.parametrize("depth, arguments, bare, full, published", COUNTS, ids=[str(row[0]) for row in COUNTS])
def test_weights_to_the_last_digit(depth, arguments, bare, full, published):
    network = without_storage(depth=depth, **arguments)
    assert (weights(network, batch_norm=False), weights(network)) == (bare, full)
    assert full == sum(p.numel() for p in network.parameters())
    millions, digits = published
    assert round((bare if depth == 1001 else full) / 1e6, digits) == millions


def test_weights_of_a_gated_network():
    """Each gate adds c_out (c_in + 1): 3 stages of 18 units, one of each later stage coming from half the width."""
    gates = 18 * 16 * 17 + 32 * 17 + 17 * 32 * 33 + 64 * 33 + 17 * 64 * 65
    network = without_storage(depth=110, shortcut={"kind": "exclusive-gate", "gate_bias": -6.0})
    assert weights(network, batch_norm=False) == 1_719_866 + gates


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


@pytest.mark.parametrize(
    "unit, depth, neighbours",
    [
        ("basic", 21, (20, 26)),
        ("basic", 111, (110, 116)),
        ("basic", 113, (110, 116)),
        ("basic", 2, (8, 14)),
        ("basic", 0, (8, 14)),
        ("single", 19, (14, 20)),
        ("bottleneck", 112, (110, 119)),
        ("bottleneck", 1202, (1199, 1208)),
        ("bottleneck", 2, (11, 20)),
    ],
)
def test_impossible_depths_are_refused_with_their_neighbours(unit, depth, neighbours):
    with pytest.raises(ValueError, match=rf"depth {depth} .* take {neighbours[0]} or {neighbours[1]}$"):
        CifarResNet(depth, unit=unit)
    for possible in neighbours:
        assert units_per_stage(unit, possible) > 0


def test_unknown_units_are_refused():
    with pytest.raises(ValueError, match="unit 'wide' is none of single, basic, bottleneck"):
        CifarResNet(20, unit="wide")


@pytest.mark.parametrize("unit, depth, changing", [("bottleneck", 20, [0, 2, 4]), ("basic", 14, [2, 4])])
@pytest.mark.parametrize(
    "activation, batch_norm",
    [
        ("original", True),
        ("bn-after-addition", False),
        ("relu-before-addition", True),
        ("relu-only-pre-activation", True),
        ("full-pre-activation", False),
    ],
)
def test_projections_stand_where_size_or_width_changes(unit, depth, changing, activation, batch_norm):
    """Bottleneck networks project 16 to 64 channels in the very first unit; full pre-activation has no BN behind it."""
    network = CifarResNet(depth, unit=unit, activation=activation, shape_change="B")
    expansion = 4 if unit == "bottleneck" else 1
    found = {}
    for index, module in enumerate(network.units):
        layers = [m for m in module.shortcut.modules() if isinstance(m, (nn.Conv2d, BatchNorm2d, nn.BatchNorm2d))]
        if layers:
            found[index] = layers
    assert list(found) == changing
    for index, (projection, *norms) in found.items():
        before = 16 if index == 0 else 16 * 2 ** (index // 2 - 1) * expansion
        assert projection.weight.shape == (16 * 2 ** (index // 2) * expansion, before, 1, 1)
        assert projection.bias is None
        assert len(norms) == batch_norm


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
