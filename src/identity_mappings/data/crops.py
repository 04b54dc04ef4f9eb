"""Which part of an image a training view shows, and cutting it out."""

import math
from typing import NamedTuple

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

ATTEMPTS = 10  # of "scale-and-aspect-ratio" to find a part that fits
DRAWS = 5 * ATTEMPTS  # uniform numbers of a crop, of whatever kind: what is drawn after them does not depend on them
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


class Part(NamedTuple):
    """A rectangle of an image that becomes a crop.

    Attributes:
        left, top, right, bottom: in pixels of the image; fractions of one where `cut_first` is false.
        cut_first: the part is cut out and then resized; otherwise it is a part of the resized image.
        interpolation: "bilinear" or "bicubic".
    """

    left: float
    top: float
    right: float
    bottom: float
    cut_first: bool
    interpolation: str


def resized(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    """Width and height after resizing to a shorter side; the longer one is rounded down, as by torchvision's Resize."""
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def _crop_resized(
    width: int, height: int, shorter_side: int, left: int, top: int, size: int, interpolation: str
) -> Part:
    """The crop at (left, top) of the resized image, in pixels of the original."""
    to_width, to_height = resized(width, height, shorter_side)
    x, y = width / to_width, height / to_height
    return Part(left * x, top * y, (left + size) * x, (top + size) * y, False, interpolation)


def scale(width: int, height: int, uniform: numpy.ndarray, shorter_side: tuple[int, int], size: int) -> Part:
    """A crop at a random place of the image with a random shorter side (he2015, Section 3.4).

    Args:
        uniform: (DRAWS), numbers in [0, 1).
        shorter_side: lowest and highest, both drawn, in pixels; the lowest is not below `size`.
    """
    low, high = shorter_side
    side = low + int(uniform[0] * (high - low + 1))
    to_width, to_height = resized(width, height, side)
    left, top = int(uniform[1] * (to_width - size + 1)), int(uniform[2] * (to_height - size + 1))
    return _crop_resized(width, height, side, left, top, size, "bilinear")


def scale_and_aspect_ratio(width: int, height: int, uniform: numpy.ndarray, size: int) -> Part:
    """A part of random area, aspect ratio and place (RandomSizedCrop of fb.resnet.torch's datasets/transforms.lua).

    Where none of ten fits, the centre of the image whose shorter side is `size`.
    """
    for area, aspect, swap, x, y in uniform.reshape(ATTEMPTS, 5):
        target = (AREA[0] + area * (AREA[1] - AREA[0])) * width * height
        ratio = ASPECT[0] + aspect * (ASPECT[1] - ASPECT[0])
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if swap < 0.5:
            w, h = h, w
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return Part(left, top, left + w, top + h, True, "bicubic")
    to_width, to_height = resized(width, height, size)
    left, top = math.ceil((to_width - size) / 2), math.ceil((to_height - size) / 2)
    return _crop_resized(width, height, size, left, top, size, "bicubic")


def centre(width: int, height: int, shorter_side: int, size: int) -> Part:
    """The middle of the resized image, as torchvision's Resize and CenterCrop have it."""
    left, top = (round((length - size) / 2) for length in resized(width, height, shorter_side))
    return _crop_resized(width, height, shorter_side, left, top, size, "bilinear")


def get_size(image: Image.Image | Tensor) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[2], image.shape[1])


def cut(image: Image.Image | Tensor, part: Part, size: int, mirrored: bool = False) -> numpy.ndarray:
    """The crop: uint8 (size, size, 3).

    A Pillow image: what resizing the whole of it and cropping gives, but only the pixels of the crop are computed.
    Pillow rounds the part's corners to float32, so that some 0.3 % of the values differ, by 1 of 255, or by 2 where
    both of its passes (along rows, along columns) round otherwise. A tensor: torch resizes the part, its corners
    rounded to whole pixels of the image (it cannot resize others), and sees nothing beyond them.

    Args:
        image: as `decode.read` gives it: by Pillow in mode RGB, or uint8 (3, H, W).
        mirrored: left and right are exchanged afterwards.
    """
    if isinstance(image, Image.Image):
        method, box = Image.Resampling[part.interpolation.upper()], part[:4]
        if part.cut_first:
            shown = image.crop(box).resize((size, size), method)
        else:
            # The last bit of a product must not lie outside.
            box = (part.left, part.top, min(part.right, image.width), min(part.bottom, image.height))
            shown = image.resize((size, size), method, box=box)
        return numpy.asarray(shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else shown)
    left, top, right, bottom = map(round, part[:4])
    left, top = min(left, image.shape[2] - 1), min(top, image.shape[1] - 1)
    region = image[None, :, top : max(bottom, top + 1), left : max(right, left + 1)]
    region = region.contiguous(memory_format=torch.channels_last)  # twice as fast, and the crop is so, too
    crop = F.interpolate(region, (size, size), mode=part.interpolation, antialias=True)[0]
    return (crop.flip(2) if mirrored else crop).permute(1, 2, 0).numpy()
