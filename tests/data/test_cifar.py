"""Reading and getting CIFAR: tried on small files of the same form, with the pins set to theirs."""

import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
import yaml

from identity_mappings.cli import main
from identity_mappings.data import prepare
from identity_mappings.data.images import load_images, read_cifar, read_digits
from identity_mappings.data.listing import dvc_md5
from identity_mappings.errors import UserError
from identity_mappings.parameters.load import read_entry

ROOT = Path(__file__).parents[2]
PINNED = {name: read_entry(name, ROOT) for name in ("cifar10", "cifar100")}
CIFAR10 = torchvision.datasets.CIFAR10


def batch(seed: int, images: int, labels: str) -> bytes:
    """A file in the form of CIFAR's."""
    numbers = numpy.random.default_rng(seed)
    content = {"data": numbers.integers(0, 256, (images, 3072), dtype="uint8"), labels: list(range(images))}
    return pickle.dumps(content, protocol=2)


class Small:
    """CIFAR-10 with three images a file, its pins, its archive, and a folder for it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]] + [CIFAR10.meta["filename"]]
        self.files = {name: batch(number, 3, "labels") for number, name in enumerate(names)}
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        for key in ("train_list", "test_list"):
            monkeypatch.setattr(CIFAR10, key, [(name, md5[name]) for name, _ in getattr(CIFAR10, key)])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5[CIFAR10.meta["filename"]]})
        self.md5_of_folder = dvc_md5(prepare.list_cifar(CIFAR10))
        self.entry = PINNED["cifar10"].model_copy(update={"md5": self.md5_of_folder})
        monkeypatch.setattr(prepare, "read_entry", lambda name: self.entry if name == "cifar10" else read_entry(name))
        self.folder = folder / "data"
        self.place = self.folder / "cifar10" / CIFAR10.base_folder
        self.archive = folder / "source" / "cifar-10-python.tar.gz"
        self.archive.parent.mkdir(parents=True)
        self.pack(self.files)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "filename", self.archive.name)

    def pack(self, files: dict[str, bytes]) -> None:
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, content in {**files, "readme.html": b"no reader needs it"}.items():
                member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.md5 = hashlib.md5(self.archive.read_bytes()).hexdigest()
        torchvision.datasets.CIFAR10.tgz_md5 = self.md5

    def restore(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (self.place / name).write_bytes(content)


@pytest.fixture
def small(tmp_path, monkeypatch) -> Iterator[Small]:
    """Its source is a web server of this machine, as its official one is a web server."""
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "")
    made = Small(tmp_path, monkeypatch)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(made.archive.parent))

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{made.archive.name}"
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
    yield made
    server.shutdown()
    server.server_close()


def test_the_pins_are_torchvisions_and_data_dvc_has_them():
    for name, entry in PINNED.items():
        assert prepare.find_cifar(name, entry.md5).__name__.lower() == name
    outs = {out["path"]: out for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]}
    assert outs["data/cifar10"] | {"size": 0} == {
        "md5": PINNED["cifar10"].md5, "size": 0, "nfiles": 7, "hash": "md5", "path": "data/cifar10",
    }  # fmt: skip
    assert outs["data/cifar100"]["md5"] == PINNED["cifar100"].md5 and outs["data/cifar100"]["nfiles"] == 3
    pinned = yaml.safe_load((ROOT / "params/datasets.yaml").read_text())
    names = [*PINNED, "imagenet"]
    assert {f"data/{name}": pinned[name]["md5"] for name in names} == {path: out["md5"] for path, out in outs.items()}


def test_it_reads_what_torchvisions_reader_reads(small, monkeypatch):
    small.restore()
    images = read_cifar("cifar10", small.md5_of_folder, small.folder)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    for train, x, y in ((True, images.training, images.training_labels), (False, images.test, images.test_labels)):
        theirs = CIFAR10(small.folder / "cifar10", train=train)
        assert torch.equal(x, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
        assert y.tolist() == theirs.targets


def test_a_pickle_is_not_read_before_its_md5_is_checked(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/run",))

    small.restore()
    (small.place / "data_batch_3").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"cifar10: not the pinned files: .*nothing was read: .*data verify cifar10"):
        read_cifar("cifar10", small.md5_of_folder, small.folder)
    assert not (tmp_path / "run").exists()


def test_a_missing_dataset_is_one_line_with_the_cure(tmp_path):
    dataset = {"name": "cifar100", "md5": PINNED["cifar100"].md5}
    with pytest.raises(UserError, match=r"cifar100: missing: .*data fetch cifar100.*dvc pull data/cifar100"):
        load_images(dataset, tmp_path)


def test_other_pins_or_counts_are_refused(small):
    small.restore()
    with pytest.raises(UserError, match=r"cifar10: not the pinned files: their hash is .*, not 0+\.dir; "):
        read_cifar("cifar10", "0" * 32 + ".dir", small.folder)
    small.entry = small.entry.model_copy(update={"md5": "0" * 32 + ".dir"})
    with pytest.raises(
        UserError, match=r"params/datasets.yaml: cifar10.md5: 0+\.dir is not that of the published files"
    ):
        prepare.verify("cifar10", small.folder)
    sizes = {"channels": 3, "size": 32, "training_images": 50000, "test_images": 3}
    with pytest.raises(UserError, match=r"has \(15, 3, 32, 32\) training"):
        load_images({"name": "cifar10", "md5": small.md5_of_folder, **sizes}, small.folder)


def test_verify_names_each_wrong_file(small):
    small.restore()
    prepare.verify("cifar10", small.folder)
    (small.place / "data_batch_2").unlink()
    (small.place / "test_batch").write_bytes(b"other")
    (small.place / "cifar-10-python.tar.gz").write_bytes(b"left over")
    with pytest.raises(UserError) as error:
        prepare.verify("cifar10", small.folder)
    lines = str(error.value).splitlines()
    assert re.search(r"data_batch_2: missing", lines[0])
    assert re.search(r"test_batch: MD5 795f3202b17cb6bc3d4b771d8c6c9eaf, published", lines[1])
    assert re.search(r"tar.gz: does not belong", lines[2])
    assert "data fetch cifar10" in lines[3] and len(lines) == 4


def test_fetch_gets_checks_and_leaves_no_archive_in_the_output(small):
    prepare.fetch("cifar10", small.folder)
    assert {path.name: path.read_bytes() for path in small.place.iterdir()} == small.files
    assert not list((small.folder / "cifar10").rglob("*.tar.gz"))


def test_fetch_keeps_what_is_right_and_mends_the_rest(small):
    small.restore()
    (small.place / "data_batch_4").write_bytes(b"half")
    kept = {path.name: path.stat().st_mtime_ns for path in small.place.iterdir()}
    prepare.fetch("cifar10", small.folder)
    now = {path.name: path.stat().st_mtime_ns for path in small.place.iterdir()}
    assert {name for name in now if now[name] != kept[name]} == {"data_batch_4"}


def test_fetch_goes_on_with_an_archive_that_is_there_and_without_network(small, monkeypatch):
    downloads = small.folder / ".downloads"
    downloads.mkdir(parents=True)
    (downloads / small.archive.name).write_bytes(small.archive.read_bytes()[:50])
    with pytest.MonkeyPatch.context() as offline:
        offline.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")
        with pytest.raises(UserError, match="call this again when the network is back"):
            prepare.fetch("cifar10", small.folder)
        (downloads / small.archive.name).write_bytes(small.archive.read_bytes())
        prepare.fetch("cifar10", small.folder)
    assert (small.place / "data_batch_1").read_bytes() == small.files["data_batch_1"]


def test_fetch_does_nothing_where_all_is_right(small, monkeypatch):
    small.restore()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere")
    prepare.fetch("cifar10", small.folder)


def test_an_archive_with_a_wrong_file_loses_nothing(small):
    small.restore()
    (small.place / "test_batch").write_bytes(b"mine")
    small.pack({**small.files, "test_batch": b"not the published one"})
    with pytest.raises(UserError, match="test_batch is not the published file"):
        prepare.fetch("cifar10", small.folder)
    assert (small.place / "test_batch").read_bytes() == b"mine"


def test_an_archives_paths_are_not_followed(small, tmp_path):
    with tarfile.open(small.archive, "w:gz") as tar:
        for name in ("../../outside", f"{CIFAR10.base_folder}/../../outside"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    torchvision.datasets.CIFAR10.tgz_md5 = hashlib.md5(small.archive.read_bytes()).hexdigest()
    with pytest.raises(UserError):
        prepare.fetch("cifar10", small.folder)
    assert not list(tmp_path.rglob("outside"))


def test_an_unknown_dataset_is_named(tmp_path):
    with pytest.raises(UserError, match="no dataset 'cifar11'"):
        prepare.fetch("cifar11", tmp_path)


def test_digits_are_pinned_and_split(tmp_path):
    images = read_digits("digits", read_entry("digits", ROOT).md5)
    assert images.training.shape == (1297, 1, 8, 8) and images.test.shape == (500, 1, 8, 8)
    assert images.training.dtype == torch.uint8 and int(images.training.max()) == 240
    from sklearn.datasets import load_digits

    theirs = load_digits()
    both = torch.cat([images.training, images.test])
    assert torch.equal(both[:, 0], torch.from_numpy(theirs.images * 15).byte())
    assert torch.cat([images.training_labels, images.test_labels]).tolist() == theirs.target.tolist()
    with pytest.raises(UserError, match="make env"):
        read_digits("digits", "0" * 32)


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return f"{done.stdout}\nexit status {done.returncode}"


@pytest.mark.slow
@pytest.mark.parametrize("action", ["fetch", "verify"])
def test_a_dataset_ends_in_dvcs_cache_while_another_is_missing(small, tmp_path, action):
    """Clean, pushed and pulled; data.dvc stays as it is, and one dataset does not need the other."""
    size = sum(map(len, small.files.values()))
    pins = (
        f"outs:\n- md5: {small.md5_of_folder}\n  size: {size}\n  nfiles: 7\n  hash: md5\n  path: data/cifar10\n"
        f"- md5: {PINNED['cifar100'].md5}\n  size: 186301098\n  nfiles: 3\n  hash: md5\n  path: data/cifar100\n"
    )
    (tmp_path / "data.dvc").write_text(pins)
    (tmp_path / ".gitignore").write_text("/data\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    dvc(tmp_path, "remote", "add", "-d", "store", str(tmp_path / "store"))
    small.restore()
    assert "not in cache" in dvc(tmp_path, "status", "data/cifar10")
    assert main(["data", action, "cifar10", "--data", str(small.folder)]) == 0
    assert (tmp_path / "data.dvc").read_text() == pins
    assert "up to date" in dvc(tmp_path, "status", "data/cifar10")
    assert "8 files pushed" in dvc(tmp_path, "push", "data/cifar10")

    for path in small.place.iterdir():
        path.unlink()
    subprocess.run(["rm", "-rf", tmp_path / ".dvc/cache"], check=True)
    assert "exit status 0" in dvc(tmp_path, "pull", "data/cifar10")
    assert {path.name: path.read_bytes() for path in small.place.iterdir()} == small.files

    (small.place / "test_batch").chmod(0o644)
    (small.place / "test_batch").unlink()
    (small.place / "test_batch").write_bytes(b"other")
    with pytest.raises(UserError, match=r"data\.dvc pins"):
        prepare.commit("cifar10", small.folder)


def test_commit_without_dvc_says_so(small):
    small.restore()
    with pytest.raises(UserError, match="DVC could not add it"):
        prepare.commit("cifar10", small.folder)
