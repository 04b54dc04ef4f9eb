"""A dataset in memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from .sampling import generator


class Images(NamedTuple):
    """Images as uint8 (N, C, H, W) and labels as int64 (N)."""

    training: Tensor
    training_labels: Tensor
    test: Tensor
    test_labels: Tensor


def hold_out(images: Images, count: int) -> Images:
    """Move `count` training images, the same for every seed, into the place of the test set."""
    order = torch.randperm(len(images.training), generator=generator(0, "validation"))
    held, kept = order[:count].sort().values, order[count:].sort().values
    return Images(
        images.training[kept], images.training_labels[kept], images.training[held], images.training_labels[held]
    )
