"""Datasets in memory: CIFAR, scikit-learn's digits, your own arrays, and what is made from CIFAR at a lower resolution.

Files are read only once their bytes are known to be the pinned ones.
"""

import gzip
import hashlib
import importlib.util
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from ..errors import UserError
from .listing import dvc_md5, list_files, list_paths
from .sampling import make_generator

FOLDER = Path("data")
TEST_IMAGES = 500  # the last ones; the file's order keeps writers together, so this is not the easiest split
# Of each array the names under which it may stand in the file; the last are Keras's.
ARRAYS = {
    "training_images": ("training_images", "train_images", "x_train"),
    "training_labels": ("training_labels", "train_labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}


class Images(NamedTuple):
    """Images as uint8 (N, C, H, W) and labels as int64 (N)."""

    training: Tensor
    training_labels: Tensor
    test: Tensor
    test_labels: Tensor


def hold_out(images: Images, count: int) -> Images:
    """Move `count` training images, the same for every seed, into the place of the test set."""
    order = torch.randperm(len(images.training), generator=make_generator(0, "validation"))
    held, kept = order[:count].sort().values, order[count:].sort().values
    return Images(
        images.training[kept], images.training_labels[kept], images.training[held], images.training_labels[held]
    )


def describe_cure(name: str) -> str:
    return f"get it with `identity-mappings data fetch {name}` or `dvc pull data/{name}`"


def read_cifar(name: str, md5: str, folder: Path) -> Images:
    """Read data/NAME: files are unpickled only once their bytes are known to be the pinned ones.

    Raises:
        UserError: a file is missing or wrong.
    """
    root = folder / name
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in list_paths(root)}
    found = dvc_md5({path: hashlib.md5(content).hexdigest() for path, content in files.items()})
    if not files:
        raise UserError(f"{root}: missing: {describe_cure(name)}")
    if found != md5:
        raise UserError(
            f"{root}: not the pinned files: their hash is {found}, not {md5}; nothing was read: `identity-mappings "
            f"data verify {name}` names the wrong ones; {describe_cure(name)}"
        )
    splits = [  # each file's bytes are freed once they are read
        [_unpickle(files.pop(path)) for path in sorted(files) if path.split("/")[-1].startswith(begins)]
        for begins in (("data_batch_", "train"), "test")
    ]
    return Images(*(torch.cat(tensors) for batches in splits for tensors in zip(*batches, strict=True)))


def _unpickle(content: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) and labels of one file."""
    batch = pickle.loads(content, encoding="latin1")
    labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
    return torch.from_numpy(batch["data"]).view(-1, 3, 32, 32), torch.tensor(labels)


def read_digits(name: str, md5: str, folder: Path | None = None) -> Images:
    """scikit-learn's bundled handwritten digits (UCI, Alpaydin and Kaynak 1998), 8x8, 17 greys.

    1,297 training and 500 test images, one channel, 0 to 240.

    Raises:
        UserError: the installed scikit-learn brings other digits than the pinned ones.
    """
    # What sklearn.datasets.load_digits reads, without the seconds that importing scikit-learn takes.
    if (package := importlib.util.find_spec("sklearn")) is None or package.origin is None:
        raise UserError(f"{name}: scikit-learn, which has the images, is missing: make env")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = numpy.loadtxt(file, delimiter=",", dtype="uint8")
    images, labels = (table[:, :-1] * 15).reshape(-1, 8, 8), table[:, -1]
    found = hashlib.md5(images.tobytes() + labels.tobytes()).hexdigest()
    if found != md5:
        raise UserError(
            f"{name}: scikit-learn's images have the MD5 {found}, params/datasets.yaml pins {md5}: install the "
            "versions of requirements.lock (make env)"
        )
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()
    return Images(x[:-TEST_IMAGES], y[:-TEST_IMAGES], x[-TEST_IMAGES:], y[-TEST_IMAGES:])


def compute_block_mean(images: Tensor, size: int) -> Tensor:
    """The mean of each block of pixels, by colour channel, rounded half up.

    Args:
        images: uint8 (N, C, H, W).
        size: height and width of a block in pixels; divides H and W.

    Returns:
        uint8 (N, C, H / size, W / size): (sum of the block + size^2 / 2) // size^2, in integers.
    """
    means = []
    for part in images.split(1000):  # at most 1,000 images as 32-bit integers
        blocks = part.unflatten(3, (-1, size)).unflatten(2, (-1, size))
        means.append(((blocks.sum(dim=(3, 5), dtype=torch.int32) + size**2 // 2) // size**2).to(images.dtype))
    return torch.cat(means)


def compute_md5(source_md5: str, size: int) -> str:
    """The hash that pins such a dataset: it follows from the source's hash and the size of a block."""
    return hashlib.md5(f"{source_md5}: mean of blocks of {size} x {size} pixels, rounded half up".encode()).hexdigest()


def read_block_means(name: str, md5: str, made_from: dict[str, Any], folder: Path) -> Images:
    """Read the source's files and compute the means.

    Args:
        made_from: {"name", "md5", "block_mean"} of the parameters.

    Raises:
        UserError: a file is missing or wrong, the images cannot be cut into such blocks, or `md5` does not follow from
            the source's.
    """
    size, expected = made_from["block_mean"], compute_md5(made_from["md5"], made_from["block_mean"])
    if md5 != expected:
        raise UserError(
            f"params/datasets.yaml: {name}.md5: {md5} does not follow from {made_from['name']}'s: write {expected}"
        )
    images = read_cifar(made_from["name"], made_from["md5"], folder)
    pixels = images.training.shape[-1]
    if pixels % size:
        raise UserError(
            f"params/datasets.yaml: {name}.made_from.block_mean: images of {pixels} pixels cannot be cut into blocks "
            f"of {size}: take a divisor"
        )
    return images._replace(
        training=compute_block_mean(images.training, size), test=compute_block_mean(images.test, size)
    )


def read_arrays(name: str, md5: str | None, folder: Path) -> Images:
    """Read your own small images: one .npz file of arrays in data/NAME.

    Args:
        md5: DVC's hash of data/NAME; None: not pinned yet.

    Raises:
        UserError: the file is missing, not the pinned one, or its arrays are no images and labels.
    """
    root = folder / name
    found = list_files(root) if root.is_dir() else {}
    if len(found) != 1 or not (path := root / next(iter(found))).name.endswith(".npz"):
        files = ", ".join(found) or "nothing"
        raise UserError(f"{root}: there is {files}: put one .npz file there, with {', '.join(ARRAYS)}")
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
    for key, names in ARRAYS.items():
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


READERS = {"cifar": read_cifar, "arrays": read_arrays, "digits": read_digits}


def load_images(dataset: dict[str, Any], folder: Path = FOLDER) -> Images:
    """The dataset that an experiment's parameters name.

    Args:
        dataset: {"name": ..., "md5": ...}, its sizes and what it is made from, from the parameters.

    Raises:
        UserError: files are missing or are not the pinned ones, or the counts disagree with the parameters.
    """
    name, md5 = dataset["name"], dataset["md5"]
    if dataset.get("made_from"):
        images = read_block_means(name, md5, dataset["made_from"], folder)
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
