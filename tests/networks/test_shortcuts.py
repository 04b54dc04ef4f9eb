"""Every shortcut of he2016, Table 1 against its equation, on all units of a small network."""

import pytest
import torch
from comparison import random_like
from torch import nn
from torch.nn import functional as F

from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import CifarResNet
from identity_mappings.networks.shortcuts import SHORTCUTS, Dropout, DropoutShortcut, Gate, ZeroPadding

TABLE_1 = {
    "identity": {"kind": "identity"},
    "scaled 0, 1": {"kind": "scaled", "shortcut_scale": 0, "residual_scale": 1},
    "scaled 0.5, 1": {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 1},
    "scaled 0.5, 0.5": {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 0.5},
    "exclusive gate": {"kind": "exclusive-gate", "gate_bias": -6},
    "shortcut-only gate": {"kind": "shortcut-only-gate", "gate_bias": -6},
    "convolution": {"kind": "convolution"},
    "dropout": {"kind": "dropout", "ratio": 0.25},
}
PLAIN, CHANGING = 1, 2  # units of a network of depth 14


def random_unit(index, shortcut, **arguments):
    network = CifarResNet(depth=14, shortcut=shortcut, **arguments).double()
    g = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data.normal_(0, (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 1, generator=g)
    return network.units[index]


def relu(x):
    return x * (x > 0)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def conv(x, weight, stride=1, bias=None):
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[2] // 2)


def bn(x, scale, shift):
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def original_residual(x, w, stride):
    """conv-BN-ReLU-conv-BN."""
    y = relu(bn(conv(x, w["residual.0.weight"], stride), w["residual.1.weight"], w["residual.1.bias"]))
    return bn(conv(y, w["residual.3.weight"]), w["residual.4.weight"], w["residual.4.bias"])


def pre_activated_residual(activated, w, stride):
    """conv-BN-ReLU-conv, behind the unit's first BN-ReLU."""
    y = relu(bn(conv(activated, w["residual.0.weight"], stride), w["residual.1.weight"], w["residual.1.bias"]))
    return conv(y, w["residual.3.weight"])


def h_of(x, w, stride, option, batch_norm):
    """The shortcut's input in the shape of F(x)."""
    if stride == 1:
        return x
    if option == "A":
        return torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1)  # twice the channels
    if batch_norm:
        return bn(conv(x, w["shortcut.path.0.weight"], 2), w["shortcut.path.1.weight"], w["shortcut.path.1.bias"])
    return conv(x, w["shortcut.path.weight"], 2)


def joined(case, x, h, f, w, stride, mask):
    """What the addition gives, by Table 1."""
    if "gate" in case:
        g = sigmoid(conv(x, w["shortcut.gate.weight"], stride, w["shortcut.gate.bias"]))
    match case:
        case "identity":
            return h + f
        case "scaled 0, 1":
            return f
        case "scaled 0.5, 1":
            return h / 2 + f
        case "scaled 0.5, 0.5":
            return (h + f) / 2
        case "exclusive gate":
            return h - g * h + g * f
        case "shortcut-only gate":
            return h - g * h + f
        case "convolution":
            weights = (w[f"shortcut.path.{name}"] for name in ("1.weight", "1.bias"))
            return bn(conv(x, w["shortcut.path.0.weight"], stride), *weights) + f
        case "dropout":
            return mask * h / 0.75 + f


def mask_of(unit, shape):
    """The dropout mask of generator seed 4 at a unit whose h(x) has that shape; for other units None."""
    dropouts = [module for module in unit.modules() if isinstance(module, Dropout)]
    if not dropouts:
        return None
    dropouts[0].generator = torch.Generator().manual_seed(4)
    mask = dropouts[0](torch.ones(shape, dtype=torch.float64)) != 0
    assert 0 < mask.double().mean() < 1
    dropouts[0].generator.manual_seed(4)
    return mask


