"""The prepared form of an ImageNet dataset: tar shards of the original JPEGs, and where each lies.

The shards follow WebDataset's convention (a tar of `KEY.EXTENSION` members, each a sample). SPLIT.npy has a row for
each image, by shard and position; index.json, written last, says what the shards are made of.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy
import torch

from ..errors import UserError
from .listing import dvc_md5

FORMAT = 2
INDEX = "index.json"
SPLITS = ("training", "validation")
ROW = numpy.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i2")])
AHEAD = 128 << 10  # bytes to ask for at a time: of more, Linux reads only the beginning
BLOCK = 512  # of a tar: a header, and what members are padded to


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:04d}.tar"


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
