"""The pre-activation ImageNet networks of he2016 against timm's ResNetV2 with batch norm.

timm differs from the paper in two places, which are keys of ours: it leaves the stem's BN-ReLU to the first unit,
behind the pooling (stem_activation "after-pooling"), and has the stride on the 3x3 (bottleneck_stride "3x3"). Its
modules, moved to where the paper has them, are ours without these keys.
"""

from collections import OrderedDict
from copy import deepcopy
from itertools import product

import pytest
import timm
import torch
from comparison import assert_same, different, ours_with, random_like, randomized
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn

from identity_mappings.networks.resnet import ImageNetResNet

PRE_ACTIVATION = {"activation": "full-pre-activation", "shape_change": "B"}
TIMMS_KEYS = {"stem_activation": "after-pooling", "bottleneck_stride": "3x3"}
PAPERS_KEYS = {"stem_activation": None, "bottleneck_stride": None}


def timms(depth):
    """timm's network on device "meta"; 200 layers it has only as the class."""
    with torch.device("meta"):
        if depth == 200:
            return ResNetV2(layers=[3, 24, 36, 3], conv_layer=create_conv2d, norm_layer=BatchNormAct2d)
        return timm.create_model(f"resnetv2_{depth}", pretrained=False)


def get_names(theirs, after_pooling=True):
    """{module of theirs: module of ours}, for every module of theirs that has a state."""
    names = {"stem.conv": "stem.0", "norm": "last.0", "head.fc": "linear"}
    unit = 0
    for stage, module in enumerate(theirs.stages):
        for index, block in enumerate(module.blocks):
            prefix = f"stages.{stage}.blocks.{index}"
            if unit:
                names[f"{prefix}.norm1"] = f"units.{unit}.pre.0"
            else:  # conv, pooling, BN, ReLU; or conv, BN, ReLU, pooling
                first = "stem.norm" if hasattr(theirs.stem, "norm") else f"{prefix}.norm1"
                names[first] = "stem.2" if after_pooling else "stem.1"
            for number in (1, 2, 3) if hasattr(block, "conv3") else (1, 2):
                names[f"{prefix}.conv{number}"] = f"units.{unit}.residual.{3 * number - 3}"
                if number > 1:
                    names[f"{prefix}.norm{number}"] = f"units.{unit}.residual.{3 * number - 5}"
            if block.downsample is not None:
                names[f"{prefix}.downsample.conv"] = f"units.{unit}.shortcut.path"
            unit += 1
    return names


def move_the_first_norm(theirs, *order):
    """Make the first unit's norm a layer of the stem."""
    first = theirs.stages[0].blocks[0]
    layers = {"conv": theirs.stem.conv, "norm": first.norm1, "pool": theirs.stem.pool}
    theirs.stem, first.norm1 = nn.Sequential(OrderedDict((name, layers[name]) for name in order)), nn.Identity()


def to_the_papers_layout(theirs):
    """The first norm in front of the pooling, the strides on the first 1x1."""
    move_the_first_norm(theirs, "conv", "norm", "pool")
    for stage in theirs.stages:
        block = stage.blocks[0]
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def get_arguments(depth, keys=TIMMS_KEYS):
    return {"depth": depth, "unit": "bottleneck" if depth >= 50 else "basic", **PRE_ACTIVATION, **keys}


@pytest.fixture(scope="module")
def pair_50():
    """Ours, theirs and the names, of 50 layers: to be copied."""
    theirs = randomized(timms(50))
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(50))
    return ours, theirs, names


@pytest.mark.parametrize("depth", [50, 152])
def test_network_is_timms(depth):
    theirs = randomized(timms(depth))
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(depth))
    for training in (False, True):
        assert_same(ours, theirs, names, (33, 33), training, of_weights=depth <= 50)


def test_basic_network_shares_its_first_activation_where_timms_does_not():
    """he2016, Appendix: the first activation is before the split. timm's first basic unit adds what the pooling gives;
    bottleneck units project there, which shares it."""
    theirs = randomized(timms(18))
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(18))
    with different():
        assert_same(ours, theirs, names, (33, 33), training=False)
    move_the_first_norm(theirs, "conv", "pool", "norm")
    ours, names = ours_with(theirs, get_names(theirs), **get_arguments(18))
    for training in (False, True):
        assert_same(ours, theirs, names, (33, 33), training)


