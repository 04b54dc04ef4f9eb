"""Files that are pinned by their MD5s, DVC's hash of a folder, downloads, and how far such work is."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..errors import UserError

BUFFER = 1 << 20  # bytes to read at a time
SECONDS_BETWEEN_LINES = 30.0

Advance = Callable[[int], object]  # takes how much more is done


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Advance]:
    """Show on standard error how much of `total` is done: a bar on a terminal, elsewhere a line every 30 seconds."""
    if sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda size: bar.advance(task, size)
        return
    done, said = 0, time.monotonic()

    def advance(size: int) -> None:
        nonlocal done, said
        done += size
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"{title}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)

    yield advance


def hash_md5(path: Path, advance: Advance = lambda _: None) -> str:
    md5 = hashlib.md5()
    with path.open("rb") as file:
        while content := file.read(BUFFER):
            md5.update(content)
            advance(len(content))
    return md5.hexdigest()


def list_paths(folder: Path) -> list[Path]:
    """All files below a folder; dotfiles, and folders whose names begin with a dot, are ignored."""
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def list_files(folder: Path) -> dict[str, str]:
    """{path in the folder: MD5} of all files below it; dotfiles are ignored."""
    paths = list_paths(folder)
    with show_progress(f"{folder}: hash", sum(path.stat().st_size for path in paths)) as advance:
        return {path.relative_to(folder).as_posix(): hash_md5(path, advance) for path in paths}


def list_wrong(folder: Path, pinned: Mapping[str, str]) -> list[str]:
    """What is missing or damaged of the files {path in the folder: MD5}, a line for each."""
    sizes = {path: (folder / path).stat().st_size for path in pinned if (folder / path).is_file()}
    wrong = [f"{folder / path}: missing" for path in pinned if path not in sizes]
    with show_progress(f"{folder}: hash", sum(sizes.values())) as advance:
        for path in sizes:
            if (found := hash_md5(folder / path, advance)) != pinned[path]:
                wrong.append(f"{folder / path}: MD5 {found}, published {pinned[path]}: damaged, or another file")
    return wrong


def dvc_md5(files: Mapping[str, str]) -> str:
    """The hash of a folder in data.dvc, of the list of its files and their MD5s: {path: MD5} to "HASH.dir"."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def download(url: str, path: Path, md5: str) -> None:
    """Get a published file, unless it is there.

    Raises:
        UserError: no network, or another file than the published one.
    """
    if path.is_file() and hash_md5(path) == md5:
        return
    print(f"{path}: from {url}", flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = Request(url, headers={"User-Agent": "identity-mappings"})
        with (
            urlopen(request, timeout=60) as source,
            path.open("wb") as file,
            show_progress(path.name, int(source.headers.get("Content-Length") or 0)) as advance,
        ):
            while content := source.read(BUFFER):
                file.write(content)
                advance(len(content))
        if (found := hash_md5(path)) != md5:
            raise OSError(f"what came has the MD5 {found}, published is {md5}")
    except (OSError, ValueError) as error:  # of the network, of the disk, or no address
        raise UserError(
            f"{url} could not be fetched ({error}): call this again when the network is back; complete files "
            f"are kept. Or put the file at {path}"
        ) from None
