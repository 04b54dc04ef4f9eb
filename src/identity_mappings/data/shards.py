"""The prepared form of an ImageNet dataset: tar shards of the original JPEGs, and where each lies.

The shards follow WebDataset's convention (a tar of `KEY.EXTENSION` members, each a sample). SPLIT.npy has a row for
each image, by shard and position; index.json, written last, says what the shards are made of. An image goes to the
shard that a hash of its name says, so that every shard is a random sample of all classes and its bytes depend on
nothing but the images.
"""

import fcntl
import io
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy
import torch

from ..errors import UserError
from ..records.files import hash_file, json_bytes, sha256, write_atomically
from .listing import BUFFER, Advance, dvc_md5, show_progress

FORMAT = 2
INDEX = "index.json"
SPLITS = ("training", "validation")
# Of ImageNet these make 512 and 16 shards, of 289 and 422 MB.
IMAGES_OF_A_SHARD, LEAST_SHARDS = {"training": 2500, "validation": 3125}, {"training": 4, "validation": 1}
ROW = numpy.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i2")])
AHEAD = 128 << 10  # bytes to ask for at a time: of more, Linux reads only the beginning
BLOCK = 512  # of a tar: a header, and what members are padded to
END_OF_ARCHIVE = bytes(2 * BLOCK)


class Member(NamedTuple):
    """An image: its name in a shard, its file's content, its label, and its form: "jpeg", "cmyk" or "png"."""

    name: str
    content: bytes
    label: int
    form: str


class Source(Protocol):
    """Where the images of shards come from.

    Attributes:
        classes: names by label.
        origin: what the index of the shards says of the source.
        sizes: bytes by split, of which there are "training" and "validation".
    """

    classes: list[str]
    origin: dict[str, Any]
    sizes: dict[str, int]

    def count(self, split: str) -> int:
        """Images of a split."""

    def read(self, split: str, advance: Advance) -> Iterator[Member]:
        """All images of a split; raises UserError where one does not belong there, or is damaged."""


def read_index(folder: Path) -> dict[str, Any]:
    """index.json of data/shards/NAME, once all files that it names are known to be there in full.

    Raises:
        UserError: the folder is missing, half-prepared, of another format, or a file of it has another size.
    """
    cure = f"call `identity-mappings data prepare {folder.name}`"
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except OSError:
        state = "not prepared to the end" if folder.is_dir() else "missing"
        raise UserError(f"{folder}: {state}: {cure}") from None
    except ValueError:
        index = None
    if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("dataset") != folder.name:
        raise UserError(f"{folder / INDEX}: not an index of {folder.name} in format {FORMAT}: {cure}")
    try:
        for split in SPLITS:
            for shard in index[split]["shards"]:
                path = folder / shard["file"]
                found = path.stat().st_size if path.is_file() else None
                if found != shard["bytes"]:
                    state = "missing" if found is None else f"{found:,} bytes, not {shard['bytes']:,}"
                    raise UserError(f"{path}: {state}: {cure}")
            path = folder / f"{split}.npy"
            if not path.is_file() or len(numpy.load(path, mmap_mode="r")) != index[split]["images"]:
                raise UserError(f"{path}: missing, or not of {index[split]['images']:,} images: {cure}")
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: damaged ({type(error).__name__}: {error}): {cure}") from None
    return index


def hash_source(index: dict[str, Any]) -> str:
    """DVC's hash of what shards were made of: the archives of ILSVRC, or a folder of images."""
    return index["md5"] if "md5" in index else dvc_md5(index["archives"])


class Shards:
    """A split ("training", "validation") of data/shards/NAME; images by their number, by shard and then by position.

    Shards are opened when they are first read, in each process by itself, so that it can be handed to workers.

    Attributes:
        labels: (N), int64: position of the wnid in `classes`.
        classes: wnids, sorted.
        shard_of: (N), int32: number of the shard that an image lies in.
        md5: DVC's hash of the archives or of the folder of images that the shards were made of.

    Raises:
        UserError: as `read_index`.
    """

    def __init__(self, folder: Path, split: str):
        index = read_index(folder)
        self.folder = folder
        self.classes: list[str] = index["classes"]
        self.md5 = hash_source(index)
        self.rows = numpy.load(folder / f"{split}.npy")
        self.labels = torch.from_numpy(self.rows["label"].astype("int64"))
        self.shard_of = numpy.ascontiguousarray(self.rows["shard"])
        self.files = [folder / shard["file"] for shard in index[split]["shards"]]
        self.opened: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": {}}

    def __del__(self) -> None:
        for handle in getattr(self, "opened", {}).values():
            os.close(handle)

    def _handle(self, shard: int) -> int:
        if shard not in self.opened:
            self.opened[shard] = os.open(self.files[shard], os.O_RDONLY | os.O_CLOEXEC)
        return self.opened[shard]

    def jpeg(self, index: int) -> bytes:
        """The file of an image, as it was in the archive."""
        shard, offset, size, _ = self.rows[index].item()
        return os.pread(self._handle(shard), size, offset)

    def name(self, index: int) -> str:
        """Where an image lies, for messages: its shard, and its name in it."""
        shard, offset, _, _ = self.rows[index].item()
        header = os.pread(self._handle(shard), BLOCK, offset - BLOCK)
        return f"{self.files[shard]}: {header[:100].partition(bytes(1))[0].decode()}"

    def will_need(self, shard: int) -> None:
        """Ask the system to read a shard ahead; where it cannot, nothing happens."""
        if not hasattr(os, "posix_fadvise"):
            return
        handle = self._handle(shard)
        for offset in range(0, os.fstat(handle).st_size, AHEAD):
            os.posix_fadvise(handle, offset, AHEAD, os.POSIX_FADV_WILLNEED)


