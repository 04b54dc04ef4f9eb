"""What networks cost: torch's counter, a closed form, a third count on real modules, and what the papers print."""

import itertools
import random
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from closed_form import closed_form
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.cost import Cost, count, weights
from identity_mappings.networks.families import FAMILIES
from identity_mappings.networks.shortcuts import Shortcut
from identity_mappings.networks.units import ACTIVATIONS

SHORTCUTS = {
    "identity": {"kind": "identity"},
    "none": {"kind": "none"},
    "scaled": {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 0.5},
    "scaled 0": {"kind": "scaled", "shortcut_scale": 0, "residual_scale": 1},
    "exclusive gate": {"kind": "exclusive-gate", "gate_bias": -6},
    "shortcut-only gate": {"kind": "shortcut-only-gate", "gate_bias": -6},
    "convolution": {"kind": "convolution"},
    "dropout": {"kind": "dropout", "ratio": 0.5},
}
DEPTHS = {"single": 8, "basic": 14, "bottleneck": 20}  # two units in each stage
PRE_ACTIVATION = {"unit": "bottleneck", "activation": "full-pre-activation", "shape_change": "B"}
BOTTLENECK = {"unit": "bottleneck", "shape_change": "B"}


def resolved(depth, **choices):
    """A network as resolved parameters state it: with every key, null where it does not apply."""
    return {
        "family": "cifar",
        "depth": depth,
        "unit": "basic",
        "activation": "original",
        "shortcut": {"kind": "identity"},
        "shape_change": "A",
        "shortcut_at_shape_change": "apply",
        "projection_batch_norm": None,
        "pre_activate_zero_padding": False,
        "bottleneck_stride": None,
        **choices,
    }


def made(network, classes=10, channels=3, device="meta"):
    arguments = {key: value for key, value in network.items() if key != "family"}
    if network["family"] == "vgg":
        arguments = {"depth": network["depth"]}
    with torch.device(device):
        return FAMILIES[network["family"]](classes=classes, in_channels=channels, **arguments)


def counted(network, classes=10, channels=3, size=32):
    """A network is of no other use after it was counted, so it is made here."""
    return count(made(network, classes, channels), channels, size)


def assert_same(network, classes, channels, size):
    found, expected = counted(network, classes, channels, size), closed_form(network, classes, channels, size)
    assert found == expected, f"{network}, {classes} classes, {channels} channels, {size} pixels"
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("unit", DEPTHS)
def test_cifar_count_is_the_closed_form(unit, activation):
    """All shortcuts with options A and B; of the other choices one that the seed draws, odd sizes among them."""
    draw = random.Random(f"{unit} {activation}")
    for shortcut, shape_change in itertools.product(SHORTCUTS.values(), "AB"):
        network = resolved(
            DEPTHS[unit],
            unit=unit,
            activation=activation,
            shortcut=shortcut,
            shape_change=shape_change,
            shortcut_at_shape_change=draw.choice(["apply", "identity"]),
            projection_batch_norm=draw.choice([None, True, False]),
            bottleneck_stride=draw.choice([None, "1x1", "3x3"]),
            pre_activate_zero_padding=draw.choice([False, True]),
        )
        assert_same(network, draw.choice([10, 100, 7]), draw.choice([1, 3]), draw.choice([32, 8, 17, 33, 1]))


@pytest.mark.parametrize("shape_change", "AB")
@pytest.mark.parametrize("unit, depth", [("basic", 18), ("basic", 34), ("bottleneck", 50)])
def test_imagenet_count_is_the_closed_form(unit, depth, shape_change):
    draw = random.Random(f"{depth} {shape_change}")
    for shortcut in SHORTCUTS.values():
        network = resolved(
            depth,
            family="imagenet",
            unit=unit,
            activation=draw.choice(ACTIVATIONS),
            shortcut=shortcut,
            shape_change=shape_change,
            shortcut_at_shape_change=draw.choice(["apply", "identity"]),
            projection_batch_norm=draw.choice([None, True, False]),
            bottleneck_stride=draw.choice([None, "1x1", "3x3"]),
            stem_activation=draw.choice([None, "before-pooling", "after-pooling"]),
        )
        assert_same(network, draw.choice([1000, 10]), draw.choice([1, 3]), draw.choice([224, 33, 97, 320]))


