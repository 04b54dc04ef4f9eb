"""Archives to shards: bytes, labels, kills, refusals; on small archives in the form of ILSVRC's, pinned as they are."""

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import make_small_data
from identity_mappings.cli import main
from identity_mappings.data import listing
from identity_mappings.data import prepare as preparing
from identity_mappings.data.listing import dvc_md5, hash_md5
from identity_mappings.data.shards import Shards, verify_shards
from identity_mappings.data.sources import DEVKIT, TRAINING, VALIDATION, read_devkit
from identity_mappings.errors import UserError
from identity_mappings.parameters.datasets import Archive
from identity_mappings.parameters.load import read_entry
from small_imagenet import archives, wnid

SMALL = "imagenet-small"
REAL = archives()


def jpeg(seed: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    content = io.BytesIO()
    Image.effect_noise((24 + seed % 5, 20), 40 + seed).convert(mode).save(content, kind)
    return content.getvalue()


def packed(members: list[tuple[str, bytes] | tuple[tarfile.TarInfo, bytes]], **options) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", **{"format": tarfile.GNU_FORMAT} | options) as tar:
        for name, value in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            if member.isreg():
                member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return content.getvalue()


class Small:
    """Ten classes of three images, and the 100 validation images and the devkit of imagenet-small.

    Attributes:
        classes: wnid to its members; `publish` packs them, and pins what it made.
    """

    def __init__(self, data: Path):
        self.data, self.target = data, data / "shards" / SMALL
        self.classes = {
            wnid(digit): [(f"{wnid(digit)}_{n}.JPEG", jpeg(10 * digit + n)) for n in range(3)] for digit in range(10)
        }
        self.publish()

    def publish(self, **entry) -> None:
        self.training = packed([(f"{name}.tar", packed(members)) for name, members in self.classes.items()])
        self.put({TRAINING: self.training, VALIDATION: REAL[VALIDATION], DEVKIT: REAL[DEVKIT]}, **entry)

    def put(self, files: dict[str, bytes], **entry) -> None:
        (self.data / SMALL).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (self.data / SMALL / file).write_bytes(content)
        self.pin({file: hash_md5(self.data / SMALL / file) for file in REAL}, **entry)

    def pin(self, md5: dict[str, str], **entry) -> None:
        archives = {file: Archive(md5=value) for file, value in md5.items()}
        changes = {"md5": dvc_md5(md5), "archives": archives, "training_images": 30} | entry
        self.dataset = read_entry(SMALL).model_copy(update=changes)

    def prepare(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "read_entry", lambda _: self.dataset)
            return preparing.prepare(SMALL, self.data)

    def refused(self, *words: str) -> None:
        """It is refused with these words, and nothing of it passes for prepared."""
        with pytest.raises(UserError) as error:
            self.prepare()
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value) and not (self.target / "index.json").exists()


