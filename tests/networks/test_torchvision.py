"""The ImageNet networks of he2015 against torchvision's, an implementation that shares no line with ours.

torchvision stands for option B with the stride on a bottleneck's 3x3. Its modules are bent into what it does not have:
the paper's stride on the first 1x1, and options A and C.
"""

from copy import deepcopy
from itertools import product

import pytest
import torch
import torchvision
from comparison import assert_close, assert_same, different, ours_with, random_like, randomized
from torch import nn
from torch.nn import functional as F

from identity_mappings.networks.cost import weights
from identity_mappings.networks.resnet import CifarResNet, ImageNetResNet

SCALES, PLAIN_SCALES = (0.2, 0.7), (0.7, 1.5)
OPTION_C = {"shortcut": {"kind": "convolution"}, "shape_change": "B"}


def get_arguments(depth, bottleneck_stride="3x3"):
    if depth < 50:
        return {"depth": depth, "unit": "basic", "shape_change": "B"}
    return {"depth": depth, "unit": "bottleneck", "shape_change": "B", "bottleneck_stride": bottleneck_stride}


def torchvision_of(depth):
    with torch.device("meta"):
        return getattr(torchvision.models, f"resnet{depth}")()


def blocks_of(theirs):
    return [block for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4) for block in stage]


def get_names(theirs):
    """{module of theirs: module of ours}, for every module of theirs that has a state."""
    names = {"conv1": "stem.0", "bn1": "stem.1", "fc": "linear"}
    unit = 0
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(theirs, stage)):
            for number in (1, 2, 3) if hasattr(block, "conv3") else (1, 2):
                names[f"{stage}.{index}.conv{number}"] = f"units.{unit}.residual.{3 * number - 3}"
                names[f"{stage}.{index}.bn{number}"] = f"units.{unit}.residual.{3 * number - 2}"
            if isinstance(block.downsample, nn.Sequential):
                names[f"{stage}.{index}.downsample.0"] = f"units.{unit}.shortcut.path.0"
                names[f"{stage}.{index}.downsample.1"] = f"units.{unit}.shortcut.path.1"
            unit += 1
    return names


@pytest.fixture(scope="module")
def pair_50():
    """Ours, theirs and the names, of 50 layers: to be copied."""
    theirs = randomized(torchvision_of(50), SCALES)
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(50))
    return ours, theirs, names


@pytest.mark.parametrize("depth", [18, 34, 50, 152])
def test_network_is_torchvisions(depth):
    theirs = randomized(torchvision_of(depth), SCALES)
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(depth))
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    for training in (False, True):
        assert_same(ours, theirs, names, (33, 33), training, of_weights=depth <= 50)
        moved = {name for name, buffer in ours.named_buffers() if not torch.equal(buffer, before[name])}
        assert moved == (set(before) if training else set())


def test_other_sizes_go_through_the_same_weights(pair_50):
    """Odd sizes show the padding of the pooling and which pixels a stride takes."""
    ours, theirs, names = deepcopy(pair_50)
    for size, training in product([(64, 48), (33, 47)], (False, True)):
        assert_same(ours, theirs, names, size, training)


def test_papers_stride_is_on_the_first_1x1():
    """he2015: torchvision's network with the stride moved there is ours without a choice, and "3x3" is not."""
    theirs = randomized(torchvision_of(50), SCALES)
    for block in blocks_of(theirs):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(50, None))
    others, _ = ours_with(theirs, get_names(theirs), **get_arguments(50, "3x3"))
    for training in (False, True):
        assert_same(ours, theirs, names, (33, 33), training)
        with different():
            assert_same(others, theirs, names, (33, 33), training)


def swap_pooling(network):
    network.stem = nn.Sequential(*(network.stem[index] for index in (0, 3, 1, 2)))


def move_strides(network):
    for unit in network.units:
        unit.residual[0].stride, unit.residual[3].stride = unit.residual[3].stride, unit.residual[0].stride


def drop_a_shortcut(network):
    network.units[5].shortcut.forward = lambda x, f: f


def drop_an_activation(network):
    network.units[5].post = nn.Identity()


def drop_the_padding_of_pooling(network):
    network.stem[3] = nn.MaxPool2d(3, stride=2, ceil_mode=True)


@pytest.mark.parametrize(
    "bend", [swap_pooling, move_strides, drop_a_shortcut, drop_an_activation, drop_the_padding_of_pooling]
)
def test_bent_networks_are_not_torchvisions(pair_50, bend):
    """Same weights, another function: the comparison above tells it."""
    ours, theirs, names = deepcopy(pair_50)
    assert_same(ours, theirs, names, (33, 33), training=False)
    bend(ours)
    for training in (False, True):
        with different():
            assert_same(ours, theirs, names, (33, 33), training)


class OptionA(nn.Module):
    """Every second pixel, and as many zero channels as there are channels (he2015, Section 3.3)."""

    def forward(self, x):
        return torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], 1)


def with_option_a():
    """torchvision's ResNet-34 without projections."""
    theirs = torchvision_of(34)
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].downsample = OptionA()
    return theirs


def with_option_c():
    """torchvision's ResNet-34 with a projection and its batch norm on all of the 16 units."""
    theirs = torchvision_of(34)
    with torch.device("meta"):
        for block in blocks_of(theirs):
            channels = block.conv1.out_channels
            if block.downsample is None:
                block.downsample = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
    return theirs


