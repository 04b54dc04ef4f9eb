"""SGD against plain statements of Caffe's and Torch's momentum, in double precision."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from identity_mappings.parameters import load
from identity_mappings.training.assembly import get_recipe
from identity_mappings.training.optimizer import Optimizer, learning_rate

PROJECT = load(Path(__file__).parents[2])
HE2016 = get_recipe(PROJECT.resolve("cifar10-resnet110")).learning_rate
HE2015 = get_recipe(PROJECT.resolve("cifar10-resnet20")).learning_rate
RELEASED = get_recipe(PROJECT.resolve("cifar10-resnet1001-full-pre-activation-released-code")).learning_rate

SCHEDULE = [[0, 0.01], [3, 0.1], [6, 0.02]]
STEPS, SWITCH, MU, DECAY = 9, 3, 0.9, 0.05


@pytest.mark.parametrize(
    "iteration, rate",
    [(0, 0.01), (399, 0.01), (400, 0.1), (31999, 0.1), (32000, 0.01), (47999, 0.01), (48000, 0.001), (63999, 0.001)],
)
def test_schedule_of_he2016(iteration, rate):
    assert learning_rate(HE2016, iteration) == rate


@pytest.mark.parametrize("iteration, rate", [(0, 0.1), (31999, 0.1), (32000, 0.01), (48000, 0.001), (63999, 0.001)])
def test_schedule_of_he2015_has_no_warm_up(iteration, rate):
    """Section 4.2; but for ResNet-110, which did not start to converge at 0.1."""
    assert learning_rate(HE2015, iteration) == rate


@pytest.mark.parametrize(
    "iteration, rate",
    [
        (0, 0.1),
        (81 * 782 - 1, 0.1),
        (81 * 782, 0.01),
        (122 * 782 - 1, 0.01),
        (122 * 782, 0.001),
        (200 * 782 - 1, 0.001),
    ],
)
def test_schedule_of_the_released_code(iteration, rate):
    """Drops after epochs 81 and 122, of 782 batches each."""
    assert learning_rate(RELEASED, iteration) == rate


def recipe(form="caffe", nesterov=False, decay_on=("convolution", "linear")):
    return SimpleNamespace(
        learning_rate=SCHEDULE,
        momentum=MU,
        nesterov=nesterov,
        momentum_form=form,
        weight_decay=DECAY,
        weight_decay_on=list(decay_on),
    )


def small_network():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 2)).double()
    g = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data.normal_(generator=g)
    return network


def gradients(network, step):
    """Random, other ones at each step, and not a function of the weights."""
    g = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, dtype=torch.float64, generator=g) for p in network.parameters()]


def trajectory(chosen, begin=0, end=STEPS, network=None, optimizer=None):
    """The weights after each step."""
    network = network or small_network()
    optimizer = optimizer or Optimizer(network, chosen)
    weights = []
    for step in range(begin, end):
        optimizer.zero_grad()
        assert all(p.grad is None for p in network.parameters())
        for p, gradient in zip(network.parameters(), gradients(network, step), strict=True):
            p.grad = gradient
        optimizer.prepare(step)
        optimizer.update()
        weights.append([p.detach().clone() for p in network.parameters()])
    return weights


def plain(update, decay_all=False):
    """The weights after each step by `update` of one weight tensor: (w, state, gradient with decay, rate)."""
    network = small_network()
    weights = [p.detach().clone() for p in network.parameters()]
    states, found = [torch.zeros_like(w) for w in weights], []
    for step in range(STEPS):
        rate = 0.01 if step < 3 else 0.1 if step < 6 else 0.02
        for index, gradient in enumerate(gradients(network, step)):
            if decay_all or weights[index].dim() > 1:
                gradient = gradient + DECAY * weights[index]
            weights[index], states[index] = update(weights[index], states[index], gradient, rate)
        found.append([w.clone() for w in weights])
    return found


def caffe(w, v, g, rate):
    v = MU * v + rate * g
    return w - v, v


def torch_momentum(w, v, g, rate):
    v = MU * v + g
    return w - rate * v, v


def torch_nesterov(w, v, g, rate):
    v = MU * v + g
    return w - rate * (g + MU * v), v


def caffe_nesterov(w, v, g, rate):
    new = MU * v + rate * g
    return w - ((1 + MU) * new - MU * v), new


def assert_same_trajectory(got, wanted):
    for step, (a, b) in enumerate(zip(got, wanted, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda m, step=step: f"step {step}: {m}")


@pytest.mark.parametrize(
    "form, nesterov, update",
    [
        ("caffe", False, caffe),
        ("torch", False, torch_momentum),
        ("torch", True, torch_nesterov),
        ("caffe", True, caffe_nesterov),
    ],
)
def test_steps_are_those_of_the_plain_statement(form, nesterov, update):
    """Nine steps, with two switches of the rate; weight decay on convolution and linear weights only."""
    assert_same_trajectory(trajectory(recipe(form, nesterov)), plain(update))


def test_weight_decay_on_everything():
    everything = ("convolution", "linear", "batch-norm", "bias")
    got = trajectory(recipe("torch", nesterov=True, decay_on=everything))
    assert_same_trajectory(got, plain(torch_nesterov, decay_all=True))


def test_caffe_and_torch_differ_only_after_a_switch():
    """At the switch itself Caffe still carries the old, smaller steps."""
    ours, theirs = trajectory(recipe("caffe")), trajectory(recipe("torch"))
    for step in range(SWITCH):
        assert all(torch.equal(a, b) for a, b in zip(ours[step], theirs[step], strict=True))
    for step in range(SWITCH, STEPS):
        assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(ours[step], theirs[step], strict=True))


@pytest.mark.parametrize("form", ["caffe", "torch"])
@pytest.mark.parametrize("stop", [2, SWITCH, SWITCH + 1])
def test_a_restored_optimizer_goes_on_bit_by_bit(form, stop):
    """Also when it was saved just before a switch of the rate, or just after."""
    whole = trajectory(recipe(form))
    network = small_network()
    optimizer = Optimizer(network, recipe(form))
    trajectory(recipe(form), 0, stop, network, optimizer)
    other = small_network()
    other.load_state_dict(network.state_dict())
    restored = Optimizer(other, recipe(form))
    restored.load_state_dict(optimizer.state_dict())
    for a, b in zip(trajectory(recipe(form), stop, STEPS, other, restored), whole[stop:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
