"""Norms of signal and gradient at each unit, and the spread of layer responses, against what a page of torch gives."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from identity_mappings.networks.resnet import CifarResNet, ImageNetResNet
from identity_mappings.training import responses, signals
from identity_mappings.training.responses import LayerResponse
from identity_mappings.training.signals import UnitSignal

PRE_ACTIVATION = {"unit": "bottleneck", "activation": "full-pre-activation", "shape_change": "B"}
NETWORKS = {
    "original": {"depth": 14},
    "two replicas": {"depth": 14, "replicas": 2},
    "bottleneck": {"depth": 20, **PRE_ACTIVATION},
    "single": {"depth": 8, "unit": "single", "activation": "bn-after-addition"},
    "gate": {"depth": 14, "shortcut": {"kind": "exclusive-gate", "gate_bias": -1}},
    "plain": {"depth": 14, "shortcut": {"kind": "none"}},
}


def randomized(network):
    """In double precision, with weights, gates, scales, shifts and moving statistics of no particular values."""
    g = torch.Generator().manual_seed(1)
    for p in network.double().parameters():
        p.data.normal_(0, (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.5, generator=g)
    for name, buffer in network.named_buffers():
        buffer.uniform_(0.5, 2, generator=g) if name.endswith("var") else buffer.normal_(0, 0.3, generator=g)
    return network


def describe_network(name):
    return randomized(CifarResNet(**NETWORKS[name]))


def batch(count=6):
    g = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=g), torch.arange(count) % 10


def by_hand(network, x, y):
    """Mean loss, the outputs of stem and units, and the gradients of the summed loss with respect to them."""
    network = deepcopy(network).train()
    outputs = [network.stem(x)]
    for unit in network.units:
        outputs.append(unit(outputs[-1]))
    scores = network.linear(network.last(outputs[-1]).mean((2, 3)))
    losses = [row.exp().sum().log() - row[label] for row, label in zip(scores, y, strict=True)]
    gradients = torch.autograd.grad(sum(losses), outputs)
    return float(sum(losses).detach()) / len(losses), outputs, gradients


def mean_norm(tensor):
    norms = [math.sqrt(float((image**2).sum())) for image in tensor.detach()]
    return sum(norms) / len(norms)


@pytest.mark.parametrize("name", NETWORKS)
def test_signals_are_those_of_the_unit_outputs(name):
    """Of a batch in training mode; moving statistics are of no account. The gradient is that of the losses' sum."""
    network, (x, y) = describe_network(name), batch()
    loss, outputs, gradients = by_hand(network, x, y)
    found_loss, found = signals.compute_signals(network, x, y)
    assert found_loss == pytest.approx(loss, rel=1e-6)  # scores are rounded to float32
    assert [row.unit for row in found] == list(range(len(network.units) + 1))
    assert [(row.channels, row.size, row.size) for row in found] == [tuple(output.shape[1:]) for output in outputs]
    assert [row.forward_norm for row in found] == pytest.approx(list(map(mean_norm, outputs)), rel=1e-12)
    assert [row.gradient_norm for row in found] == pytest.approx(list(map(mean_norm, gradients)), rel=1e-5)


def state_of(network):
    return {
        "weights": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "gradients": {name: p.grad if p.grad is None else p.grad.clone() for name, p in network.named_parameters()},
        "hooks": [len(module._forward_hooks) for module in network.modules()],
    }


def assert_unchanged(network, before):
    after = state_of(network)
    assert after["hooks"] == before["hooks"]
    for key in ("weights", "gradients"):
        assert after[key].keys() == before[key].keys()
        for name, tensor in before[key].items():
            now = after[key][name]
            assert (now is None) == (tensor is None), f"{key} {name}"
            assert tensor is None or torch.equal(now, tensor), f"{key} {name}"


def with_gradients(network):
    g = torch.Generator().manual_seed(3)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=g)
    return network


