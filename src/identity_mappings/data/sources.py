"""Getting the datasets of data.dvc, checking and preparing them, and putting them into DVC's cache."""

import fcntl
import hashlib
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..records.files import write_atomically
from . import imagenet
from .cifar import LAYOUTS, Layout, cure

if TYPE_CHECKING:
    from dvc.repo import Repo


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def layout_of(name: str) -> Layout | imagenet.Layout:
    layouts = LAYOUTS | imagenet.LAYOUTS
    if name not in layouts:
        raise UserError(f"no dataset {name!r} to get: there are {', '.join(layouts)} (digits come with scikit-learn)")
    return layouts[name]


def problems(name: str, folder: Path) -> list[str]:
    """What is wrong with data/NAME, a line for each file; nothing if all is as published."""
    root, found = folder / name, []
    files = layout_of(name).files
    for path, md5 in files.items():
        if not (root / path).is_file():
            found.append(f"{root / path}: missing")
        elif (actual := _md5(root / path)) != md5:
            found.append(f"{root / path}: MD5 {actual}, published {md5}")
    if root.is_dir():
        others = sorted(p for p in root.rglob("*") if p.is_file() and p.relative_to(root).as_posix() not in files)
        found += [f"{other}: does not belong to the dataset: move it out of {root}" for other in others]
    return found


def verify(name: str, folder: Path) -> str:
    """Check every file of data/NAME, and that data/shards/NAME, if it is there, is of them.

    Returns:
        a line that says what was found.

    Raises:
        UserError: naming each wrong file.
    """
    if found := problems(name, folder):
        way = cure(name) if name in LAYOUTS else f"`identity-mappings data fetch {name}` says how to get it"
        raise UserError("\n".join([*found, f"{name} is not as published: {way}"]))
    said = f"{folder / name}: as published"
    if name not in imagenet.LAYOUTS:
        return said
    if (folder / "shards" / name).is_dir():
        from .prepare import verify as verify_shards

        verify_shards(name, folder / "shards" / name)
        said += ", and so are its shards"
    if name == "imagenet":
        gigabytes = sum((folder / name / file).stat().st_size for file in imagenet.LAYOUTS[name].files) / 1e9
        said += (
            f"; `identity-mappings data verify {name} --commit` also puts it into DVC's cache, which takes "
            f"{gigabytes:,.0f} GB more unless that cache links (dvc config cache.type)"
        )
    return said


def prepare(name: str, folder: Path) -> str | None:
    """Bring data/NAME into the form that training reads: shards for ImageNet; of CIFAR it is what `fetch` gets.

    Returns:
        a line that says what is there.
    """
    if name not in imagenet.LAYOUTS:
        return fetch(name, folder)
    if name == "imagenet-small":
        fetch(name, folder)
    from .prepare import prepare as make_shards

    return make_shards(name, folder)


def _fetch_imagenet(name: str, folder: Path) -> str:
    """Make the small archives; the large ones only a person can get."""
    if name == "imagenet-small" and problems(name, folder):
        from . import small_imagenet

        small_imagenet.make(folder)
        verify(name, folder)
    imagenet.require(name, folder)
    return f"{folder / name}: the archives are there: call `identity-mappings data prepare {name}`, which checks them"


def fetch(name: str, folder: Path) -> str | None:
    """Get data/NAME from its official source through torchvision, unless it is there; make imagenet-small.

    What is already right is kept: files, and an archive that an earlier try downloaded. A file takes its place only
    when its MD5 is the published one.

    Raises:
        UserError: no network, a wrong archive, or files in data/NAME that do not belong there; or archives of imagenet
            are missing, with what to download.
    """
    layout = layout_of(name)
    if name in imagenet.LAYOUTS:
        return _fetch_imagenet(name, folder)
    wrong = [path for path, md5 in layout.files.items() if not _is(folder / name / path, md5)]
    if wrong:
        archive = _download(name, layout, folder / ".downloads")
        _extract(archive, layout, wrong, folder / name)
    verify(name, folder)
    if wrong:
        archive.unlink()
    return None


def _is(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _download(name: str, layout: Layout, downloads: Path) -> Path:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    source = getattr(datasets, layout.torchvision)
    archive = downloads / source.filename
    print(f"{name}: {archive} from {source.url}", flush=True)
    try:
        # Skips an archive that is there with the right MD5; replaces one that a failure left half.
        download_url(source.url, str(downloads), source.filename, source.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name}: {source.url} could not be fetched ({error}): call this again when the network is there; it goes "
            f"on where it stopped. Or put the archive at {archive}"
        ) from None
    return archive


def _extract(archive: Path, layout: Layout, wanted: list[str], root: Path) -> None:
    """Take the wanted files out of the archive by name: no other member is looked at, no path of it is used."""
    with tarfile.open(archive) as tar:
        for path in wanted:
            try:
                member = tar.extractfile(path)
            except KeyError:
                member = None
            content = member.read() if member else b""
            if hashlib.md5(content).hexdigest() != layout.files[path]:
                raise UserError(f"{archive}: its {path} is not the published file: remove the archive and fetch again")
            write_atomically(root / path, content)


def _commit(repo: "Repo", output: Path) -> None:
    [out] = repo.find_outs_by_path(str(output.absolute()))
    pinned = out.hash_info
    out.save()
    if out.hash_info != pinned:
        raise UserError(f"data.dvc pins {pinned.value} for {output}, its files are {out.hash_info.value}")
    out.commit()


def commit(name: str, folder: Path) -> None:
    """Put data/NAME into DVC's cache, so that `dvc status` is clean and `dvc push` has something to send.

    `dvc commit` cannot do it while another dataset of data.dvc is missing, so the one output is committed by itself.

    Raises:
        UserError: data.dvc pins something else, or this is no DVC repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import NoSCMError

    output = folder / name
    try:
        # Jobs of the graph commit side by side; DVC's own lock does not wait for long.
        with (folder / ".commit.lock").open("w") as turn, Repo(str(folder.parent)) as repo:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with repo.lock:
                _commit(repo, output)
    except (DvcException, NoSCMError) as error:
        raise UserError(f"{output} is as published, but DVC could not take it into its cache: {error}") from None
