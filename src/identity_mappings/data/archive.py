"""ILSVRC's archives, read once, in sequence: the MD5, the members, and whether each is a whole image."""

import hashlib
import io
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from .imagenet import TRAINING, VALIDATION, read_devkit, require
from .shards import BLOCK

if TYPE_CHECKING:
    from ..parameters.datasets import Dataset
    from .prepare import Writer

BUFFER = 1 << 20  # bytes to read at a time
QUIET = 100_000_000  # bytes whose progress nobody needs to see
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
ARCHIVES = {"training": TRAINING, "validation": VALIDATION}


class Progress:
    """Bytes done on standard error: a line for each 10 %, of what takes longer than a moment."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done, self.tenths, self.started = name, total, 0, 0, time.perf_counter()

    def advance(self, size: int) -> None:
        self.done += size
        if self.total > QUIET and (tenths := 10 * self.done // self.total) > self.tenths:
            self.tenths = tenths
            rate = self.done / (time.perf_counter() - self.started) / 1e6
            self.say(f"{self.name}: {10 * tenths} % of {self.total / 1e9:,.1f} GB, {rate:,.0f} MB/s")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def pad(size: int) -> int:
    """The size of a file's blocks in a tar."""
    return -(-size // BLOCK) * BLOCK


def check_image(content: bytes, where: str, cure: str) -> str:
    """What an image is: "jpeg", "cmyk" (a JPEG of four components) or "png". Decoded only where its end is unusual.

    Raises:
        UserError: truncated, or neither JPEG nor PNG.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if not content.rstrip(b"\0\r\n").endswith(ENDS[image.format]):
                image.load()
            return "png" if image.format == "PNG" else "cmyk" if image.mode == "CMYK" else "jpeg"
    except Exception as error:  # Pillow raises many kinds for what is no image
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{where}: no JPEG or PNG, or a truncated one{why}: {cure}") from None


class Archive:
    """A tar file that is read in sequence; all that is read goes into its MD5."""

    def __init__(self, path: Path, progress: Progress):
        self.path, self.size, self.progress, self.offset = path, path.stat().st_size, progress, 0
        self.file, self.md5 = path.open("rb", buffering=BUFFER), hashlib.md5()

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.offset += len(content)
        if len(content) < size:
            raise UserError(
                f"{self.path}: truncated: it ends at byte {self.offset:,} in the middle of a file: get it again"
            )
        self.md5.update(content)
        self.progress.advance(size)
        return content

    def skip_to(self, offset: int) -> None:
        while self.offset < offset:
            self.read(min(offset - self.offset, BUFFER))

    def next_member(self, end: int, name: str) -> tuple[str, int, bytes] | None:
        """Name, size and header of the next file of the tar NAME, which ends at byte `end`; None after the last.

        Raises:
            UserError: no header, no file (a link, a device, a folder), or a file that goes beyond the end.
        """
        begin = self.offset

        def refuse(what: str) -> UserError:
            return UserError(f"{self.path}: {name}, byte {begin:,}: {what}: get the archive again")

        if begin + BLOCK > end:
            raise refuse("ends without the blocks that end a tar: truncated")
        header = self.read(BLOCK)
        if not any(header):
            return None
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            raise refuse("no tar header") from None
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise UserError(f"{self.path}: {member.name} in {name} is a link, a device or a folder, no image: refused")
        if member.size < 0 or self.offset + pad(member.size) > end:
            raise refuse(f"{member.name} goes beyond its end: truncated")
        return member.name, member.size, header

    def copy_images(self, end: int, name: str, find_label: Callable[[str], int], writer: "Writer") -> None:
        """All images of the tar NAME, which ends at byte `end`, to their shards: their blocks as they are."""
        names = set()
        while (member := self.next_member(end, name)) is not None:
            image, size, header = member
            try:
                label = find_label(image)
            except (KeyError, ValueError, IndexError):
                path = " (a path)" if "/" in image else ""
                raise UserError(f"{self.path}: {image!r} in {name} is not a valid image name{path}: refused") from None
            if image in names:
                raise UserError(f"{self.path}: {image} is two times in {name}: get the archive again")
            names.add(image)
            blocks = self.read(pad(size))
            form = check_image(blocks[:size], f"{self.path}: {image}", "get the archive again")
            writer.add(image, header + blocks, size, label, form)


class Ilsvrc:
    """The archives of data/NAME as a source of shards.

    Attributes:
        classes: wnids by label.
        origin: what the index of the shards says of the source.
        sizes: bytes by split.
    """

    def __init__(self, name: str, folder: Path, dataset: "Dataset"):
        require(name, folder, dataset)
        words, self.validation_labels = read_devkit(name, folder, dataset)
        self.root, self.dataset, self.classes = folder / name, dataset, list(words)
        self.origin: dict[str, Any] = {"archives": {file: archive.md5 for file, archive in dataset.archives.items()}}
        self.sizes = {split: (self.root / file).stat().st_size for split, file in ARCHIVES.items()}

    def count(self, split: str) -> int:
        """Images of a split."""
        return self.dataset.training_images if split == "training" else self.dataset.test_images

    def copy(self, split: str, writer: "Writer", progress: Progress) -> None:
        """Fill the shards of a split, from where the writer's state says that an earlier call stopped.

        Raises:
            UserError: an archive is not the published one, or has a member that does not belong in it.
        """
        path = self.root / ARCHIVES[split]
        archive = Archive(path, progress)
        try:
            if end := writer.state["read"]:
                done = len(writer.state["classes"])
                progress.say(f"{path}: going on after {done} classes; {end:,} bytes are read again for the MD5")
                archive.skip_to(min(end, archive.size))
                if archive.offset != end or archive.md5.hexdigest() != writer.state["md5"]:
                    progress.say(f"{path}: not the archive of before: starting again")
                    archive.file.close()
                    archive = Archive(path, progress)
                    writer.restart()
            if split == "training":
                self._copy_training(archive, writer)
            else:
                self._copy_validation(archive, writer)
            archive.skip_to(archive.size)
            if (found := archive.md5.hexdigest()) != (published := self.dataset.archives[path.name].md5):
                writer.state_file.unlink(missing_ok=True)
                raise UserError(
                    f"{path}: its MD5 is {found}, published is {published}: get it again; nothing made of it is used"
                )
        finally:
            archive.file.close()
        lacking = sorted(set(self.classes) - set(writer.state["classes"])) if split == "training" else []
        if lacking:
            raise UserError(
                f"{path}: {len(lacking)} classes of the devkit are not in it, {lacking[0]} the first: get it again"
            )
        if writer.state["rows"] != self.count(split):
            raise UserError(f"{path}: {writer.state['rows']:,} images, not {self.count(split):,}: get it again")

    def _copy_training(self, archive: Archive, writer: "Writer") -> None:
        """Class by class, with the state saved after each."""
        labels = {wnid: label for label, wnid in enumerate(self.classes)}
        while (member := archive.next_member(archive.size, archive.path.name)) is not None:
            name, size, _ = member
            wnid, done = name.removesuffix(".tar"), writer.state["classes"]
            if name != f"{wnid}.tar" or wnid not in labels:
                raise UserError(f"{archive.path}: {name!r} is no tar of a class that the devkit knows: refused")
            if wnid in done:
                raise UserError(f"{archive.path}: {name} is there two times: get the archive again")

            def find_label(image: str, begin: str = f"{wnid}_", label: int = labels[wnid]) -> int:
                if not (image.startswith(begin) and image.endswith(".JPEG") and image[len(begin) : -5].isdecimal()):
                    raise ValueError
                return label

            end = archive.offset + size
            archive.copy_images(end, name, find_label, writer)
            archive.skip_to(end + pad(size) - size)
            writer.save(classes=[*done, wnid], read=archive.offset, md5=archive.md5.hexdigest())

    def _copy_validation(self, archive: Archive, writer: "Writer") -> None:
        """In one go; what an unfinished one left is written again."""
        if writer.state["rows"]:
            writer.restart()
        labels = {f"ILSVRC2012_val_{n:08d}.JPEG": label for n, label in enumerate(self.validation_labels, 1)}
        archive.copy_images(archive.size, archive.path.name, labels.__getitem__, writer)
        writer.save()
