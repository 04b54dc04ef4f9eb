"""Colour of training views, and normalization: of batches, on their device.

What is random is drawn for one image after the other (`draw`) and applied to a batch (`apply`), elementwise and in
float32, so that a batch has the same bits on every run of one kind of device.
"""

from functools import lru_cache

import numpy
import torch
from torch import Tensor

# Principal components of ImageNet's pixels in [0, 1], as fb.resnet.torch's datasets/imagenet.lua has them; AlexNet
# (Krizhevsky et al. 2012, Section 4.1), which he2015 follows, prints none.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
ALPHA = 0.1  # standard deviation of a component's factor
GREY = (0.299, 0.587, 0.114)
JITTER = 0.4  # of brightness, contrast and saturation
NUMBERS = {None: 0, "pca": 3, "pca-and-jitter": 6}  # that an image takes


def draw(random: numpy.random.Generator, kind: str | None) -> numpy.ndarray:
    """What `apply` needs for one image: float32 (NUMBERS[kind]).

    "pca": a factor for each principal component, normal with deviation 0.1. "pca-and-jitter": then the weights of the
    image in its blends for brightness, contrast and saturation, uniform in 1 +- 0.4.
    """
    if kind is None:
        return numpy.empty(0, numpy.float32)
    alpha = random.standard_normal(3) * ALPHA
    if kind == "pca":
        return alpha.astype(numpy.float32)
    weights = 1 + JITTER * (2 * random.random(3) - 1)
    return numpy.concatenate([alpha, weights]).astype(numpy.float32)


def apply(images: Tensor, numbers: Tensor, kind: str | None) -> Tensor:
    """Brightness, contrast and saturation, then principal components; nothing is clamped.

    As datasets/transforms.lua of fb.resnet.torch: ColorJitter (each a blend of the image with black, with the mean of
    its grey, or with its grey) and Lighting. ColorJitter's random order is left out: the three are linear, and keep
    or scale the image's grey or its mean, so that every order gives the same.

    Args:
        images: uint8 (N, 3, H, W).
        numbers: (N, NUMBERS[kind]), of `draw`.

    Returns:
        float32 (N, 3, H, W), in 0 to 255 but for what the colours add.
    """
    pixels = images.float()
    if kind is None:
        return pixels
    alpha = (numbers[:, :3] * _constant(EIGENVALUES, numbers.device))[:, None]
    shift = 255 * (alpha * _constant(EIGENVECTORS, numbers.device)).sum(2)
    if kind == "pca-and-jitter":
        weights = _constant(GREY, numbers.device)
        red, green, blue = (pixels[:, c : c + 1] * weights[c] for c in range(3))
        grey = red + green + blue
        brightness, contrast, saturation = numbers[:, 3:6].T
        shift = shift + (brightness * (1 - contrast) * grey.mean((1, 2, 3)))[:, None]
        both = brightness * contrast
        pixels.mul_(_each(both * saturation)).add_(grey.mul_(_each(both * (1 - saturation))))
    return pixels.add_(_rows(shift, pixels))


def _each(values: Tensor) -> Tensor:
    """(N) as (N, 1, 1, 1)."""
    return values[:, None, None, None]


@lru_cache
def _constant(values: tuple, device: torch.device) -> Tensor:
    """Made once: a recorded CUDA graph must not copy from the host."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _rows(values: Tensor, images: Tensor) -> Tensor:
    """(N, 3) as (N, 3, 1, W), which a CPU broadcasts over channels_last images ten times as fast as (N, 3, 1, 1)."""
    wide = values[:, :, None, None].expand(-1, -1, -1, images.shape[3])
    return wide.contiguous(memory_format=torch.channels_last)


class Normalization:
    """Takes the mean off and divides by the deviation.

    Args:
        kind: "per-pixel-mean" (he2015, Section 3.4), or "channel-mean-and-deviation" by the two lists.
        mean_image: per-pixel-mean: float32 (3, S, S) in 0 to 255, of the training images (`stream.mean_image`).
            Images of another size than S lose its mean colour.
        channel_mean, channel_deviation: of a channel's values in 0 to 255.
    """

    def __init__(
        self,
        kind: str,
        mean_image: Tensor | None = None,
        channel_mean: list[float] | None = None,
        channel_deviation: list[float] | None = None,
        device: str | torch.device = "cpu",
    ):
        self.image: Tensor | None = None
        self.deviation: Tensor | None = None
        if kind == "per-pixel-mean":
            assert mean_image is not None
            self.image = mean_image[None].to(device).contiguous(memory_format=torch.channels_last)
            self.mean = mean_image.double().mean((1, 2)).float()[None].to(device)
        else:
            self.mean = torch.tensor([channel_mean], dtype=torch.float32, device=device)
            self.deviation = torch.tensor([channel_deviation], dtype=torch.float32, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 of the same shape; what is float32 already is changed in place."""
        pixels = images.float()
        if self.image is not None and self.image.shape[2:] == pixels.shape[2:]:
            pixels.sub_(self.image)
        else:
            pixels.sub_(_rows(self.mean, pixels))
        return pixels if self.deviation is None else pixels.div_(_rows(self.deviation, pixels))
