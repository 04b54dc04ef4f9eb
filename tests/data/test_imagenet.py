"""The archives of ILSVRC 2012 and of imagenet-small: pins, devkit, making, fetching, verifying."""

import hashlib
import io
import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import Image
from torchvision.datasets import ImageNet
from torchvision.datasets import imagenet as torchvisions

import make_small_data
import small_imagenet
from identity_mappings.cli import main
from identity_mappings.data import prepare
from identity_mappings.data.listing import dvc_md5, list_files
from identity_mappings.data.sources import DEVKIT, GROUND_TRUTH, TRAINING, VALIDATION, read_devkit
from identity_mappings.errors import UserError
from identity_mappings.parameters.datasets import Archive, Dataset
from identity_mappings.parameters.load import read_entry

ROOT = Path(__file__).parents[2]
SMALL = "imagenet-small"
ENTRIES = {name: read_entry(name, ROOT) for name in ("imagenet", SMALL)}


def pins(name: str) -> dict[str, str]:
    return {file: archive.md5 for file, archive in ENTRIES[name].archives.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of datasets with imagenet-small in it."""
    folder = tmp_path_factory.mktemp("data")
    make_small_data.make("imagenet-small", folder)
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    """The same, to be changed."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def test_the_pins_are_torchvisions_and_data_dvc_and_the_parameters_have_them():
    assert pins("imagenet") == dict(torchvisions.ARCHIVE_META.values())
    for name, entry in ENTRIES.items():
        assert entry.md5 == dvc_md5(pins(name))
    outs = {out["path"]: out for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]}
    assert outs["data/imagenet"] == {
        "md5": ENTRIES["imagenet"].md5, "nfiles": 3, "hash": "md5", "path": "data/imagenet",
    }  # fmt: skip


def test_the_hash_is_dvcs_of_a_folder_with_such_files(tmp_path):
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs import LocalFileSystem

    for number, file in enumerate([*pins("imagenet"), "b/z/a.jpg", "b/a.jpg", "b.a", "B/ä", "b-c/1"]):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(bytes([number]))
    store = HashFileDB(LocalFileSystem(), str(tmp_path.parent / "store"))
    _, _, theirs = build(store, str(tmp_path), LocalFileSystem(), "md5", dry_run=True)
    assert dvc_md5(list_files(tmp_path)) == theirs.hash_info.value


def test_the_small_archives_have_the_same_bytes_at_every_making(made, monkeypatch):
    random.seed(1)
    monkeypatch.setattr("time.time", lambda: 1.0)
    for file, content in small_imagenet.archives().items():
        assert (made / SMALL / file).read_bytes() == content
        assert hashlib.md5(content).hexdigest() == pins(SMALL)[file]