@pytest.fixture
def small(tmp_path) -> Small:
    return Small(tmp_path / "data")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def test_images_and_labels_are_those_of_the_archives(small):
    said = small.prepare()
    assert "30 training images in 4 shards, 100 validation images in 1 shards" in said
    shards = Shards(small.target, "training")
    found = {shards.name(n).split(": ")[1]: (shards.jpeg(n), int(shards.labels[n])) for n in range(len(shards))}
    assert found == {
        name: (value, label) for label, members in enumerate(small.classes.values()) for name, value in members
    }
    shards = Shards(small.target, "validation")
    labels = read_devkit(small.data / SMALL / DEVKIT, small.dataset)[1]
    with tarfile.open(small.data / SMALL / VALIDATION) as tar:
        for index in range(100):
            name = shards.name(index).split(": ")[1]
            assert shards.jpeg(index) == tar.extractfile(name).read()
            assert int(shards.labels[index]) == labels[int(name[-13:-5]) - 1]
    index = json.loads((small.target / "index.json").read_text())
    assert index["archives"] == {file: hash_md5(small.data / SMALL / file) for file in REAL} and index[
        "classes"
    ] == list(small.classes)
    assert not [path for path in small.target.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_a_second_call_does_nothing_and_needs_no_archives(small):
    small.prepare()
    before = content(small.target)
    shutil.rmtree(small.data / SMALL)
    assert small.prepare().startswith("prepared before; ")
    assert content(small.target) == before


@pytest.mark.parametrize("damage", [b"short", b"long" * 100_000])
def test_damaged_shards_are_made_again(small, capsys, damage):
    small.prepare()
    before = content(small.target)
    (small.target / "training-0001.tar").write_bytes(damage)
    small.prepare()
    assert f"training-0001.tar: {len(damage):,} bytes, not" in capsys.readouterr().err
    assert content(small.target) == before


def test_after_a_kill_it_begins_again_and_ends_with_the_same_bytes(small):
    small.prepare()
    before = content(small.target)
    shutil.rmtree(small.target)
    program = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from identity_mappings.data import shards, sources
from identity_mappings.parameters.datasets import Dataset
dataset = Dataset.model_validate_json({small.dataset.model_dump_json()!r})
read, data = sources.Ilsvrc.read, Path({str(small.data)!r})
def killed(self, split, advance):
    for number, member in enumerate(read(self, split, advance)):
        if split == "validation" and number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        yield member
sources.Ilsvrc.read = killed
shards.write_shards(lambda: sources.Ilsvrc("{SMALL}", data, dataset), data / "shards/{SMALL}", dataset.md5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (small.target / "training.npy").exists() and not (small.target / "index.json").exists()
    small.prepare()
    assert content(small.target) == before


@pytest.mark.parametrize("file", ["training-0001.tar", "validation-0000.tar", "training.npy", "validation.npy"])
def test_a_byte_that_a_disk_lost_is_found(small, file):
    """Of the same size: only `verify` reads it all."""
    small.prepare()
    verify_shards(small.target, small.dataset.md5)
    path = small.target / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.stem}.*data prepare {SMALL}"):
        verify_shards(small.target, small.dataset.md5)


def test_an_archive_that_is_not_the_published_one_is_refused_at_the_end(small):
    small.pin({file: "0" * 32 if file == TRAINING else hash_md5(small.data / SMALL / file) for file in REAL})
    found = hashlib.md5(small.training).hexdigest()
    small.refused(f"img_train.tar: its MD5 is {found}, published is {'0' * 32}")
    small.publish()
    small.prepare()


def test_a_truncated_archive_is_refused(small):
    for cut in (len(small.training) // 2, 512 * 7 + 100, 100, 10240 * 10 + 512 * 10):
        (small.data / SMALL / TRAINING).write_bytes(small.training[:cut])
        small.refused(TRAINING, "get it again")
    small.publish()
    (small.data / SMALL / VALIDATION).write_bytes(REAL[VALIDATION][:30000])
    small.refused(VALIDATION, "truncated")


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


FIRST = wnid(0)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ((f"../{FIRST}_7.JPEG", jpeg(1)), (f"../{FIRST}_7.JPEG", "a path")),
        ((f"/tmp/{FIRST}_7.JPEG", jpeg(1)), (f"/tmp/{FIRST}_7.JPEG", "a path")),
        ((f"{'long/' * 30}{FIRST}_7.JPEG", jpeg(1)), ("refused",)),
        ((link(f"{FIRST}_7.JPEG", tarfile.SYMTYPE), b""), (f"{FIRST}_7.JPEG", "is a link")),
        ((link(f"{FIRST}_7.JPEG", tarfile.LNKTYPE), b""), (f"{FIRST}_7.JPEG", "is a link")),
        ((link(f"{FIRST}_7.JPEG", tarfile.CHRTYPE), b""), (f"{FIRST}_7.JPEG", "a device")),
        ((f"{wnid(1)}_7.JPEG", jpeg(1)), (f"{wnid(1)}_7.JPEG", "not a valid image name")),
        ((f"{FIRST}_7.txt", b"text"), (f"{FIRST}_7.txt", "not a valid image name")),
        ((f"{FIRST}_a.b.JPEG", jpeg(1)), (f"{FIRST}_a.b.JPEG", "not a valid image name")),
        ((f"{FIRST}_2.JPEG", jpeg(2)), (f"{FIRST}_2.JPEG is two times",)),
        ((f"{FIRST}_7.JPEG", b"GIF89a" + bytes(50)), (f"{FIRST}_7.JPEG: no JPEG or PNG",)),
        ((f"{FIRST}_7.JPEG", b""), (f"{FIRST}_7.JPEG: no JPEG or PNG",)),
        ((f"{FIRST}_7.JPEG", jpeg(1)[:-20]), (f"{FIRST}_7.JPEG: no JPEG or PNG, or a truncated one",)),
        ((f"{FIRST}_7.JPEG", jpeg(1)[:12]), (f"{FIRST}_7.JPEG: no JPEG or PNG, or a truncated one",)),
        ((f"{FIRST}_7.JPEG", jpeg(1, kind="PNG")[:300]), (f"{FIRST}_7.JPEG: no JPEG or PNG, or a truncated one",)),
    ],
)
def test_a_member_that_does_not_belong_is_refused(small, member, words):
    small.classes[FIRST].append(member)
    small.publish(training_images=31)
    small.refused(TRAINING, *words)


def test_classes_and_counts_are_held_against_the_devkit_and_the_parameters(small):
    lost = small.classes.pop(wnid(4))
    small.publish(training_images=27)
    small.refused(TRAINING, f"1 classes of the devkit are not in it, {wnid(4)} the first")
    small.classes["n00000001"] = lost
    small.publish()
    small.refused(TRAINING, "'n00000001.tar' is no tar of a class")
    del small.classes["n00000001"]
    small.classes[wnid(4)] = lost[:-1]
    small.publish()
    small.refused(TRAINING, "29 images, not 30")
    twice = packed([(f"{FIRST}.tar", packed(small.classes[FIRST]))] * 2)
    small.put({TRAINING: twice})
    small.refused(TRAINING, f"{FIRST}.tar is two times in")
    small.put({TRAINING: b"\x1f\x8bthis is no tar" * 100})
    small.refused(TRAINING, "truncated or damaged (invalid header): get it again")


