"""ILSVRC archives to shards: read once, in sequence, with the MD5 taken on the way, and resumed after a kill.

A member's tar blocks (header, file, padding) go unchanged to the shard that a hash of its name says, so that every
shard is a random sample of all classes and its bytes depend on nothing but the archive.
"""

import errno
import fcntl
import io
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from ..errors import UserError
from ..records.files import json_bytes, sha256, sha256_of, write_atomically
from .archive import Archive, Progress, form, padded
from .imagenet import LAYOUTS, TRAINING, VALIDATION, Devkit, read_devkit, require
from .shards import BLOCK, FORMAT, INDEX, ROW, SPLITS, read_index, shard_name

ARCHIVES = {"training": TRAINING, "validation": VALIDATION}
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
            if size and crc32_of(path, size) != crc:
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
        self.state_file.unlink(missing_ok=True)
        self.state = self._fresh()
        self.open()

    def add(self, name: str, blocks: memoryview, size: int, label: int) -> None:
        """Append a member's blocks to its shard."""
        shard = zlib.crc32(name.encode()) * len(self.paths) >> 32
        begin = self.sizes[shard]
        if os.pwrite(self.handles[shard], blocks, begin) != len(blocks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.paths[shard]))
        self.sizes[shard] = begin + len(blocks)
        self.crcs[shard] = zlib.crc32(blocks, self.crcs[shard])
        self.rows.append((shard, begin + BLOCK, size, label))

    def save(self, **changes: Any) -> None:
        """Make what was added until now the place from which another call goes on."""
        with self.rows_file.open("ab") as file:
            file.write(numpy.array(self.rows, ROW).tobytes())
        rows = self.state["rows"] + len(self.rows)
        sizes_and_crcs = {"sizes": list(self.sizes), "crcs": list(self.crcs)}
        self.state = {**self.state, **sizes_and_crcs, "rows": rows, **changes}
        self.rows.clear()
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


def crc32_of(path: Path, size: int) -> int:
    """Of the first `size` bytes of a file: what a disk may lose, not who may forge it."""
    crc = 0
    with path.open("rb") as file:
        while size and (content := file.read(min(size, CHUNK))):
            crc, size = zlib.crc32(content, crc), size - len(content)
    return crc


def _copy(archive: Archive, end: int, name: str, label_of: Callable[[str], int], writer: Writer) -> dict[str, int]:
    """All images of the tar NAME, which ends at byte `end`, to their shards. Returns how many were of another form."""
    names, forms = set(), {"jpeg": 0, "cmyk": 0, "png": 0}
    while (member := archive.member(end, name)) is not None:
        image, size = member
        try:
            label = label_of(image)
        except (KeyError, ValueError, IndexError):
            path = " (a path)" if "/" in image else ""
            raise UserError(
                f"{archive.path}: {image!r} in {name} is no name of an image of it{path}: refused"
            ) from None
        if image in names:
            raise UserError(f"{archive.path}: {image} is two times in {name}: get the archive again")
        names.add(image)
        blocks = archive.take(BLOCK + padded(size))
        forms[form(blocks[BLOCK : BLOCK + size], f"{archive.path}: {image}")] += 1
        writer.add(image, blocks, size, label)
    return {kind: writer.state[kind] + forms[kind] for kind in ("cmyk", "png")}


def _training(archive: Archive, devkit: Devkit, writer: Writer) -> None:
    """Class by class, with the state saved after each."""
    labels = {wnid: label for label, wnid in enumerate(devkit.classes)}
    archive.limit = archive.offset + BLOCK
    while (member := archive.member(archive.size, archive.path.name)) is not None:
        name, size = member
        wnid, done = name.removesuffix(".tar"), writer.state["classes"]
        if name != f"{wnid}.tar" or wnid not in labels:
            raise UserError(f"{archive.path}: {name!r} is no tar of a class that the devkit knows: refused")
        if wnid in done:
            raise UserError(f"{archive.path}: {name} is there two times: get the archive again")
        archive.take(BLOCK)
        end = archive.offset + size
        archive.limit = end

        def label_of(image: str, begin: str = f"{wnid}_", label: int = labels[wnid]) -> int:
            if not (image.startswith(begin) and image.endswith(".JPEG") and image[len(begin) : -5].isdecimal()):
                raise ValueError
            return label

        changes = _copy(archive, end, name, label_of, writer)
        archive.pass_to(archive.offset + padded(end - archive.offset))
        writer.save(classes=[*done, wnid], read=archive.read, md5=archive.digest(), **changes)
        archive.limit = min(archive.offset + BLOCK, archive.size)


def _validation(archive: Archive, devkit: Devkit, writer: Writer) -> None:
    """In one go; what an unfinished one left is written again."""
    if writer.state["rows"]:
        writer.restart()
    labels = {f"ILSVRC2012_val_{n:08d}.JPEG": label for n, label in enumerate(devkit.validation_labels, 1)}
    archive.limit = archive.size
    writer.save(**_copy(archive, archive.size, archive.path.name, labels.__getitem__, writer))


