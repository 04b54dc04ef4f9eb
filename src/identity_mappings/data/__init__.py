"""Images and labels, checked by hash, and the order and views in which training sees them."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from . import block_mean, cifar, digits
from .images import Images

FOLDER = Path("data")


def load(dataset: dict[str, Any], folder: Path = FOLDER) -> Images:
    """The dataset that an experiment's parameters name.

    Args:
        dataset: {"name": ..., "md5": ...}, its sizes and what it is made from, from the parameters.
        folder: where data.dvc's outputs lie.

    Raises:
        UserError: files are missing or are not the pinned ones, or the counts disagree with the parameters.
    """
    name = dataset["name"]
    if dataset.get("made_from"):
        images = block_mean.load(name, dataset["md5"], dataset["made_from"], folder)
    elif name == "digits":
        images = digits.load(dataset["md5"])
    else:
        images = cifar.load(name, dataset["md5"], folder)
    stated = (dataset["training_images"], dataset["channels"], dataset["size"], dataset["size"])
    if tuple(images.training.shape) != stated or len(images.test) != dataset["test_images"]:
        raise UserError(
            f"params/datasets.yaml: {name}: it has {tuple(images.training.shape)} training and {len(images.test)} "
            f"test images, not {stated} and {dataset['test_images']}: correct the numbers"
        )
    return images