def test_validation_images_are_held_against_the_ground_truth(small):
    with tarfile.open(fileobj=io.BytesIO(REAL[VALIDATION])) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    small.put({VALIDATION: packed(members[:-1])})
    small.refused(VALIDATION, "99 images, not 100")
    small.put({VALIDATION: packed([*members, ("ILSVRC2012_val_00000101.JPEG", jpeg(1))])})
    small.refused(VALIDATION, "'ILSVRC2012_val_00000101.JPEG' in", "not a valid image name")
    small.put({VALIDATION: packed([*members, members[5]])})
    small.refused(VALIDATION, f"{members[5][0]} is two times")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("buffer", [2048, 1 << 16])
def test_other_tars_and_odd_images_are_taken_and_counted(small, monkeypatch, form, buffer):
    """Small buffers, that images go beyond; padding after an image; CMYK, PNG, grey, old tar headers."""
    monkeypatch.setattr("identity_mappings.data.sources.READ_AT_ONCE", buffer)
    big = io.BytesIO()
    Image.effect_noise((300, 200), 90).save(big, "JPEG", quality=95)
    odd = [jpeg(1, "CMYK"), jpeg(2, kind="PNG"), jpeg(3, "L"), jpeg(4) + bytes(7), jpeg(5) + b"rest", big.getvalue()]
    small.classes[FIRST] += [(f"{FIRST}_{n}.JPEG", value) for n, value in enumerate(odd, 7)]
    inner = [(f"{name}.tar", packed(members, format=form)) for name, members in small.classes.items()]
    old = bytearray(inner[0][1])
    old[257:265], old[148:156] = bytes(8), b" " * 8  # a header of before POSIX
    old[148:156] = f"{sum(old[:512]):06o}\0 ".encode()
    inner[0] = (inner[0][0], bytes(old))
    small.put({TRAINING: packed(inner, format=form)}, training_images=36)
    assert "1 CMYK and 1 PNG images are converted to RGB" in small.prepare()
    shards = Shards(small.target, "training")
    found = {shards.name(n).split(": ")[1]: shards.jpeg(n) for n in range(len(shards))}
    assert found == {name: value for members in small.classes.values() for name, value in members}


def test_a_full_disk_is_seen_before_and_while_writing(small, monkeypatch):
    usage, opened = shutil.disk_usage(small.data), Path.open

    def full(path: Path, mode: str = "r", *rest):
        return opened(Path("/dev/full") if path.name == "training-0001.tar" else path, mode, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        small.refused("the shards need 0.0 GB, 0.0 GB are free: make room")
    assert not list(small.target.glob("*.tar")), "nothing was begun"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        small.refused("No space left on device: mend that and call this again")
    small.prepare()


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_elsewhere_a_line_every_now_and_then(capsys, monkeypatch, on_terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    monkeypatch.setenv("FORCE_COLOR", "1") if on_terminal else None
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with listing.show_progress("imagenet", 1000) as advance:
        for _ in range(9):
            advance(100)
    said = capsys.readouterr().err
    if on_terminal:
        assert "imagenet" in said and "90%" in said and "━" in said
    else:
        lines = said.splitlines()
        assert 2 <= len(lines) <= 5 and lines[0] == "imagenet: 20 %"


def test_the_command_line_prepares_every_dataset(tmp_path, capsys, monkeypatch):
    words = ["--data", str(tmp_path)]
    make_small_data.make(SMALL, tmp_path)
    assert main(["data", "prepare", SMALL, *words]) == 0
    assert "320 training images in 4 shards" in capsys.readouterr().out
    assert main(["data", "verify", SMALL, *words]) == 0
    assert f"as published; {tmp_path}/shards/{SMALL}: as it was prepared" in capsys.readouterr().out
    (tmp_path / "shards" / SMALL / "training-0000.tar").unlink()
    assert main(["data", "verify", SMALL, *words]) == 2
    assert "training-0000.tar: missing: call `identity-mappings data prepare" in capsys.readouterr().err
    assert main(["data", "prepare", "imagenet", *words]) == 2
    assert "register at image-net.org" in capsys.readouterr().err
    fetched = []
    monkeypatch.setattr(preparing, "fetch", lambda name, folder: fetched.append(name))
    monkeypatch.setattr(preparing, "commit", lambda name, folder: None)
    assert main(["data", "prepare", "cifar10", *words]) == 0 and fetched == ["cifar10"]
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    assert "dataset of params/datasets.yaml, for example imagenet" in " ".join(capsys.readouterr().out.split())
