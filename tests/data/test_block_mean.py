"""Datasets at a lower resolution, and the hash that pins them."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

import identity_mappings.data.images
from identity_mappings.data.images import Images, compute_block_mean, compute_md5, load_images, read_block_means
from identity_mappings.errors import UserError
from identity_mappings.parameters import load as load_parameters

ROOT = Path(__file__).parents[2]
CIFAR10_MD5 = "15fc275e5cae3db098ab0f217a684a1f.dir"


def compute_plainly(images, size):
    """The definition, pixel by pixel, in Python's integers."""
    n, c, h, w = images.shape
    means = torch.zeros(n, c, h // size, w // size, dtype=torch.uint8)
    for i in range(n):
        for j in range(c):
            for y in range(h // size):
                for x in range(w // size):
                    block = images[i, j, y * size : (y + 1) * size, x * size : (x + 1) * size].flatten().tolist()
                    means[i, j, y, x] = int(sum(block) / len(block) + 0.5)
    return means


@pytest.mark.parametrize(("size", "pixels"), [(2, 8), (4, 8), (3, 9)])
def test_each_pixel_is_the_mean_of_its_block(size, pixels):
    images = torch.randint(
        0, 256, (3, 3, pixels, pixels), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    images[0, 0] = 255  # no overflow
    assert torch.equal(compute_block_mean(images, size), compute_plainly(images, size))


def test_halves_are_rounded_up():
    blocks = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [255, 255, 255, 254], [255, 255, 254, 254]], dtype=torch.uint8)
    means = compute_block_mean(blocks.view(4, 1, 2, 2), 2)
    assert means.flatten().tolist() == [0, 1, 255, 255]


def read_parameters() -> dict:
    return load_parameters(ROOT).resolve_dataset("cifar10-half")


def test_the_hash_follows_from_that_of_cifar10():
    dataset = read_parameters()
    assert dataset["made_from"] == {"name": "cifar10", "block_mean": 2, "md5": CIFAR10_MD5}
    text = f"{CIFAR10_MD5}: mean of blocks of 2 x 2 pixels, rounded half up"
    assert dataset["md5"] == hashlib.md5(text.encode()).hexdigest()
    assert compute_md5("another", 2) != dataset["md5"] != compute_md5(CIFAR10_MD5, 4)


def test_a_hash_that_does_not_follow_is_refused(tmp_path):
    dataset = read_parameters()
    with pytest.raises(UserError, match=r"cifar10-half.md5: \w+ does not follow from cifar10's: write \w+"):
        load_images({**dataset, "made_from": {**dataset["made_from"], "block_mean": 4}}, tmp_path)


def test_blocks_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    pinned = {"name": "cifar10", "md5": "0", "block_mean": 3}
    whole = Images(
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 3, 32, 32), torch.zeros(1)
    )
    monkeypatch.setattr(identity_mappings.data.images, "read_cifar", lambda *_: whole)
    with pytest.raises(UserError, match="images of 32 pixels cannot be cut into blocks of 3: take a divisor"):
        read_block_means("cifar10-third", compute_md5("0", 3), pinned, tmp_path)


def test_labels_stay_and_missing_files_are_named(tmp_path, monkeypatch):
    dataset = read_parameters()
    with pytest.raises(UserError, match=r"cifar10: missing: .* `identity-mappings data fetch cifar10`"):
        load_images(dataset, tmp_path)
    numbers = torch.Generator().manual_seed(2)
    training, test = (torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=numbers) for n in (4, 2))
    whole = Images(training, torch.tensor([3, 1, 2, 0]), test, torch.tensor([5, 6]))
    monkeypatch.setattr(identity_mappings.data.images, "read_cifar", lambda *_: whole)
    found = load_images({**dataset, "training_images": 4, "test_images": 2}, tmp_path)
    assert torch.equal(found.training, compute_plainly(training, 2)) and torch.equal(
        found.test, compute_plainly(test, 2)
    )
    assert torch.equal(found.training_labels, whole.training_labels) and torch.equal(
        found.test_labels, whole.test_labels
    )


def test_a_dataset_is_made_from_files_not_from_a_made_one(tmp_path):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    path = tmp_path / "params/datasets.yaml"
    for name in ("cifar10-half", "nothing"):
        message = f"'{name}' is no dataset with files of its own"
        path.write_text(
            (ROOT / "params/datasets.yaml").read_text()
            + f"quarter: {{made_from: {{name: {name}, block_mean: 2}}, md5: a, classes: 10, channels: 3, size: 8, "
            "training_images: 50000, test_images: 10000}\n"
        )
        with pytest.raises(UserError, match=rf"datasets.yaml: quarter.made_from.name: .*{message}"):
            load_parameters(tmp_path)