def test_another_pillow_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(small_imagenet, "ENLARGED", 8)
    with pytest.raises(UserError, match=r"img_train.tar, as the installed Pillow.*requirements.lock \(make env\)"):
        make_small_data.make("imagenet-small", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_small_images_are_as_ilsvrcs(made):
    forms, sizes = Counter(), set()
    with tarfile.open(made / SMALL / TRAINING) as tar:
        classes = tar.getnames()
        for name in classes:
            with tarfile.open(fileobj=tar.extractfile(name)) as inner:
                for member in inner:
                    assert re.fullmatch(rf"{name[:-4]}_\d+\.JPEG", member.name)
                    image = Image.open(io.BytesIO(inner.extractfile(member).read()))
                    forms[image.format, image.mode] += 1
                    sizes.add(image.size)
    assert classes == [f"n990000{digit:02d}.tar" for digit in range(10)]
    assert forms == {("JPEG", "RGB"): 317, ("JPEG", "CMYK"): 1, ("JPEG", "L"): 1, ("PNG", "RGB"): 1}
    assert all(80 < min(size) < 101 and 107 < max(size) < 134 for size in sizes)
    assert any(w > h for w, h in sizes) and any(w < h for w, h in sizes)


def test_torchvisions_imagenet_reads_the_small_archives_with_our_labels(data, monkeypatch):
    names = (("train", TRAINING), ("val", VALIDATION), ("devkit", DEVKIT))
    monkeypatch.setattr(torchvisions, "ARCHIVE_META", {key: (file, pins(SMALL)[file]) for key, file in names})
    wnids, labels = read_devkit(data / SMALL / DEVKIT, ENTRIES[SMALL])
    train, val = (ImageNet(data / SMALL, split) for split in ("train", "val"))
    assert train.wnids == val.wnids == wnids
    assert len(train) == 320 and Counter(train.targets) == dict.fromkeys(range(10), 32)
    theirs = {Path(path).name: label for path, label in val.samples}
    ours = {f"ILSVRC2012_val_{n:08d}.JPEG": label for n, label in enumerate(labels, 1)}
    assert ours == theirs and len(ours) == 100
    assert list(range(1, 11)) != small_imagenet.IDENTITIES, "ids and labels differ, as in ILSVRC"


def repack(data: Path, change) -> Dataset:
    """Another devkit, published as such, and the entry with its MD5: `change` maps member names and bytes to such."""
    path = data / SMALL / DEVKIT
    with tarfile.open(path) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in change(members).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archives = {**ENTRIES[SMALL].archives, DEVKIT: Archive(md5=hashlib.md5(path.read_bytes()).hexdigest())}
    return ENTRIES[SMALL].model_copy(update={"archives": archives})


def test_a_wrong_devkit_is_refused(data):
    path, truth = data / SMALL / DEVKIT, GROUND_TRUTH
    entry = repack(data, lambda members: members | {truth: members[truth] + b"1\n"})
    with pytest.raises(UserError, match="10 classes and 101 validation images, not 10 and 100: correct"):
        read_devkit(path, entry)
    (data / SMALL / DEVKIT).write_bytes(b"other")
    with pytest.raises(UserError, match=r"devkit_t12.tar.gz: its MD5 is 795f3202.*published is 91d1041c"):
        read_devkit(path, ENTRIES[SMALL])
    make_small_data.make("imagenet-small", data)
    with pytest.raises(UserError, match="it has 10 classes and 100 validation images, not 11 and 100: correct"):
        read_devkit(path, ENTRIES[SMALL].model_copy(update={"classes": 11}))


def test_the_script_makes_the_small_archives_and_fetch_names_it(tmp_path, capsys):
    words = ["data", "fetch", SMALL, "--data", str(tmp_path)]
    for action in ("fetch", "prepare"):
        assert main(["data", action, *words[2:]]) == 2
        assert f"make them with `python workflow/scripts/make_small_data.py {SMALL}`" in capsys.readouterr().err
    script = [sys.executable, ROOT / "workflow/scripts/make_small_data.py", SMALL, tmp_path]
    subprocess.run(script, cwd=ROOT, check=True)
    assert main(words) == 0
    assert f"call `identity-mappings data prepare {SMALL}`" in capsys.readouterr().out
    (tmp_path / SMALL / TRAINING).write_bytes(b"damaged")
    subprocess.run(script, cwd=ROOT, check=True)
    assert main(["data", "verify", SMALL, "--data", str(tmp_path)]) == 0
    assert "as published" in capsys.readouterr().out


def test_fetch_of_imagenet_says_what_to_download(tmp_path, capsys):
    words = ["data", "fetch", "imagenet", "--data", str(tmp_path)]
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / DEVKIT).write_bytes(b"some devkit")
    (root / VALIDATION).write_bytes(b"half")
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(f"{root / TRAINING}: missing (147,897,477,120 bytes)")
    assert lines[1] == f"{root / VALIDATION}: 4 of 6,744,924,160 bytes are there: finish the download"
    assert lines[2] == f"{root / DEVKIT}: there"
    assert "register at image-net.org" in lines[3] and "2012-downloads.php" in lines[3] and len(lines) == 4
    for file, archive in ENTRIES["imagenet"].archives.items():
        with (root / file).open("wb") as sparse:
            sparse.truncate(archive.bytes or 0)
    assert main(words) == 0
    assert "call `identity-mappings data prepare imagenet`" in capsys.readouterr().out


def test_verify_names_each_wrong_archive_and_says_how_to_commit(data, capsys, monkeypatch):
    (data / SMALL).rename(data / "imagenet")
    entry = ENTRIES[SMALL].model_copy(update={"source": "https://image-net.org"})
    monkeypatch.setattr(prepare, "read_entry", lambda name: entry if name == "imagenet" else read_entry(name))
    words = ["data", "verify", "imagenet", "--data", str(data)]
    assert main(words) == 0
    assert "`identity-mappings data verify imagenet --commit` also puts it into DVC's cache, which takes 0 GB more" in (
        capsys.readouterr().out
    )
    (data / "imagenet" / VALIDATION).write_bytes(b"other")
    (data / "imagenet" / DEVKIT).unlink()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "devkit_t12.tar.gz: missing" in lines[0] and "img_val.tar: MD5 795f3202" in lines[1] and len(lines) == 3
    with pytest.raises(UserError, match="no dataset 'imagenet21k' to get: there are cifar10, cifar100, "):
        prepare.verify("imagenet21k", data)
