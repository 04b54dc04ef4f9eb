"""The identities of he2016 (Equations 4, 5, 7, 8 and Figure 5) on whole networks.

Every proof is a function that raises an AssertionError; each is also run on networks that are bent on purpose.
"""

from copy import deepcopy

import pytest
import torch
from comparison import assert_close, different, random_like, randomized
from torch import nn

from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import CifarResNet, ImageNetResNet
from identity_mappings.networks.units import AsymmetricUnit

CLASSES = 7
SHAPES = {  # depth, unit and shape change, units in a stage, the first with an identity shortcut in stages 1, 2 and 3
    "20": ({"depth": 20, "unit": "basic", "shape_change": "A"}, 3, (0, 1, 1)),
    "56": ({"depth": 56, "unit": "basic", "shape_change": "A"}, 9, (0, 1, 1)),
    "29": ({"depth": 29, "unit": "bottleneck", "shape_change": "B"}, 3, (1, 1, 1)),
    "56 B": ({"depth": 56, "unit": "bottleneck", "shape_change": "B"}, 6, (1, 1, 1)),
}
AFTER_ADDITION_IDENTITY = ("full-pre-activation", "relu-only-pre-activation", "relu-before-addition")
PRE_ACTIVATIONS = AFTER_ADDITION_IDENTITY[:2]
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def cifar(shape, activation="full-pre-activation", **choices):
    return randomized(CifarResNet(classes=CLASSES, **SHAPES[shape][0], activation=activation, **choices))


def images(samples=3, size=8):
    return random_like(samples, 3, size, size)


def spans(shape):
    """All pairs (l, L) of units within a stage between which every shortcut is an identity; x_L is L's input."""
    _, count, firsts = SHAPES[shape]
    for stage, first in enumerate(firsts):
        start, end = stage * count + first, (stage + 1) * count
        yield from ((lower, upper) for lower in range(start, end) for upper in range(lower + 1, end + 1))


def inputs_of_units(network, x):
    """Every x_l of one forward pass, the last unit's output behind them, and E, a random linear function of scores."""
    found = []
    hooks = [unit.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])) for unit in network.units]
    hooks.append(network.units.register_forward_hook(lambda _, inputs, output: found.append(output)))
    scores = network(x)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(network.units) + 1
    return found, (scores * random_like(*scores.shape, seed=3)).sum()


def residual_of(unit, x):
    """F(x_l, W_l), by the unit's own layers, without its shortcut and its addition."""
    return unit.residual(unit.pre(x))


def sum_of_residuals(network, lower, upper, x, scale=1.0):
    """Equation 7's second term: F of every unit from l to L - 1, times the scale of all shortcuts above it.

    As a function of x_l, by a recursion of its own: with scale 1, that of Equation 4.
    """
    total = 0
    for index in range(lower, upper):
        f = residual_of(network.units[index], x)
        total = scale * total + f
        x = scale * x + f
    return total


def check_forward(network, shape, scale=1.0):
    """Equation 4, x_L = x_l + sum F(x_i); with a scale Equation 7. The x_i are those of the network."""
    with torch.no_grad():
        x, _ = inputs_of_units(network, images())
        for lower, upper in spans(shape):
            total = sum(
                scale ** (upper - 1 - index) * residual_of(network.units[index], x[index])
                for index in range(lower, upper)
            )
            assert total.abs().max() > 1e-3 * x[upper].abs().max(), "F is negligible"
            assert_close(scale ** (upper - lower) * x[lower] + total, x[upper], "signal")


def check_gradient(network, shape, scale=1.0):
    """Equation 5, dE/dx_l = dE/dx_L (1 + d/dx_l sum F(x_i)); with a scale Equation 8."""
    x, loss = inputs_of_units(network, images())
    gradients = torch.autograd.grad(loss, x)
    for lower, upper in spans(shape):
        start = x[lower].detach().requires_grad_()
        total = sum_of_residuals(network, lower, upper, start, scale)
        (through_layers,) = torch.autograd.grad(total, start, gradients[upper])
        assert through_layers.abs().max() > 1e-3 * gradients[upper].abs().max(), "F is negligible"
        direct = scale ** (upper - lower) * gradients[upper]
        assert_close(direct + through_layers, gradients[lower], "gradient")


def silence(network):
    """Zero the last convolution of every F: F is 0 or, with a batch norm behind it, constant."""
    for unit in network.units:
        nn.init.zeros_([m for m in unit.residual.modules() if isinstance(m, nn.Conv2d)][-1].weight)


