"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), checked against the MD5s that torchvision publishes."""

import hashlib
import pickle
from pathlib import Path

import torch

from ..errors import UserError
from .images import Images
from .listing import dvc_md5


def list_pinned(source: type) -> dict[str, str]:
    """{path below data/NAME: MD5} of a dataset of torchvision."""
    files = dict([*source.train_list, *source.test_list]) | {source.meta["filename"]: source.meta["md5"]}
    return {f"{source.base_folder}/{file}": md5 for file, md5 in files.items()}


def find_source(name: str, md5: str) -> type:
    """The class of torchvision.datasets whose published files have the hash `md5` together."""
    from torchvision.datasets import CIFAR10, CIFAR100

    hashes = {dvc_md5(list_pinned(source)): source for source in (CIFAR10, CIFAR100)}
    if md5 not in hashes:
        published = " or ".join(f"{md5} ({source.__name__})" for md5, source in hashes.items())
        raise UserError(f"params/datasets.yaml: {name}.md5: {md5} is not that of the published files: {published}")
    return hashes[md5]


def cure(name: str) -> str:
    return f"get it with `identity-mappings data fetch {name}` or `dvc pull data/{name}`"


def load(name: str, md5: str, folder: Path) -> Images:
    """Read data/NAME.

    Raises:
        UserError: a file is missing or wrong, or the parameters pin other files than the published ones.
    """
    source = find_source(name, md5)
    root = folder / name / source.base_folder
    splits = [[_read(root / file, md5, name) for file, md5 in files] for files in (source.train_list, source.test_list)]
    return Images(*(torch.cat(tensors) for files in splits for tensors in zip(*files, strict=True)))


def _read(path: Path, md5: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) and labels of one file, unpickled only once its bytes are known to be the right ones."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: {cure(name)}") from None
    found = hashlib.md5(content).hexdigest()
    if found != md5:
        raise UserError(f"{path}: its MD5 is {found}, not the published {md5}; it was not read: {cure(name)}")
    batch = pickle.loads(content, encoding="latin1")
    labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
    return torch.from_numpy(batch["data"]).view(-1, 3, 32, 32), torch.tensor(labels)