@pytest.mark.parametrize("bottleneck_stride", ["1x1", "3x3"])
@pytest.mark.parametrize("size", [7, 8, 17, 33])
def test_the_place_of_the_stride_matters_at_odd_sizes_too(size, bottleneck_stride):
    """Where halving rounds up, at every unit that halves; the 3x3 costs more, as its 1x1 sees all positions."""
    network = resolved(20, **BOTTLENECK, bottleneck_stride=bottleneck_stride)
    found = assert_same(network, 10, 3, size)
    first = counted({**network, "bottleneck_stride": "1x1"}, size=size)
    assert (found.multiply_adds > first.multiply_adds) == (bottleneck_stride == "3x3")
    assert found.weights == first.weights


@pytest.mark.parametrize("depth, classes, channels", [(16, 1000, 3), (19, 1000, 3), (19, 10, 1)])
def test_vgg_count_is_the_closed_form(depth, classes, channels):
    assert_same({"family": "vgg", "depth": depth}, classes, channels, 224)


# Weights without batch norm and with it, and multiply-adds of a 32x32 image (he2015, Section 4.2 and Table 6; he2016,
# Section 3.1 and Table 4), and the millions of weights that the papers print, of ResNet-1001 without batch norm.
CIFAR = {
    20: ({}, 268_346, 269_722, 40_551_040, "0.27"),
    32: ({}, 461_882, 464_154, None, "0.46"),
    44: ({}, 655_418, 658_586, None, "0.66"),
    56: ({}, 848_954, 853_018, None, "0.85"),
    110: ({}, 1_719_866, 1_727_962, 252_887_680, "1.7"),
    1202: ({}, 19_331_642, 19_421_274, None, "19.4"),
    164: (PRE_ACTIVATION, 1_679_034, 1_703_258, 244_500_992, "1.7"),
    1001: (PRE_ACTIVATION, 10_178_490, 10_327_706, 1_487_849_984, "10.2"),
}


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_costs_to_the_last_digit(depth):
    choices, bare, full, multiply_adds, millions = CIFAR[depth]
    assert f"{(bare if depth == 1001 else full) / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    network = resolved(depth, **choices)
    found = closed_form(network, 10, 3, 32) if depth == 1202 else assert_same(network, 10, 3, 32)
    assert (found.weights_without_batch_norm, found.weights) == (bare, full)
    if multiply_adds is not None:
        assert found.multiply_adds == multiply_adds


@pytest.mark.parametrize("depth, millions", [(110, 253), (164, 245), (1001, 1488)])
def test_multiply_adds_of_cifar_networks_in_millions(depth, millions):
    """recipes.md has 244 M of 164 layers, which is 244.5 truncated."""
    multiply_adds = closed_form(resolved(depth, **CIFAR[depth][0]), 10, 3, 32).multiply_adds
    assert round(multiply_adds / 1e6) == millions
    assert multiply_adds // 10**6 in (millions, millions - 1)


# he2015, Table 1: exact multiply-adds of a 224x224 image, and what the paper prints, in units of 0.1 x 10^9.
IMAGENET = {
    18: ({}, 1_794_805_760, 18),
    34: ({}, 3_644_493_824, 36),
    50: (BOTTLENECK, 3_857_973_248, 39),  # the paper has 3.8: truncated
    101: (BOTTLENECK, 7_570_194_432, 76),
    152: (BOTTLENECK, 11_282_415_616, 113),
}


@pytest.mark.parametrize("depth", IMAGENET)
def test_table_1_of_he2015(depth):
    choices, exact, rounded = IMAGENET[depth]
    found = assert_same(resolved(depth, family="imagenet", **choices), 1000, 3, 224)
    assert found.multiply_adds == exact
    assert round(exact / 1e8) == rounded
    if depth == 50:
        assert exact // 10**8 == 38


def test_vgg_is_the_yardstick_of_he2015():
    """Section 3.3: VGG-19 has 19.6 x 10^9 with its linear layers, the 34-layer network "only 18%" of them (18.6 %, cut
    off). Section 4.1 gives VGG-16 15.3 and VGG-19 19.6: the first is without the linear layers."""
    small, large = (assert_same({"family": "vgg", "depth": depth}, 1000, 3, 224) for depth in (16, 19))
    assert large.multiply_adds == 19_632_062_464
    assert round(large.multiply_adds / 1e8) == 196
    assert round(small.convolution / 1e8) == 153
    assert round(small.multiply_adds / 1e8) == 155
    assert small.linear == large.linear == 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    assert (small.weights, large.weights) == (138_357_544, 143_667_240)  # as torchvision's models have
    assert int(100 * IMAGENET[34][1] / large.multiply_adds) == 18


