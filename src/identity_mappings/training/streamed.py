"""Where a trainer's images come from: shards of JPEG files, decoded by worker processes. ImageNet."""

import math
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import colour
from ..data.shards import Shards
from ..data.stream import Stream, mean_image
from ..errors import UserError
from ..evaluation import protocols, single_view
from ..networks.families import Network
from ..records.machine import count_cores
from ..records.run import IMAGENET_PROTOCOLS
from . import devices
from .feeds import STATISTICS_BATCHES, Counted
from .group import Group

MOST_WORKERS = 16  # for a process: more wait for one another


def count_workers(device: torch.device, group: Group) -> int:
    """Processes that decode for one training process: on a GPU its share of the cores, on a CPU none beside it."""
    return min(MOST_WORKERS, max(1, count_cores() // group.local_size)) if device.type == "cuda" else 0


def open_shards(dataset: dict[str, Any], split: str, folder: Path) -> Shards:
    """The shards of a split of the dataset that an experiment's parameters name.

    Raises:
        UserError: it is not prepared, not made of the pinned archives, or the counts disagree with the parameters.
    """
    name, stated = dataset["name"], dataset[f"{'training' if split == 'training' else 'test'}_images"]
    shards = Shards(folder / "shards" / name, split)
    if shards.md5 != dataset["md5"]:
        raise UserError(
            f"{shards.folder}: made of files with the hash {shards.md5}, the experiment's dataset {name} has "
            f"{dataset['md5']}: remove {shards.folder} and call `identity-mappings data prepare {name}`"
        )
    if len(shards) != stated or len(shards.classes) != dataset["classes"]:
        raise UserError(
            f"params/datasets.yaml: {name} has {len(shards)} {split} images of {len(shards.classes)} classes, not "
            f"{stated} of {dataset['classes']}: correct the numbers"
        )
    return shards


class Streamed:
    """Batches that workers decode and crop ahead of their use, in the place of `feeds.Resident`.

    Colour and normalization are the device's.

    Args:
        dataset: the parameters' {"name", "md5", counts}.
        group: whose process this is: only its replicas' images are decoded here.
        workers: processes; None: as `count_workers` has it.

    Raises:
        UserError: the dataset is not prepared, or is not the pinned one.
    """

    protocol = IMAGENET_PROTOCOLS[0]

    def __init__(
        self,
        dataset: dict[str, Any],
        recipe: SimpleNamespace,
        seed: int,
        device: torch.device,
        group: Group,
        folder: Path,
        workers: int | None = None,
    ):
        self.recipe, self.group, self.device = recipe, group, device
        self.workers = count_workers(device, group) if workers is None else workers
        self.training, self.validation = (open_shards(dataset, split, folder) for split in ("training", "validation"))
        self.counts = {"training_images": len(self.training), "test_images": len(self.validation)}
        self.replicas = recipe.batch_size // recipe.batch_norm_samples
        self.own_replicas = group.get_share(self.replicas)
        self.shape = (3, recipe.crop_size, recipe.crop_size)
        pinned_memory = device.type == "cuda"
        epoch = math.ceil(len(self.training) / recipe.batch_size)
        # Views that come after those of the training, for recomputed statistics.
        self.after = range(recipe.iterations, recipe.iterations + min(STATISTICS_BATCHES, epoch))
        until_end = SimpleNamespace(**{**vars(recipe), "iterations": self.after.stop})
        self.stream = Stream(self.training, until_end, seed, self.own_replicas, self.workers, pinned_memory)
        self.batches: Generator[Any, None, None] | None = None
        self.next = -1
        mean = None
        if recipe.normalization == "per-pixel-mean":
            mean = mean_image(self.training, recipe.crop_size, recipe.decoder, self.training.folder, self.workers)
        channels = recipe.channel_mean, recipe.channel_deviation
        self.normalize = colour.Normalization(recipe.normalization, mean, *channels, device)
        # The present batch is always in the same memory, where a captured step reads it.
        most = sum(len(range(replica, recipe.batch_size, self.replicas)) for replica in self.own_replicas)
        images = torch.zeros((most, *self.shape), dtype=torch.uint8, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.zeros(most, dtype=torch.int64, device=device)
        self.colours = torch.zeros(most, colour.NUMBERS[recipe.colour], device=device)

    def seek(self, iteration: int) -> int:
        if iteration != self.next or self.batches is None:
            self.batches = self.stream.batches(iteration)
        batch = next(self.batches)
        self.next = iteration + 1
        for held, new in ((self.images, batch.images), (self.labels, batch.labels), (self.colours, batch.colours)):
            held[: len(new)].copy_(new, non_blocking=True)
        return batch.total

    def replica(self, size: int, replica: int) -> tuple[Tensor, Tensor]:
        sizes = [len(range(r, size, self.replicas)) for r in self.own_replicas]
        position = self.own_replicas.index(replica)
        samples = slice(sum(sizes[:position]), sum(sizes[: position + 1]))
        pixels = colour.apply(self.images[samples], self.colours[samples], self.recipe.colour)
        return self.normalize(pixels), self.labels[samples]

    def test(self, network: nn.Module, _: Counted) -> single_view.Result:
        return self.test_by(self.protocol, network)

    def test_by(self, protocol: str, network: nn.Module) -> single_view.Result:
        """Test by a protocol, the images dealt out to the processes of the group."""
        share, recipe = (self.group.rank, self.group.size), self.recipe
        how = recipe.crop_size, recipe.decoder, self.device, self.workers
        with devices.autocast(self.device, recipe.arithmetic):
            result = protocols.test_by_protocol(network, self.validation, protocol, self.normalize, *how, share=share)
        total = torch.tensor(result, dtype=torch.float64, device=self.device)
        wrong, wrong_top_5, images, loss = self.group.sum(total).tolist()
        return single_view.Result(int(wrong), int(images), loss / images, int(wrong_top_5))

    def close(self) -> None:
        if self.batches is not None:
            self.batches.close()

    def statistics(self, network: Network) -> None:
        def forward(step: int) -> None:
            size = self.seek(step)
            for replica in self.own_replicas:
                with network.scope.select(replica):
                    network(self.replica(size, replica)[0])

        single_view.recompute_statistics(network, self.after, forward)
