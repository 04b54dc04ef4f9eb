"""Files that are pinned by their MD5s, and DVC's hash of a folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError


def hash_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def list_files(folder: Path) -> dict[str, str]:
    """{path in the folder: MD5} of all files below it."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): hash_md5(path) for path in paths}


def list_wrong(folder: Path, pinned: Mapping[str, str]) -> list[str]:
    """What is missing or damaged of the files {path in the folder: MD5}, a line for each."""
    wrong = []
    for path, md5 in pinned.items():
        if not (folder / path).is_file():
            wrong.append(f"{folder / path}: missing")
        elif (found := hash_md5(folder / path)) != md5:
            wrong.append(f"{folder / path}: MD5 {found}, published {md5}: damaged, or another file")
    return wrong


def dvc_md5(files: Mapping[str, str]) -> str:
    """The hash of a folder in data.dvc, of the list of its files and their MD5s: {path: MD5} to "HASH.dir"."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def download(url: str, path: Path, md5: str) -> None:
    """Get a published file through torchvision, which keeps a complete file and replaces a partial one.

    Raises:
        UserError: no network, or another file than the published one.
    """
    from torchvision.datasets.utils import download_url

    print(f"{path}: from {url}", flush=True)
    try:
        download_url(url, str(path.parent), path.name, md5)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{url} could not be fetched ({error}): call this again when the network is back; complete files "
            f"are kept. Or put the file at {path}"
        ) from None