def third_count(network, channels, size):
    """Cost as real modules see it that are given a real image; nothing of `cost` or `closed_form` is used."""
    costs = {"convolution": 0, "linear": 0}

    def add(module, inputs, output):
        if isinstance(module, nn.Linear):
            costs["linear"] += module.weight.numel()
        else:
            kernel = module.kernel_size[0] * module.kernel_size[1]
            positions = output.shape[2] * output.shape[3]
            costs["convolution"] += positions * kernel * inputs[0].shape[1] * output.shape[1]

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        network.eval()(torch.rand(1, channels, size, size))
    norms = sum(2 * m.channels for m in network.modules() if isinstance(m, BatchNorm2d))
    full = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Cost(full, full - norms, **costs)


@pytest.mark.parametrize(
    "network, size",
    [
        (resolved(20), 32),
        (resolved(14, shortcut=SHORTCUTS["exclusive gate"], shape_change="B", activation="bn-after-addition"), 17),
        (resolved(14, shortcut=SHORTCUTS["convolution"]), 8),
        (resolved(14, shortcut=SHORTCUTS["scaled 0"], shape_change="B"), 33),
        (resolved(14, shortcut=SHORTCUTS["none"], shape_change="B"), 33),
        (resolved(8, unit="single", shape_change="B", activation="relu-only-pre-activation"), 9),
        (resolved(29, **PRE_ACTIVATION), 17),
        (resolved(20, **PRE_ACTIVATION, bottleneck_stride="3x3", projection_batch_norm=True), 33),
        (resolved(18, family="imagenet"), 65),
        (resolved(50, family="imagenet", **BOTTLENECK), 33),
    ],
)
def test_real_modules_cost_the_same(network, size):
    third = third_count(made(network, 7, 2, "cpu"), 2, size)
    assert third == counted(network, 7, 2, size) == closed_form(network, 7, 2, size)


def test_a_stride_moved_to_the_3x3_is_counted():
    """A bent network: 4.09 x 10^9 instead of 3.86, which many quote of ResNet-50."""
    network = resolved(50, family="imagenet", **BOTTLENECK)
    bent = made(network, 1000)
    for unit in bent.units:
        first, second = unit.residual[0], unit.residual[3]
        first.stride, second.stride = second.stride, first.stride
    found = count(bent, 3, 224)
    assert found.multiply_adds == 4_089_184_256
    assert found == closed_form({**network, "bottleneck_stride": "3x3"}, 1000, 3, 224)
    assert found != closed_form(network, 1000, 3, 224)


@pytest.mark.parametrize("network, channels", [(resolved(14, activation="full-pre-activation"), 64)])
def test_a_missing_last_activation_is_counted(network, channels):
    """he2016, Appendix: the extra BN-ReLU after the last addition."""
    bent = made(network)
    bent.last = nn.Identity()
    found, whole = count(bent, 3, 32), closed_form(network, 10, 3, 32)
    assert found.weights == whole.weights - 2 * channels
    assert found.weights_without_batch_norm == whole.weights_without_batch_norm
    assert found.multiply_adds == whole.multiply_adds


def test_batch_norm_in_a_gate_is_counted_as_batch_norm():
    network = resolved(14, shortcut=SHORTCUTS["exclusive gate"])
    bent = made(network)
    shortcut = bent.units[2].shortcut
    shortcut.gate = nn.Sequential(shortcut.gate, BatchNorm2d(32))
    found, whole = count(bent, 3, 32), closed_form(network, 10, 3, 32)
    assert found.weights == whole.weights + 2 * 32
    assert found.weights_without_batch_norm == whole.weights_without_batch_norm
    assert (found.convolution, found.linear) == (whole.convolution, whole.linear)


@pytest.mark.parametrize("unit, channels", [("basic", 32 + 64), ("bottleneck", 64 + 128 + 256)])
def test_batch_norm_behind_projections_is_counted_as_batch_norm(unit, channels):
    network = resolved(DEPTHS[unit], unit=unit, shape_change="B")
    without, with_norm = (counted({**network, "projection_batch_norm": normed}) for normed in (False, True))
    assert with_norm.weights == without.weights + 2 * channels
    assert with_norm.weights_without_batch_norm == without.weights_without_batch_norm
    assert with_norm.multiply_adds == without.multiply_adds


