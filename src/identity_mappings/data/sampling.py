"""Which images an iteration sees, and how each is cropped and flipped: all functions of (seed, epoch)."""

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


def stream(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, so that no two streams of random numbers of a run are the same."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream(seed, *purpose))


class View(NamedTuple):
    """Images and their augmentation, in order; each a tensor over a batch, or over an epoch.

    Attributes:
        image: number of the image.
        top, left: corner of the crop in the padded image, 0 to 2 * padding.
        flip: whether to mirror it.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


def positions(iteration: int, images: int, batch_size: int, epoch_end: str) -> list[tuple[int, int, int]]:
    """The parts of the batch of an iteration: (epoch, first position in it, one past the last). See `Sampler`."""
    if epoch_end == "short-batch":
        per_epoch = math.ceil(images / batch_size)
        epoch, batch = divmod(iteration, per_epoch)
        return [(epoch, batch * batch_size, min((batch + 1) * batch_size, images))]
    parts, left = [], batch_size
    epoch, position = divmod(iteration * batch_size, images)
    while left:
        end = min(position + left, images)
        parts.append((epoch, position, end))
        left -= end - position
        epoch, position = epoch + 1, 0
    return parts


class Sampler:
    """Shuffled anew every epoch, without replacement (he2016, Appendix, by he2015).

    Args:
        epoch_end: "continue" the batch into the next epoch (Caffe), or end the epoch with a "short-batch" (Torch).
        padding: pixels padded on each side before the crop.
        flip: whether images are mirrored at random.
    """

    def __init__(self, images: int, batch_size: int, epoch_end: str, padding: int, flip: bool, seed: int):
        self.images, self.batch_size, self.epoch_end = images, batch_size, epoch_end
        self.padding, self.flip, self.seed = padding, flip, seed
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, number: int) -> View:
        """All images in the order of an epoch; what is drawn for an image does not depend on its place."""
        g = generator(self.seed, "views", number)
        offsets = torch.randint(2 * self.padding + 1, (2, self.images), generator=g)
        flip = torch.randint(2, (self.images,), generator=g).bool() & self.flip
        order = torch.randperm(self.images, generator=generator(self.seed, "order", number))
        return View(order, offsets[0][order], offsets[1][order], flip[order])

    def positions(self, iteration: int) -> list[tuple[int, int, int]]:
        return positions(iteration, self.images, self.batch_size, self.epoch_end)

    def view(self, iteration: int) -> View:
        """The batch of an iteration."""
        parts = [
            [column[begin:end] for column in self.epoch(number)] for number, begin, end in self.positions(iteration)
        ]
        return View(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class DeviceViews:
    """The views of a run as tables on its device, so that an iteration's can be taken there without waiting for it.

    `seek` moves to an iteration, from the host; `part` takes what is there then, and is the same work every time.
    """

    def __init__(self, sampler: Sampler, device: torch.device):
        self.sampler, self.device = sampler, device
        crossed = math.ceil(sampler.batch_size / sampler.images) if sampler.epoch_end == "continue" else 0
        self.epochs = 1 + crossed  # that a batch can reach
        length = self.epochs * sampler.images
        self.tables = View(
            *(torch.zeros(length, dtype=torch.int64, device=device) for _ in range(3)),
            torch.zeros(length, dtype=torch.bool, device=device),
        )
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.loaded: int | None = None

    def seek(self, iteration: int) -> int:
        """Move to the batch of an iteration; returns the number of its images."""
        parts = self.sampler.positions(iteration)
        epoch, begin, _ = parts[0]
        if epoch != self.loaded:
            for number in range(self.epochs):
                rows = slice(number * self.sampler.images, (number + 1) * self.sampler.images)
                for table, column in zip(self.tables, self.sampler.epoch(epoch + number), strict=True):
                    table[rows].copy_(column)
            self.loaded = epoch
        self.position.fill_(begin)
        return sum(end - begin for _, begin, end in parts)

    def part(self, size: int, first: int, step: int) -> View:
        """Every `step`-th view of the current batch of `size` images, from the `first` on."""
        indices = self.position + torch.arange(first, size, step, device=self.device)
        return View(*(table[indices] for table in self.tables))
