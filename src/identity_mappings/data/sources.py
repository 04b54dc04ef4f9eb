"""Where the images of shards come from: ILSVRC's archives, read once and in sequence, or a folder of your own."""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

from ..errors import UserError
from ..parameters.datasets import Dataset
from .listing import Advance, dvc_md5, list_files
from .shards import Member

# Of ILSVRC 2012 (Russakovsky et al. 2015); `imagenet-small` has archives of the same names and layout.
TRAINING, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"

FOLDERS = {"training": "train", "validation": "val"}  # of your own images
MOST_BYTES_OF_A_NAME = 100  # in a tar's header
READ_AT_ONCE = 1 << 16  # bytes of an archive
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def check_image(content: bytes, where: str, cure: str) -> str:
    """What an image is: "jpeg", "cmyk" (a JPEG of four components) or "png". Decoded only where its end is unusual.

    Raises:
        UserError: truncated, or neither JPEG nor PNG.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if not content.rstrip(b"\0\r\n").endswith(ENDS[str(image.format)]):
                image.load()
            return "png" if image.format == "PNG" else "cmyk" if image.mode == "CMYK" else "jpeg"
    except Exception as error:  # Pillow raises many kinds for what is no image
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{where}: no JPEG or PNG, or a truncated one{why}: {cure}") from None


def require_archives(name: str, folder: Path, dataset: Dataset) -> None:
    """Explain how to get archives that are missing.

    Raises:
        UserError: an archive is missing, or is smaller than the published one; says which, and what to do.
    """
    states = {}
    for file, archive in (dataset.archives or {}).items():
        path, size = folder / name / file, archive.bytes
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            states[path] = "missing" + (f" ({size:,} bytes)" if size else f": {archive.url}" if archive.url else "")
        elif size not in (None, found):
            states[path] = f"{found:,} of {size:,} bytes are there: finish the download"
        else:
            states[path] = "there"
    if set(states.values()) == {"there"}:
        return
    if dataset.source:
        cure = (
            f"ILSVRC 2012 is behind a registration: register at image-net.org, download the training and validation "
            f"images and the development kit of tasks 1 and 2 from {dataset.source}, and put each archive at the path "
            "above; do not unpack it"
        )
    elif any(archive.url for archive in (dataset.archives or {}).values()):
        cure = f"`identity-mappings data fetch {name}` gets what is missing"
    else:
        cure = f"make them with `python workflow/scripts/make_small_data.py {name}`"
    raise UserError("\n".join([*(f"{path}: {state}" for path, state in states.items()), f"{name}: {cure}"]))


def read_devkit(path: Path, dataset: Dataset) -> tuple[list[str], list[int]]:
    """What ILSVRC's development kit says: the wnids by label (sorted, as in torchvision.datasets.ImageNet), and the
    label of each validation image, in the order of their numbers.

    Raises:
        UserError: it is not the published one, or disagrees with the counts of the dataset.
    """
    assert dataset.archives is not None
    content, published = path.read_bytes(), dataset.archives[DEVKIT].md5
    if (found := hashlib.md5(content).hexdigest()) != published:
        raise UserError(f"{path}: its MD5 is {found}, published is {published}: get it again")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        meta, truth = (tar.extractfile(name) for name in (META, GROUND_TRUTH))
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        numbers = [int(line) for line in truth or ()]
    wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if synset["num_children"] == 0}
    if (len(wnids), len(numbers)) != (dataset.classes, dataset.test_images):
        raise UserError(
            f"{path}: it has {len(wnids)} classes and {len(numbers)} validation images, not {dataset.classes} and "
            f"{dataset.test_images}: correct params/datasets.yaml"
        )
    labels = {wnid: label for label, wnid in enumerate(sorted(wnids.values()))}
    return list(labels), [labels[wnids[number]] for number in numbers]


class _Hashed(io.RawIOBase):
    """A file that is read in sequence, and the MD5 of what was read."""

    def __init__(self, file: IO[bytes], advance: Advance):
        self.file, self.advance, self.md5 = file, advance, hashlib.md5()

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.md5.update(content)
        self.advance(len(content))
        return content


class Ilsvrc:
    """The archives of data/NAME, a `Source`.

    Raises:
        UserError: an archive is missing, or the development kit is not the published one.
    """

    def __init__(self, name: str, folder: Path, dataset: Dataset):
        require_archives(name, folder, dataset)
        assert dataset.archives is not None
        self.paths = {"training": folder / name / TRAINING, "validation": folder / name / VALIDATION}
        self.classes, self.validation_labels = read_devkit(folder / name / DEVKIT, dataset)
        self.published = {file: archive.md5 for file, archive in dataset.archives.items()}
        self.origin: dict[str, Any] = {"archives": self.published}
        self.sizes = {split: path.stat().st_size for split, path in self.paths.items()}
        self.counts = {"training": dataset.training_images or 0, "validation": dataset.test_images or 0}

    def count(self, split: str) -> int:
        return self.counts[split]

    def read(self, split: str, advance: Advance) -> Iterator[Member]:
        """All images of a split; an archive with another MD5, or other numbers of images, is refused after the last."""
        path, images, labels = self.paths[split], 0, set()
        with path.open("rb") as file:
            hashed = _Hashed(file, advance)
            try:
                with tarfile.open(fileobj=hashed, mode="r|", bufsize=READ_AT_ONCE) as tar:
                    for member in self._read_training(tar) if split == "training" else self._read_validation(tar):
                        images += 1
                        labels.add(member.label)
                        yield member
            except tarfile.TarError as error:
                raise UserError(f"{path}: truncated or damaged ({error}): get it again") from None
            while hashed.read(READ_AT_ONCE):
                pass
        if (found := hashed.md5.hexdigest()) != (published := self.published[path.name]):
            raise UserError(f"{path}: its MD5 is {found}, published is {published}: get it again")
        lacking = [wnid for label, wnid in enumerate(self.classes) if label not in labels and split == "training"]
        if lacking:
            raise UserError(
                f"{path}: {len(lacking)} classes of the devkit are not in it, {lacking[0]} the first: get it again"
            )
        if images != self.counts[split]:
            raise UserError(f"{path}: {images:,} images, not {self.counts[split]:,}: get it again")

    def _read_training(self, tar: tarfile.TarFile) -> Iterator[Member]:
        """Of a tar of a tar for each class."""
        path, labels = self.paths["training"], {wnid: label for label, wnid in enumerate(self.classes)}
        for name, file in _read_files(path, path.name, tar):
            wnid = name.removesuffix(".tar")
            if name != f"{wnid}.tar" or wnid not in labels:
                raise UserError(f"{path}: {name!r} is no tar of a class that the devkit knows: refused")
            with tarfile.open(fileobj=file, mode="r|", bufsize=READ_AT_ONCE) as images:
                for image, content in _read_files(path, name, images):
                    label = labels[wnid] if re.fullmatch(rf"{wnid}_\d+\.JPEG", image) else None
                    yield _check_member(path, name, image, content, label)

    def _read_validation(self, tar: tarfile.TarFile) -> Iterator[Member]:
        path = self.paths["validation"]
        labels = {f"ILSVRC2012_val_{n:08d}.JPEG": label for n, label in enumerate(self.validation_labels, 1)}
        for image, content in _read_files(path, path.name, tar):
            yield _check_member(path, path.name, image, content, labels.get(image))


def _read_files(path: Path, name: str, tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the files of the tar NAME, which is an archive at `path` or inside of it."""
    seen = set()
    for member in tar:
        file = tar.extractfile(member) if member.isfile() else None
        if file is None:
            raise UserError(f"{path}: {member.name} in {name} is a link, a device or a folder, no image: refused")
        if member.name in seen:
            raise UserError(f"{path}: {member.name} is two times in {name}: get the archive again")
        seen.add(member.name)
        yield member.name, file


