"""Your own small images: one .npz file of arrays in data/NAME, read into memory as CIFAR is."""

import io
import zipfile
from pathlib import Path

import numpy
import torch
from torch import Tensor

from ..errors import UserError
from .images import Images
from .listing import dvc_md5, list_files

# Of each array the names under which it may stand in the file; the last are Keras's.
NAMES = {
    "training_images": ("training_images", "train_images", "x_train"),
    "training_labels": ("training_labels", "train_labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}


def load(name: str, md5: str | None, folder: Path) -> Images:
    """Read data/NAME.

    Args:
        md5: DVC's hash of data/NAME; None: not pinned yet.

    Raises:
        UserError: the file is missing, not the pinned one, or its arrays are no images and labels.
    """
    root = folder / name
    found = list_files(root) if root.is_dir() else {}
    if len(found) != 1 or not (path := root / next(iter(found))).name.endswith(".npz"):
        files = ", ".join(found) or "nothing"
        raise UserError(f"{root}: there is {files}: put one .npz file there, with {', '.join(NAMES)}")
    if md5 and dvc_md5(found) != md5:
        raise UserError(
            f"{path}: not the pinned file: its hash is {dvc_md5(found)}, params/datasets.yaml pins {md5}: put the "
            f"pinned one back (dvc checkout {root}), or remove md5, classes and the other numbers from the entry and "
            f"call `identity-mappings data prepare {name}`"
        )
    try:
        with numpy.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            given = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise UserError(f"{path}: no .npz file of plain arrays ({error}): write it with numpy.savez") from None
    arrays = {}
    for key, names in NAMES.items():
        if (key_in_file := next((known for known in names if known in given), None)) is None:
            raise UserError(f"{path}: no array {key} in it, only {', '.join(given) or 'nothing'}: add or rename it")
        arrays[key] = given[key_in_file]
    training, test = (_check_images(path, key, arrays[key]) for key in ("training_images", "test_images"))
    if training.shape[1:] != test.shape[1:]:
        raise UserError(f"{path}: training images are {tuple(training.shape[1:])}, test images {tuple(test.shape[1:])}")
    labels = [
        _check_labels(path, f"{s}_labels", arrays[f"{s}_labels"], len(x))
        for s, x in (("training", training), ("test", test))
    ]
    classes = int(max(map(torch.max, labels))) + 1
    for split, numbers in zip(("training", "test"), labels, strict=True):
        if missing := sorted(set(range(classes)) - set(numbers.tolist())):
            raise UserError(
                f"{path}: {split}_labels: no image of class {missing[0]}: labels are 0 to {classes - 1}, and each "
                "needs training and test images: number them without gaps"
            )
    return Images(training, labels[0], test, labels[1])


def _check_images(path: Path, key: str, images: numpy.ndarray) -> Tensor:
    """As (N, C, H, W), from (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    wanted = "uint8 of shape (N, H, H, 3) or (N, 3, H, H), of grey images (N, H, H)"
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in (1, 3) and shape[1] == shape[2]:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != numpy.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise UserError(f"{path}: {key}: {images.dtype} of shape {shape}: it must be {wanted}")
    if images.shape[2] != images.shape[3]:
        raise UserError(
            f"{path}: {key}: images of {images.shape[2]} x {images.shape[3]} pixels: crop or pad them to squares"
        )
    return torch.from_numpy(numpy.ascontiguousarray(images))


def _check_labels(path: Path, key: str, labels: numpy.ndarray, images: int) -> Tensor:
    if labels.dtype.kind not in "iu" or labels.shape not in ((images,), (images, 1)):
        raise UserError(
            f"{path}: {key}: {labels.dtype} of shape {labels.shape}: it must be integers, one for each of the "
            f"{images} images"
        )
    if labels.min() < 0:
        raise UserError(f"{path}: {key}: {labels.min()} is below 0: number the classes from 0")
    return torch.from_numpy(labels.reshape(-1).astype("int64"))