def test_other_sizes_go_through_the_same_weights(pair_50):
    ours, theirs, names = deepcopy(pair_50)
    for size, training in product([(64, 48), (33, 47)], (False, True)):
        assert_same(ours, theirs, names, size, training)


@pytest.mark.parametrize("depth, modes", [(50, (False, True)), (200, (True,))])
def test_papers_layout_is_timms_modules_moved(depth, modes):
    """he2016, Appendix: the first activation is the stem's; the stride is he2015's. 200 layers: he2016, Section 5."""
    theirs = randomized(timms(depth))
    to_the_papers_layout(theirs)
    ours, names = ours_with(theirs, get_names(theirs, after_pooling=False), **get_arguments(depth, PAPERS_KEYS))
    assert len(ours.units) == (depth - 2) / 3
    for training in modes:
        assert_same(ours, theirs, names, (33, 47), training, of_weights=depth <= 50)


@pytest.mark.parametrize(
    "keys",
    [
        PAPERS_KEYS,
        TIMMS_KEYS | {"stem_activation": None},
        TIMMS_KEYS | {"bottleneck_stride": None},
    ],
    ids=["paper's", "paper's stem", "paper's stride"],
)
def test_the_papers_layout_is_another_function_than_timms(pair_50, keys):
    """Each of the two keys matters, with the same weights in the same places."""
    ours, theirs, names = deepcopy(pair_50)
    after_pooling = keys["stem_activation"] == "after-pooling"
    with torch.device("meta"):
        others = ImageNetResNet(**get_arguments(50, keys))
    others = others.double().to_empty(device="cpu")
    state = ours.state_dict()
    if not after_pooling:
        state = {name.replace("stem.2.", "stem.1."): tensor for name, tensor in state.items()}
    others.load_state_dict(state, strict=True)
    names_of_others = {
        name: of_ours if after_pooling else of_ours.replace("stem.2.", "stem.1.") for name, of_ours in names.items()
    }
    assert_same(ours, theirs, names, (33, 33), training=False)
    for training in (False, True):
        with different():
            assert_same(others, theirs, names_of_others, (33, 33), training)


@pytest.mark.parametrize("key, named", [("stem_activation", "before-pooling"), ("bottleneck_stride", "1x1")])
def test_the_papers_layout_has_names(key, named):
    """None is the same as the name, and as no key."""
    x, scores = random_like(2, 3, 33, 47), []
    for keys in ({}, {key: None}, {key: named}):
        with torch.device("meta"):
            network = ImageNetResNet(50, unit="bottleneck", **PRE_ACTIVATION, **keys)
        scores.append(randomized(network).eval()(x))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def leave_out_the_last_activation(network):
    network.last = nn.Identity()


def leave_out_the_last_relu(network):
    network.last[1] = nn.Identity()


def batch_norm_after_a_projection(network):
    shortcut = network.units[3].shortcut
    shortcut.path = nn.Sequential(shortcut.path, nn.BatchNorm2d(512).double())


def projection_of_x_itself(network):
    network.units[3].pre_activated_shortcut = False


def identity_of_the_activated(network):
    network.units[4].pre_activated_shortcut = True


def first_units_shortcut_without_activation(network):
    first = network.units[0]
    first.pre, network.stem = network.stem[2:], network.stem[:2]
    first.pre_activated_shortcut = False


@pytest.mark.parametrize(
    "bend",
    [
        leave_out_the_last_activation,
        leave_out_the_last_relu,
        batch_norm_after_a_projection,
        projection_of_x_itself,
        identity_of_the_activated,
        first_units_shortcut_without_activation,
    ],
)
def test_bent_networks_are_not_timms(pair_50, bend):
    """Every detail of he2016's Appendix is seen by the comparison above."""
    ours, theirs, names = deepcopy(pair_50)
    assert_same(ours, theirs, names, (33, 33), training=False)
    bend(ours)
    for training in (False, True):
        with different():
            assert_same(ours, theirs, names, (33, 33), training)
