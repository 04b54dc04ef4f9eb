"""Training views of ImageNet a second: ours, and torchvision's ImageFolder with a DataLoader, in rounds in turn."""

import functools
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from identity_mappings.data import colour
from identity_mappings.data.decode import DECODERS
from identity_mappings.data.stream import Stream
from identity_mappings.training.memory import keep_freed_memory

PEER = "torchvision"
SIZE, SHORTER_SIDE = 224, (256, 480)
EIGENVALUES, EIGENVECTORS = torch.tensor(colour.EIGENVALUES), torch.tensor(colour.EIGENVECTORS)


class Files:
    """JPEG files in place of shards: what both sides read."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.labels = torch.zeros(len(paths), dtype=torch.int64)
        self.shard_of = numpy.zeros(len(paths), numpy.int32)

    def jpeg(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def name(self, index: int) -> str:
        return str(self.paths[index])


def write_photographs(folder: Path, images: int) -> list[Path]:
    """Pieces of photographs, 500x375 and every fourth 375x500, as JPEG files in the layout of ImageFolder."""
    generator, paths = numpy.random.default_rng(0), []
    sources = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for number in range(images):
        width, height = (500, 375) if number % 4 else (375, 500)
        source = sources[number % 2].resize((640, 640 * 427 // 640) if number % 4 else (750, 500), Image.BICUBIC)
        left = int(generator.integers(source.width - width + 1))
        top = int(generator.integers(source.height - height + 1))
        path = folder / f"class{number % 2}" / f"{number:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        # 96 kB on average; ILSVRC's have about 110.
        source.crop((left, top, left + width, top + height)).save(path, "JPEG", quality=97)
        paths.append(path)
    return paths


def _resize_randomly(image: Image.Image) -> Image.Image:
    """he2015's shorter side, as torchvision users write it."""
    return transforms.functional.resize(image, random.randint(*SHORTER_SIDE))


def _light(image: Tensor) -> Tensor:
    """Colour by principal components, as it is usually written for torchvision (after fb.resnet.torch)."""
    alpha = image.new_empty(3).normal_(0, colour.ALPHA)
    shift = EIGENVECTORS.mul(alpha.view(1, 3)).mul(EIGENVALUES.view(1, 3)).sum(1)
    return image.add(shift.view(3, 1, 1))


def make_torchvision_epoch(folder: Path, mean: Tensor, batch_size: int, workers: int) -> Callable[[], int]:
    """A function that makes an epoch of normalized batches and returns the number of images."""
    steps = [
        transforms.Lambda(_resize_randomly),
        transforms.RandomCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Lambda(_light),
        transforms.Lambda(functools.partial(torch.sub, other=mean / 255)),
    ]
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(images) for images, _ in loader)


def make_our_epoch(paths: list[Path], mean: Tensor, batch_size: int, workers: int, decoder: str) -> Callable[[], int]:
    """The same of ours; colour and normalization are part of it."""
    recipe = SimpleNamespace(
        batch_size=batch_size, batch_norm_samples=batch_size, iterations=0, epoch_end="short-batch",
        crop="scale", crop_size=SIZE, shorter_side=SHORTER_SIDE, colour="pca", flip=True, decoder=decoder,
        shuffle_shards=None,
    )  # fmt: skip
    views = Stream(Files(paths), recipe, 0, [0], workers)
    normalize = colour.Normalization("per-pixel-mean", mean)

    def make_epoch() -> int:
        begin = recipe.iterations
        recipe.iterations += -(-len(paths) // batch_size)
        batches = views.batches(begin)
        return sum(len(normalize(colour.apply(b.images, b.colours, recipe.colour))) for b in batches)

    return make_epoch


def measure_views(folder: Path, workers: int, rounds: int, images: int = 1024, batch_size: int = 64) -> dict[str, Any]:
    """Images a second of each implementation, medians over rounds in turn, after one that does not count.

    Args:
        folder: takes the JPEG files.
        workers: processes of each implementation; this process normalizes with one thread.
        images: files, all of which are read in a round.
    """
    keep_freed_memory()  # as a training run does; the peer has it as well
    torch.set_num_threads(1)
    mean = torch.rand(3, SIZE, SIZE) * 255
    paths = write_photographs(folder, images)
    sides = {PEER: make_torchvision_epoch(folder, mean, batch_size, workers)}
    for decoder in DECODERS:
        sides[f"ours, {decoder}"] = make_our_epoch(paths, mean, batch_size, workers, decoder)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, make_epoch in sides.items():
            begin = time.perf_counter()
            if make_epoch() != images:
                raise RuntimeError(f"{name} did not make all views")
            seconds[name].append(time.perf_counter() - begin)
    counted = {name: own[1:] for name, own in seconds.items()}
    ratios = {name: median(p / o for p, o in zip(counted[PEER], own, strict=True)) for name, own in counted.items()}
    return {
        "file_kilobytes": round(sum(path.stat().st_size for path in paths) / images / 1000, 1),
        "workers": workers,
        "images_per_second": {name: round(images / median(own), 1) for name, own in counted.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items() if name != PEER},
    }
