"""From parameters to a network: replicas, initial weights and which of them decay."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from identity_mappings.errors import UserError
from identity_mappings.networks.batch_norm import BatchNorm2d
from identity_mappings.networks.resnet import CifarResNet
from identity_mappings.networks.shortcuts import Gate
from identity_mappings.parameters import load
from identity_mappings.training.assembly import build, decayed, get_recipe, initialize

PROJECT = load(Path(__file__).parents[2])
HE2016 = get_recipe(PROJECT.resolve("cifar10-resnet20"))
RELEASED = get_recipe(PROJECT.resolve("cifar10-resnet1001-full-pre-activation-released-code"))
RECIPES = {"he2016-cifar": HE2016, "released-code": RELEASED}
GATED = {"kind": "exclusive-gate", "gate_bias": -6.0}


def initialized(seed=0, recipe=HE2016, **arguments):
    network = CifarResNet(**{"depth": 14, **arguments})
    initialize(network, recipe, seed)
    return network


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_initial_weights_depend_on_the_seed_only(recipe):
    torch.manual_seed(1)
    first = initialized(3, recipe, shortcut=GATED)
    torch.manual_seed(2)
    assert equal(first, initialized(3, recipe, shortcut=GATED))
    other = initialized(4, recipe, shortcut=GATED)
    different = [name for name, p in other.named_parameters() if not torch.equal(p, first.get_parameter(name))]
    assert set(different) == {name for name, p in first.named_parameters() if p.dim() > 1}


def test_initial_weights_do_not_depend_on_what_else_the_network_has():
    plain, gated = initialized(), initialized(shortcut=GATED)
    assert all(torch.equal(p, gated.get_parameter(name)) for name, p in plain.named_parameters())


def test_initial_weights_do_not_depend_on_the_order_of_modules():
    def network(order):
        return nn.ModuleDict({name: nn.Conv2d(3, 4, 3) if name < "c" else nn.Linear(5, 6) for name in order})

    one, other = network("abcd"), network("dbca")
    initialize(one, HE2016, 0)
    initialize(other, HE2016, 0)
    for name in "abcd":
        assert torch.equal(one[name].weight, other[name].weight)
    assert not torch.equal(one["a"].weight, one["b"].weight)
    assert not torch.equal(one["c"].weight, one["d"].weight)


@pytest.mark.parametrize(
    "recipe, unit, name, variance",
    [
        ("he2016-cifar", "basic", "stem.0", 2 / (9 * 3)),
        ("he2016-cifar", "basic", "units.4.residual.0", 2 / (9 * 32)),
        ("he2016-cifar", "basic", "units.5.residual.3", 2 / (9 * 64)),
        ("he2016-cifar", "bottleneck", "units.4.residual.0", 2 / 128),
        ("he2016-cifar", "bottleneck", "units.4.residual.3", 2 / (9 * 64)),
        ("he2016-cifar", "bottleneck", "units.4.residual.6", 2 / 64),
        ("he2016-cifar", "bottleneck", "units.4.shortcut.path.0", 2 / 128),
        ("he2016-cifar", "bottleneck", "linear", 2 / 256),
        ("released-code", "basic", "stem.0", 2 / (9 * 16)),
        ("released-code", "basic", "units.4.residual.0", 2 / (9 * 64)),
        ("released-code", "bottleneck", "units.4.residual.0", 2 / 64),
        ("released-code", "bottleneck", "units.4.residual.3", 2 / (9 * 64)),
        ("released-code", "bottleneck", "units.4.residual.6", 2 / 256),
        ("released-code", "bottleneck", "units.4.shortcut.path.0", 2 / 256),
        ("released-code", "bottleneck", "linear", 1 / (3 * 256)),
    ],
)
def test_standard_deviations(recipe, unit, name, variance):
    """2 / fan-in (He et al. 2015) or 2 / fan-out (released code); torch's linear layer: uniform in 1 / sqrt(inputs)."""
    depth, option = (14, "A") if unit == "basic" else (20, "B")
    weights = initialized(0, RECIPES[recipe], depth=depth, unit=unit, shape_change=option, classes=100)
    weight, deviation = weights.get_submodule(name).weight, variance**0.5
    spread = 4 * deviation / weight.numel() ** 0.5  # four standard errors of the mean
    assert weight.mean().item() == pytest.approx(0, abs=spread)
    assert weight.std().item() == pytest.approx(deviation, abs=spread)
    if recipe == "released-code" and name == "linear":
        assert 0.99 < weight.abs().max() * 256**0.5 <= 1
    elif weight.numel() > 2000:  # normal: 68.3 % within one standard deviation (uniform: 57.7 %)
        assert (weight.abs() < deviation).double().mean().item() == pytest.approx(0.683, abs=0.03)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_initial_biases_and_batch_norm(recipe):
    network = initialized(0, recipe, shortcut=GATED)
    assert not network.linear.bias.any()
    gates = [m for m in network.modules() if isinstance(m, Gate)]
    assert len(gates) == 6
    assert all((gate.bias == -6).all() for gate in gates)
    for norm in (m for m in network.modules() if isinstance(m, BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


def test_gate_weights_are_drawn_like_those_of_any_convolution():
    weight = initialized(shortcut=GATED).units[5].shortcut.gate.weight
    assert weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_biases_of_other_convolutions_are_zero():
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    initialize(network, HE2016, 0)
    assert not network[0].bias.any()


def get_names(network, parameters):
    by_id = {id(p): name for name, p in network.named_parameters()}
    return [by_id[id(p)] for p in parameters]


def split(network, kinds):
    return [get_names(network, parameters) for parameters in decayed(network, kinds)]


@pytest.mark.parametrize("arguments", [{"depth": 14, "shortcut": GATED}, {"depth": 20, "unit": "bottleneck"}])
def test_he2016_decays_convolution_and_linear_weights_only(arguments):
    network = CifarResNet(**arguments, shape_change="B")
    with_decay, without = split(network, HE2016.weight_decay_on)
    assert sorted(with_decay) == sorted(name for name, p in network.named_parameters() if p.dim() > 1)
    assert sorted(without) == sorted(name for name, p in network.named_parameters() if p.dim() == 1)
    assert "linear.weight" in with_decay
    assert "linear.bias" in without
    assert ("units.0.shortcut.gate.bias" in without) == ("shortcut" in arguments)


def test_released_code_decays_everything():
    network = CifarResNet(14, shortcut=GATED)
    with_decay, without = split(network, RELEASED.weight_decay_on)
    assert sorted(with_decay) == sorted(name for name, _ in network.named_parameters())
    assert without == []


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("convolution", ["conv.weight"]),
        ("linear", ["linear.weight"]),
        ("batch-norm", ["norm.weight", "torch_norm.weight"]),
        ("bias", ["conv.bias", "norm.bias", "torch_norm.bias", "linear.bias"]),
    ],
)
def test_each_kind_of_weight_decays_by_itself(kind, expected):
    network = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 4, 3), "norm": BatchNorm2d(4), "torch_norm": nn.BatchNorm2d(4), "linear": nn.Linear(4, 2)}
    )
    with_decay, without = split(network, [kind])
    assert with_decay == expected
    assert sorted(with_decay + without) == sorted(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("samples, replicas", [(64, 2), (128, 1)])
def test_build_takes_everything_from_the_parameters(samples, replicas):
    """Batch norm over 64 of a batch of 128 means two replicas, whatever the machine."""
    experiment = PROJECT.resolve("cifar10-resnet20")
    changed = {"batch_norm_samples": samples, "batch_norm_eps": 1e-3, "batch_norm_momentum": 0.2}
    experiment.parameters["recipe"].update(changed, running_statistics="mean")
    experiment.parameters["dataset"].update(classes=7, channels=1)
    network = build(experiment)
    norms = [m for m in network.modules() if isinstance(m, BatchNorm2d)]
    assert {(n.replicas, n.eps, n.momentum, n.kept) for n in norms} == {(replicas, 1e-3, 0.2, "mean")}
    assert (network.linear.out_features, network.stem[0].in_channels, len(network.units)) == (7, 1, 9)


def test_build_makes_the_shortcut_that_is_asked_for():
    network = build(PROJECT.resolve("cifar10-resnet110-exclusive-gate-b6"))
    gates = [m for m in network.modules() if isinstance(m, Gate)]
    assert len(gates) == 54
    assert all((gate.bias == -6).all() for gate in gates)


def test_build_leaves_the_experiment_as_it_is():
    experiment = PROJECT.resolve("cifar10-resnet20")
    digest = experiment.digest
    build(experiment)
    assert experiment.digest == digest


WHOLE = """
import torch
from torch import nn
from identity_mappings.networks.shortcuts import Shortcut
class Own(Shortcut):
    def __init__(self, *unit, initial):
        super().__init__(*unit)
        self.alpha = nn.Parameter(torch.tensor(float(initial)))
    def forward(self, x, f):
        return self.path(x) + self.alpha * f
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("import torch\n", "import torhc\n", "cannot be imported: ModuleNotFoundError: No module named 'torhc'"),
        ("class Own", "class Other", "no class Own derived from"),
        ("(Shortcut)", "(nn.Module)", "no class Own derived from"),
        ("def forward", "def foward", "Own has no method forward"),
        ("*unit, initial", "channels", r"Own.__init__\(.*TypeError"),
        ("super().__init__(*unit)", "pass", r"Own.__init__\(.*AttributeError"),
        ("forward(self, x, f)", "forward(self, x)", r"Own.forward\(.*TypeError"),
        ("self.path(x)", "x", r"Own.forward\(x, f\) with x \(2, 16, 8, 8\) .* f \(2, 32, 4, 4\).*RuntimeError"),
        ("self.path(x) + self.alpha * f", "x", r"returns \(2, 16, 8, 8\) float32: return a tensor like f"),
        ("self.alpha * f", "(self.alpha * f).double()", r"returns .* float64: return a tensor like f"),
        ("self.path(x) + self.alpha * f", "f.shape", "returns Size, no tensor"),
    ],
)
def test_a_shortcut_of_ones_own_that_does_not_fit_is_named_with_its_method(tmp_path, old, new, message):
    text = WHOLE.replace(old, new)
    (tmp_path / "own.py").write_text(text)
    shortcut = {
        "kind": "custom", "class_name": "Own", "arguments": {"initial": 0},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    experiment = PROJECT.resolve("cifar10-resnet20")
    parameters = experiment.parameters | {"network": experiment.parameters["network"] | {"shortcut": shortcut}}
    experiment = replace(experiment, parameters=parameters, custom_source="own.py")
    if message is None:
        assert build(experiment, tmp_path).units[0].shortcut.alpha == 0
        return
    with pytest.raises(UserError, match=f"own.py: .*{message}"):
        build(experiment, tmp_path)
