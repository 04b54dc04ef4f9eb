"""Images to shards: read once, in sequence, and resumed after a kill.

An image's tar blocks (header, file, padding; those of an archive unchanged) go to the shard that a hash of its name
says, so that every shard is a random sample of all classes and its bytes depend on nothing but the images.
"""

import errno
import fcntl
import io
import json
import os
import shutil
import sys
import zlib
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from ..errors import UserError
from ..parameters.datasets import Dataset
from ..parameters.load import read_entry
from ..records.files import hash_file, json_bytes, sha256, write_atomically
from .archive import Ilsvrc, Progress
from .image_folder import ImageFolder
from .shards import BLOCK, FORMAT, INDEX, ROW, SPLITS, hash_source, read_index, shard_name

# Of ImageNet these make 512 and 16 shards, of 289 and 422 MB.
IMAGES_OF_A_SHARD, LEAST_SHARDS = {"training": 2500, "validation": 3125}, {"training": 4, "validation": 1}
END_OF_ARCHIVE = bytes(2 * BLOCK)
CHUNK = 4 << 20  # bytes to read at a time


class Writer:
    """The shards of a split while they grow, and the state that lets another call go on.

    Attributes:
        state: what of the archive is done: shard sizes, rows, classes, bytes read and their MD5, and `finished`.
    """

    def __init__(self, folder: Path, split: str, shards: int):
        self.folder, self.split, self.handles = folder, split, []
        self.paths = [folder / shard_name(split, number) for number in range(shards)]
        self.state_file, self.rows_file = folder / f".{split}.state.json", folder / f".{split}.rows"
        self.state = self._read_state() or self._fresh()
        self.rows: list[tuple[int, int, int, int]] = []
        self.forms: Counter[str] = Counter()

    def _fresh(self) -> dict[str, Any]:
        sizes = [0] * len(self.paths)
        done = {"rows": 0, "classes": [], "read": 0, "md5": "", "cmyk": 0, "png": 0}
        return {"format": FORMAT, "sizes": sizes, "crcs": list(sizes), **done}

    def _read_state(self) -> dict[str, Any] | None:
        """What a call before has left; None where its files do not reach so far (a power cut)."""
        try:
            state = json.loads(self.state_file.read_bytes())
            whole = all(path.stat().st_size >= size for path, size in zip(self.paths, state["sizes"], strict=True))
            whole &= self.rows_file.stat().st_size >= state["rows"] * ROW.itemsize
        except (OSError, ValueError):
            return None
        return state if whole and state["format"] == FORMAT else None

    def open(self) -> None:
        """Open the shards, each cut to what the state knows of; all anew where one has other bytes (a power cut)."""
        self.sizes, self.crcs = list(self.state["sizes"]), list(self.state["crcs"])
        for path, size, crc in zip(self.paths, self.sizes, self.crcs, strict=True):
            if size and compute_crc32(path, size) != crc:
                print(f"{path}: damaged: done again, from the start", file=sys.stderr)
                self.restart()
                return
        for path, size in zip(self.paths, self.sizes, strict=True):
            self.handles.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            os.truncate(self.handles[-1], size)
        with self.rows_file.open("ab") as file:
            file.truncate(self.state["rows"] * ROW.itemsize)

    def close(self) -> None:
        while self.handles:
            os.close(self.handles.pop())

    def restart(self) -> None:
        self.close()
        self.rows.clear()
        self.forms.clear()
        self.state_file.unlink(missing_ok=True)
        self.state = self._fresh()
        self.open()

    def add(self, name: str, blocks: bytes, size: int, label: int, form: str) -> None:
        """Append a member's blocks to its shard.

        Args:
            name: of the image; says which shard.
            blocks: header, file and padding, as a tar has them.
            size: of the file.
            form: "jpeg", "cmyk" or "png".
        """
        shard = zlib.crc32(name.encode()) * len(self.paths) >> 32
        begin = self.sizes[shard]
        if os.pwrite(self.handles[shard], blocks, begin) != len(blocks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.paths[shard]))
        self.sizes[shard] = begin + len(blocks)
        self.crcs[shard] = zlib.crc32(blocks, self.crcs[shard])
        self.rows.append((shard, begin + BLOCK, size, label))
        self.forms[form] += 1

    def save(self, **changes: Any) -> None:
        """Save the state, from which a later call goes on."""
        with self.rows_file.open("ab") as file:
            file.write(numpy.array(self.rows, ROW).tobytes())
        rows = self.state["rows"] + len(self.rows)
        sizes_and_crcs = {"sizes": list(self.sizes), "crcs": list(self.crcs)}
        forms = {form: self.state[form] + self.forms[form] for form in ("cmyk", "png")}
        self.state = {**self.state, **sizes_and_crcs, **forms, "rows": rows, **changes}
        self.rows.clear()
        self.forms.clear()
        write_atomically(self.state_file, json.dumps(self.state).encode())

    def finish(self) -> None:
        """End the tars and write SPLIT.npy."""
        for handle, size in zip(self.handles, self.sizes, strict=True):
            os.pwrite(handle, END_OF_ARCHIVE, size)
            os.fsync(handle)
        rows = numpy.fromfile(self.rows_file, ROW)
        content = io.BytesIO()
        numpy.save(content, rows[numpy.lexsort((rows["offset"], rows["shard"]))])
        write_atomically(self.folder / f"{self.split}.npy", content.getvalue())
        self.save(finished=True, rows_sha256=sha256(content.getvalue()))

    def index(self) -> dict[str, Any]:
        images = numpy.bincount(numpy.fromfile(self.rows_file, ROW)["shard"], minlength=len(self.paths)).tolist()
        shards = [
            {
                "file": path.name,
                "images": count,
                "bytes": size + len(END_OF_ARCHIVE),
                "crc32": f"{zlib.crc32(END_OF_ARCHIVE, crc):08x}",
            }
            for path, count, size, crc in zip(self.paths, images, self.state["sizes"], self.state["crcs"], strict=True)
        ]
        return {"images": self.state["rows"], "rows_sha256": self.state["rows_sha256"], "shards": shards}