class Failing(nn.Module):
    def forward(self, x):
        raise ArithmeticError("of this test")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_signals_leave_weights_statistics_gradients_and_the_mode(training, fails):
    """Gradients of a training iteration before, too, whose tensors backward would add to."""
    network, (x, y) = with_gradients(describe_network("two replicas")).train(training), batch()
    if fails:
        network.linear = Failing()
    before, tensors = state_of(network), [p.grad for p in network.parameters()]
    if fails:
        with pytest.raises(ArithmeticError):
            signals.compute_signals(network, x, y)
    else:
        assert signals.compute_signals(network, x, y) == signals.compute_signals(network, x, y)
    assert_unchanged(network, before)
    assert all(p.grad is tensor for p, tensor in zip(network.parameters(), tensors, strict=True))
    assert {module.training for module in network.modules()} == {training} or fails


def without_residuals(**choices):
    """A pre-activation network whose F are 0, so that a signal passes only by the shortcuts."""
    network = randomized(CifarResNet(26, activation="full-pre-activation", **choices))
    for unit in network.units:
        nn.init.zeros_(unit.residual[-1].weight)
    return network


STAGES = (range(5), range(5, 9), range(9, 13))  # rows of four units a stage; the stem's output is x of the first


def test_identity_shortcuts_pass_signal_and_gradient_unchanged():
    """he2016, Equations 4 and 5 without F; where the size changes, option A drops three of four pixels."""
    network, (x, y) = without_residuals(), batch()
    rows = signals.compute_signals(network, x, y)[1]
    levels = []
    for stage in STAGES:
        for kind in ("forward_norm", "gradient_norm"):
            norms = [getattr(rows[unit], kind) for unit in stage]
            assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-12)
            levels.append(norms[0])
    assert levels[0] > levels[2] > levels[4] > 0
    assert levels[1] > 0 and levels[3] > 0


def test_scaled_shortcuts_diminish_both_by_their_factor_at_each_unit(scale=0.5):
    """he2016, Equations 6 to 8 without F: forward from the stem on, backward from the last unit on."""
    network = without_residuals(shortcut={"kind": "scaled", "shortcut_scale": scale, "residual_scale": 1})
    rows = signals.compute_signals(network, *batch())[1]
    for stage in STAGES:
        for unit in stage[1:]:
            assert rows[unit].forward_norm == pytest.approx(scale * rows[unit - 1].forward_norm, rel=1e-12)
            assert rows[unit - 1].gradient_norm == pytest.approx(scale * rows[unit].gradient_norm, rel=1e-12)


def test_signals_of_a_plain_network_of_zeros_vanish():
    """Without a shortcut nothing passes F = 0 forward, and nothing backward."""
    network = without_residuals(shortcut={"kind": "none"})
    rows = signals.compute_signals(network, *batch())[1]
    assert rows[0].forward_norm > 0
    assert {row.forward_norm for row in rows[1:]} == {0}
    assert {row.gradient_norm for row in rows[:-1]} == {0}
    assert rows[-1].gradient_norm > 0


# he2015, Figure 7: "the output of each 3x3 layer, after BN and before other nonlinearity"; names within the unit.
RESPONSES = {
    ("basic", "original"): ("residual.1", "residual.4"),
    ("basic", "bn-after-addition"): ("residual.1", "residual.3"),
    ("basic", "relu-before-addition"): ("residual.1", "residual.4"),
    ("basic", "relu-only-pre-activation"): ("residual.1", "residual.4"),
    ("basic", "full-pre-activation"): ("residual.1", "residual.3"),
    ("single", "original"): ("residual.1",),
    ("single", "full-pre-activation"): ("residual.0",),
    ("bottleneck", "original"): ("residual.4",),
    ("bottleneck", "full-pre-activation"): ("residual.4",),
}
DEPTHS = {"basic": 20, "single": 14, "bottleneck": 20}


def modules_by_hand(network, unit, activation):
    inside = RESPONSES[unit, activation]
    return ["stem.1", *(f"units.{index}.{name}" for index in range(len(network.units)) for name in inside)]


