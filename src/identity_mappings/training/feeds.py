"""Where a trainer's images come from: all of them on the device."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..data.augmentation import Augmentation
from ..data.images import Images, hold_out
from ..data.sampling import DeviceViews, Sampler
from ..evaluation import single_view

STATISTICS_BATCHES = 400  # for recomputed batch norm statistics: about an epoch of CIFAR

Counted = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Resident:
    """All images on the device as uint8, cropped, mirrored and normalized there: CIFAR."""

    protocol = "single view"  # of the tests during the training
    workers = 0  # processes that read and decode images

    def __init__(self, images: Images, recipe: SimpleNamespace, seed: int, device: torch.device):
        self.recipe, self.replicas = recipe, recipe.batch_size // recipe.batch_norm_samples
        if held_out := getattr(recipe, "validation", None):  # records of before have no such key
            images = hold_out(images, held_out)
            self.protocol = f"single view of {held_out} held-out training images"
        self.shape = tuple(images.training.shape[1:])  # (C, H, W) of an image in a batch
        self.counts = {"training_images": len(images.training), "test_images": len(images.test)}
        self.labels = images.training_labels.to(device)
        self.test_images, self.test_labels = images.test.to(device), images.test_labels.to(device)
        views = recipe.batch_size, recipe.epoch_end, recipe.crop_padding, recipe.flip, seed
        self.sampler = Sampler(len(images.training), *views)
        self.views = DeviceViews(self.sampler, device)
        padding, channels = recipe.padding_colour, (recipe.channel_mean, recipe.channel_deviation)
        self.augmentation = Augmentation(
            images.training, recipe.normalization, recipe.crop_padding, padding, *channels, device
        )

    def seek(self, iteration: int) -> int:
        """Make the batch of an iteration the present one, from the host; returns its size."""
        return self.views.seek(iteration)

    def replica(self, size: int, replica: int) -> tuple[Tensor, Tensor]:
        """Normalized images and labels of a replica, of the present batch of `size`: the same work every time."""
        view = self.views.part(size, replica, self.replicas)
        return self.augmentation.view(view), self.labels[view.image]

    def test(self, network: nn.Module, counted: Counted) -> single_view.Result:
        """Test error of the network as it is."""
        normalize = self.augmentation.normalize
        return single_view.test_single_view(network, self.test_images, self.test_labels, normalize, counted=counted)

    def statistics(self, network: nn.Module) -> None:
        """Take batch norm's statistics from training images, in views that come after those of the training."""
        steps = range(self.recipe.iterations, self.recipe.iterations + STATISTICS_BATCHES)
        single_view.recompute_statistics(network, (self.augmentation.view(self.sampler.view(step)) for step in steps))

    def close(self) -> None:
        """End the processes that decode: there are none."""
