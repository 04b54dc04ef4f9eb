"""The papers' four ways of testing on ImageNet: he2015, Section 3.4 and Tables 3 to 5; he2016, Table 5."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision.transforms import functional as transforms

from ..data.decode import rgb
from ..data.shards import Shards
from ..data.stream import run_in_workers

CROP_SIZE = 224  # of the papers' training, which the sizes below go with
WAITING = 16  # batches' worth of pixels that may wait for others of their shape

Batch = tuple[Tensor, list[Tensor]]  # positions of its images in the share (N), and by scale views (N, k, 3, H, W)


class Protocol(NamedTuple):
    """A way of testing."""

    shorter_sides: tuple[int, ...]  # that the image is resized to; the scores are averaged over them
    crop: int | None  # height and width of what is seen; None: the whole image
    ten: bool = False  # crops of the four corners and the centre, each also mirrored; the softmax is averaged


PROTOCOLS = {
    "centre-224": Protocol((256,), 224),
    "centre-320": Protocol((320,), 320),
    "10-crop": Protocol((256,), 224, ten=True),
    "multi-scale": Protocol((224, 256, 384, 480, 640), None),
}


class Result(NamedTuple):
    """Images whose label is not the first, not among the first five; images; sum of the losses. Shares add up."""

    wrong: int
    wrong_top_5: int
    images: int
    loss: float


def _scale(size: int, crop_size: int) -> int:
    return round(size * crop_size / CROP_SIZE)


def views(image: Image.Image, protocol: str, crop_size: int = CROP_SIZE) -> list[Tensor]:
    """What a protocol shows of an image, by scale: uint8 (k, 3, H, W).

    As torchvision has it: bilinear with antialiasing, the longer side is int(size * longer / shorter); the centre crop
    begins at round((length - crop) / 2), halves to even; the mirrored five are taken from the mirrored image, so that
    the mirrored centre is a pixel off where that is a half.

    Args:
        image: RGB, of any size.
        protocol: a key of `PROTOCOLS`.
        crop_size: that the network was trained with; all sizes are multiplied by crop_size / 224 and rounded.
    """
    sides, crop, ten = PROTOCOLS[protocol]
    shown = []
    for side in sides:
        crops = [transforms.resize(image, _scale(side, crop_size))]
        if crop is not None:
            size = _scale(crop, crop_size)
            crops = transforms.ten_crop(crops[0], size) if ten else [transforms.center_crop(crops[0], size)]
        shown.append(torch.stack([transforms.pil_to_tensor(seen) for seen in crops]))
    return shown


def scores(network: nn.Module, views: list[Tensor], normalize: Callable[[Tensor], Tensor], protocol: str) -> Tensor:
    """Scores (N, classes) of images by their views, uint8 (N, k, 3, H, W) for each scale.

    The linear layer's outputs, for a whole image the average of the score map; averaged over the scales; with "10-crop"
    the logarithm of the softmax's average over the crops. So `count_by_image` serves all: the cross entropy of log p is
    -log p.

    Args:
        network: in eval mode.
        normalize: from uint8 (N, 3, H, W) to what the network takes, for any H and W.
    """
    by_scale = []
    for scale in views:
        outputs = network(normalize(scale.flatten(0, 1))).float().unflatten(0, scale.shape[:2])
        if PROTOCOLS[protocol].ten:
            outputs = outputs.where(outputs.isfinite(), torch.nan)  # the softmax would hide a score of -inf
            by_scale.append(outputs.log_softmax(2).logsumexp(1) - math.log(outputs.shape[1]))
        else:
            by_scale.append(outputs.mean(1))
    return torch.stack(by_scale).mean(0)


def count_by_image(scores: Tensor, labels: Tensor) -> Tensor:
    """Of scores (N, classes) and labels (N): wrong by the first, wrong by the first five, loss: float64 (3, N).

    Right is a label that is the first, or among the first five; of equal scores the class of the lower number goes
    first, as in argmax. A row of numbers that are not all finite is wrong.
    """
    correct, classes = scores.gather(1, labels[:, None]), torch.arange(scores.shape[1], device=scores.device)
    ahead = ((scores > correct) | ((scores == correct) & (classes < labels[:, None]))).sum(1)
    bad = ~scores.isfinite().all(1)
    losses = F.cross_entropy(scores, labels, reduction="none")
    return torch.stack([(ahead > 0) | bad, (ahead > 4) | bad, losses]).double()


def _count_pixels(shapes: tuple) -> int:
    return sum(k * h * w for k, _, h, w in shapes)


def _group(samples: Iterable[tuple[int, list[Tensor]]], pixels: int) -> Iterator[Batch]:
    """Batches of at most `pixels` (or one image) whose views have the same shapes, from images as they come.

    A batch goes out when it is full; when all that wait are more than `WAITING` batches, the largest, so that memory is
    bounded. What is in a batch follows from the images alone.
    """
    waiting: dict[tuple, list] = {}
    held = 0
    for position, views in samples:
        shapes = tuple(scale.shape for scale in views)
        group = waiting.setdefault(shapes, [])
        group.append((position, [scale.clone() for scale in views]))  # a worker's tensor keeps a file open
        held += _count_pixels(shapes)
        if (len(group) + 1) * _count_pixels(shapes) <= pixels:
            if held <= WAITING * pixels:
                continue
            shapes = max(waiting, key=lambda shapes: len(waiting[shapes]) * _count_pixels(shapes))
        group = waiting.pop(shapes)
        held -= len(group) * _count_pixels(shapes)
        yield default_collate(group)
    yield from map(default_collate, waiting.values())


def batches(
    shards: Shards,
    protocol: str,
    crop_size: int = CROP_SIZE,
    decoder: str = "pillow",
    workers: int = 0,
    batch_size: int = 256,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """A share's views for `scores`; every image once. Arguments and errors: see `test_by_protocol`."""
    indices, definition, pixels = range(share[0], len(shards), share[1]), PROTOCOLS[protocol], batch_size * crop_size**2

    def load(position: int) -> tuple[int, list[Tensor]]:
        index = indices[position]
        return position, views(rgb(shards.jpeg(index), decoder, shards.name(index)), protocol, crop_size)

    def load_batch(positions: range) -> Batch:
        return default_collate([load(position) for position in positions])

    positions = range(len(indices))
    if definition.crop is None:  # images of any size
        yield from _group(run_in_workers(load, ((position,) for position in positions), workers), pixels)
    else:
        images = max(1, pixels // ((10 if definition.ten else 1) * _scale(definition.crop, crop_size) ** 2))
        items = ((positions[begin : begin + images],) for begin in positions[::images])
        yield from run_in_workers(load_batch, items, workers)


@torch.no_grad()
def test_by_protocol(
    network: nn.Module,
    shards: Shards,
    protocol: str,
    normalize: Callable[[Tensor], Tensor],
    crop_size: int = CROP_SIZE,
    decoder: str = "pillow",
    device: str | torch.device = "cpu",
    workers: int = 0,
    batch_size: int = 256,
    share: tuple[int, int] = (0, 1),
) -> Result:
    """Test a network by a protocol; leaves it in training mode, as `single_view.test_single_view` does.

    Args:
        shards: of the validation images.
        protocol: a key of `PROTOCOLS`.
        normalize: from uint8 (N, 3, H, W) on `device` to float32, for any H and W.
        crop_size: that the network was trained with; see `views`.
        decoder: see `data.decode.rgb`.
        workers: processes that decode and resize; 0: this one. The result does not depend on them.
        batch_size: crops of crop_size x crop_size at a time; larger views, or several of an image, count by pixels.
        share: (rank, world): images rank, rank + world, ... alone; the shares' results add up to the whole's.

    Raises:
        UserError: an image that cannot be decoded.
    """
    labels = shards.labels[share[0] :: share[1]].to(device)
    counts = torch.zeros(3, len(labels), dtype=torch.float64, device=device)
    network.eval()
    for positions, shown in batches(shards, protocol, crop_size, decoder, workers, batch_size, share):
        on_device, positions = [scale.to(device) for scale in shown], positions.to(device)
        counts[:, positions] = count_by_image(scores(network, on_device, normalize, protocol), labels[positions])
    network.train()
    wrong, wrong_top_5, loss = counts.sum(1).tolist()
    return Result(int(wrong), int(wrong_top_5), len(labels), loss)
