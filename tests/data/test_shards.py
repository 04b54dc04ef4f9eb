"""Reading the prepared form, and what is said where it is missing or damaged."""

import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.data import DataLoader

import make_small_data
from identity_mappings.data.prepare import prepare
from identity_mappings.data.shards import SPLITS, Shards, verify_shards
from identity_mappings.data.sources import TRAINING
from identity_mappings.errors import UserError
from identity_mappings.parameters.load import read_entry

SMALL = "imagenet-small"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data")
    make_small_data.make("imagenet-small", data)
    prepare(SMALL, data)
    return data


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """data/shards/imagenet-small, to be damaged."""
    return Path(shutil.copytree(made / "shards" / SMALL, tmp_path / SMALL))


def originals(data: Path) -> dict[str, bytes]:
    """Name to bytes of the training images, as tarfile reads them."""
    found = {}
    with tarfile.open(data / SMALL / TRAINING) as tar:
        for name in tar.getnames():
            with tarfile.open(fileobj=tar.extractfile(name)) as inner:
                found |= {member.name: inner.extractfile(member).read() for member in inner}
    return found


def test_every_image_has_its_bytes_its_name_and_its_label(made):
    shards, files = Shards(made / "shards" / SMALL, "training"), originals(made)
    assert len(shards) == len(files) == 320 and shards.labels.dtype == torch.int64
    for index in range(len(shards)):
        path, name = shards.name(index).split(": ")
        assert shards.jpeg(index) == files.pop(name)
        assert name.startswith(shards.classes[shards.labels[index]])
        assert Path(path).name == f"training-{shards.shard_of[index]:04d}.tar"
    assert not files
    places = list(zip(shards.shard_of.tolist(), shards.rows["offset"].tolist(), strict=True))
    assert places == sorted(places), "canonical order"


def test_tarfile_lists_webdatasets_samples(made):
    for split, count in zip(SPLITS, (320, 100), strict=True):
        shards, at = Shards(made / "shards" / SMALL, split), 0
        for path in shards.files:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    assert extension == "JPEG" and "/" not in key
                    assert tar.extractfile(member).read() == shards.jpeg(at)
                    at += 1
            assert path.read_bytes().endswith(bytes(1024))
        assert at == count


def test_every_shard_is_a_sample_of_all_classes(made):
    shards = Shards(made / "shards" / SMALL, "training")
    for shard in range(4):
        assert len(set(shards.labels[shards.shard_of == shard].tolist())) == 10


class Images(torch.utils.data.Dataset):
    def __init__(self, shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def __getitem__(self, index):
        return len(self.shards.jpeg(index)), int(self.shards.labels[index])


def test_workers_read_it_and_it_opens_nothing_before(made):
    shards = Shards(made / "shards" / SMALL, "validation")
    assert not shards.opened
    alone = list(DataLoader(Images(Shards(made / "shards" / SMALL, "validation")), batch_size=50))
    workers = list(DataLoader(Images(shards), batch_size=50, num_workers=2))
    assert not shards.opened
    assert all(torch.equal(a, b) for x, y in zip(alone, workers, strict=True) for a, b in zip(x, y, strict=True))
    shards.will_need(0)
    assert list(shards.opened) == [0]
    again = pickle.loads(pickle.dumps(shards))
    assert not again.opened and again.jpeg(3) == shards.jpeg(3)


def change_index(folder: Path, **changes) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "imagenet-small: missing: call"),
        (lambda folder: (folder / "index.json").unlink(), "imagenet-small: not prepared to the end: call"),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json: not an index of imagenet-small"),
        (lambda folder: change_index(folder, format=3), "index.json: not an index of imagenet-small in format 2"),
        (lambda folder: change_index(folder, dataset="imagenet"), "not an index of imagenet-small"),
        (lambda folder: (folder / "training-0002.tar").unlink(), "training-0002.tar: missing"),
        (lambda folder: (folder / "validation-0000.tar").write_bytes(b"x"), "validation-0000.tar: 1 bytes, not "),
        (lambda folder: numpy.save(folder / "training.npy", numpy.zeros(3)), "training.npy: missing, or not of 320"),
    ],
)
def test_what_is_not_prepared_says_so_with_the_cure(folder, damage, said):
    damage(folder)
    with pytest.raises(UserError, match=rf"{said}.*`identity-mappings data prepare imagenet-small`"):
        Shards(folder, "training")


def test_verify_holds_shards_and_archives_together(folder):
    md5 = read_entry(SMALL).md5
    verify_shards(folder, md5)
    rows = numpy.load(folder / "training.npy")
    changed = rows.copy()
    changed["size"][-1] = 1 << 30
    numpy.save(folder / "training.npy", changed)
    with pytest.raises(UserError, match=r"training\.npy: not the rows that were prepared: remove "):
        verify_shards(folder, md5)
    numpy.save(folder / "training.npy", rows)
    change_index(folder, archives={"ILSVRC2012_img_train.tar": "0" * 32})
    with pytest.raises(UserError, match=r"index.json: made of other files than params/datasets.yaml pins: remove "):
        verify_shards(folder, md5)
