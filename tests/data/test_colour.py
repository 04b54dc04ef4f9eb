"""Colour augmentation and normalization against plain statements of their definitions, image by image."""

from itertools import permutations

import numpy as np
import pytest
import torch

from identity_mappings.data import colour
from small_imagenet import open_photographs

KINDS = ("pca", "pca-and-jitter")
MEAN, DEVIATION = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def photos(count, size=16):
    """Pieces of a photograph, uint8 (N, 3, size, size), channels_last in memory."""
    whole, g = np.array(open_photographs()[1]), np.random.default_rng(0)
    corners = zip(g.integers(0, 400, count), g.integers(0, 600, count), strict=True)
    pieces = [whole[y : y + size, x : x + size] for y, x in corners]
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2)


def numbers(count, kind, seed=0):
    g = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([colour.draw(g, kind) for _ in range(count)]))


def lighting(image, alpha):
    """fb.resnet.torch: each channel gets the sum over components of eigenvector * alpha * eigenvalue."""
    eigenvalues = [0.2175, 0.0188, 0.0045]
    eigenvectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    for channel in range(3):
        image[channel] += sum(eigenvectors[channel][k] * alpha[k] * eigenvalues[k] for k in range(3))
    return image


def grey(image):
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


BLENDED_WITH = (  # in fb.resnet.torch's order: brightness, contrast, saturation
    lambda image: np.zeros_like(image),
    lambda image: np.full_like(image, grey(image).mean()),
    lambda image: np.stack([grey(image)] * 3),
)


def expected(image, drawn, order=()):
    """In [0, 1] as there, in double precision; 0 to 255 comes back."""
    image = image.double().numpy() / 255
    for which in order:
        weight = drawn[3 + which]
        image = weight * image + (1 - weight) * BLENDED_WITH[which](image)
    return 255 * lighting(image, drawn[:3])


def test_principal_components_shift_each_image_as_the_definition():
    images, drawn = photos(9), numbers(9, "pca")
    got = colour.apply(images, drawn, "pca")
    assert got.dtype == torch.float32
    for image, of_image, result in zip(images, drawn.double().numpy(), got.numpy(), strict=True):
        np.testing.assert_allclose(result, expected(image, of_image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_jitter_is_the_definitions_blends_in_every_order(order):
    images, drawn = photos(6), numbers(6, "pca-and-jitter")
    got = colour.apply(images, drawn, "pca-and-jitter")
    for image, of_image, result in zip(images, drawn.double().numpy(), got.numpy(), strict=True):
        np.testing.assert_allclose(result, expected(image, of_image, order), rtol=0, atol=3e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_a_batch_has_the_bits_that_it_has_alone(kind):
    images, drawn = photos(7), numbers(7, kind)
    before = images.clone()
    whole = colour.apply(images, drawn, kind)
    assert torch.equal(images, before)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    for row in range(7):
        assert torch.equal(colour.apply(images[row : row + 1], drawn[row : row + 1], kind)[0], whole[row])


def test_no_colour_is_the_pixels():
    images = photos(2)
    drawn = torch.from_numpy(np.stack([colour.draw(np.random.default_rng(0), None)] * 2))
    assert torch.equal(colour.apply(images, drawn, None), images.float())


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_an_image_takes_as_many_numbers_as_stated(kind):
    drawn = colour.draw(np.random.default_rng(0), kind)
    assert (drawn.dtype, drawn.shape) == (np.float32, (colour.NUMBERS[kind],))


def test_numbers_have_the_distributions_of_the_definition():
    """5 standard deviations each, of 6,000 images."""
    drawn = numbers(6000, "pca-and-jitter").double().numpy()
    alpha, weights = drawn[:, :3], drawn[:, 3:]
    assert np.abs(alpha.mean(0)).max() < 5 * 0.1 / 6000**0.5
    np.testing.assert_allclose(alpha.std(0), 0.1, atol=5 * 0.1 / 12000**0.5)
    assert (weights >= 0.6).all()
    assert (weights <= 1.4).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=5 * 0.8 / 12**0.5 / 6000**0.5)
    np.testing.assert_allclose(weights.std(0), 0.8 / 12**0.5, atol=0.01)
    together = np.corrcoef(drawn.T) - np.eye(6)
    assert np.abs(together).max() < 5 / 6000**0.5


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_each_pixel_loses_the_mean_of_its_place(memory_format):
    images = photos(5).contiguous(memory_format=memory_format)
    mean = torch.rand(3, 16, 16) * 255
    normalize = colour.Normalization("per-pixel-mean", mean)
    expected = images.numpy().astype(np.float32) - mean.numpy()
    np.testing.assert_array_equal(normalize(images), expected)
    pixels = images.float()
    normalize(pixels)  # in place
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("height, width", [(20, 20), (16, 24), (24, 16)])
def test_images_of_another_size_lose_the_mean_colour(height, width):
    images = torch.randint(256, (3, 3, height, width), dtype=torch.uint8)
    mean = torch.rand(3, 16, 16) * 255
    colours = mean.double().mean((1, 2)).float().numpy()[:, None, None]
    got = colour.Normalization("per-pixel-mean", mean)(images)
    np.testing.assert_array_equal(got, images.numpy().astype(np.float32) - colours)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_channels_lose_their_mean_and_are_divided_by_their_deviation(memory_format):
    images = photos(5).contiguous(memory_format=memory_format)
    normalize = colour.Normalization("channel-mean-and-deviation", None, MEAN, DEVIATION)
    mean, deviation = (np.array(values, np.float32)[:, None, None] for values in (MEAN, DEVIATION))
    np.testing.assert_array_equal(normalize(images), (images.numpy().astype(np.float32) - mean) / deviation)
