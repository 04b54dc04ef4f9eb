"""A dataset in memory."""

from typing import NamedTuple

from torch import Tensor


class Images(NamedTuple):
    """Images as uint8 (N, C, H, W) and labels as int64 (N)."""

    training: Tensor
    training_labels: Tensor
    test: Tensor
    test_labels: Tensor
