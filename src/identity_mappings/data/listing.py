"""MD5s of files, and DVC's hash of a folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def list_files(folder: Path) -> dict[str, str]:
    """{path in the folder: MD5} of all files below it."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): md5_of(path) for path in paths}


def dvc_md5(files: Mapping[str, str]) -> str:
    """The hash of a folder in data.dvc, of the list of its files and their MD5s: {path: MD5} to "HASH.dir"."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
