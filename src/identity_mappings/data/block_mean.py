"""Datasets that are made from another at a lower resolution: each pixel is the mean of a block of pixels."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from . import cifar
from .images import Images


def compute_block_mean(images: Tensor, size: int) -> Tensor:
    """The mean of each block of pixels, by colour channel, rounded half up.

    Args:
        images: uint8 (N, C, H, W).
        size: height and width of a block in pixels; divides H and W.

    Returns:
        uint8 (N, C, H / size, W / size): (sum of the block + size^2 / 2) // size^2, in integers.
    """
    means = []
    for part in images.split(1000):  # at most 1,000 images as 32-bit integers
        blocks = part.unflatten(3, (-1, size)).unflatten(2, (-1, size))
        means.append(((blocks.sum(dim=(3, 5), dtype=torch.int32) + size**2 // 2) // size**2).to(images.dtype))
    return torch.cat(means)


def compute_md5(source_md5: str, size: int) -> str:
    """The hash that pins such a dataset: it follows from the source's hash and the size of a block."""
    return hashlib.md5(f"{source_md5}: mean of blocks of {size} x {size} pixels, rounded half up".encode()).hexdigest()


def load(name: str, md5: str, made_from: dict[str, Any], folder: Path) -> Images:
    """Read the source's files and compute the means.

    Args:
        made_from: {"name", "md5", "block_mean"} of the parameters.

    Raises:
        UserError: a file is missing or wrong, the images cannot be cut into such blocks, or `md5` does not follow from
            the source's.
    """
    size, expected = made_from["block_mean"], compute_md5(made_from["md5"], made_from["block_mean"])
    if md5 != expected:
        raise UserError(
            f"params/datasets.yaml: {name}.md5: {md5} does not follow from {made_from['name']}'s: write {expected}"
        )
    images = cifar.load(made_from["name"], made_from["md5"], folder)
    pixels = images.training.shape[-1]
    if pixels % size:
        raise UserError(
            f"params/datasets.yaml: {name}.made_from.block_mean: images of {pixels} pixels cannot be cut into blocks "
            f"of {size}: take a divisor"
        )
    return images._replace(
        training=compute_block_mean(images.training, size), test=compute_block_mean(images.test, size)
    )
