"""Reading, writing and hashing files so that nobody ever sees half of one."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Collection
from io import BufferedReader
from pathlib import Path
from typing import Any

_PARTIAL = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # the name that write_atomically gives a file that is not yet whole


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step, also across a power cut: written beside it, synced, renamed.

    Raises:
        OSError: no room, no right to write; `path` is then what it was, and the error names it.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(PermissionError):  # a file system without modes
            Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def remove_partial_files(folder: Path, names: Collection[str] | re.Pattern) -> None:
    """Remove what a killed process left half written of files with these names, while no other process writes here."""
    for path in folder.glob(".*"):
        found = _PARTIAL.fullmatch(path.name)
        if found and (names.fullmatch(found[1]) if isinstance(names, re.Pattern) else found[1] in names):
            path.unlink(missing_ok=True)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; what is no regular file, such as a FIFO that would never end, is an OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def parse_json(content: bytes | str) -> Any:
    """JSON without NaN and infinity; raises ValueError where it is something else."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number")

    return json.loads(content, parse_constant=refuse)


def json_bytes(value: Any) -> bytes:
    """`value` as JSON for people and for comparison: indented, keys in the order given, no NaN."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a pair, of a name that is no text, as JSON escapes it


def canonical(value: Any) -> bytes:
    """`value` as the one JSON text that its hash is taken of: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Hash of a regular file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
