"""Which images an iteration sees, and how each is cropped and flipped: all functions of (seed, epoch)."""

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy
import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, so that no two streams of random numbers of a run are the same."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *purpose: object, device: str | torch.device = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


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
        g = make_generator(self.seed, "views", number)
        offsets = torch.randint(2 * self.padding + 1, (2, self.images), generator=g)
        flip = torch.randint(2, (self.images,), generator=g).bool() & self.flip
        order = torch.randperm(self.images, generator=make_generator(self.seed, "order", number))
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
        image, top, left = torch.zeros(3, length, dtype=torch.int64, device=device)
        self.tables = View(image, top, left, torch.zeros(length, dtype=torch.bool, device=device))
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


class Order:
    """Which image is where in an epoch: shuffled anew every epoch, without replacement.

    Args:
        shard_of: (images), the number of each image's shard; images of a shard are side by side.
        batch_size, epoch_end: as in `Sampler`.
        shuffle_shards: images are permuted over so many shards at a time, the shards being in a random order, so that
            a disk reads these and no others; None: over all.
    """

    def __init__(self, shard_of: numpy.ndarray, batch_size: int, epoch_end: str, shuffle_shards: int | None, seed: int):
        self.images, self.batch_size, self.epoch_end, self.seed = len(shard_of), batch_size, epoch_end, seed
        self.shards, self.first = numpy.unique(shard_of, return_index=True)
        self.sizes = numpy.diff(self.first, append=self.images)
        self.window = min(shuffle_shards or len(self.shards), len(self.shards))
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, number: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """An epoch's images by position, int64 (images), and its shards in reading order, as indices of `shards`."""
        random = make_generator(self.seed, "order", number)
        if self.window == len(self.shards):
            return torch.randperm(self.images, generator=random).numpy(), numpy.arange(len(self.shards))
        shards, order = torch.randperm(len(self.shards), generator=random).numpy(), []
        for begin in range(0, len(shards), self.window):
            window = shards[begin : begin + self.window]
            images = numpy.concatenate([self.first[s] + numpy.arange(self.sizes[s]) for s in window])
            order.append(images[torch.randperm(len(images), generator=random).numpy()])
        return numpy.concatenate(order), shards

    def samples(self, iteration: int) -> list[tuple[int, int]]:
        """(epoch, image) of each sample of an iteration's batch, in order."""
        return [
            (epoch, int(image))
            for epoch, begin, end in positions(iteration, self.images, self.batch_size, self.epoch_end)
            for image in self.epoch(epoch)[0][begin:end]
        ]

    def ahead(self, iteration: int, first: bool) -> list[int]:
        """The shards that are to be read ahead at an iteration.

        A shard is requested one window before a pass in shard order would reach it, so that the disk reads evenly.

        Args:
            first: this is the first call; also returns the shards that earlier calls would have returned.
        """
        if self.window == len(self.shards):
            return []  # every batch is from everywhere
        wanted = []
        for epoch, begin, end in positions(iteration, self.images, self.batch_size, self.epoch_end):
            shards = self.epoch(epoch)[1]
            starts = numpy.cumsum(self.sizes[shards]) - self.sizes[shards]
            low, high = numpy.searchsorted(starts, [begin, end]) + self.window
            if first:  # from the first shard of this window on
                low = (numpy.searchsorted(starts, begin, side="right") - 1) // self.window * self.window
                first = False
            following = self.epoch(epoch + 1)[1] if high > len(shards) else shards[:0]
            wanted += self.shards[numpy.concatenate([shards, following])[low:high]].tolist()
        return wanted