@pytest.mark.parametrize("option, arguments", [("A", {"shape_change": "A"}), ("C", OPTION_C)])
def test_options_a_and_c_are_torchvisions_blocks_with_another_downsampling(option, arguments):
    theirs = randomized({"A": with_option_a, "C": with_option_c}[option](), (0.4, 1))
    ours, names = ours_with(theirs, get_names(theirs), depth=34, **arguments)
    for size, training in [((33, 33), False), ((33, 47), False), ((33, 33), True)]:
        assert_same(ours, theirs, names, size, training)


def test_weights_of_options_a_b_and_c():
    """he2015, Section 4.1: "parameter-free shortcuts" (A), projections for increasing dimensions (B), for all (C)."""

    def projection(channels_in, channels_out):
        return channels_in * channels_out + 2 * channels_out  # the batch norm has a scale and a shift

    changing = projection(64, 128) + projection(128, 256) + projection(256, 512)
    others = sum(units * projection(width, width) for units, width in [(3, 64), (3, 128), (5, 256), (2, 512)])
    with torch.device("meta"):
        networks = {
            "A": ImageNetResNet(34),
            "B": ImageNetResNet(34, shape_change="B"),
            "C": ImageNetResNet(34, **OPTION_C),
            "plain": ImageNetResNet(34, shortcut={"kind": "none"}),
            "plain, B": ImageNetResNet(34, shortcut={"kind": "none"}, shape_change="B"),  # of no account to it
        }
    of_shortcuts = {
        option: sum(p.numel() for name, p in network.named_parameters() if ".shortcut." in name)
        for option, network in networks.items()
    }
    assert of_shortcuts == {"A": 0, "B": changing, "C": changing + others, "plain": 0, "plain, B": 0}
    rest = {option: weights(network) - of_shortcuts[option] for option, network in networks.items()}
    assert set(rest.values()) == {weights(torchvision_of(34)) - changing}
    assert rest["A"] == weights(with_option_a())
    assert weights(networks["C"]) == weights(with_option_c())
    assert {
        option: [
            [type(module).__name__ for module in unit.shortcut.modules() if any(True for _ in module.parameters(False))]
            for unit in network.units
        ]
        for option, network in networks.items()
    } == {
        "A": [[]] * 16,
        "B": [["Conv2d", "BatchNorm2d"] if unit in (3, 7, 13) else [] for unit in range(16)],
        "C": [["Conv2d", "BatchNorm2d"]] * 16,
        "plain": [[]] * 16,
        "plain, B": [[]] * 16,
    }


def plain_network(stem, widths, counts, classes):
    """conv-BN-ReLU one after the other (he2015, Figure 3, middle): no unit, no addition."""
    layers, channels = [*stem], widths[0]
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for index in range(count):
            stride = 2 if stage and not index else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def plain_pair(name):
    """A plain network of ours with the weights of a straightforward one, in order, and {name of its: name of ours}."""
    with torch.device("meta"):
        if name == "CIFAR 20":
            ours = CifarResNet(20, shortcut={"kind": "none"})
            stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
            theirs = plain_network(stem, (16, 32, 64), (6, 6, 6), 10)
        else:
            depth, units = {"ImageNet 18": (18, (2, 2, 2, 2)), "ImageNet 34": (34, (3, 4, 6, 3))}[name]
            ours = ImageNetResNet(depth, shortcut={"kind": "none"})
            stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
            theirs = plain_network(stem, (64, 128, 256, 512), [2 * count for count in units], 1000)
    ours, theirs = ours.double().to_empty(device="cpu"), randomized(theirs, PLAIN_SCALES)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    names = dict(zip(state, ours.state_dict(), strict=True))
    for name, tensor in state.items():
        mine = ours.state_dict()[names[name]]
        assert name.rpartition(".")[2] == names[name].rpartition(".")[2]
        assert mine.numel() == tensor.numel()
        mine.copy_(tensor.view_as(mine))
    return ours, theirs, names


@pytest.mark.parametrize("name", ["CIFAR 20", "ImageNet 34"])
def test_plain_networks_are_layers_one_after_the_other(name):
    ours, theirs, names = plain_pair(name)
    for size, training in [((33, 33), False), ((33, 47), False), ((33, 33), True)]:
        assert_same(ours, theirs, names, size, training)


def test_a_plain_network_with_one_shortcut_is_none():
    ours, theirs, names = plain_pair("ImageNet 18")
    ours.units[1].shortcut.forward = lambda x, f: x + f
    with different():
        assert_same(ours, theirs, names, (33, 33), False)


@pytest.mark.parametrize(
    "size, activation", [(224, "original"), (320, "original"), (640, "original"), (224, "full-pre-activation")]
)
def test_the_papers_test_sizes_are_the_fully_convolutional_form(size, activation):
    """he2015, Section 3.4: the linear layer at every position, and the average of its scores."""
    with torch.device("meta"):
        network = ImageNetResNet(18, activation=activation)
    network = randomized(network, SCALES).eval()
    x = random_like(1, 3, size, size)
    with torch.no_grad():
        scores = network(x)
        features = network.last(network.units(network.stem(x)))
        everywhere = F.conv2d(features, network.linear.weight[:, :, None, None], network.linear.bias)
    assert scores.shape == (1, 1000)
    assert everywhere.shape == (1, 1000, size // 32, size // 32)
    assert everywhere.std((2, 3)).min() > 1e-3 * everywhere.abs().max()  # the positions do differ
    assert_close(scores, everywhere.mean((2, 3)), "scores")
