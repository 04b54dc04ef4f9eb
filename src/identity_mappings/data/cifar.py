"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009). Reading needs torch and numpy only; torchvision has the published MD5s."""

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
    """Read data/NAME: files are unpickled only once their bytes are known to be the pinned ones.

    Raises:
        UserError: a file is missing or wrong.
    """
    root = folder / name
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    found = dvc_md5({path: hashlib.md5(content).hexdigest() for path, content in files.items()})
    if not files:
        raise UserError(f"{root}: missing: {cure(name)}")
    if found != md5:
        raise UserError(
            f"{root}: not the pinned files: their hash is {found}, not {md5}; nothing was read: `identity-mappings "
            f"data verify {name}` names the wrong ones; {cure(name)}"
        )
    splits = [  # each file's bytes are freed once they are read
        [_read(files.pop(path)) for path in sorted(files) if path.split("/")[-1].startswith(begins)]
        for begins in (("data_batch_", "train"), "test")
    ]
    return Images(*(torch.cat(tensors) for batches in splits for tensors in zip(*batches, strict=True)))


def _read(content: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) and labels of one file."""
    batch = pickle.loads(content, encoding="latin1")
    labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
    return torch.from_numpy(batch["data"]).view(-1, 3, 32, 32), torch.tensor(labels)
