"""Getting, checking, preparing and pinning the datasets of params/datasets.yaml, and putting them into DVC's cache."""

import fcntl
import hashlib
import re
import tarfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torchvision.datasets import CIFAR10, CIFAR100

from ..errors import UserError
from ..parameters.datasets import Dataset
from ..parameters.load import DATASETS, read_entry
from ..records.files import write_atomically
from . import boxes, images
from .listing import download, dvc_md5, list_files, list_paths, list_wrong
from .shards import SPLITS, describe, hash_source, verify_shards, write_shards
from .sources import Ilsvrc, ImageFolder, require_archives

if TYPE_CHECKING:
    from dvc.repo import Repo

OWN = ("images", "arrays")  # formats of what a user brings


def _read_entry_with_files(name: str) -> Dataset:
    entry = read_entry(name)
    if entry.made_from:
        raise UserError(f"{name}: no files of its own: it is made from {entry.made_from.name}: name that")
    if entry.format == "digits":
        raise UserError(f"{name}: no files: they come with scikit-learn")
    return entry


def _list_pinned(name: str, entry: Dataset) -> dict[str, str]:
    """{path below data/NAME: MD5} of what is published."""
    if entry.archives is None:
        return list_cifar(find_cifar(name, entry.md5))
    return {file: archive.md5 for file, archive in entry.archives.items()}


def list_cifar(source: type[CIFAR10]) -> dict[str, str]:
    """{path below data/NAME: MD5} of the published files."""
    files = dict([*source.train_list, *source.test_list]) | {source.meta["filename"]: source.meta["md5"]}
    return {f"{source.base_folder}/{file}": md5 for file, md5 in files.items()}


def find_cifar(name: str, md5: str | None) -> type[CIFAR10]:
    """The class of torchvision.datasets whose published files have the hash `md5` together."""
    hashes = {dvc_md5(list_cifar(source)): source for source in (CIFAR10, CIFAR100)}
    if md5 not in hashes:
        published = " or ".join(f"{md5} ({source.__name__})" for md5, source in hashes.items())
        raise UserError(f"params/datasets.yaml: {name}.md5: {md5} is not that of the published files: {published}")
    return hashes[md5]


def list_problems(name: str, folder: Path) -> list[str]:
    """What is wrong with data/NAME, a line for each file; nothing if all is as published, or as it was pinned."""
    root, entry = folder / name, _read_entry_with_files(name)
    if entry.format in OWN:
        if not root.is_dir():
            return [f"{root}: missing: put your images there (docs/data.md)"]
        md5 = dvc_md5(list_files(root))
        return [] if md5 == entry.md5 else [f"{root}: its hash is {md5}, {DATASETS} pins {entry.md5 or 'nothing yet'}"]
    pinned = _list_pinned(name, entry)
    others = [path for path in list_paths(root) if path.relative_to(root).as_posix() not in pinned]
    alien = [f"{other}: does not belong to the dataset: move it out of {root}" for other in others]
    return list_wrong(root, pinned) + alien


def verify(name: str, folder: Path) -> str:
    """Check every file of data/NAME, and what was prepared of it; of that alone where the files are gone.

    Returns:
        a line that says what was found.

    Raises:
        UserError: naming each wrong file.
    """
    entry, root = _read_entry_with_files(name), folder / name
    state = "as pinned" if entry.format in OWN else "as published"
    prepared = folder / ("detection" if entry.has_boxes else "shards") / name
    if root.is_dir() or not prepared.is_dir():
        if found := list_problems(name, folder):
            way = {
                "cifar": images.describe_cure(name),
                "imagenet": f"`identity-mappings data fetch {name}` says how to get it",
            }
            cure = (
                f"`dvc checkout {root}` puts back what `--commit` kept"
                if entry.format in OWN
                else way.get(entry.format or "", f"`identity-mappings data fetch {name}` gets it")
            )
            raise UserError("\n".join([*found, f"{name} is not {state}: {cure}"]))
        message = f"{root}: {state}"
    else:
        message = f"{root}: not there"
    if prepared.is_dir():
        if entry.has_boxes:
            boxes.verify_boxes(name, folder, entry)
        else:
            verify_shards(prepared, entry.md5)
        message += f"; {prepared}: as it was prepared"
    if entry.source and root.is_dir():
        gigabytes = sum((root / file).stat().st_size for file in _list_pinned(name, entry)) / 1e9
        message += (
            f"; `identity-mappings data verify {name} --commit` also puts it into DVC's cache, which takes "
            f"{gigabytes:,.0f} GB more unless that cache links (dvc config cache.type)"
        )
    return message