def _split(name: str, folder: Path, split: str, devkit: Devkit, writer: Writer, progress: Progress) -> None:
    path, layout = folder / name / ARCHIVES[split], LAYOUTS[name]
    writer.open()
    archive = Archive(path, progress)
    try:
        if read := writer.state["read"]:
            done = len(writer.state["classes"])
            progress.say(f"{path}: going on after {done} classes; {read:,} bytes are read again for the MD5")
            if read <= archive.size:
                archive.pass_to(read)
            if archive.read != read or archive.digest() != writer.state["md5"]:
                progress.say(f"{path}: not the archive of before: starting again")
                archive.close()
                archive = Archive(path, progress)
                writer.restart()
        (_training if split == "training" else _validation)(archive, devkit, writer)
        archive.pass_to(archive.size)
        if (found := archive.digest()) != layout.files[path.name]:
            writer.state_file.unlink(missing_ok=True)
            raise UserError(
                f"{path}: its MD5 is {found}, published is {layout.files[path.name]}: get it again; "
                "nothing made of it is used"
            )
        lacking = sorted(set(devkit.classes) - set(writer.state["classes"])) if split == "training" else []
        if lacking:
            raise UserError(
                f"{path}: {len(lacking)} classes of the devkit are not in it, {lacking[0]} the first: get it again"
            )
        expected = layout.training if split == "training" else layout.validation
        if writer.state["rows"] != expected:
            raise UserError(f"{path}: {writer.state['rows']:,} images, not {expected:,}: get it again")
        writer.finish()
    finally:
        archive.close()
        writer.close()


def _needed(name: str, folder: Path, writers: dict[str, Writer]) -> int:
    """Bytes that the shards will take beyond those that are there."""
    archives = sum((folder / name / file).stat().st_size for file in ARCHIVES.values())
    return archives - sum(sum(writer.state["sizes"]) for writer in writers.values())


def _finished(name: str, target: Path) -> dict[str, Any] | None:
    """The index of what was prepared before; None where there is none, or one of other archives, or a damaged one."""
    if not (target / INDEX).is_file():
        return None
    try:
        index = read_index(target)
    except UserError as error:
        print(f"{error}: done now, from the start", file=sys.stderr)
        return None
    return index if index["archives"] == LAYOUTS[name].files else None


def _summary(target: Path, index: dict[str, Any]) -> str:
    counts = ", ".join(f"{index[s]['images']:,} {s} images in {len(index[s]['shards'])} shards" for s in SPLITS)
    found = index["converted"]
    return f"{target}: {counts}; {found['cmyk']} CMYK and {found['png']} PNG images are converted to RGB when decoded"


def prepare(name: str, folder: Path) -> str:
    """Make data/shards/NAME of the archives in data/NAME, or go on with it; nothing where it is there.

    Returns:
        a line that says what is there.

    Raises:
        UserError: an archive is missing, not the published one, or has a member that does not belong in it; or there is
            not enough disk. What was done until then is kept, and used by the next call.
    """
    layout, target = LAYOUTS[name], folder / "shards" / name
    if not (target / INDEX).is_file():
        require(name, folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        turn = (target / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}: the shards go there: make it a folder to write to"
        ) from None
    with turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # a second call waits, and finds it done
        if index := _finished(name, target):
            return f"prepared before; {_summary(target, index)}"
        require(name, folder)
        devkit = read_devkit(name, folder)
        (target / INDEX).unlink(missing_ok=True)
        writers = {
            "training": Writer(target, "training", layout.training_shards),
            "validation": Writer(target, "validation", layout.validation_shards),
        }
        unfinished = [split for split in SPLITS if not writers[split].state.get("finished")]
        needed, free = _needed(name, folder, writers), shutil.disk_usage(target).free
        if needed > free:
            raise UserError(
                f"{target}: the shards need {needed / 1e9:,.1f} GB more, {free / 1e9:,.1f} GB are free: make room, or "
                f"put {folder / 'shards'} on another disk by a link"
            )
        progress = Progress(name, sum((folder / name / ARCHIVES[split]).stat().st_size for split in unfinished))
        try:
            for split in unfinished:
                _split(name, folder, split, devkit, writers[split], progress)
        except OSError as error:
            cure = "mend that and call it again: it goes on where it stopped"
            raise UserError(f"{error.filename or target}: {error.strerror}: {cure}") from None
        finally:
            progress.close()
        index = {
            "format": FORMAT,
            "dataset": name,
            "archives": layout.files,
            "classes": devkit.classes,
            **{split: writers[split].index() for split in SPLITS},
            "converted": {kind: sum(writer.state[kind] for writer in writers.values()) for kind in ("cmyk", "png")},
        }
        write_atomically(target / INDEX, json_bytes(index))
        for writer in writers.values():
            writer.state_file.unlink()
            writer.rows_file.unlink()
    return _summary(target, index)


def verify(name: str, target: Path) -> None:
    """Check that data/shards/NAME is of the published archives, and every byte of it what was prepared.

    Raises:
        UserError: naming the first file that is not.
    """
    index, layout = read_index(target), LAYOUTS[name]
    cure = f"remove {target} and call `identity-mappings data prepare {name}`"
    if index["archives"] != layout.files:
        raise UserError(f"{target / INDEX}: made of other archives than the published ones: {cure}")
    for split, images in (("training", layout.training), ("validation", layout.validation)):
        rows = numpy.load(target / f"{split}.npy")
        sizes = numpy.array([shard["bytes"] for shard in index[split]["shards"]])
        counts = [shard["images"] for shard in index[split]["shards"]]
        for shard in index[split]["shards"]:
            path = target / shard["file"]
            if f"{crc32_of(path, shard['bytes']):08x}" != shard["crc32"]:
                raise UserError(f"{path}: not the bytes that were prepared: {cure}")
        if (
            sha256_of(target / f"{split}.npy") != index[split]["rows_sha256"]
            or (rows.dtype, len(rows)) != (ROW, images)
            or numpy.bincount(rows["shard"], minlength=len(counts)).tolist() != counts
            or (rows["offset"] + rows["size"] > sizes[rows["shard"]]).any()
        ):
            raise UserError(f"{target / split}.npy: not the rows of the {images:,} images of the shards: {cure}")
