"""Which images an iteration sees, and how each is cropped and flipped: all functions of (seed, epoch)."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def stream(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, so that no two streams of random numbers of a run are the same."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream(seed, *purpose))


@dataclass(frozen=True)
class Epoch:
    """What an epoch draws; each a tensor over the images.

    Attributes:
        order: permutation: position in the epoch to image.
        top, left: corner of the crop in the padded image, 0 to 2 * padding, by image.
        flip: whether to mirror it, by image.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


@dataclass(frozen=True)
class View:
    """The images of a batch and their augmentation; each a tensor over the batch."""

    image: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


class Sampler:
    """Shuffled anew every epoch, without replacement (he2016, Appendix, by he2015).

    Args:
        images: number of training images.
        batch_size: images an iteration.
        epoch_end: "continue" the batch into the next epoch (Caffe), or end the epoch with a "short-batch" (Torch).
        padding: pixels padded on each side before the crop.
        flip: whether images are mirrored at random.
        seed: of the run.
    """

    def __init__(self, images: int, batch_size: int, epoch_end: str, padding: int, flip: bool, seed: int):
        self.images, self.batch_size, self.epoch_end = images, batch_size, epoch_end
        self.padding, self.flip, self.seed = padding, flip, seed
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, number: int) -> Epoch:
        g = generator(self.seed, "views", number)
        offsets = torch.randint(2 * self.padding + 1, (2, self.images), generator=g)
        flip = torch.randint(2, (self.images,), generator=g).bool() & self.flip
        order = torch.randperm(self.images, generator=generator(self.seed, "order", number))
        return Epoch(order, offsets[0], offsets[1], flip)

    def positions(self, iteration: int) -> list[tuple[int, int, int]]:
        """The parts of the batch of an iteration: (epoch, first position in it, one past the last)."""
        if self.epoch_end == "short-batch":
            per_epoch = math.ceil(self.images / self.batch_size)
            epoch, batch = divmod(iteration, per_epoch)
            return [(epoch, batch * self.batch_size, min((batch + 1) * self.batch_size, self.images))]
        parts, left = [], self.batch_size
        epoch, position = divmod(iteration * self.batch_size, self.images)
        while left:
            end = min(position + left, self.images)
            parts.append((epoch, position, end))
            left -= end - position
            epoch, position = epoch + 1, 0
        return parts

    def view(self, iteration: int) -> View:
        """Images and augmentation of the batch of an iteration."""
        parts = []
        for number, begin, end in self.positions(iteration):
            epoch = self.epoch(number)
            image = epoch.order[begin:end]
            parts.append((image, epoch.top[image], epoch.left[image], epoch.flip[image]))
        return View(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
