"""Weights under torchvision's names, of its ResNets and VGGs, as those of our networks."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from .depth import IMAGENET_STAGES, VGG_DEPTHS
from .families import FAMILIES

WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the weights among other things
TITLES = {"imagenet": "ResNet", "vgg": "VGG"}  # by family
VGG_DROPOUT = 0.5  # of torchvision's VGG, which numbers its layers by it


def get_names(network: Mapping[str, Any]) -> dict[str, str]:
    """{torchvision's name: ours} of all weights and statistics: both list them in the same order.

    Args:
        network: of `describe_network`.
    """
    ours = build_network(network, 1, "meta").state_dict()
    if network["family"] == "vgg":
        return {name.replace("linear", "classifier"): name for name in ours}
    unit, counts = IMAGENET_STAGES[network["depth"]]
    with torch.device("meta"):
        original = ResNet(Bottleneck if unit == "bottleneck" else BasicBlock, list(counts))
    names = (name for name in original.state_dict() if not name.endswith("num_batches_tracked"))
    return dict(zip(names, ours, strict=True))


def describe_network(depth: int) -> dict[str, Any]:
    """torchvision's network as `network` of params/: a VGG, or a ResNet with option B and a bottleneck's stride on its
    3x3.

    Raises:
        ValueError: neither has this depth.
    """
    if depth in VGG_DEPTHS:
        return {"family": "vgg", "depth": depth}
    if depth not in IMAGENET_STAGES:
        depths = ", ".join(map(str, IMAGENET_STAGES))
        raise ValueError(f"no ResNet-{depth} or VGG-{depth}: ResNets have {depths} layers, VGGs 16 or 19")
    unit, _ = IMAGENET_STAGES[depth]
    network = {"family": "imagenet", "depth": depth, "unit": unit, "shape_change": "B"}
    return network | ({"bottleneck_stride": "3x3"} if unit == "bottleneck" else {})


def build_network(network: Mapping[str, Any], classes: int, device: str = "cpu") -> nn.Module:
    arguments = {**network, "classes": classes}
    family = arguments.pop("family")
    if family == "vgg":
        arguments["dropout"] = VGG_DROPOUT
    with torch.device(device):
        return FAMILIES[family](**arguments)


def infer_depth(state: Mapping[str, Tensor]) -> int:
    """Layers of the ResNet or VGG that a state dict is of, by the names in it.

    Raises:
        ValueError: of no network that we have.
    """
    if any(name.startswith("features.") for name in state):
        layers = sum(name.endswith(".weight") for name in state)
        if layers in VGG_DEPTHS:
            return layers
        raise ValueError(
            f"{layers} layers with weights: no VGG of 16 or 19 layers without batch norm: give one of these"
        )
    blocks = {match[0] for name in state if (match := re.match(r"layer[1-4]\.\d+\.", name))}
    counts = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in (1, 2, 3, 4))
    unit = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    for depth, stages in IMAGENET_STAGES.items():
        if stages == (unit, counts):
            return depth
    raise ValueError(
        f"layer1 to layer4 have {', '.join(map(str, counts))} {unit} units, which is no ResNet of "
        f"{', '.join(map(str, IMAGENET_STAGES))} layers: give the weights of one, under torchvision's names"
    )


def convert(
    state: Mapping[str, Any], depth: int | None = None, classes: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A torchvision-style state dict as (`network` of params/, our state dict in float32 with one replica).

    The names do not tell which convolution of a bottleneck has the stride: weights of he2015's own networks, with the
    stride on the first 1x1, would be taken for torchvision's.

    Args:
        state: with or without "module." before all names, and num_batches_tracked; or below a key of `WRAPPERS`.
        depth: layers; None: by the names.
        classes: that the weights must have; None: any number.

    Raises:
        ValueError: no state dict, a key that is missing or too many, another shape, or numbers that are not finite.
    """
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ValueError(f"a {type(state).__name__} and no state dict: save model.state_dict()")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{name!r} is no tensor, so this is no state dict: save model.state_dict()")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    network = describe_network(depth or infer_depth(state))
    names, title = get_names(network), f"{TITLES[network['family']]}-{network['depth']}"
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"{missing[0]} is missing, which a {title} has: give its whole state dict")
    if extra := [name for name in state if name not in names and not name.endswith(".num_batches_tracked")]:
        raise ValueError(f"{extra[0]} is in no {title} of torchvision: give the state dict of one")
    last = list(names)[-2]  # the last layer's weights; after them its biases
    found = next(iter(state[last].shape), 1)
    if classes is not None and found != classes:
        raise ValueError(f"{last}: of {found} classes where {classes} are tested: give weights for {classes}")
    shapes = {name: tensor.shape for name, tensor in build_network(network, found, "meta").state_dict().items()}
    converted = {}
    for original, name in names.items():
        tensor = state[original]
        shape = shapes[name][1:] if name.endswith(("running_mean", "running_var")) else shapes[name]  # no replicas
        if tensor.shape != shape:
            raise ValueError(f"{original}: shape {tuple(tensor.shape)} where a {title} has {tuple(shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{original}: numbers of type {str(tensor.dtype).removeprefix('torch.')}: give floats")
        tensor = tensor.detach().float().clone()
        if not tensor.isfinite().all():
            raise ValueError(f"{original}: numbers that are not finite: the training diverged or the file is damaged")
        converted[name] = tensor.view(shapes[name])
    return network, converted