def compute_crc32(path: Path, size: int) -> int:
    """CRC-32 of the first `size` bytes of a file: it shows damage, and not a forgery."""
    crc = 0
    with path.open("rb") as file:
        while size and (content := file.read(min(size, CHUNK))):
            crc, size = zlib.crc32(content, crc), size - len(content)
    return crc


def _read_finished(target: Path, md5: str | None) -> dict[str, Any] | None:
    """The index of what was prepared before; None where there is none, or one of other images, or a damaged one."""
    if md5 is None or not (target / INDEX).is_file():
        return None
    try:
        index = read_index(target)
    except UserError as error:
        print(f"{error}: done now, from the start", file=sys.stderr)
        return None
    return index if hash_source(index) == md5 else None


def _summary(target: Path, index: dict[str, Any]) -> str:
    counts = ", ".join(f"{index[s]['images']:,} {s} images in {len(index[s]['shards'])} shards" for s in SPLITS)
    found = index["converted"]
    return f"{target}: {counts}; {found['cmyk']} CMYK and {found['png']} PNG images are converted to RGB when decoded"


def prepare(name: str, folder: Path, dataset: Dataset | None = None, least: dict[str, int] = LEAST_SHARDS) -> str:
    """Make data/shards/NAME of what is in data/NAME, or go on with it; does nothing where it is complete.

    Args:
        dataset: its entry; None: that of params/datasets.yaml.
        least: shards of each split, at least.

    Returns:
        a line that says what is there.

    Raises:
        UserError: files are missing, not the pinned ones, or no images; or there is not enough disk. What was done
            until then is kept, and used by the next call.
    """
    dataset, target = dataset or read_entry(name), folder / "shards" / name
    open_source = partial({"imagenet": Ilsvrc, "images": ImageFolder}[dataset.format], name, folder, dataset)
    if not (target / INDEX).is_file():
        open_source()  # nothing is written where something is missing
    try:
        target.mkdir(parents=True, exist_ok=True)
        turn = (target / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}: the shards go there: make it a folder to write to"
        ) from None
    with turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # a second call waits, and finds it done
        if index := _read_finished(target, dataset.md5):
            return f"prepared before; {_summary(target, index)}"
        source = open_source()
        (target / INDEX).unlink(missing_ok=True)
        writers = {
            split: Writer(target, split, max(least[split], source.count(split) // IMAGES_OF_A_SHARD[split]))
            for split in SPLITS
        }
        made = {path for writer in writers.values() for path in writer.paths}
        for old in {*target.glob("mean-*.npy"), *target.glob("*.tar")} - made:  # of other images
            old.unlink()
        unfinished = [split for split in SPLITS if not writers[split].state.get("finished")]
        written = sum(sum(writer.state["sizes"]) for writer in writers.values())
        needed, free = sum(source.sizes.values()) - written, shutil.disk_usage(target).free
        if needed > free:
            raise UserError(
                f"{target}: the shards need {needed / 1e9:,.1f} GB more, {free / 1e9:,.1f} GB are free: make room, or "
                f"put {folder / 'shards'} on another disk by a link"
            )
        progress = Progress(name, sum(source.sizes[split] for split in unfinished))
        try:
            for split in unfinished:
                with closing(writers[split]) as writer:
                    writer.open()
                    source.copy(split, writer, progress)
                    writer.finish()
        except OSError as error:
            cure = "mend that and rerun it to resume"
            raise UserError(f"{error.filename or target}: {error.strerror}: {cure}") from None
        index = {
            "format": FORMAT,
            "dataset": name,
            **source.origin,
            "classes": source.classes,
            **{split: writers[split].index() for split in SPLITS},
            "converted": {form: sum(writer.state[form] for writer in writers.values()) for form in ("cmyk", "png")},
        }
        write_atomically(target / INDEX, json_bytes(index))
        for writer in writers.values():
            writer.state_file.unlink()
            writer.rows_file.unlink()
    return _summary(target, index)


def verify(name: str, target: Path, dataset: Dataset | None = None) -> None:
    """Check that data/shards/NAME is of the pinned images, and every byte of it what was prepared.

    Raises:
        UserError: naming the first file that is not.
    """
    index, dataset = read_index(target), dataset or read_entry(name)
    cure = f"remove {target} and call `identity-mappings data prepare {name}`"
    if hash_source(index) != dataset.md5:
        raise UserError(f"{target / INDEX}: made of other files than params/datasets.yaml pins: {cure}")
    for split, images in (("training", dataset.training_images), ("validation", dataset.test_images)):
        rows = numpy.load(target / f"{split}.npy")
        sizes = numpy.array([shard["bytes"] for shard in index[split]["shards"]])
        counts = [shard["images"] for shard in index[split]["shards"]]
        for shard in index[split]["shards"]:
            path = target / shard["file"]
            if f"{compute_crc32(path, shard['bytes']):08x}" != shard["crc32"]:
                raise UserError(f"{path}: not the bytes that were prepared: {cure}")
        if (
            hash_file(target / f"{split}.npy") != index[split]["rows_sha256"]
            or (rows.dtype, len(rows)) != (ROW, images)
            or numpy.bincount(rows["shard"], minlength=len(counts)).tolist() != counts
            or (rows["offset"] + rows["size"] > sizes[rows["shard"]]).any()
        ):
            raise UserError(f"{target / split}.npy: not the rows of the {images:,} images of the shards: {cure}")