def test_gates_have_biases_and_cost_multiply_adds():
    """he2016, Section 3.1: a 1x1 convolution with a bias at each unit; torch counts no multiply-add for a bias."""
    plain, gated = counted(resolved(14)), counted(resolved(14, shortcut=SHORTCUTS["shortcut-only gate"]))
    ends = [(16, 16, 32), (16, 16, 32), (16, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8)]
    assert gated.weights - plain.weights == sum((a + 1) * b for a, b, _ in ends)
    assert gated.multiply_adds - plain.multiply_adds == sum(a * b * size**2 for a, b, size in ends)


@pytest.mark.parametrize("scale", [0, 0.5])
def test_a_projection_that_is_scaled_by_0_has_weights_and_costs_nothing(scale):
    shortcut = {"kind": "scaled", "shortcut_scale": scale, "residual_scale": 1}
    a, b = (counted(resolved(14, shortcut=shortcut, shape_change=option)) for option in "AB")
    assert b.weights_without_batch_norm - a.weights_without_batch_norm == 16 * 32 + 32 * 64
    assert b.multiply_adds - a.multiply_adds == (2 * 16 * 32 * 16**2 if scale else 0)


def test_a_shortcut_of_the_users_own_has_no_closed_form_but_is_counted(monkeypatch):
    """Its alphas are weights, but of no convolution."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delitem(sys.modules, "skip_init", raising=False)
    from skip_init import SkipInit

    network = resolved(14, shortcut={"kind": "custom", "initial": 0.0})
    assert closed_form(network, 10, 3, 32) is None
    found = count(made({**network, "shortcut_class": SkipInit}), 3, 32)
    plain = counted(resolved(14))
    assert found.weights == plain.weights + 6
    assert found.weights_without_batch_norm == plain.weights_without_batch_norm
    assert found.multiply_adds == plain.multiply_adds


class Attention(Shortcut):
    """A shortcut of the user's own with two batched matrix products, of positions by channels."""

    def forward(self, x, f):
        a = f.flatten(2)
        return self.path(x) + (a @ a.transpose(1, 2) @ a).view_as(f)


def test_batched_matrix_products_are_counted():
    found = count(made({**resolved(14, shortcut={"kind": "custom"}), "shortcut_class": Attention}), 3, 32)
    products = sum(2 * 2 * channels**2 * size**2 for channels, size in ((16, 32), (32, 16), (64, 8)))
    assert found.multiply_adds == counted(resolved(14)).multiply_adds + products


def test_only_trained_weights_are_counted():
    """Moving statistics are none."""
    network = made(resolved(14), device="cpu")
    assert weights(network) == sum(p.numel() for p in network.parameters())
    assert weights(network) < sum(t.numel() for t in network.state_dict().values())


def test_counting_bends_only_the_network_that_is_given():
    """Batch norms and ReLUs of a counted network do nothing any more; those of others do."""
    network = resolved(14)
    real = made(network, device="cpu").train()
    expected = deepcopy(real)(torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8))
    assert counted(network) == counted(network)
    assert torch.equal(real(torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)), expected)
    assert nn.ReLU()(torch.tensor(-1.0)) == 0


@pytest.mark.parametrize(
    "network, message",
    [
        (resolved(21), "depth 21 is not"),
        (resolved(20, family="imagenet"), "none of the papers'"),
        (resolved(50, family="imagenet"), "unit: bottleneck"),
        ({"family": "vgg", "depth": 11}, "none of VGG's"),
    ],
)
def test_no_closed_form_of_networks_that_cannot_be(network, message):
    with pytest.raises(ValueError, match=message):
        closed_form(network, 10, 3, 32)


def test_keys_that_are_null_or_left_out_are_the_defaults():
    """As in the parameters of an experiment that was resolved before the project knew a key."""
    network = resolved(20, **BOTTLENECK)
    older = {key: value for key, value in network.items() if value is not None and key != "family"}
    assert closed_form(older, 10, 3, 32) == closed_form({**network, "family": None}, 10, 3, 32) == counted(network)
