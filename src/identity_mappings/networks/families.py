"""The papers' networks by the names that their parameters have; `load` gives a trained one back from its export.

An export holds this package beside its weights, as the folder `network`, with this module as its `__init__`: `load`
needs torch and safetensors only.
"""

import json
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from .resnet import CifarResNet, ImageNetResNet
from .vgg import Vgg

Network = CifarResNet | ImageNetResNet | Vgg
FAMILIES: dict[str, type[Network]] = {
    "cifar": CifarResNet,
    "imagenet": ImageNetResNet,
    "vgg": Vgg,
}
WEIGHTS, CONFIG, NORMALIZATION = "model.safetensors", "config.json", "normalization."
OWN_SHORTCUT = "own_shortcut"  # module of an export that has a shortcut of the user's own


class Classifier(nn.Module):
    """A network behind its normalization.

    Args:
        network: takes normalized images.
        mean: (C, H, W) or (C, 1, 1), in 0 to 255; images of another size lose its mean by channel.
        deviation: (C, 1, 1).

    Shape: images (N, C, H, W) in 0 to 255, uint8 or float, to scores (N, classes).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, deviation: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        mean = self.mean
        if mean.shape[1:] not in (images.shape[2:], (1, 1)):
            mean = mean.double().mean((1, 2), keepdim=True).float()
        return self.network((images.float() - mean) / self.deviation)


def load(folder: str | Path = Path(__file__).parents[1]) -> Classifier:
    """The network of an export, from its folder, with its weights, in evaluation mode on the CPU."""
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / CONFIG).read_text("utf-8"))
    weights = load_file(Path(folder) / WEIGHTS)
    normalization = {name: weights.pop(NORMALIZATION + name) for name in ("mean", "deviation")}
    arguments = config["arguments"]
    shortcut = arguments.get("shortcut") or {}
    if shortcut.get("kind") == "custom":
        own = getattr(import_module(f"{__name__}.{OWN_SHORTCUT}"), shortcut["class_name"])
        arguments |= {"shortcut": {"kind": "custom", **shortcut["arguments"]}, "shortcut_class": own}
    network = FAMILIES[config["family"]](**arguments)
    network.load_state_dict(weights)
    return Classifier(network, **normalization).eval()


def as_tensors(network: dict[str, Tensor], mean: Tensor, deviation: Tensor) -> dict[str, Tensor]:
    """What model.safetensors holds: a state_dict, and the normalization."""
    tensors = {**network, f"{NORMALIZATION}mean": mean, f"{NORMALIZATION}deviation": deviation}
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
