"""The papers' networks by the names that their parameters have."""

from torch import nn

from .cifar import CifarResNet
from .imagenet import ImageNetResNet
from .vgg import Vgg

FAMILIES: dict[str, type[nn.Module]] = {"cifar": CifarResNet, "imagenet": ImageNetResNet, "vgg": Vgg}
