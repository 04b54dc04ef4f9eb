"""Augmentation against the definition, applied to one image after the other with numpy."""

import numpy as np
import pytest
import torch

from identity_mappings.data.augmentation import Augmentation
from identity_mappings.data.sampling import Sampler, View

MEAN, DEVIATION = [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]


def make_random_images(count, channels=3, height=8, width=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=g)


def augmentation(images, normalization="per-pixel-mean", padding=4, colour="mean"):
    lists = (None, None)
    if normalization != "per-pixel-mean":
        lists = MEAN[: images.shape[1]], DEVIATION[: images.shape[1]]
    return Augmentation(images, normalization, padding, colour, *lists)


def constants(images, normalization):
    """Mean and deviation, float32, that broadcast over an image."""
    if normalization == "per-pixel-mean":
        total = images.numpy().astype(np.int64).sum(0)
        return (total / len(images)).astype(np.float32), np.float32(1)
    mean, deviation = (np.array(v[: images.shape[1]], np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    return np.broadcast_to(mean, images.shape[1:]), deviation


def pad(image, padding):
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    return padded


def expected(images, view, normalization, padding, colour):
    """Each image of a view by the definition: normalize and pad, or pad and normalize what was cropped."""
    mean, deviation = constants(images, normalization)
    height, width = images.shape[2:]
    batch = []
    for number, top, left, flip in zip(view.image, view.top, view.left, view.flip, strict=True):
        image = images[number].numpy().astype(np.float32)
        if colour == "mean":
            image = (image - mean) / deviation
        image = pad(image, padding)[:, top : top + height, left : left + width]
        if flip:
            image = image[:, :, ::-1]
        batch.append((image - mean) / deviation if colour == "black" else image)
    return np.stack(batch)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("padding", [4, 1, 0])
@pytest.mark.parametrize("colour", ["mean", "black"])
@pytest.mark.parametrize("normalization", ["per-pixel-mean", "channel-mean-and-deviation"])
def test_views_are_exactly_the_definition(normalization, colour, padding, channels):
    """Every crop with and without a flip, on images that are not square."""
    images = make_random_images(50, channels)
    places = [(top, left, flip) for top in range(2 * padding + 1) for left in range(2 * padding + 1) for flip in (0, 1)]
    top, left, flip = torch.tensor(places).T
    view = View(torch.arange(len(places)) * 7 % 50, top, left, flip.bool())
    got = augmentation(images, normalization, padding, colour).view(view)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), expected(images, view, normalization, padding, colour))


@pytest.mark.parametrize("colour", ["mean", "black"])
def test_views_of_a_sampler(colour):
    images = make_random_images(30)
    view = Sampler(30, 16, "continue", 2, True, seed=5).view(1)  # goes across the end of an epoch
    got = augmentation(images, padding=2, colour=colour).view(view)
    np.testing.assert_array_equal(got.numpy(), expected(images, view, "per-pixel-mean", 2, colour))


@pytest.mark.parametrize("normalization", ["per-pixel-mean", "channel-mean-and-deviation"])
def test_the_middle_crop_is_the_single_original_view(normalization):
    images = make_random_images(6)
    made = augmentation(images, normalization)
    middle = torch.full((6,), 4)
    view = View(torch.arange(6), middle, middle, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(made.view(view), made.normalize(images))


@pytest.mark.parametrize("normalization", ["per-pixel-mean", "channel-mean-and-deviation"])
def test_normalize_takes_the_training_mean_off_any_images(normalization):
    training, test = make_random_images(40), make_random_images(9, seed=1)
    mean, deviation = constants(training, normalization)
    got = augmentation(training, normalization).normalize(test)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), (test.numpy().astype(np.float32) - mean) / deviation)


def test_per_pixel_mean_is_exact():
    """Bright pixels of 70,001 images sum to more than float32 holds, and each place has a mean of its own."""
    images = 255 - make_random_images(70_001, 1, 3, 2) % 3
    images[:, :, 0, 0] = 255
    mean = augmentation(images).mean
    assert mean.shape == (1, 3, 2)
    assert mean[0, 0, 0] == 255
    for row in range(3):
        for column in range(2):
            values = images[:, 0, row, column].tolist()
            assert mean[0, row, column].item() == np.float32(sum(values) / len(values))
    assert len(mean.unique()) == 6
