"""Training views of images that do not fit into memory: their order, and workers that make whole batches of them.

A view is a function of (seed, epoch, index of the image) alone, and a batch of (seed, iteration): never of the number
of workers, processes or devices, or of what was asked for before.
"""

import fcntl
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from ..records.files import write_atomically
from . import colour, crops, decode
from .sampling import generator, positions, stream

if TYPE_CHECKING:
    from .shards import Shards

CHUNK = 256  # images that a worker adds up at a time for the mean image


class Batch(NamedTuple):
    """The views of an iteration, of some replicas of batch norm, one replica's after the other's.

    Attributes:
        images: uint8 (n, 3, S, S), channels_last in memory; cropped and mirrored.
        labels: int64 (n).
        colours: float32 (n, colour.NUMBERS[...]), for `colour.apply`.
        total: images of the iteration, of all replicas.
    """

    images: Tensor
    labels: Tensor
    colours: Tensor
    total: int


class Order:
    """Which image is where in an epoch: shuffled anew every epoch, without replacement.

    Args:
        shard_of: (images), the number of each image's shard; images of a shard are side by side.
        batch_size, epoch_end: as in `sampling.Sampler`.
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
        random = generator(self.seed, "order", number)
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


class BatchMaker:
    """Decodes and crops the images of a batch, in a worker process; `Stream` has the same arguments."""

    def __init__(self, shards: "Shards", recipe: SimpleNamespace, seed: int, replicas: Sequence[int]):
        if recipe.crop == "scale" and recipe.shorter_side[0] < recipe.crop_size:
            raise UserError(
                f"recipe: shorter_side begins at {recipe.shorter_side[0]}, below crop_size {recipe.crop_size}: raise it"
            )
        self.shards, self.recipe, self.replicas = shards, recipe, list(replicas)
        self.parts = recipe.batch_size // recipe.batch_norm_samples
        self.labels, self.key = shards.labels.numpy(), stream(seed, "views")
        self.order = Order(shards.shard_of, recipe.batch_size, recipe.epoch_end, recipe.shuffle_shards, seed)

    def batch(self, iteration: int, first: bool) -> Batch:
        """The images of an iteration; the `first` one has more to read ahead."""
        for shard in self.order.ahead(iteration, first):
            self.shards.will_need(shard)
        whole = self.order.samples(iteration)
        samples = [sample for replica in self.replicas for sample in whole[replica :: self.parts]]
        size = self.recipe.crop_size
        images = numpy.empty((len(samples), size, size, 3), numpy.uint8)
        colours = numpy.empty((len(samples), colour.NUMBERS[self.recipe.colour]), numpy.float32)
        for row, (epoch, index) in enumerate(samples):
            images[row], colours[row] = self.view(epoch, index)
        labels = self.labels[[index for _, index in samples]]
        tensors = (torch.from_numpy(array) for array in (images.transpose(0, 3, 1, 2), labels, colours))
        return Batch(*tensors, len(whole))

    def view(self, epoch: int, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """An image in an epoch: its crop, uint8 (S, S, 3), mirrored if so drawn, and its numbers for the colour."""
        recipe = self.recipe
        # Random numbers of a key and a counter: no two images or epochs have any in common.
        random = numpy.random.Generator(numpy.random.Philox(key=self.key, counter=[0, 0, index, epoch]))
        uniform = random.random(crops.DRAWS)
        mirrored = recipe.flip & (random.random() < 0.5)
        image = decode.read(self.shards.jpeg(index), recipe.decoder, partial(self.shards.name, index))
        width, height = crops.get_size(image)
        if recipe.crop == "scale":
            part = crops.scale(width, height, uniform, recipe.shorter_side, recipe.crop_size)
        else:
            part = crops.scale_and_aspect_ratio(width, height, uniform, recipe.crop_size)
        return crops.cut(image, part, recipe.crop_size, mirrored), colour.draw(random, recipe.colour)


class Loader:
    """Calls a function with one tuple of arguments after the other, in worker processes; gives its results in order.

    Args:
        function: may raise UserError; must hold no reference to the Loader, whose garbage collection ends the workers.
        workers: processes, each with one thread, which stay for a further `run`; 0: none.
        pin_memory: as in torch's DataLoader.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int, pin_memory: bool = False):
        self.items = _Items()
        self.loader = DataLoader(
            _Results(function),
            batch_size=None,
            sampler=self.items,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=ignore_group_signals,
            generator=torch.Generator(),  # of its own, so that it takes nothing from torch's
        )

    def run(self, items: Iterable[tuple]) -> Generator[Any, None, None]:
        """The results. One call at a time: a further one ends the one before.

        Raises:
            UserError: as the function raised it, or a worker was killed.
        """
        self.items.now, failure = items, None
        try:
            for result in self.loader:
                if isinstance(result, UserError):
                    failure = result
                    break
                yield result
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            failure = UserError(f"{error}: too little memory? Take fewer workers")
        if failure:
            self.close()
            raise failure

    def close(self) -> None:
        """End the workers; there is no further `run`. Those that the garbage collector ends take seconds each."""
        self.loader = None


