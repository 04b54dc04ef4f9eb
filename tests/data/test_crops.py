"""Crops against their definitions: resize the whole image and crop, or crop and resize, with torchvision."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from identity_mappings.data import crops
from small_imagenet import open_photographs

SIZES = [(125, 94), (94, 125), (100, 100), (77, 60), (301, 60)]  # width, height
SIZE, SHORTER_SIDE = 56, (64, 120)


def photograph(width, height, which=0):
    return open_photographs()[which].crop((150, 100, 150 + width, 100 + height))


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def uniform(seed=0):
    return np.random.default_rng(seed).random(crops.DRAWS)


def drawn(seed, width, height):
    """Shorter side, left and top of a "scale" crop, by the definition's own words."""
    side, x, y = uniform(seed)[:3]
    side = math.floor(SHORTER_SIDE[0] + side * (SHORTER_SIDE[1] - SHORTER_SIDE[0] + 1))
    long = int(side * max(width, height) / min(width, height))
    w, h = (side, long) if width <= height else (long, side)
    return side, math.floor(x * (w - SIZE + 1)), math.floor(y * (h - SIZE + 1))


def differences(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


def assert_rounding(found):
    """On average 0.3 % of the values; up to 25 % where the ratio of sizes makes many of them end in one half."""
    assert found.max() <= 2
    assert found.mean() < 0.3


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_scale_is_resizing_the_whole_and_cropping(width, height, seed):
    """Nearly everywhere exactly: Pillow keeps the corners of a box in float32 and rounds after each of two passes."""
    image, (side, left, top) = photograph(width, height), drawn(seed, width, height)
    whole = functional.resize(image, side)
    assert crops.resized(width, height, side) == whole.size
    part = crops.scale(width, height, uniform(seed), SHORTER_SIDE, SIZE)
    found = differences(crops.cut(image, part, SIZE), functional.crop(whole, top, left, SIZE, SIZE))
    assert found.shape == (SIZE, SIZE, 3)
    assert_rounding(found)


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_scale_of_a_tensor_is_within_a_pixel_of_it(width, height, seed):
    """The same place but for rounding to whole pixels: exactly Pillow's crop and resize of those, to 1 of 255."""
    image = photograph(width, height)
    part = crops.scale(width, height, uniform(seed), SHORTER_SIDE, SIZE)
    got = crops.cut(pixels(image), part, SIZE)
    box = [round(corner) for corner in part[:4]]
    assert max(abs(corner - exact) for corner, exact in zip(box, part[:4], strict=True)) <= 0.5
    assert differences(got, image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).max() <= 1


def test_scale_draws_every_shorter_side_and_every_place_equally():
    """Of an image of 4 x 3 pixels, crops of 2: side 2 has 1 x 1 places, side 3 2 x 3 (3 * 4 / 3 = 4 columns)."""
    found = {}
    for seed in range(6000):
        part = crops.scale(4, 3, uniform(seed), (2, 3), 2)
        found[part] = found.get(part, 0) + 1
    counts = sorted(found.values())
    assert len(counts) == 1 + 6
    assert counts[-1] == pytest.approx(3000, abs=5 * 39)
    assert all(count == pytest.approx(500, abs=5 * 22) for count in counts[:-1])


def numbers(*attempts):
    """Uniform numbers of these attempts (area, aspect, swap, x, y), the others as of one that does not fit."""
    rows = [*attempts, *[(0.999, 0.999, 0.9, 0, 0)] * (crops.ATTEMPTS - len(attempts))]
    return np.array(rows).ravel()


@pytest.mark.parametrize("size", [(100, 80), (80, 100)])
@pytest.mark.parametrize("swap", [0.49, 0.5])
@pytest.mark.parametrize("failures", [0, 3, 9])
def test_scale_and_aspect_ratio_takes_the_first_part_that_fits(size, swap, failures):
    """The formula of fb.resnet.torch, with 30 % of the area and an aspect ratio of 1.2 in the attempt that fits."""
    area, aspect = (0.3 - 0.08) / 0.92, (1.2 - 0.75) / (4 / 3 - 0.75)
    does_not_fit = (0.99999, 0.99999, 0.9 if size[0] < size[1] else 0.1, 0.5, 0.5)
    found = crops.scale_and_aspect_ratio(
        *size, numbers(*[does_not_fit] * failures, (area, aspect, swap, 0.25, 0.999)), SIZE
    )
    w, h = round(math.sqrt(0.3 * 8000 * 1.2)), round(math.sqrt(0.3 * 8000 / 1.2))
    if swap < 0.5:
        w, h = h, w
    left, top = math.floor(0.25 * (size[0] - w + 1)), size[1] - h
    assert found == (left, top, left + w, top + h, True, "bicubic")


@pytest.mark.parametrize("seed", range(5))
def test_scale_and_aspect_ratio_is_cropping_and_resizing(seed):
    image = photograph(125, 94, which=1)
    part = crops.scale_and_aspect_ratio(125, 94, uniform(seed), SIZE)
    left, top, right, bottom = part[:4]
    crop = functional.crop(image, top, left, bottom - top, right - left)
    expected = functional.resize(crop, [SIZE, SIZE], InterpolationMode.BICUBIC)
    np.testing.assert_array_equal(crops.cut(image, part, SIZE), expected)
    assert differences(crops.cut(pixels(image), part, SIZE), expected).max() <= 2  # torch's weights have 16 bits


def test_where_no_part_fits_it_is_the_centre():
    """Of a strip of 302 x 20 pixels even 8 % of the area is a part higher than 20."""
    image = photograph(302, 20)
    part = crops.scale_and_aspect_ratio(302, 20, uniform(), SIZE)
    whole = functional.resize(image, SIZE, InterpolationMode.BICUBIC)
    expected = functional.crop(whole, 0, math.ceil((whole.width - SIZE) / 2), SIZE, SIZE)
    assert_rounding(differences(crops.cut(image, part, SIZE), expected))
    assert crops.cut(pixels(image), part, SIZE).shape == (SIZE, SIZE, 3)


def test_scale_and_aspect_ratio_has_the_distribution_of_its_definition():
    """On an image in which nearly everything fits: area uniform in 8 to 100 %, ratios from 3/4 to 4/3 either way."""
    parts = np.array([crops.scale_and_aspect_ratio(10_000, 10_000, uniform(seed), SIZE)[:4] for seed in range(4000)])
    w, h = parts[:, 2] - parts[:, 0], parts[:, 3] - parts[:, 1]
    assert (parts[:, :2] >= 0).all()
    assert (parts[:, 2:] <= 10_000).all()
    area, ratio = w * h / 1e8, w / h
    assert area.min() == pytest.approx(0.08, abs=0.002)
    small = area[area < 0.5]  # any such part fits
    assert small.mean() == pytest.approx(0.29, abs=5 * 0.121 / len(small) ** 0.5)
    small = ratio[area < 0.5]
    assert small.min() == pytest.approx(0.75, abs=0.002)
    assert small.max() == pytest.approx(4 / 3, abs=0.002)
    # w / h is uniform in [3/4, 4/3] in one half, h / w in the other.
    expected = ((4 / 3 + 3 / 4) / 2 + math.log((4 / 3) / (3 / 4)) / (4 / 3 - 3 / 4)) / 2
    assert small.mean() == pytest.approx(expected, abs=5 * 0.17 / len(small) ** 0.5)


@pytest.mark.parametrize("width, height", [*SIZES, (101, 67), (68, 100)])
def test_centre_is_resize_and_centre_crop(width, height):
    image = photograph(width, height)
    expected = functional.center_crop(functional.resize(image, 64), SIZE)
    assert_rounding(differences(crops.cut(image, crops.centre(width, height, 64, SIZE), SIZE), expected))


@pytest.mark.parametrize("form", [pixels, lambda image: image])
def test_mirrored_exchanges_left_and_right_of_the_crop(form):
    image = form(photograph(125, 94))
    for part in (crops.scale(125, 94, uniform(), SHORTER_SIDE, SIZE), crops.centre(125, 94, 64, SIZE)):
        crop = crops.cut(image, part, SIZE)
        assert (crop != crop[:, ::-1]).any()
        np.testing.assert_array_equal(crops.cut(image, part, SIZE, mirrored=True), crop[:, ::-1])


@pytest.mark.parametrize("width, height", [(1, 1), (3, 2), (5000, 3), (500, 375)])
def test_parts_lie_in_the_image_and_can_be_cut(width, height):
    image = Image.new("RGB", (width, height), (9, 8, 7))
    ends = [np.zeros(crops.DRAWS), np.full(crops.DRAWS, np.nextafter(1, 0))]
    for draws in [*ends, *map(uniform, range(20))]:
        for part in (
            crops.scale(width, height, draws, SHORTER_SIDE, SIZE),
            crops.scale_and_aspect_ratio(width, height, draws, SIZE),
        ):
            for form in (image, pixels(image)):
                assert (crops.cut(form, part, SIZE) == (9, 8, 7)).all()
