"""Every residual unit against its equation, stated here layer by layer (he2016, Figure 4 and Appendix)."""

import pytest
import torch
from comparison import random_like
from torch.nn import functional as F

from identity_mappings.networks.resnet import CifarResNet
from identity_mappings.networks.units import ACTIVATIONS

DEPTHS = {"basic": 14, "bottleneck": 20, "single": 8}  # two units in each stage
PLACES = {"first": 0, "plain": 1, "changing": 2}

# F behind its pre-activation, the addition, and f behind that.
FIGURE_4 = {
    ("basic", "original"): "conv bn relu conv bn add relu",
    ("basic", "bn-after-addition"): "conv bn relu conv add bn relu",
    ("basic", "relu-before-addition"): "conv bn relu conv bn relu add",
    ("basic", "relu-only-pre-activation"): "conv bn relu conv bn add",
    ("basic", "full-pre-activation"): "conv bn relu conv add",
    ("bottleneck", "original"): "conv bn relu conv bn relu conv bn add relu",
    ("bottleneck", "bn-after-addition"): "conv bn relu conv bn relu conv add bn relu",
    ("bottleneck", "relu-before-addition"): "conv bn relu conv bn relu conv bn relu add",
    ("bottleneck", "relu-only-pre-activation"): "conv bn relu conv bn relu conv bn add",
    ("bottleneck", "full-pre-activation"): "conv bn relu conv bn relu conv add",
    ("single", "original"): "conv bn add relu",
    ("single", "bn-after-addition"): "conv add bn relu",
    ("single", "relu-before-addition"): "conv bn relu add",
    ("single", "relu-only-pre-activation"): "conv bn add",
    ("single", "full-pre-activation"): "conv add",
}
PRE_ACTIVATION = {"relu-only-pre-activation": "relu", "full-pre-activation": "bn relu"}
NO_PROJECTION_BATCH_NORM = ("bn-after-addition", "full-pre-activation")


def layers_of(unit, activation, first, shared):
    """The unit's layers; "split" is where the shortcut leaves: behind the pre-activation if that is `shared`."""
    pre = "" if first else PRE_ACTIVATION.get(activation, "")
    return " ".join([*([pre, "split"] if shared else ["split", pre]), FIGURE_4[unit, activation]]).split()


def batch_norm(x, scale, shift, replicas):
    """Every replicas-th sample is normalized together."""
    parts = []
    for part in (x[replica::replicas] for replica in range(replicas)):
        mean = part.mean((0, 2, 3), keepdim=True)
        variance = ((part - mean) ** 2).mean((0, 2, 3), keepdim=True)
        normalized = (part - mean) / (variance + 1e-5).sqrt()
        parts.append(normalized * scale[:, None, None] + shift[:, None, None])
    return torch.stack(parts, 1).flatten(0, 1)


def follow(layers, x, weights, stride=1, shortcut=None, replicas=1):
    """Apply `layers` with `weights` in the order of use; the stride is the first convolution's."""
    convolutions = iter([w for w in weights if w.dim() == 4])
    vectors = [w for w in weights if w.dim() == 1]
    norms = iter(zip(vectors[::2], vectors[1::2], strict=True))
    for layer in layers:
        if layer == "conv":
            weight = next(convolutions)
            x, stride = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2), 1
        elif layer == "bn":
            x = batch_norm(x, *next(norms), replicas)
        elif layer == "relu":
            x = x * (x > 0)
        elif layer == "split":
            kept = shortcut(x)
        elif layer == "add":
            x = kept + x
    return x


def option_a(x, channels, stride):
    x = x[:, :, ::stride, ::stride]
    return torch.cat([x, x.new_zeros(len(x), channels - x.shape[1], *x.shape[2:])], 1)