class Stream(Loader):
    """The batches of a run, made by workers ahead of their use.

    Args:
        recipe: batch_size, batch_norm_samples, epoch_end, iterations, crop, crop_size, shorter_side, colour, flip,
            decoder, shuffle_shards.
        replicas: whose samples are wanted, of batch_size // batch_norm_samples; sample i belongs to replica i modulo
            their number.
        workers: processes, each with one thread; 0: made where they are asked for.
        pin_memory: for copies to a GPU.

    Raises:
        UserError: the recipe's crop does not fit into its smallest image.
    """

    def __init__(
        self,
        shards: "Shards",
        recipe: SimpleNamespace,
        seed: int,
        replicas: Sequence[int],
        workers: int,
        pin_memory: bool = False,
    ):
        self.maker = BatchMaker(shards, recipe, seed, replicas)
        super().__init__(self.maker.batch, workers, pin_memory)

    def batches(self, first_iteration: int) -> Generator[Batch, None, None]:
        """From an iteration on, to the recipe's last one; a further call ends the one before.

        Raises:
            UserError: an image cannot be decoded, or a worker was killed.
        """
        iterations = range(first_iteration, self.maker.recipe.iterations)
        return self.run((iteration, iteration == first_iteration) for iteration in iterations)


def ignore_group_signals(_: int) -> None:
    """In a worker: a signal to the whole process group is for who trains, which ends the workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class _Items:
    """What a DataLoader is to load next."""

    now: Iterable[tuple] = ()

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.now)


def _as_it_is(result: Any) -> Any:
    return result


class _Results(Dataset):
    """What a function returns; its UserError is returned, too, as a DataLoader would make a traceback of it."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __getitem__(self, item: tuple) -> Any:
        try:
            return self.function(*item)
        except UserError as error:
            return error


def mean_image(shards: "Shards", crop_size: int, decoder: str, folder: Path, workers: int) -> Tensor:
    """The mean of all images' middle crops, float32 (3, crop_size, crop_size) in 0 to 255 (he2015, Section 3.4).

    A crop is the middle of the image with shorter side 256 / 224 * crop_size. Sums are of integers, so the mean has one
    value whatever adds it up. It is computed once and kept in `folder` as mean-SIZE-DECODER.npy (the archives, and so
    the images, are pinned); other processes wait for it.

    Raises:
        UserError: an image cannot be decoded, the folder cannot be written to, or the file there is another thing.
    """
    path = folder / f"mean-{crop_size}-{decoder}.npy"
    try:
        if not path.is_file():
            with (folder / f".{path.name}.lock").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                if not path.is_file():
                    content = io.BytesIO()
                    numpy.save(content, _mean(shards, crop_size, decoder, workers))
                    write_atomically(path, content.getvalue())
        mean = numpy.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: the mean image is kept there: make it writable") from None
    except (ValueError, EOFError):
        mean = None
    if mean is None or (mean.dtype, mean.shape) != (numpy.float32, (3, crop_size, crop_size)):
        raise UserError(f"{path}: not the mean image: remove it, it is made again")
    return torch.from_numpy(mean)


def _mean(shards: "Shards", crop_size: int, decoder: str, workers: int) -> numpy.ndarray:
    shorter_side = round(256 / 224 * crop_size)

    def add_up(begin: int) -> numpy.ndarray:
        total = numpy.zeros((crop_size, crop_size, 3), numpy.int64)
        for index in range(begin, min(begin + CHUNK, len(shards))):
            image = decode.read(shards.jpeg(index), decoder, partial(shards.name, index))
            part = crops.centre(*crops.get_size(image), shorter_side, crop_size)
            total += crops.cut(image, part, crop_size)
        return total

    print(f"mean image of {len(shards)} images, once ...", file=sys.stderr, flush=True)
    total, reported = numpy.zeros((crop_size, crop_size, 3), numpy.int64), 0
    for number, part in enumerate(Loader(add_up, workers).run((begin,) for begin in range(0, len(shards), CHUNK)), 1):
        total += part
        share = min(100, 100 * number * CHUNK // len(shards))
        if share >= reported + 10:
            reported = share
            print(f"mean image: {share} %", file=sys.stderr, flush=True)
    return (total / len(shards)).astype(numpy.float32).transpose(2, 0, 1).copy()
