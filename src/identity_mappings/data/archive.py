"""Reading a tar of images once, in sequence: its MD5, its members, and whether each is a whole JPEG."""

import hashlib
import io
import sys
import tarfile
import time
from pathlib import Path

from ..errors import UserError
from .shards import BLOCK

BUFFER = 1 << 20  # small enough to stay in a processor's cache between reading, hashing and writing


class Progress:
    """Bytes done on standard error: a line that moves on a terminal, otherwise a line for each 10 %."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done, self.said, self.started = name, total, 0, 0, time.perf_counter()
        self.bar = None
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
            except ImportError:
                return
            columns = (
                "{task.description}",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(name, total=total)
            self.bar.start()

    def close(self) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, size: int) -> None:
        self.done += size
        if self.bar:
            self.bar.update(self.task, completed=self.done)
        elif (tenths := 10 * self.done // max(self.total, 1)) > self.said:
            self.said = tenths
            rate = self.done / (time.perf_counter() - self.started) / 1e6
            self.say(f"{self.name}: {10 * tenths} % of {self.total / 1e9:,.1f} GB, {rate:,.0f} MB/s")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class Archive:
    """A tar file read once, in sequence. All that is read goes into its MD5, while it is in the processor's cache.

    Attributes:
        limit: byte that reading does not go beyond, so that the MD5 is of exactly the bytes before it.
    """

    def __init__(self, path: Path, progress: Progress):
        self.path, self.size, self.progress = path, path.stat().st_size, progress
        self.file = path.open("rb", buffering=0)
        self.md5 = hashlib.md5()
        self.view = memoryview(bytearray(BUFFER))
        self.begin = self.end = self.read = self.limit = 0

    def close(self) -> None:
        self.file.close()

    @property
    def offset(self) -> int:
        """Of the next byte that `take` gives."""
        return self.read - self.end + self.begin

    def truncated(self) -> UserError:
        return UserError(f"{self.path}: truncated: it ends at byte {self.read:,} in the middle of a file: get it again")

    def ahead(self, size: int) -> memoryview:
        """The next bytes, which stay next; valid until more are read."""
        if self.end - self.begin < size:
            self._fill(size)
        return self.view[self.begin : self.begin + size]

    def take(self, size: int) -> memoryview:
        taken = self.ahead(size)
        self.begin += size
        return taken

    def _fill(self, size: int) -> None:
        rest, old = self.end - self.begin, self.view
        if size > len(old):
            self.view = memoryview(bytearray(2 * size))
        self.view[:rest] = old[self.begin : self.end]
        self.begin, self.end = 0, rest
        while self.end < size:
            got = self.file.readinto(self.view[self.end : self.end + self.limit - self.read])
            if not got:
                raise self.truncated()
            self.end += got
            self.read += got
        self.md5.update(self.view[rest : self.end])
        self.progress.advance(self.end - rest)

    def pass_to(self, offset: int) -> None:
        """Read, but do not give, all up to a byte."""
        self.limit = offset
        while (left := offset - self.offset) > 0:
            self.take(min(left, BUFFER))

    def digest(self) -> str:
        """MD5 of all that was read."""
        return self.md5.hexdigest()

    def member(self, end: int, name: str) -> tuple[str, int] | None:
        """Name and size of the next file of the tar NAME, which ends at byte `end`; None after the last. Takes nothing.

        Raises:
            UserError: no header, no file (a link, a device, a folder), or a file that goes beyond the end.
        """
        if self.offset + BLOCK > end:
            raise self._broken(name, "ends without the blocks that end a tar: truncated")
        header = bytes(self.ahead(BLOCK))
        if not header[0]:
            if any(header):
                raise self._broken(name, "no tar header")
            return None
        try:
            # What tarfile reads of a plain header, in a tenth of its time.
            if header[156] not in b"0\0" or header[345] or header[257:262] != b"ustar":
                raise ValueError
            found, size = header[:100].partition(b"\0")[0].decode("ascii"), int(header[124:136].strip(b"\0 "), 8)
        except ValueError:
            found, size = self._unusual(header, name)
        if size < 0 or self.offset + BLOCK + padded(size) > end:
            raise self._broken(name, f"{found} goes beyond its end: truncated")
        return found, size

    def _unusual(self, header: bytes, name: str) -> tuple[str, int]:
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            raise self._broken(name, "no tar header") from None
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise UserError(f"{self.path}: {member.name} in {name} is a link, a device or a folder, no image: refused")
        return member.name, member.size

    def _broken(self, name: str, what: str) -> UserError:
        return UserError(f"{self.path}: {name}, byte {self.offset:,}: {what}: get the archive again")


HEAD = 1024  # bytes in which most JPEGs say how many components they have
ENDS = {"jpeg": b"\xff\xd9", "cmyk": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


def _from_the_first_bytes(content: bytes) -> str:
    """As `form`; "" where they are not as usual."""
    if content.startswith(b"\x89PNG"):
        return "png"
    if not content.startswith(b"\xff\xd8"):
        return ""
    try:
        at = 2
        while content[at] == 0xFF:
            marker = content[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame's header
                return "cmyk" if content[at + 9] == 4 else "jpeg"
            at += 1 if marker == 0xFF else 2 + (content[at + 2] << 8 | content[at + 3])
    except IndexError:
        pass
    return ""


def form(content: memoryview, where: str) -> str:
    """What an image is: "jpeg", "cmyk" (a JPEG of four components) or "png". Decoded only where its ends are unusual.

    Raises:
        UserError: truncated, or neither JPEG nor PNG.
    """
    found = _from_the_first_bytes(bytes(content[:HEAD])) or _from_the_first_bytes(bytes(content))
    if found:
        end = ENDS[found]
        if bytes(content[-len(end) :]) == end or bytes(content).rstrip(b"\0\r\n").endswith(end):
            return found
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.load()
            return "png" if image.format == "PNG" else "cmyk" if image.mode == "CMYK" else "jpeg"
    except Exception as error:  # Pillow raises many kinds for what is no image
        raise UserError(f"{where}: no JPEG, or a truncated one ({error}): get the archive again") from None
