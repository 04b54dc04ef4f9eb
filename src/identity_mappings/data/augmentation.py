"""From uint8 images to what the network sees: normalization, padding, crop and flip (he2015, Section 4.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .sampling import View


class Augmentation:
    """Normalizes images; for training, pads them, and crops and mirrors each as a view says.

    Args:
        training: the training images, uint8 (N, C, H, W); the mean is theirs.
        normalization: "per-pixel-mean", or "channel-mean-and-deviation" by the two lists.
        padding: pixels on each side.
        padding_colour: "mean": the border is the mean colour, zero after normalization; each pixel loses the mean of
            its own place in the whole image. "black": padded before, and the mean taken off the cropped image.
        channel_mean, channel_deviation: of a channel's values in 0 to 255.
        device: where everything is kept and computed.
    """

    def __init__(
        self,
        training: Tensor,
        normalization: str,
        padding: int,
        padding_colour: str,
        channel_mean: list[float] | None = None,
        channel_deviation: list[float] | None = None,
        device: str | torch.device = "cpu",
    ):
        _, channels, height, width = training.shape
        if normalization == "per-pixel-mean":
            # The sum of integers is exact, so the mean has one value whatever adds it up.
            mean = (training.sum(0, dtype=torch.int64).double() / len(training)).float()
            deviation = torch.ones(channels, 1, 1)
        else:
            mean = torch.tensor(channel_mean).view(-1, 1, 1).expand(channels, height, width)
            deviation = torch.tensor(channel_deviation).view(-1, 1, 1)
        self.mean, self.deviation = mean.to(device), deviation.to(device)
        self.colour, self.size, self.channels = padding_colour, (height, width), channels
        border = (padding,) * 4
        # A row a pixel, its channels side by side: a crop is one gather of rows, and comes out as channels_last.
        self.pixels = F.pad(training.to(device), border).permute(0, 2, 3, 1).reshape(-1, channels)
        self.mean_pixels = F.pad(self.mean, border).permute(1, 2, 0).reshape(-1, channels)
        self.padded_size = (height + 2 * padding, width + 2 * padding)
        self.rows = torch.arange(height, device=device)[:, None]
        self.columns = torch.arange(width, device=device)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of the same shape: what a test sees, the single original view."""
        return (images.float() - self.mean) / self.deviation

    def view(self, view: View) -> Tensor:
        """The batch of a view, float32 (N, C, H, W), channels_last in memory."""
        image, top, left, flip = (t.to(self.pixels.device)[:, None, None] for t in view)
        height, width = self.padded_size
        columns = torch.where(flip, self.columns.flip(0), self.columns) + left
        place = (self.rows + top) * width + columns
        crop = self._gather(self.pixels, place + image * (height * width)).float()
        mean = self._gather(self.mean_pixels, place) if self.colour == "mean" else self.mean
        return (crop - mean) / self.deviation

    def _gather(self, rows: Tensor, place: Tensor) -> Tensor:
        taken = rows.index_select(0, place.reshape(-1))
        return taken.view(len(place), *self.size, self.channels).permute(0, 3, 1, 2)