def assert_equal_with_gradients(unit, equation, x, unused=False):
    """`unused` allows weights that nothing depends on: a projection that is scaled by 0."""
    w = dict(unit.named_parameters())
    x.requires_grad_()
    got, wanted = unit(x), equation(x, w)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    direction = random_like(*got.shape, seed=3)
    inputs, options = [x, *w.values()], {"allow_unused": unused, "materialize_grads": unused}
    pairs = zip(*(torch.autograd.grad(y, inputs, direction, **options) for y in (got, wanted)), strict=True)
    for name, (a, b) in zip(["x", *w], pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"gradient of {name}: {m}")


@pytest.mark.parametrize("place, option", [(PLAIN, "A"), (CHANGING, "A"), (CHANGING, "B")])
@pytest.mark.parametrize("case", TABLE_1)
def test_shortcut_is_its_equation(case, place, option):
    unit, stride = random_unit(place, TABLE_1[case], shape_change=option), place
    mask = mask_of(unit, (4, 16 * stride, 6 // stride, 6 // stride))

    def equation(x, w):
        h = None if case == "convolution" else h_of(x, w, stride, option, batch_norm=True)
        return relu(joined(case, x, h, original_residual(x, w, stride), w, stride, mask))

    unused = case == "scaled 0, 1" and place == CHANGING and option == "B"
    assert_equal_with_gradients(unit, equation, random_like(4, 16, 6, 6), unused)


@pytest.mark.parametrize("place, option", [(PLAIN, "A"), (CHANGING, "A"), (CHANGING, "B")])
@pytest.mark.parametrize("case", TABLE_1)
def test_shortcut_with_full_pre_activation(case, place, option):
    """Identity and option A take x itself, and projections what BN-ReLU makes of it; a gate sees what h sees."""
    unit, stride = random_unit(place, TABLE_1[case], shape_change=option, activation="full-pre-activation"), place
    mask = mask_of(unit, (4, 16 * stride, 6 // stride, 6 // stride))

    def equation(x, w):
        activated = relu(bn(x, w["pre.0.weight"], w["pre.0.bias"]))
        projected = case == "convolution" or (place == CHANGING and option == "B")
        z = activated if projected else x
        h = None if case == "convolution" else h_of(z, w, stride, option, batch_norm=False)
        return joined(case, z, h, pre_activated_residual(activated, w, stride), w, stride, mask)

    unused = case == "scaled 0, 1" and place == CHANGING and option == "B"
    assert_equal_with_gradients(unit, equation, random_like(4, 16, 6, 6), unused)


@pytest.mark.parametrize("case", TABLE_1)
def test_changing_units_can_be_left_plain(case):
    """shortcut_at_shape_change "identity": no gate, scale, mask or convolution, only option A."""
    unit = random_unit(CHANGING, TABLE_1[case], shortcut_at_shape_change="identity")

    def equation(x, w):
        return relu(h_of(x, w, 2, "A", batch_norm=False) + original_residual(x, w, 2))

    assert_equal_with_gradients(unit, equation, random_like(4, 16, 6, 6))


@pytest.mark.parametrize("case", [case for case in TABLE_1 if case != "identity"])
@pytest.mark.parametrize("unit, depth, changing", [("basic", 14, {2, 4}), ("bottleneck", 20, {0, 2, 4})])
def test_other_units_keep_their_shortcut_where_changing_ones_are_left_plain(case, unit, depth, changing):
    """A bottleneck network's first unit changes the width, from 16 to 64."""
    shortcut = TABLE_1[case]
    for choice, plain in [("identity", changing), ("apply", set())]:
        units = CifarResNet(depth, unit=unit, shortcut=shortcut, shortcut_at_shape_change=choice).units
        assert {i for i, u in enumerate(units) if type(u.shortcut) is not SHORTCUTS[shortcut["kind"]]} == plain


@pytest.mark.parametrize("kind", ["exclusive-gate", "shortcut-only-gate"])
@pytest.mark.parametrize("bias", [0, -6.0])
def test_gate_has_the_given_bias_and_no_batch_norm(kind, bias):
    network = CifarResNet(depth=14, shortcut={"kind": kind, "gate_bias": bias})
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    assert [tuple(gate.weight.shape) for gate in gates] == [
        *[(16, 16, 1, 1)] * 2,
        *[(32, 16, 1, 1), (32, 32, 1, 1)],
        *[(64, 32, 1, 1), (64, 64, 1, 1)],
    ]
    for gate in gates:
        assert gate.bias.requires_grad
        assert torch.equal(gate.bias, torch.full_like(gate.bias, bias))

    def norms(net):
        return sum(isinstance(module, (BatchNorm2d, nn.BatchNorm2d)) for module in net.modules())

    assert norms(network) == norms(CifarResNet(depth=14)) == 1 + 6 * 2


@pytest.mark.parametrize("bias, g", [(0, 0.5), (-6, 0.0024726231566347743), (-1, 0.2689414213699951)])
def test_a_gate_of_zero_weights_opens_as_its_bias_says(bias, g):
    gate = Gate(3, 5, 1, bias).double()
    nn.init.zeros_(gate.weight)
    torch.testing.assert_close(gate(random_like(2, 3, 4, 4)), torch.full((2, 5, 4, 4), g, dtype=torch.float64))


@pytest.mark.parametrize("stride, size, out_size", [(1, 6, 6), (2, 6, 3), (2, 5, 3)])
def test_zero_padding_takes_every_stride_th_pixel_and_appends_zero_channels(stride, size, out_size):
    x = random_like(2, 3, size, size)
    y = ZeroPadding(3, 7, stride)(x)
    assert y.shape == (2, 7, out_size, out_size)
    assert not y[:, 3:].any()
    for row in range(out_size):
        for column in range(out_size):
            assert torch.equal(y[:, :3, row, column], x[:, :, row * stride, column * stride])


def dropout_shortcut(ratio, seed=None):
    shortcut = DropoutShortcut(8, 8, 1, nn.Identity(), BatchNorm2d, ratio=ratio)
    if seed is not None:
        shortcut.dropout.generator = torch.Generator().manual_seed(seed)
    return shortcut


@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_dropout_is_exact_given_its_mask(ratio):
    """y is F(x) or h(x) / (1 - p) + F(x), and the gradient of h has the same mask."""
    x, f = random_like(4, 8, 5, 5).requires_grad_(), random_like(4, 8, 5, 5, seed=5)
    y = dropout_shortcut(ratio, seed=1)(x, f)
    mask = y != f
    assert torch.equal(y, torch.where(mask, x / (1 - ratio) + f, f))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, mask.double() / (1 - ratio))


def test_dropout_masks_are_a_function_of_the_generators_seed():
    x, f = random_like(4, 8, 5, 5), torch.zeros(4, 8, 5, 5, dtype=torch.float64)
    shortcut = dropout_shortcut(0.5, seed=1)
    torch.manual_seed(0)
    first, second = shortcut(x, f), shortcut(x, f)
    torch.manual_seed(99)  # of no account
    assert torch.equal(dropout_shortcut(0.5, seed=1)(x, f), first)
    assert not torch.equal(dropout_shortcut(0.5, seed=2)(x, f), first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("ratio", [0.5, 0.2])
def test_dropout_drops_its_ratio_and_keeps_the_expectation(ratio):
    """Standard deviations over 80,000 elements are below 0.002 and 0.004."""
    ones, zeros = torch.ones(400, 8, 5, 5), torch.zeros(400, 8, 5, 5)
    y = dropout_shortcut(ratio, seed=1)(ones, zeros)
    assert (y == 0).float().mean() == pytest.approx(ratio, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.02)


def test_dropout_is_off_in_the_test():
    x, f = random_like(2, 8, 5, 5), random_like(2, 8, 5, 5, seed=5)
    shortcut = dropout_shortcut(0.5, seed=1)
    assert not torch.equal(shortcut(x, f), x + f)
    assert torch.equal(shortcut.eval()(x, f), x + f)
