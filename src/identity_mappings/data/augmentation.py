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
        padding_colour: "mean": the border is the mean colour, zero after normalization; each pixel loses the mean of
            its own place in the whole image. "black": padded before, and the mean taken off the cropped image.
        channel_mean, channel_deviation: of a channel's values in 0 to 255.
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
        self.size, self.padding = (height, width), padding
        border = (padding,) * 4
        # A pixel is one 32-bit word, its channels side by side, so that a crop is one gather of words, and comes out as
        # channels_last.
        padded = F.pad(training.to(device), (*border, 0, 4 - channels)).permute(0, 2, 3, 1).contiguous()
        self.pixels, self.channels = padded.view(torch.int32).view(-1), channels
        self.padded_size = (height + 2 * padding, width + 2 * padding)
        self.rows = torch.arange(height, device=device)[:, None]
        self.columns = torch.arange(width, device=device)
        # What is subtracted from a crop depends on its corner and on the flip alone.
        self.means = self._crop_mean() if padding_colour == "mean" else self.mean[None]

    def _crop_mean(self) -> Tensor:
        """The mean under each crop, in the order of `_variant`: ((2 padding + 1)^2 * 2, C, H, W)."""
        (height, width), places = self.size, range(2 * self.padding + 1)
        padded = F.pad(self.mean, (self.padding,) * 4)
        crops = [padded[:, top : top + height, left : left + width] for top in places for left in places]
        return torch.stack([view for crop in crops for view in (crop, crop.flip(2))])

    def _variant(self, view: View) -> Tensor:
        return ((view.top * (2 * self.padding + 1)) + view.left) * 2 + view.flip

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of the same shape: what a test sees, the single original view."""
        return (images.float() - self.mean) / self.deviation

    def view(self, view: View) -> Tensor:
        """The batch of a view, float32 (N, C, H, W), channels_last in memory."""
        view = View(*(t.to(self.pixels.device) for t in view))
        image, top, left, flip = (t[:, None, None] for t in view)
        height, width = self.padded_size
        columns = torch.where(flip, self.columns.flip(0), self.columns) + left
        indices = (image * height + self.rows + top) * width + columns
        words = self.pixels.index_select(0, indices.view(-1))
        crop = words.view(torch.uint8).view(*indices.shape, 4)[..., : self.channels].permute(0, 3, 1, 2).float()
        mean = self.means.index_select(0, self._variant(view)) if len(self.means) > 1 else self.means
        return (crop - mean) / self.deviation