@pytest.mark.parametrize("unit, activation", RESPONSES)
def test_responses_are_those_of_all_3x3_layers(unit, activation):
    network = CifarResNet(DEPTHS[unit], unit=unit, activation=activation, shape_change="B")
    found = responses.find_response_modules(network)
    assert [name for name, _ in found] == modules_by_hand(network, unit, activation)
    assert all(network.get_submodule(name) is module for name, module in found)
    if unit != "bottleneck":
        assert len(found) == DEPTHS[unit] - 1  # all weighted layers but the linear one


def test_a_basic_network_of_6n_plus_2_layers_has_6n_plus_1_responses(n=3):
    """he2015, Figure 7 has them for 20, 56 and 110 layers, plain and residual alike."""
    for shortcut in ({"kind": "none"}, {"kind": "identity"}, {"kind": "convolution"}):
        found = responses.find_response_modules(CifarResNet(6 * n + 2, shortcut=shortcut))
        assert len(found) == 2 * n * 3 + 1


def test_the_7x7_stem_of_imagenet_networks_gives_no_response():
    names = [name for name, _ in responses.find_response_modules(ImageNetResNet(18))]
    assert len(names) == 16
    assert names[0] == "units.0.residual.1"


def images(count=11):
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def normalize(batch):
    return batch.double() / 128 - 1


@pytest.mark.parametrize("batch_size", [3, 500])
@pytest.mark.parametrize("unit, activation", list(RESPONSES)[::4])
def test_responses_are_standard_deviations_over_all_outputs(unit, activation, batch_size):
    """Population ones, over images, channels and positions, the network as in a test; whatever the batches are."""
    network = randomized(CifarResNet(DEPTHS[unit], unit=unit, activation=activation, shape_change="B"))
    names = modules_by_hand(network, unit, activation)
    outputs, reference = {}, deepcopy(network).eval()
    for name in names:
        module = reference.get_submodule(name)
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output.clone()}))
    with torch.no_grad():
        reference(normalize(images()))
    found = responses.compute_responses(network, images(), normalize, batch_size)
    assert [(row.layer, row.name) for row in found] == list(enumerate(names, 1))
    expected = [float(torch.std(outputs[name], unbiased=False)) for name in names]
    assert [row.standard_deviation for row in found] == pytest.approx(expected, rel=1e-9)


def test_responses_are_not_spoiled_by_a_large_mean():
    """BN with scale 0 gives its shifts: their spread is known. In single precision, as networks are."""
    network = CifarResNet(8)
    bias = network.units[0].residual[1].bias.data
    network.units[0].residual[1].weight.data.zero_()
    bias.copy_(torch.arange(16) + 4096)
    found = responses.compute_responses(network, images(), lambda batch: batch.float())
    assert found[1] == (2, "units.0.residual.1", pytest.approx(math.sqrt((16**2 - 1) / 12), rel=1e-9))
    bias.fill_(4096.0)
    constant = responses.compute_responses(network, images(), lambda batch: batch.float())[1]
    assert constant.standard_deviation == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_responses_leave_mode_statistics_and_gradients(training):
    network = with_gradients(describe_network("original")).train(training)
    before = state_of(network)
    responses.compute_responses(network, images(), normalize, 4)
    assert_unchanged(network, before)
    assert {module.training for module in network.modules()} == {training}


def test_csv_has_the_shared_columns_first_and_nine_digits():
    rows = [UnitSignal(0, 16, 8, 1 / 3, 1e-10), UnitSignal(1, 32, 4, 12345678912.0, math.nan)]
    assert signals.format_csv({"iteration": 40, "name": "a", **row._asdict()} for row in rows) == (
        b"iteration,name,unit,channels,size,forward_norm,gradient_norm\n"
        b"40,a,0,16,8,0.333333333,1e-10\n"
        b"40,a,1,32,4,1.23456789e+10,nan\n"
    )
    assert signals.format_csv(iter([LayerResponse(1, "stem.1", 2.0)])) == (
        b"layer,name,standard_deviation\n1,stem.1,2\n"
    )