def check_direct_term(network, shape, scale=1.0, exact=True):
    """The gradient of silent units is the direct term alone: not an ulp is lost where the scale is a power of two."""
    x, loss = inputs_of_units(network, images())
    gradients = torch.autograd.grad(loss, x)
    for lower, upper in spans(shape):
        wanted = scale ** (upper - lower) * gradients[upper]
        assert wanted.any()
        if exact:
            torch.testing.assert_close(
                gradients[lower], wanted, rtol=0, atol=0, msg=lambda message: f"direct term: {message}"
            )
        else:
            assert_close(gradients[lower], wanted, "direct term")


@MODES
@pytest.mark.parametrize("activation", AFTER_ADDITION_IDENTITY)
@pytest.mark.parametrize("shape", SHAPES)
def test_equation_4(shape, activation, training):
    check_forward(cifar(shape, activation).train(training), shape)


@MODES
@pytest.mark.parametrize("activation", AFTER_ADDITION_IDENTITY)
@pytest.mark.parametrize("shape", ["20", "56", "29"])
def test_equation_5(shape, activation, training):
    check_gradient(cifar(shape, activation).train(training), shape)


@MODES
@pytest.mark.parametrize("activation", AFTER_ADDITION_IDENTITY)
@pytest.mark.parametrize("shape", ["56", "29"])
def test_direct_term_of_equation_5_arrives_undiminished(shape, activation, training):
    network = cifar(shape, activation).train(training)
    silence(network)
    check_direct_term(network, shape)


def scaled(shape, scale, residual_scale=1, activation="full-pre-activation"):
    return cifar(
        shape, activation, shortcut={"kind": "scaled", "shortcut_scale": scale, "residual_scale": residual_scale}
    )


@MODES
@pytest.mark.parametrize("scale", [0.5, 0.9, 1.25])
@pytest.mark.parametrize("shape", ["20", "29"])
def test_equations_7_and_8(shape, scale, training):
    network = scaled(shape, scale).train(training)
    check_forward(network, shape, scale)
    check_gradient(network, shape, scale)


@pytest.mark.parametrize("activation", AFTER_ADDITION_IDENTITY)
def test_equations_7_and_8_hold_wherever_nothing_is_after_the_addition(activation):
    network = scaled("20", 0.9, activation=activation)
    check_forward(network, "20", 0.9)
    check_gradient(network, "20", 0.9)


@pytest.mark.parametrize("scale, exact", [(0.5, True), (2.0, True), (0.9, False), (1.1, False)])
@pytest.mark.parametrize("shape", ["56", "29"])
def test_direct_term_of_equation_8_is_the_product_of_scales(shape, scale, exact):
    """Of the gradient, and of the signal; over 8 units of 56 layers 0.5 leaves 1/256 of it."""
    network = scaled(shape, scale)
    silence(network)
    check_direct_term(network, shape, scale, exact)
    with torch.no_grad():
        x, _ = inputs_of_units(network, images())
        for lower, upper in spans(shape):
            if exact:
                assert torch.equal(x[upper], scale ** (upper - lower) * x[lower])
            assert_close(x[upper], scale ** (upper - lower) * x[lower], "signal")


@MODES
@pytest.mark.parametrize("activation", ["original", "bn-after-addition"])
@pytest.mark.parametrize("shape", ["20", "29"])
def test_an_activation_after_the_addition_breaks_equations_4_and_5(shape, activation, training):
    """he2016, Section 2: both need f to be the identity."""
    network = cifar(shape, activation).train(training)
    with different("signal"):
        check_forward(network, shape)
    with different("gradient"):
        check_gradient(network, shape)
    silence(network)
    with different("direct term"):
        check_direct_term(network, shape)


def shortcut_dropped(network):
    network.units[2].shortcut.forward = lambda x, f: f + 0 * x


def shortcut_normalized(network):
    network.units[2].shortcut.path = randomized(BatchNorm2d(network.units[2].pre[0].channels))


def shortcut_of_the_activated(network):
    network.units[2].pre_activated_shortcut = True


def relu_after_the_addition(network):
    network.units[2].post = nn.ReLU()


def shortcut_halved(network):
    network.units[2].shortcut.forward = lambda x, f: x / 2 + f


def residual_halved(network):
    """Of no account to the direct term."""
    network.units[2].shortcut.forward = lambda x, f: x + f / 2


SHORTCUT_BENDS = [shortcut_halved, shortcut_normalized, shortcut_of_the_activated, relu_after_the_addition]


@MODES
@pytest.mark.parametrize("bend", [*SHORTCUT_BENDS, shortcut_dropped, residual_halved])
@pytest.mark.parametrize("shape", ["20", "29"])
def test_bent_networks_break_equations_4_and_5(shape, bend, training):
    network = cifar(shape).train(training)
    check_forward(network, shape)
    check_gradient(network, shape)
    bend(network)
    with different("signal"):
        check_forward(network, shape)
    with different("gradient"):
        check_gradient(network, shape)


