"""Weights that were trained elsewhere, under torchvision's names, in our networks (he2015, option B)."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..networks.depth import IMAGENET_STAGES
from ..networks.imagenet import ImageNetResNet

WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the weights among other things


def names_of(depth: int) -> dict[str, str]:
    """{name of torchvision's: name of ours}, of all weights and statistics of a ResNet, in order."""
    unit, counts = IMAGENET_STAGES[depth]
    modules, index = {"conv1": "stem.0", "bn1": "stem.1"}, 0
    for stage, count in enumerate(counts, 1):
        for block in range(count):
            theirs, ours = f"layer{stage}.{block}", f"units.{index}"
            for number in (1, 2, 3) if unit == "bottleneck" else (1, 2):
                modules[f"{theirs}.conv{number}"] = f"{ours}.residual.{3 * number - 3}"
                modules[f"{theirs}.bn{number}"] = f"{ours}.residual.{3 * number - 2}"
            if block == 0 and (stage > 1 or unit == "bottleneck"):
                modules[f"{theirs}.downsample.0"] = f"{ours}.shortcut.path.0"
                modules[f"{theirs}.downsample.1"] = f"{ours}.shortcut.path.1"
            index += 1
    modules["fc"] = "linear"
    names = {}
    for theirs, ours in modules.items():
        normalizes = re.search(r"bn\d$|downsample\.1$", theirs)
        kinds = ("weight", "bias", "running_mean", "running_var") if normalizes else ("weight",)
        for kind in ("weight", "bias") if theirs == "fc" else kinds:
            names[f"{theirs}.{kind}"] = f"{ours}.{kind}"
    return names


def network_of(depth: int) -> dict[str, Any]:
    """torchvision's network as `network` of params/: option B, a bottleneck's stride on its 3x3."""
    unit, _ = IMAGENET_STAGES[depth]
    network = {"family": "imagenet", "depth": depth, "unit": unit, "shape_change": "B"}
    return network | ({"bottleneck_stride": "3x3"} if unit == "bottleneck" else {})


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Of a state dict, by the names of its layers.

    Raises:
        UserError: of no ResNet that we have.
    """
    blocks = {match[0] for name in state if (match := re.match(r"layer[1-4]\.\d+\.", name))}
    counts = tuple(sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in (1, 2, 3, 4))
    unit = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    for depth, stages in IMAGENET_STAGES.items():
        if stages == (unit, counts):
            return depth
    raise UserError(
        f"layer1 to layer4 have {', '.join(map(str, counts))} {unit} units, which is no ResNet of "
        f"{', '.join(map(str, IMAGENET_STAGES))} layers: give the weights of one, under torchvision's names"
    )


def convert(
    state: Mapping[str, Any], depth: int | None = None, classes: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(`network` as params/ would have it, our state dict in float32, of one replica) of a torchvision-style one.

    The names do not tell which convolution of a bottleneck has the stride: weights of he2015's own networks, which have
    it on the first 1x1, would be taken for torchvision's.

    Args:
        state: with or without "module." before all names, and num_batches_tracked; or below a key of `WRAPPERS`.
        depth: layers; None: by the names.
        classes: that the weights must have; None: any number.

    Raises:
        UserError: no state dict, a key that is missing or too many, another shape, or numbers that are not finite.
    """
    state = _unwrapped(state)
    depth = depth or depth_of(state)
    if depth not in IMAGENET_STAGES:
        raise UserError(f"no ResNet-{depth}: the depth is one of {', '.join(map(str, IMAGENET_STAGES))}")
    names, network = names_of(depth), network_of(depth)
    if missing := [name for name in names if name not in state]:
        raise UserError(f"{missing[0]} is missing, which a ResNet-{depth} has: give its whole state dict")
    if extra := [name for name in state if name not in names and not name.endswith(".num_batches_tracked")]:
        raise UserError(f"{extra[0]} is in no ResNet-{depth} of torchvision: give the state dict of one")
    found = next(iter(state["fc.weight"].shape), 1)
    if classes is not None and found != classes:
        raise UserError(f"fc.weight: of {found} classes where {classes} are tested: give weights for {classes}")
    with torch.device("meta"):
        wanted = ImageNetResNet(**{key: value for key, value in network.items() if key != "family"}, classes=found)
    shapes = {name: tensor.shape for name, tensor in wanted.state_dict().items()}
    converted = {}
    for theirs, ours in names.items():
        tensor = state[theirs]
        shape = shapes[ours][1:] if ours.endswith(("running_mean", "running_var")) else shapes[ours]  # no replicas
        if tensor.shape != shape:
            raise UserError(f"{theirs}: shape {tuple(tensor.shape)} where a ResNet-{depth} has {tuple(shape)}")
        if not tensor.is_floating_point():
            raise UserError(f"{theirs}: numbers of type {str(tensor.dtype).removeprefix('torch.')}: give floats")
        tensor = tensor.detach().float().clone()
        if not tensor.isfinite().all():
            raise UserError(f"{theirs}: numbers that are not finite: the training diverged or the file is damaged")
        converted[ours] = tensor.view(shapes[ours])
    return network, converted


def _unwrapped(state: Any) -> Mapping[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise UserError(f"a {type(state).__name__} and no state dict: save model.state_dict()")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise UserError(f"{name!r} is no tensor, so this is no state dict: save model.state_dict()")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def read(path: Path, depth: int | None = None, classes: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`convert` of a file of torch.save. No code in it is run.

    Raises:
        UserError: no such file, one that cannot be read so, or what `convert` refuses.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give a file of torch.save(model.state_dict())") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise UserError(
            f"{path}: damaged, not of torch.save, or with objects that only running code would read: give a file of "
            "torch.save(model.state_dict())"
        ) from None
    try:
        return convert(state, depth, classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