def _write_split(source: Source, split: str, folder: Path, advance: Advance) -> tuple[dict[str, Any], Counter[str]]:
    """Write the shards and SPLIT.npy; returns the split's entry of the index, and how many images have each form."""
    number = max(LEAST_SHARDS[split], source.count(split) // IMAGES_OF_A_SHARD[split])
    paths = [folder / f"{split}-{shard:04d}.tar" for shard in range(number)]
    places, crcs, forms = [], [0] * number, Counter[str]()
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for name, content, label, form in source.read(split, advance):
            shard = zlib.crc32(name.encode()) * number >> 32
            header = tarfile.TarInfo(name)
            header.size = len(content)
            blocks = header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK)
            places.append((shard, files[shard].tell() + BLOCK, len(content), label))
            files[shard].write(blocks)
            crcs[shard] = zlib.crc32(blocks, crcs[shard])
            forms[form] += 1
        for file in files:
            file.write(END_OF_ARCHIVE)
            file.flush()
            os.fsync(file.fileno())
    rows, array = io.BytesIO(), numpy.array(places, ROW)
    numpy.save(rows, array[numpy.lexsort((array["offset"], array["shard"]))])
    write_atomically(folder / f"{split}.npy", rows.getvalue())
    images = numpy.bincount(array["shard"], minlength=number).tolist()
    shards = [
        {
            "file": path.name,
            "images": count,
            "bytes": path.stat().st_size,
            "crc32": f"{zlib.crc32(END_OF_ARCHIVE, crc):08x}",
        }
        for path, count, crc in zip(paths, images, crcs, strict=True)
    ]
    return {"images": len(places), "rows_sha256": sha256(rows.getvalue()), "shards": shards}, forms


def _read_finished(folder: Path, md5: str | None) -> dict[str, Any] | None:
    """The index of what was prepared before; None where there is none, or one of other images, or a damaged one."""
    if md5 is None or not (folder / INDEX).is_file():
        return None
    try:
        index = read_index(folder)
    except UserError as error:
        print(f"{error}: done now, from the start", file=sys.stderr)
        return None
    return index if hash_source(index) == md5 else None


def write_shards(open_source: Callable[[], Source], folder: Path, md5: str | None) -> tuple[dict[str, Any], bool]:
    """Make data/shards/NAME of a source, from the start; nothing where it is complete.

    Args:
        open_source: called where there is something to do.
        folder: data/shards/NAME.
        md5: DVC's hash of what the shards are to be made of; None: not known yet.

    Returns:
        the index, and whether all was there before.

    Raises:
        UserError: images are missing, not the pinned ones, or none; or there is not enough disk.
    """
    if not (folder / INDEX).is_file():
        open_source()  # nothing is written where something is missing
    try:
        folder.mkdir(parents=True, exist_ok=True)
        turn = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}: the shards go there: make it a folder to write to"
        ) from None
    with turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # a second call waits, and finds it done
        if index := _read_finished(folder, md5):
            return index, True
        source = open_source()
        for old in (folder / INDEX, *folder.glob("mean-*.npy"), *folder.glob("*.tar")):  # unfinished, or of others
            old.unlink(missing_ok=True)
        needed, free = sum(source.sizes.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{folder}: the shards need {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free: make room, or put "
                f"{folder.parent} on another disk by a link"
            )
        try:
            with show_progress(folder.name, needed) as advance:
                written = {split: _write_split(source, split, folder, advance) for split in SPLITS}
        except OSError as error:
            cure = "mend that and call this again"
            raise UserError(f"{error.filename or folder}: {error.strerror}: {cure}") from None
        index = {
            "format": FORMAT,
            "dataset": folder.name,
            **source.origin,
            "classes": source.classes,
            **{split: entry for split, (entry, _) in written.items()},
            "converted": {form: sum(forms[form] for _, forms in written.values()) for form in ("cmyk", "png")},
        }
        write_atomically(folder / INDEX, json_bytes(index))
    return index, False


def describe(index: dict[str, Any]) -> str:
    """What shards hold, in words."""
    counts = ", ".join(f"{index[s]['images']:,} {s} images in {len(index[s]['shards'])} shards" for s in SPLITS)
    found = index["converted"]
    return f"{counts}; {found['cmyk']} CMYK and {found['png']} PNG images are converted to RGB when decoded"


def verify_shards(folder: Path, md5: str | None) -> None:
    """Check that data/shards/NAME is of the images with this hash, and every byte of it what was prepared.

    Raises:
        UserError: naming the first file that is not.
    """
    index, cure = read_index(folder), f"remove {folder} and call `identity-mappings data prepare {folder.name}`"
    if hash_source(index) != md5:
        raise UserError(f"{folder / INDEX}: made of other files than params/datasets.yaml pins: {cure}")
    for split in SPLITS:
        if hash_file(folder / f"{split}.npy") != index[split]["rows_sha256"]:
            raise UserError(f"{folder / split}.npy: not the rows that were prepared: {cure}")
        shards = index[split]["shards"]
        with show_progress(f"{folder}: {split}", sum(shard["bytes"] for shard in shards)) as advance:
            for shard in shards:
                if f"{_compute_crc32(folder / shard['file'], advance):08x}" != shard["crc32"]:
                    raise UserError(f"{folder / shard['file']}: not the bytes that were prepared: {cure}")


def _compute_crc32(path: Path, advance: Advance) -> int:
    """CRC-32 of a file: it shows damage, and not a forgery."""
    crc = 0
    with path.open("rb") as file:
        while content := file.read(BUFFER):
            crc = zlib.crc32(content, crc)
            advance(len(content))
    return crc