@pytest.mark.parametrize("bend", SHORTCUT_BENDS)
def test_bent_shortcuts_diminish_the_direct_term(bend):
    network = cifar("20")
    silence(network)
    bend(network)
    with different("direct term"):
        check_direct_term(network, "20")


@pytest.mark.parametrize("shortcut_scale, residual_scale", [(0.5, 0.5), (0.91, 1), (1, 1), (0.9, 0.9)])
def test_other_scales_break_equations_7_and_8(shortcut_scale, residual_scale):
    network = scaled("20", shortcut_scale, residual_scale)
    with different("signal"):
        check_forward(network, "20", 0.9)
    with different("gradient"):
        check_gradient(network, "20", 0.9)
    if shortcut_scale != 0.9:
        silence(network)
        with different("direct term"):
            check_direct_term(network, "20", 0.9, exact=False)


def check_same_function(got, wanted, x, made_of=None):
    """Outputs, and gradients of the input and of all weights.

    `made_of` is the network whose modules `got` has, where that is not `wanted`: its weights have the same names.
    """
    made_of = made_of or wanted
    assert {id(p) for p in got.parameters()} == {id(p) for p in made_of.parameters()}
    x = x.clone().requires_grad_()
    a, b = got(x), wanted(x)
    assert_close(a, b, "output")
    direction = random_like(*b.shape, seed=3)
    of_wanted, of_got = dict(wanted.named_parameters()), dict(made_of.named_parameters())
    assert list(of_got) == list(of_wanted)
    gradients_a = torch.autograd.grad(a, [x, *of_got.values()], direction)
    gradients_b = torch.autograd.grad(b, [x, *of_wanted.values()], direction)
    for name, ours, theirs in zip(["input", *of_wanted], gradients_a, gradients_b, strict=True):
        assert_close(ours, theirs, f"gradient of {name}")


FIGURE_5 = {
    "CIFAR basic A": (CifarResNet, {"depth": 20, "unit": "basic", "shape_change": "A", "classes": CLASSES}),
    "CIFAR basic B": (CifarResNet, {"depth": 20, "unit": "basic", "shape_change": "B", "classes": CLASSES}),
    "CIFAR bottleneck": (CifarResNet, {"depth": 29, "unit": "bottleneck", "shape_change": "B", "classes": CLASSES}),
    "ImageNet basic": (ImageNetResNet, {"depth": 18, "unit": "basic", "shape_change": "B", "classes": CLASSES}),
    "ImageNet bottleneck": (
        ImageNetResNet,
        {"depth": 50, "unit": "bottleneck", "shape_change": "B", "classes": CLASSES},
    ),
}


class AsymmetricNetwork(nn.Module):
    """A pre-activation network in the form of Figure 5(b), whose activations are moved across the addition."""

    def __init__(self, network):
        super().__init__()
        if not all(isinstance(unit.post, nn.Identity) for unit in network.units):
            raise ValueError("only a network with pre-activation has an asymmetric form: this one activates x itself")
        self.stem, self.linear = network.stem, network.linear
        activations = [*(unit.pre for unit in list(network.units)[1:]), network.last]
        self.units = nn.ModuleList(map(AsymmetricUnit, network.units, activations))

    def forward(self, x):
        x = activated = self.stem(x)
        for unit in self.units:
            x, activated = unit(x, activated)
        return self.linear(activated.mean((2, 3)))


def figure_5(name, activation):
    """A network of Figure 5, and images for it."""
    kind, arguments = FIGURE_5[name]
    return randomized(kind(**arguments, activation=activation)), images(2, 32 if kind is ImageNetResNet else 8)


@MODES
@pytest.mark.parametrize("activation", PRE_ACTIVATIONS)
@pytest.mark.parametrize("name", FIGURE_5)
def test_figure_5_asymmetric_is_pre_activation(name, activation, training):
    """Figure 5(b) and (c), Equations 9 and 10; the running statistics that a batch leaves agree, too."""
    network, x = figure_5(name, activation)
    network.train(training)
    check_same_function(AsymmetricNetwork(network), network, x)
    copy = deepcopy(network)
    network(x)
    AsymmetricNetwork(copy)(x)
    for (buffer, ours), theirs in zip(copy.named_buffers(), network.buffers(), strict=True):
        assert_close(ours, theirs, buffer)


def figure_5_by_hand(network, symmetric):
    """An original network by its own modules, as Figure 5(a) (symmetric) or 5(b) draws it, of y_l, behind the addition.

    Equation 9 against the equation above it: y_{l+1} = y_l + F(f(y_l)), and not f(y_l) + F(f(y_l)).
    """

    def forward(x):
        y = activated = network.stem(x)
        for unit in network.units:
            y = unit.shortcut(activated if symmetric else y, unit.residual(activated))
            activated = torch.relu(y)
        return network.linear(activated.mean((2, 3)))

    return forward