def _check_member(path: Path, name: str, image: str, file: IO[bytes], label: int | None) -> Member:
    """An image of the tar NAME; without a label it does not belong there."""
    if label is None:
        described = " (a path)" if "/" in image else ""
        raise UserError(f"{path}: {image!r} in {name} is not a valid image name{described}: refused")
    content = file.read()
    return Member(image, content, label, check_image(content, f"{path}: {image}", "get the archive again"))


class ImageFolder:
    """Your own images, data/NAME/train/CLASS and data/NAME/val/CLASS, a `Source`; dotfiles are ignored.

    Raises:
        UserError: a folder or a class is missing, empty or there twice, or the files are not the pinned ones.
    """

    def __init__(self, name: str, folder: Path, dataset: Dataset):
        self.root = folder / name
        self.images = {split: _list_images(self.root / place) for split, place in FOLDERS.items()}
        for split, other in (("training", "validation"), ("validation", "training")):
            if lacking := sorted(set(self.images[other]) - set(self.images[split])):
                raise UserError(
                    f"{self.root / FOLDERS[split] / lacking[0]}: missing: {FOLDERS[other]} has the class "
                    f"{lacking[0]!r}, {FOLDERS[split]} has not: give each class images in both, or remove it from both"
                )
        self.classes = sorted(self.images["training"])
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
            split: sum(path.stat().st_size for paths in images.values() for path in paths)
            for split, images in self.images.items()
        }

    def count(self, split: str) -> int:
        return sum(map(len, self.images[split].values()))

    def read(self, split: str, advance: Advance) -> Iterator[Member]:
        """All images of a split, class by class."""
        for label, name in enumerate(self.classes):
            for path in self.images[split][name]:
                member = f"{name}/{path.name}"
                if len(member.encode()) > MOST_BYTES_OF_A_NAME:
                    raise UserError(
                        f"{path}: its name is too long: with its class at most {MOST_BYTES_OF_A_NAME} bytes: rename it"
                    )
                try:
                    content = path.read_bytes()
                except OSError as error:
                    raise UserError(f"{path}: {error.strerror}: make it readable, or remove it") from None
                form = check_image(content, str(path), "convert it to JPEG or PNG, or remove it")
                yield Member(member, content, label, form)
                advance(len(content))


def _list_images(folder: Path) -> dict[str, list[Path]]:
    """{class: its images} of a split."""
    if not folder.is_dir():
        raise UserError(f"{folder}: missing: put a folder for each class there, with its images")
    classes: dict[str, list[Path]] = {}
    for place in _list_seen(folder):
        if not place.is_dir():
            raise UserError(f"{place}: not a folder of a class: move the file out of {folder}")
        if double := next((name for name in classes if name.casefold() == place.name.casefold()), None):
            raise UserError(f"{place}: the class {double!r} differs only in upper and lower case: rename or merge one")
        images = _list_seen(place)
        if inside := next((path for path in images if path.is_dir()), None):
            raise UserError(f"{inside}: a folder inside the class {place.name!r}: move its images up, or remove it")
        if not images:
            raise UserError(f"{place}: no images of this class: add some, or remove it from train and val")
        classes[place.name] = images
    if len(classes) < 2:
        raise UserError(f"{folder}: {len(classes)} folders of classes: a network needs at least two")
    return classes


def _list_seen(folder: Path) -> list[Path]:
    """What is in a folder, dotfiles apart, in an order that no language changes."""
    seen = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(seen, key=lambda path: os.fsencode(path.name))
