"""Your own images: data/NAME/train/CLASS and data/NAME/val/CLASS, as the source of shards."""

import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .archive import Progress, check_image, pad
from .listing import dvc_md5, list_files
from .shards import BLOCK

if TYPE_CHECKING:
    from ..parameters.datasets import Dataset
    from .prepare import Writer

SPLITS = {"training": "train", "validation": "val"}


class ImageFolder:
    """The folder data/NAME as a source of shards: attributes as `archive.Ilsvrc`'s.

    Raises:
        UserError: a folder or a class is missing, empty or there twice, or the files are not the pinned ones.
    """

    def __init__(self, name: str, folder: Path, dataset: "Dataset"):
        self.root = folder / name
        classes = {split: _list_classes(self.root / place) for split, place in SPLITS.items()}
        for split, other in (("training", "validation"), ("validation", "training")):
            if lacking := sorted(set(classes[other]) - set(classes[split])):
                raise UserError(
                    f"{self.root / SPLITS[split] / lacking[0]}: missing: {SPLITS[other]} has the class {lacking[0]!r}, "
                    f"{SPLITS[split]} has not: give each class images in both, or remove it from both"
                )
        self.classes, self.files = sorted(classes["training"]), classes
        try:
            md5 = dvc_md5(list_files(self.root))
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}: make it readable, or remove it") from None
        if dataset.md5 not in (None, md5):
            raise UserError(
                f"{self.root}: not the pinned images: their hash is {md5}, params/datasets.yaml pins {dataset.md5}: "
                f"put the pinned ones back (dvc checkout {self.root}), or remove md5, classes and the counts from the "
                f"entry of {name} and call `identity-mappings data prepare {name}`"
            )
        self.origin: dict[str, Any] = {"md5": md5}
        self.sizes = {
            split: sum(_measure(path) for paths in found.values() for path in paths) for split, found in classes.items()
        }

    def count(self, split: str) -> int:
        """Images of a split."""
        return sum(map(len, self.files[split].values()))

    def copy(self, split: str, writer: "Writer", progress: Progress) -> None:
        """Fill the shards of a split class by class, from where an earlier call stopped."""
        if writer.state["classes"] and writer.state["md5"] != self.origin["md5"]:
            progress.say(f"{self.root}: not the images of before: starting again")
            writer.restart()
        for label, name in enumerate(self.classes):
            if name in writer.state["classes"]:
                continue
            for path in self.files[split][name]:
                try:
                    content = path.read_bytes()
                    header = tarfile.TarInfo(f"{name}/{path.name}")
                    header.size = len(content)
                    blocks = header.tobuf(tarfile.USTAR_FORMAT) + content.ljust(pad(len(content)), b"\0")
                except OSError as error:
                    raise UserError(f"{path}: {error.strerror}: make it readable, or remove it") from None
                except ValueError:  # beyond what a tar's header takes
                    raise UserError(f"{path}: its name is too long: rename it to at most 100 characters") from None
                form = check_image(content, str(path), "convert it to JPEG or PNG, or remove it")
                writer.add(header.name, blocks, len(content), label, form)
                progress.advance(len(blocks))
            writer.save(classes=[*writer.state["classes"], name], md5=self.origin["md5"])


def _measure(path: Path) -> int:
    return BLOCK + pad(path.stat().st_size)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """{class: its images} of a split."""
    if not folder.is_dir():
        raise UserError(f"{folder}: missing: put a folder for each class there, with its images")
    classes: dict[str, list[Path]] = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir():
            raise UserError(f"{place}: not a folder of a class: move the file out of {folder}")
        if double := next((name for name in classes if name.casefold() == place.name.casefold()), None):
            raise UserError(f"{place}: the class {double!r} differs only in upper and lower case: rename or merge one")
        images = sorted(place.iterdir(), key=lambda path: os.fsencode(path.name))
        if inside := next((path for path in images if path.is_dir()), None):
            raise UserError(f"{inside}: a folder inside the class {place.name!r}: move its images up, or remove it")
        if not images:
            raise UserError(f"{place}: no images of this class: add some, or remove it from train and val")
        classes[place.name] = images
    if len(classes) < 2:
        raise UserError(f"{folder}: {len(classes)} folders of classes: a network needs at least two")
    return classes
