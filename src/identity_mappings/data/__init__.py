"""Images and labels, checked by hash, and the order and views in which training sees them."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from . import arrays, block_mean, cifar, digits
from .images import Images

FOLDER = Path("data")
READERS = {"cifar": cifar.load, "arrays": arrays.load, "digits": digits.load}


def load(dataset: dict[str, Any], folder: Path = FOLDER) -> Images:
    """The dataset that an experiment's parameters name.

    Args:
        dataset: {"name": ..., "md5": ...}, its sizes and what it is made from, from the parameters.

    Raises:
        UserError: files are missing or are not the pinned ones, or the counts disagree with the parameters.
    """
    name, md5 = dataset["name"], dataset["md5"]
    if dataset.get("made_from"):
        images = block_mean.load(name, md5, dataset["made_from"], folder)
    else:
        # Experiments older than `format` lack it: CIFAR is pinned by a hash of DVC (.dir), the digits by a plain MD5.
        reader = dataset.get("format") or ("cifar" if md5.endswith(".dir") else "digits")
        images = READERS[reader](name, md5, folder)
    stated = (dataset["training_images"], dataset["channels"], dataset["size"], dataset["size"])
    if tuple(images.training.shape) != stated or len(images.test) != dataset["test_images"]:
        raise UserError(
            f"params/datasets.yaml: {name}: it has {tuple(images.training.shape)} training and {len(images.test)} "
            f"test images, not {stated} and {dataset['test_images']}: correct the numbers"
        )
    return images
