"""How two networks are compared: random weights and images in double precision, outputs, gradients, statistics."""

import pytest
import torch

from identity_mappings.networks.resnet import ImageNetResNet

TOLERANCE = 1e-10


def random_like(*shape, seed=2):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomized(network, scales=(0.4, 1)):
    """A network in double precision on the CPU, with random weights and a random state of batch norm.

    Gates keep their bias. Some scales are negative: with positive ones only, BN-ReLU and max pooling would commute.
    Small `scales` of batch norm keep 50 units with shortcuts from growing; without shortcuts they would lose the image.
    """
    network = network.double()
    if next(network.parameters()).is_meta:
        network = network.to_empty(device="cpu")
    g = torch.Generator().manual_seed(1)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=g)
        elif "gate.bias" not in name and name.endswith(("running_mean", "bias")):
            tensor.data.normal_(0, 0.3, generator=g)
        elif tensor.dim() > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.data.uniform_(-bound, bound, generator=g)
        elif name.endswith("weight"):
            tensor.data.uniform_(*scales, generator=g)[::4] *= -1
    return network


def assert_close(got, wanted, what, tolerance=TOLERANCE):
    """Up to a part of the largest element; torch's message, with `what` it is about."""
    scale = wanted.abs().max()
    assert scale > 0, f"{what} is zero"
    if not torch.equal(got, wanted):  # which is faster; NaNs are not equal
        torch.testing.assert_close(
            got / scale, wanted / scale, rtol=tolerance, atol=tolerance, msg=lambda message: f"{what}: {message}"
        )


def different(what="output"):
    """The comparison's own error about `what`, and no other."""
    return pytest.raises(AssertionError, match=rf"^{what}: Tensor-likes are not (close|equal)!")


def ours_with(theirs, modules, **arguments):
    """Our ImageNet network with every weight and statistic of theirs, and {name of theirs: name of ours}.

    Args:
        modules: {module of theirs: module of ours}, for every module of theirs that has a state.
    """
    with torch.device("meta"):
        ours = ImageNetResNet(**arguments)
    ours = ours.double().to_empty(device="cpu")
    names, state = {}, {}
    for name, tensor in theirs.state_dict().items():
        module, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":  # only counts; ours has a fixed momentum
            continue
        names[name] = f"{modules[module]}.{kind}"
        if name == "head.fc.weight":  # a 1x1 convolution in timm
            tensor = tensor[:, :, 0, 0]
        state[names[name]] = tensor[None] if kind in ("running_mean", "running_var") else tensor  # ours: each replica's
    assert len(state) == len(names)
    assert {name.rpartition(".")[0] for name in names} == set(modules)
    ours.load_state_dict(state, strict=True)
    return ours, names


def assert_same(ours, theirs, names, size, training, of_weights=True):
    """Outputs, gradients of the input, in training of every weight, and the running statistics that it leaves."""
    x = random_like(2, 3, *size).requires_grad_()
    got, wanted = ours.train(training)(x), theirs.train(training)(x)
    assert_close(got, wanted, "output")
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3 * wanted.abs().max()  # it does depend on the image
    direction = random_like(*wanted.shape, seed=3)
    parameters, of_ours = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert {names[name] for name in parameters} == set(of_ours)
    if not (training and of_weights):
        parameters = {}
    got = torch.autograd.grad(got, [x, *(of_ours[names[name]] for name in parameters)], direction)
    wanted = torch.autograd.grad(wanted, [x, *parameters.values()], direction)
    for name, a, b in zip(["input", *parameters], got, wanted, strict=True):
        assert_close(a, b.view_as(a), f"gradient of {name}")
    buffers, of_ours = dict(theirs.named_buffers()), dict(ours.named_buffers())
    for name in buffers.keys() & names.keys():
        assert_close(of_ours.pop(names[name])[0], buffers[name], name)
    assert not of_ours
