"""Training views of images that do not fit into memory: their order, and workers that make whole batches of them.

A view is a function of (seed, epoch, index of the image) alone, and a batch of (seed, iteration): never of the number
of workers, processes or devices, or of what was asked for before.
"""

import fcntl
import io
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
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
from .listing import show_progress
from .sampling import Order, derive_seed

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


class Stream:
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
        if recipe.crop == "scale" and recipe.shorter_side[0] < recipe.crop_size:
            raise UserError(
                f"recipe: shorter_side begins at {recipe.shorter_side[0]}, below crop_size {recipe.crop_size}: raise it"
            )
        self.shards, self.recipe, self.replicas = shards, recipe, list(replicas)
        self.workers, self.pin_memory = workers, pin_memory
        self.parts = recipe.batch_size // recipe.batch_norm_samples
        self.labels, self.key = shards.labels.numpy(), derive_seed(seed, "views")
        self.order = Order(shards.shard_of, recipe.batch_size, recipe.epoch_end, recipe.shuffle_shards, seed)

    def batches(self, first_iteration: int) -> Generator[Batch, None, None]:
        """From an iteration on, to the recipe's last one.

        Raises:
            UserError: an image cannot be decoded, or a worker was killed.
        """
        iterations = range(first_iteration, self.recipe.iterations)
        items = ((iteration, iteration == first_iteration) for iteration in iterations)
        return run_in_workers(self.make_batch, items, self.workers, self.pin_memory)

    def make_batch(self, iteration: int, first: bool) -> Batch:
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
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        return Batch(pixels, torch.from_numpy(labels), torch.from_numpy(colours), len(whole))

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


def run_in_workers(
    function: Callable[..., Any], items: Iterable[tuple], workers: int, pin_memory: bool = False
) -> Generator[Any, None, None]:
    """Call a function with one tuple of arguments after the other, in worker processes; gives its results in order.

    The workers end with the iterator: where it is exhausted, closed, or not referred to any more.

    Args:
        function: may raise UserError.
        workers: processes, each with one thread; 0: none.
        pin_memory: as in torch's DataLoader.

    Raises:
        UserError: as the function raised it, or a worker was killed.
    """
    results = DataLoader(
        _Results(function),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_group_signals,
        generator=torch.Generator(),  # of its own, so that it takes nothing from torch's
    )
    try:
        for result in results:
            if isinstance(result, UserError):
                raise result
            yield result
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(f"{error}: too little memory? Take fewer workers") from None


class _Results(Dataset):
    """What a function returns; its UserError is returned, too, as a DataLoader would make a traceback of it."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __getitem__(self, item: tuple) -> Any:
        try:
            return self.function(*item)
        except UserError as error:
            return error


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

    total = torch.zeros(crop_size, crop_size, 3, dtype=torch.int64)
    with show_progress("mean image", len(shards)) as advance:
        for part in run_in_workers(add_up, ((begin,) for begin in range(0, len(shards), CHUNK)), workers):
            total += torch.as_tensor(part)
            advance(CHUNK)
    return (total.numpy() / len(shards)).astype(numpy.float32).transpose(2, 0, 1).copy()
