"""DVC's hash of a folder."""

import hashlib
import json
from collections.abc import Mapping


def dvc_md5(files: Mapping[str, str]) -> str:
    """Of the list of its files and their MD5s, as data.dvc has it: {path in the folder: MD5} to "HASH.dir"."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