def unit_equation(x, parameters, unit, activation, place, option, projection_bn=None, pre_padding=False, replicas=1):
    """The whole unit; `parameters` by name, of which only "shortcut." and the order of the rest matter."""
    ours = [p for name, p in parameters.items() if not name.startswith("shortcut.")]
    projection = [p for name, p in parameters.items() if name.startswith("shortcut.")]
    stride = 2 if place == "changing" else 1
    changes = place == "changing" or (place == "first" and unit == "bottleneck")
    out_channels = [w for w in ours if w.dim() == 4][-1].shape[0]
    if projection_bn is None:
        projection_bn = activation not in NO_PROJECTION_BATCH_NORM

    def shortcut(z):
        if not changes:
            return z
        if option == "A":
            return option_a(z, out_channels, stride)
        return follow(["conv", "bn"] if projection_bn else ["conv"], z, projection, stride, replicas=replicas)

    shared = changes and (option == "B" or pre_padding)
    return follow(layers_of(unit, activation, place == "first", shared), x, ours, stride, shortcut, replicas)


def random_network(**arguments):
    """In double precision, every weight random, batch norm's too."""
    network = CifarResNet(classes=5, **arguments).double()
    g = torch.Generator().manual_seed(1)
    for p in network.parameters():
        p.data.normal_(0, (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 1, generator=g)
    return network


def assert_equal_with_gradients(module, equation, x):
    """Outputs, and gradients of the input and of every weight; a weight that the equation does not use is an error."""
    parameters = dict(module.named_parameters())
    x.requires_grad_()
    got, wanted = module(x), equation(x, parameters)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    direction = random_like(*got.shape, seed=3)
    inputs = [x, *parameters.values()]
    pairs = zip(*(torch.autograd.grad(y, inputs, direction) for y in (got, wanted)), strict=True)
    for name, (a, b) in zip(["x", *parameters], pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"gradient of {name}: {m}")


def check_unit(unit, activation, place, option, options=None, **equation_options):
    network = random_network(
        depth=DEPTHS[unit], unit=unit, activation=activation, shape_change=option, **(options or {})
    )
    module = network.units[PLACES[place]]
    channels = next(p for p in module.residual.parameters() if p.dim() == 4).shape[1]
    assert_equal_with_gradients(
        module,
        lambda x, parameters: unit_equation(x, parameters, unit, activation, place, option, **equation_options),
        random_like(4, channels, 6, 6),
    )


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("unit", DEPTHS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_unit_is_its_equation(unit, activation, place, option):
    check_unit(unit, activation, place, option)


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_norm_of_the_projection_can_be_chosen(unit, activation, chosen):
    check_unit(unit, activation, "changing", "B", {"projection_batch_norm": chosen}, projection_bn=chosen)


@pytest.mark.parametrize("place", ["plain", "changing"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_zero_padding_can_see_the_pre_activated_input(activation, place):
    check_unit("basic", activation, place, "A", {"pre_activate_zero_padding": True}, pre_padding=True)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("unit, option", [("basic", "A"), ("bottleneck", "B"), ("single", "A")])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_is_its_equation(unit, option, activation, replicas):
    """conv1-BN-ReLU before the first split, the units, one more activation behind the last, pooling, linear layer."""

    def equation(x, parameters):
        def of(prefix):
            return {name[len(prefix) :]: p for name, p in parameters.items() if name.startswith(prefix)}

        x = follow(["conv", "bn", "relu"], x, [*of("stem.").values()], replicas=replicas)
        for index, place in enumerate(["first", "plain", "changing", "plain", "changing", "plain"]):
            x = unit_equation(x, of(f"units.{index}."), unit, activation, place, option, replicas=replicas)
        last = PRE_ACTIVATION.get(activation, "").split()
        x = follow(last, x, [*of("last.").values()], replicas=replicas)
        pooled = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        return pooled @ parameters["linear.weight"].T + parameters["linear.bias"]

    network = random_network(
        depth=DEPTHS[unit], unit=unit, activation=activation, shape_change=option, replicas=replicas
    )
    assert len(network.units) == 6
    assert_equal_with_gradients(network, equation, random_like(4, 3, 8, 8))