def relu_only_of(network):
    """An original network's modules as one with ReLU-only pre-activation: the layers of F are the same."""
    moved = deepcopy(network)
    for index, unit in enumerate(moved.units):
        unit.pre, unit.post = nn.ReLU() if index else nn.Identity(), nn.Identity()
    moved.last = nn.ReLU()
    return moved


@MODES
@pytest.mark.parametrize("shape", ["20", "56"])
def test_figure_5_moves_the_activation_of_one_branch_only(shape, training):
    """With the weights of one original network: on both branches f is that network, and on F's it is the network with
    ReLU-only pre-activation. The two are different functions, and AsymmetricNetwork is the second."""
    original = cifar(shape, "original").train(training)
    moved, x = relu_only_of(original), images()
    symmetric, asymmetric = figure_5_by_hand(original, True)(x), figure_5_by_hand(original, False)(x)
    assert_close(original(x), symmetric, "original")
    assert_close(moved(x), asymmetric, "moved")
    assert_close(AsymmetricNetwork(moved)(x), asymmetric, "asymmetric")
    with different("original"):
        assert_close(original(x), asymmetric, "original")
    with different("asymmetric"):
        assert_close(AsymmetricNetwork(moved)(x), symmetric, "asymmetric")


@MODES
@pytest.mark.parametrize("activation", ["original", "bn-after-addition"])
@pytest.mark.parametrize("name", ["CIFAR basic A", "CIFAR bottleneck"])
def test_figure_5_is_for_pre_activation_only(name, activation, training):
    """With f on both branches there is no asymmetric form: it is refused, or another function."""
    network, x = figure_5(name, activation)
    network.train(training)
    with pytest.raises((AssertionError, ValueError), match=r"^output: Tensor-likes are not close|pre-activation"):
        assert_close(AsymmetricNetwork(network)(x), network(x), "output")


@pytest.mark.parametrize("activation", PRE_ACTIVATIONS)
def test_the_asymmetric_graph_activates_what_f_sees_and_not_what_the_shortcut_sees(activation):
    """Within a stage F's input has no negative element, the shortcut's has, and the direct gradient is 1."""
    network = cifar("20", activation)
    seen, asymmetric = [], AsymmetricNetwork(network)
    for unit in asymmetric.units:
        unit.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs, output)))
    asymmetric(images())
    assert len(seen) == 9
    for index, (module, (x, activated), (y, after)) in enumerate(list(seen)):
        assert activated.min() >= 0
        assert after.min() >= 0
        assert y.min() < 0
        if index in (3, 6):  # option A
            continue
        assert_close(y, x + module.residual(activated), f"unit {index}")
        if index:
            assert x.min() < 0
        of_x, of_activated = x.detach().requires_grad_(), activated.detach().requires_grad_()
        output, _ = module(of_x, of_activated)
        direction = random_like(*output.shape, seed=3)
        direct, through_f = torch.autograd.grad(output, [of_x, of_activated], direction)
        assert torch.equal(direct, direction)
        assert through_f.any()


def strides_moved_to_the_3x3(network):
    for unit in network.units:
        first, second = unit.residual[0], unit.residual[3]
        first.stride, second.stride = second.stride, first.stride


def last_activation_left_out(network):
    network.last = nn.Identity()


def batch_norm_after_the_projection(network):
    shortcut = network.units[3].shortcut
    shortcut.path = nn.Sequential(shortcut.path, randomized(BatchNorm2d(shortcut.path.out_channels)))


def projection_of_x_itself(network):
    network.units[3].pre_activated_shortcut = False


def pre_activation_left_out(network):
    network.units[4].pre = nn.Identity()


@MODES
@pytest.mark.parametrize(
    "bend",
    [
        strides_moved_to_the_3x3,
        last_activation_left_out,
        batch_norm_after_the_projection,
        projection_of_x_itself,
        pre_activation_left_out,
        shortcut_dropped,
        shortcut_of_the_activated,
    ],
)
def test_bent_networks_are_not_figure_5s(bend, training):
    """The comparison with the asymmetric form sees each bend of a copy."""
    network, x = figure_5("CIFAR bottleneck", "full-pre-activation")
    network.train(training)
    bent = deepcopy(network)
    check_same_function(AsymmetricNetwork(bent), network, x, bent)
    bend(bent)
    with different("output"):
        check_same_function(AsymmetricNetwork(bent), network, x, bent)


@MODES
def test_a_symmetric_form_is_not_figure_5s(training):
    """f^ on both branches of AsymmetricUnit, which is what a mistake in it would be."""
    network, x = figure_5("CIFAR basic A", "full-pre-activation")
    asymmetric = AsymmetricNetwork(network.train(training))
    for unit in asymmetric.units:
        unit.pre_activated_shortcut = True
    with different("output"):
        check_same_function(asymmetric, network, x)
