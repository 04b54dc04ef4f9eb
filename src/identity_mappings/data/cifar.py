"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): which files, their published MD5s, and reading them.

The layout is that of torchvision.datasets with the root data/NAME. Reading needs torch and numpy only.
"""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UserError
from .images import Images
from .listing import dvc_md5


@dataclass(frozen=True)
class Layout:
    """Files of a dataset, by name, with the MD5s that torchvision publishes.

    Attributes:
        folder: that they lie in, below data/NAME.
        training, test, meta: file name to MD5.
        labels: key of the labels in a file's dictionary.
        torchvision: the class that knows where the archive is.
    """

    folder: str
    training: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: str
    torchvision: str

    @property
    def files(self) -> dict[str, str]:
        """Path below data/NAME to MD5."""
        return {f"{self.folder}/{name}": md5 for name, md5 in {**self.training, **self.test, **self.meta}.items()}

    @property
    def md5(self) -> str:
        """DVC's hash of the output."""
        return dvc_md5(self.files)


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        "labels",
        "CIFAR10",
    ),
    "cifar100": Layout(
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        {"meta": "7973b15100ade9c7d40fb424638fde48"},
        "fine_labels",
        "CIFAR100",
    ),
}


def cure(name: str) -> str:
    return f"get it with `identity-mappings data fetch {name}` or `dvc pull data/{name}`"


def _read(path: Path, md5: str, labels: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) and labels of one file, unpickled only once its bytes are known to be the right ones."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: {cure(name)}") from None
    found = hashlib.md5(content).hexdigest()
    if found != md5:
        raise UserError(f"{path}: its MD5 is {found}, not the published {md5}; it was not read: {cure(name)}")
    batch = pickle.loads(content, encoding="latin1")
    return torch.from_numpy(batch["data"]).view(-1, 3, 32, 32), torch.tensor(batch[labels])


def load(name: str, md5: str, folder: Path) -> Images:
    """Read data/NAME.

    Raises:
        UserError: a file is missing or wrong, or the parameters pin other files than these.
    """
    if name not in LAYOUTS:
        raise UserError(f"params/datasets.yaml: {name}: no reader for this dataset; there are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    if layout.md5 != md5:
        raise UserError(f"params/datasets.yaml: {name}.md5: {md5} is not {layout.md5} of the published files")
    root = folder / name / layout.folder

    def read_all(files: dict[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [_read(root / file, file_md5, layout.labels, name) for file, file_md5 in files.items()]
        images, labels = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(labels)

    return Images(*read_all(layout.training), *read_all(layout.test))
