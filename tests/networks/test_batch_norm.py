"""BatchNorm2d with r replicas against r separate torch.nn.BatchNorm2d, each on its own part of the batch."""

import pytest
import torch
from comparison import random_like
from torch import nn

from identity_mappings.networks.batch_norm import BatchNorm2d

EPS, MOMENTUM = 1e-3, 0.3  # not the defaults


def pair(replicas, kept="first-replica"):
    """One of ours and `replicas` of torch's, with the same scale and shift."""
    ours = BatchNorm2d(5, replicas, EPS, MOMENTUM, kept).double()
    ours.weight.data, ours.bias.data = random_like(5, seed=1), random_like(5, seed=2)
    theirs = [nn.BatchNorm2d(5, EPS, MOMENTUM).double() for _ in range(replicas)]
    for norm in theirs:
        norm.weight.data, norm.bias.data = ours.weight.data.clone(), ours.bias.data.clone()
    return ours, theirs


def batch(step, samples=12):
    """Its samples differ in mean and spread, so that no split of them is like another."""
    factor = torch.arange(1, samples + 1, dtype=torch.float64)[:, None, None, None]
    return random_like(samples, 5, 3, 4, seed=10 + step) * factor + factor**2


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_are_separate_batch_norms(replicas):
    """Sample i belongs to replica i mod r: outputs, gradients and running statistics, over three steps."""
    ours, theirs = pair(replicas)
    for step in range(3):
        x = batch(step).requires_grad_()
        direction = random_like(*x.shape, seed=20 + step)
        y = ours(x)
        gradients = torch.autograd.grad(y, [x, ours.weight, ours.bias], direction)
        of_scale, of_shift = torch.zeros_like(ours.weight), torch.zeros_like(ours.bias)
        for replica, norm in enumerate(theirs):
            part = x.detach()[replica::replicas].clone().requires_grad_()
            expected = norm(part)
            torch.testing.assert_close(y[replica::replicas], expected, rtol=1e-11, atol=1e-11)
            wanted = torch.autograd.grad(expected, [part, norm.weight, norm.bias], direction[replica::replicas])
            torch.testing.assert_close(gradients[0][replica::replicas], wanted[0], rtol=1e-11, atol=1e-11)
            of_scale += wanted[1]
            of_shift += wanted[2]
            torch.testing.assert_close(ours.running_mean[replica], norm.running_mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(ours.running_var[replica], norm.running_var, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients[1], of_scale, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradients[2], of_shift, rtol=1e-11, atol=1e-11)


def test_two_replicas_differ_from_one():
    assert not torch.allclose(pair(2)[0](batch(0)), pair(1)[0](batch(0)))


@pytest.mark.parametrize("kept", ["first-replica", "mean"])
@pytest.mark.parametrize("samples", [12, 3])
def test_the_test_uses_the_kept_statistics(kept, samples):
    """Also for a number of samples that does not split; the statistics stay as they are."""
    ours, theirs = pair(2, kept)
    ours(batch(0))
    for replica, norm in enumerate(theirs):
        norm(batch(0)[replica::2])
    assert not torch.allclose(*ours.running_mean)
    expected = theirs[0]
    if kept == "mean":
        expected.running_mean = (theirs[0].running_mean + theirs[1].running_mean) / 2
        expected.running_var = (theirs[0].running_var + theirs[1].running_var) / 2
    before = [buffer.clone() for buffer in ours.buffers()]
    x = batch(1, samples)
    torch.testing.assert_close(ours.eval()(x), expected.eval()(x), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.buffers(), strict=True))


def test_replicas_share_one_scale_and_shift():
    assert {name: tuple(p.shape) for name, p in BatchNorm2d(5, 4).named_parameters()} == {"weight": (5,), "bias": (5,)}


@pytest.mark.parametrize("samples, replicas", [(9, 2), (6, 4), (2, 4)])
def test_a_batch_that_does_not_split_is_refused(samples, replicas):
    with pytest.raises(ValueError, match=f"batch of {samples} cannot be split evenly over {replicas} replicas"):
        BatchNorm2d(5, replicas)(torch.randn(samples, 5, 3, 3))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_parts_of_a_batch_are_the_whole_batch(replicas):
    """A step calls a network once a replica: outputs, gradients and moving statistics are those of one call."""
    whole, parts = pair(replicas)[0], pair(replicas)[0]
    direction = random_like(12, 5, 3, 4, seed=20)
    for step in range(3):
        x = batch(step).requires_grad_()
        y = whole(x)
        wanted = torch.autograd.grad(y, [x, whole.weight, whole.bias], direction)
        sums = [torch.zeros(5, dtype=torch.float64) for _ in range(2)]
        for replica in range(replicas):
            part = x.detach()[replica::replicas].clone().requires_grad_()
            with parts.scope.select(replica):
                of_part = parts(part)
            torch.testing.assert_close(of_part, y[replica::replicas], rtol=1e-12, atol=1e-12)
            found = torch.autograd.grad(of_part, [part, parts.weight, parts.bias], direction[replica::replicas])
            torch.testing.assert_close(found[0], wanted[0][replica::replicas], rtol=1e-12, atol=1e-12)
            sums = [total + more for total, more in zip(sums, found[1:], strict=True)]
        torch.testing.assert_close(sums, list(wanted[1:]), rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(parts.buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


def test_a_repeated_pass_leaves_the_statistics():
    """Units that are computed again in the backward pass must not be counted twice."""
    norm = pair(2)[0]
    with norm.scope.select(1):
        y = norm(batch(0))
        before = [buffer.clone() for buffer in norm.buffers()]
        with norm.scope.select(1, repeated=True):
            again = norm(batch(0))
        assert norm.scope.replica == 1
    assert torch.equal(y, again) and norm.scope.replica is None
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    assert not torch.equal(norm.running_mean[0], norm.running_mean[1]), "the other replica was not touched"