def prepare(name: str, folder: Path) -> str | None:
    """Bring data/NAME into the form that training reads, and pin your own data; of CIFAR it is what `fetch` gets.

    Returns:
        a line that says what is there.
    """
    entry = _read_entry_with_files(name)
    if entry.format == "cifar":
        return fetch(name, folder)
    if entry.has_boxes:
        return boxes.prepare_boxes(name, folder, entry)
    if entry.format == "arrays":
        read = images.read_arrays(name, entry.md5, folder)
        count, channels, size, _ = read.training.shape
        classes = int(read.training_labels.max()) + 1
        message = f"{folder / name}: {count:,} training and {len(read.test):,} test images"
        found = {"md5": dvc_md5(list_files(folder / name)), "classes": classes, "channels": channels, "size": size}
        found |= {"training_images": count, "test_images": len(read.test)}
    else:
        target, source = folder / "shards" / name, Ilsvrc if entry.format == "imagenet" else ImageFolder
        index, was_there = write_shards(partial(source, name, folder, entry), target, entry.md5)
        message = f"{'prepared before; ' if was_there else ''}{target}: {describe(index)}"
        counts = [index[split]["images"] for split in SPLITS]
        found = {"md5": hash_source(index), "classes": len(index["classes"]), "channels": 3}
        found |= dict(zip(("training_images", "test_images"), counts, strict=True))
    return "\n".join([message, *_pin(name, entry, found, folder)]) if entry.format in OWN else message


def _pin(name: str, entry: Dataset, found: dict[str, Any], folder: Path) -> list[str]:
    """Write what was found into the entry of params/datasets.yaml and into data.dvc. Returns lines that say so.

    Raises:
        UserError: the entry says otherwise, or has no place for it.
    """
    wrong = [f"{key}: {value}" for key, value in found.items() if getattr(entry, key) not in (None, value)]
    if wrong:
        raise UserError(f"{DATASETS}: {name}: the files have {', '.join(wrong)}: correct the entry")
    lines, lacking = [], {key: value for key, value in found.items() if getattr(entry, key) is None}
    if lacking:
        text = DATASETS.read_text("utf-8")
        keys = "".join(f"  {key}: {value}\n" for key, value in lacking.items())
        block = re.search(rf"^{name}:[ \t]*(#.*)?\n(?:  .*\n?)+", text, re.MULTILINE)
        if not block or entry.model_fields_set & set(lacking):
            raise UserError(
                f"{DATASETS}: {name}: write its keys on lines of their own, two spaces in, and add:\n{keys}"
            )
        text = text[: block.end()].rstrip("\n") + "\n" + keys + text[block.end() :]
        write_atomically(DATASETS, text.encode())
        lines.append(f"{DATASETS}: {name}: " + ", ".join(f"{key}: {value}" for key, value in lacking.items()))
    pins = folder.parent / "data.dvc"
    if pins.is_file():
        content = yaml.safe_load(pins.read_text("utf-8"))
        path, old = f"{folder.name}/{name}", content["outs"]
        out = {"md5": found["md5"], "hash": "md5", "path": path}
        if not any(pin["path"] == path and pin["md5"] == out["md5"] for pin in old):
            content["outs"] = [*(pin for pin in old if pin["path"] != path), out]
            write_atomically(pins, yaml.safe_dump(content, sort_keys=False).encode())
            lines.append(f"{pins}: {path}: {found['md5']}; commit both files")
    return lines


def fetch(name: str, folder: Path) -> str | None:
    """Get data/NAME from its official source, unless it is there.

    What is already right is kept: files, and an archive that an earlier try downloaded. A file takes its place only
    when its MD5 is the published one.

    Raises:
        UserError: no network, a wrong archive, or files in data/NAME that do not belong there; or files that only a
            person can get are missing, with what to do.
    """
    entry, root = _read_entry_with_files(name), folder / name
    if entry.format in OWN:
        if not root.is_dir():
            raise UserError(list_problems(name, folder)[0])
        return f"{root}: your own data: call `identity-mappings data prepare {name}`, which checks it"
    if entry.archives:
        for file, published in entry.archives.items():
            if published.url:
                download(published.url, root / file, published.md5)
        require_archives(name, folder, entry)
        return f"{root}: the archives are there: call `identity-mappings data prepare {name}`, which checks them"
    pinned = _list_pinned(name, entry)
    source = find_cifar(name, entry.md5)
    archive = folder / ".downloads" / source.filename
    if wrong := {path: md5 for path, md5 in pinned.items() if list_wrong(root, {path: md5})}:
        download(source.url, archive, source.tgz_md5)
        _extract(archive, wrong, root)
    verify(name, folder)
    archive.unlink(missing_ok=True)
    return None


def _extract(archive: Path, wanted: dict[str, str], root: Path) -> None:
    """Take the wanted files out of the archive by name: no other member is looked at, no path of it is used."""
    with tarfile.open(archive) as tar:
        for path, md5 in wanted.items():
            try:
                member = tar.extractfile(path)
            except KeyError:
                member = None
            content = member.read() if member else b""
            if hashlib.md5(content).hexdigest() != md5:
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
    from dvc.exceptions import DvcException  # half a second
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
        raise UserError(f"{output}: checked, but DVC could not add it to its cache: {error}") from None
