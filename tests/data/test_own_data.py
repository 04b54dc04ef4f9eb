"""Your own data: an entry in params/datasets.yaml, one command, training and test; and what is said of bad input."""

import io
import json
import re
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from PIL import Image

from identity_mappings.cli import main
from identity_mappings.data import prepare
from identity_mappings.data.images import load_images, read_arrays
from identity_mappings.data.listing import dvc_md5, list_files
from identity_mappings.data.shards import Shards, describe, write_shards
from identity_mappings.data.sources import ImageFolder
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.parameters.datasets import Dataset

CLASSES = ("cat", "dog", "owl")
ENTRIES = """
pets: # a comment stays
  format: images
  size: 32
squares:
  format: arrays
"""
EXPERIMENTS = """
pets-resnet10: {dataset: pets, recipe: pets, network: {family: imagenet, depth: 10}}
squares-resnet8: {dataset: squares, recipe: squares, network: {depth: 8}}
"""
SHORT = {"batch_size": 8, "batch_norm_samples": 4, "iterations": 4, "learning_rate": {0: 0.01}, "evaluate_every": 4,
         "log_every": 2, "cpu_threads": 1}  # fmt: skip
ENTRY = Dataset(format="images", size=32)


def write(data: Path) -> str:
    """Prepare data/pets, which no file pins; returns what the shards hold."""
    return describe(write_shards(lambda: ImageFolder("pets", data, ENTRY), data / "shards/pets", None)[0])


def encode(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def make_image(seed: int) -> Image.Image:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (40 + seed % 7, 50, 3), dtype="uint8")
    return Image.fromarray(pixels)


def make_folder(root: Path) -> None:
    """Three classes of four and two images; a grey, a CMYK and a PNG image among them."""
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = make_image(10 * label + number)
                content = encode(image.convert("L") if number == 1 else image)
                (root / split / name / f"{number}.jpg").write_bytes(content)
    (root / "train/cat/0.jpg").write_bytes(encode(make_image(1).convert("CMYK")))
    (root / "train/dog/0.jpg").write_bytes(encode(make_image(2), "PNG"))


def make_arrays(**changes) -> dict[str, numpy.ndarray]:
    numbers = numpy.random.default_rng(1)
    arrays = {
        "training_images": numbers.integers(0, 256, (20, 16, 16, 3), dtype="uint8"),
        "training_labels": numpy.arange(20) % 4,
        "test_images": numbers.integers(0, 256, (8, 16, 16, 3), dtype="uint8"),
        "test_labels": numpy.arange(8) % 4,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def write_arrays(root: Path, **changes) -> None:
    root.mkdir(parents=True, exist_ok=True)
    numpy.savez(root / "squares.npz", **make_arrays(**changes))


@pytest.fixture(scope="module")
def project(project_copy, tmp_path_factory):
    """A copy of the project with both datasets prepared by the command, as a user does it."""
    made = project_copy(tmp_path_factory.mktemp("own") / "project")
    with (made.root / "params/datasets.yaml").open("a") as file:
        file.write(ENTRIES)
    (made.root / "params/experiments/own.yaml").write_text(EXPERIMENTS)
    for name, base, changes in (
        ("pets", "he2016-imagenet", {"crop_size": 32, "shorter_side": [36, 48], "decoder": "pillow"}),
        ("squares", "he2016-cifar", {}),
    ):
        recipe = yaml.safe_load((made.root / f"params/recipes/{base}.yaml").read_text())
        (made.root / f"params/recipes/{name}.yaml").write_text(yaml.safe_dump(recipe | SHORT | changes))
    make_folder(made.root / "data/pets")
    write_arrays(made.root / "data/squares")
    with pytest.raises(UserError, match=r"own.yaml: pets-resnet10.dataset: pets is not prepared yet: call .* prepare"):
        load(made.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.root)
        assert main(["data", "prepare", "pets"]) == 0
        assert main(["data", "prepare", "squares"]) == 0
    return made


@pytest.fixture
def here(project, monkeypatch) -> Path:
    monkeypatch.chdir(project.root)
    return project.root


def test_the_command_fills_in_the_entry_and_data_dvc(here):
    text = (here / "params/datasets.yaml").read_text()
    md5 = {name: dvc_md5(list_files(here / "data" / name)) for name in ("pets", "squares")}
    assert text.endswith(
        f"""
pets: # a comment stays
  format: images
  size: 32
  md5: {md5["pets"]}
  classes: 3
  channels: 3
  training_images: 12
  test_images: 6
squares:
  format: arrays
  md5: {md5["squares"]}
  classes: 4
  channels: 3
  size: 16
  training_images: 20
  test_images: 8
"""
    )
    outs = {out["path"]: out["md5"] for out in yaml.safe_load((here / "data.dvc").read_text())["outs"]}
    assert len(outs) == 5 and {name: outs[f"data/{name}"] for name in md5} == md5


def test_a_second_call_changes_nothing_and_verify_finds_a_change(here, capsys):
    files = [here / name for name in ("params/datasets.yaml", "data.dvc", "data/shards/pets/index.json")]
    before = [path.read_bytes() for path in files]
    for name in ("pets", "squares"):
        assert main(["data", "prepare", name]) == 0 and main(["data", "verify", name]) == 0
    assert [path.read_bytes() for path in files] == before
    said = capsys.readouterr().out
    assert "prepared before; " in said and "1 CMYK and 1 PNG images are converted to RGB" in said
    assert "data/pets: as pinned; data/shards/pets: as it was prepared" in said and "data/squares: as pinned" in said
    extra = here / "data/pets/val/owl/9.jpg"
    extra.write_bytes(b"more")
    try:
        assert main(["data", "verify", "pets"]) == 2
        assert "data/pets: its hash is" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"not the pinned images: their hash is .*dvc checkout data/pets"):
            ImageFolder("pets", Path("data"), load().datasets["pets"])
    finally:
        extra.unlink()


def test_the_shards_have_every_image_with_its_label(here):
    for split, place in (("training", "train"), ("validation", "val")):
        shards = Shards(here / "data/shards/pets", split)
        found = {shards.name(n).split(": ")[1]: (shards.jpeg(n), int(shards.labels[n])) for n in range(len(shards))}
        assert found == {
            f"{name}/{path.name}": (path.read_bytes(), label)
            for label, name in enumerate(CLASSES)
            for path in (here / "data/pets" / place / name).iterdir()
        }


def test_the_format_is_in_no_digest_but_that_of_arrays(here):
    project = load()
    assert "format" not in project.resolve_dataset("pets") | project.resolve_dataset("cifar10")
    assert project.resolve_dataset("squares")["format"] == "arrays"


@pytest.mark.parametrize(("name", "protocol"), [("pets-resnet10", "centre-224"), ("squares-resnet8", "single-view")])
def test_networks_are_trained_and_tested_on_it(here, name, protocol):
    words = [name, "--device", "cpu", "--seed", "0"]
    threads = torch.get_num_threads()
    try:
        assert main(["train", *words]) == 0
        assert main(["evaluate", *words, "--protocol", protocol]) == 0
    finally:
        torch.set_num_threads(threads)
    [record] = (here / "results/runs").glob(f"{name}-*/seed0")
    tested = json.loads((record / f"evaluation-{protocol}.json").read_text())
    assert tested["images"] == {"pets-resnet10": 6, "squares-resnet8": 8}[name] and 0 <= tested["test_error"] <= 100


def test_a_recipe_of_another_kind_of_images_is_refused(here):
    path = here / "params/experiments/wrong.yaml"
    path.write_text("wrong: {dataset: squares, recipe: pets, network: {family: imagenet, depth: 18}}\n")
    try:
        with pytest.raises(
            UserError, match=r"wrong: the images of squares are in memory, its recipe is for images decoded"
        ):
            load().resolve("wrong")
    finally:
        path.unlink()


def test_changed_images_that_are_not_pinned_yet_are_prepared_anew(tmp_path):
    make_folder(tmp_path / "pets")
    write(tmp_path)
    target = tmp_path / "shards/pets"
    before = Shards(target, "training").md5
    (target / "mean-32-pillow.npy").write_bytes(b"of the images of before")
    (target / "training-0004.tar").write_bytes(b"a shard too many")
    (tmp_path / "pets/train/cat/4.jpg").write_bytes(encode(make_image(7)))
    assert "13 training images in 4 shards" in write(tmp_path)
    shards = Shards(target, "training")
    assert shards.md5 != before and len(shards) == 13
    assert len(list(target.glob("training-*.tar"))) == 4 and not list(target.glob("mean-*"))


def test_dotfiles_are_not_seen(tmp_path):
    """What macOS, Jupyter and Windows Explorer's friends leave, wherever it lies, and whatever it is."""
    make_folder(tmp_path / "pets")
    write(tmp_path)
    index = json.loads((tmp_path / "shards/pets/index.json").read_text())
    for place in (".", "train", "val", "train/cat"):
        for name in (".DS_Store", "._0.jpg"):
            (tmp_path / "pets" / place / name).write_bytes(b"no image")
        (tmp_path / "pets" / place / ".ipynb_checkpoints").mkdir()
        (tmp_path / "pets" / place / ".ipynb_checkpoints/0-checkpoint.jpg").write_bytes(b"no image")
    write(tmp_path)
    assert json.loads((tmp_path / "shards/pets/index.json").read_text()) == index
    write_arrays(tmp_path / "squares")
    (tmp_path / "squares/.DS_Store").write_bytes(b"no arrays")
    assert list(list_files(tmp_path / "squares")) == ["squares.npz"]
    assert len(read_arrays("squares", None, tmp_path).training) == 20


def remove(path: Path) -> None:
    for inside in path.iterdir() if path.is_dir() else ():
        remove(inside)
    path.rmdir() if path.is_dir() else path.unlink()


BAD_FOLDERS = {
    "no val": (lambda root: remove(root / "val"), r"pets/val: missing: put a folder for each class there"),
    "a class missing in val": (
        lambda root: remove(root / "val/dog"), r"pets/val/dog: missing: train has the class 'dog', val has not: give"
    ),
    "a class missing in train": (lambda root: remove(root / "train/owl"), r"train/owl: missing: val has the class"),
    "an empty class": (
        lambda root: [remove(path) for path in (root / "train/cat").iterdir()], r"train/cat: no images of this class"
    ),
    "one class": (
        lambda root: [remove(root / split / name) for split in ("train", "val") for name in ("cat", "dog")],
        r"pets/train: 1 folders of classes: a network needs at least two",
    ),
    "a class twice": (
        lambda root: (root / "train/owl").rename(root / "train/Cat"), r"train/cat: the class 'Cat' differs only in"
    ),
    "a file among the classes": (lambda root: (root / "train/list.csv").write_text("x"), r"list.csv: not a folder"),
    "a folder in a class": (lambda root: (root / "val/cat/more").mkdir(), r"val/cat/more: a folder inside the class"),
    "a broken link": (lambda root: (root / "val/cat/x.jpg").symlink_to("nowhere"), r"x.jpg: No such file.*or remove"),
    "no image": (
        lambda root: (root / "val/cat/x.jpg").write_text("text"), r"val/cat/x.jpg: no JPEG or PNG.*: convert it to JPEG"
    ),
    "a GIF": (
        lambda root: (root / "val/cat/x.gif").write_bytes(encode(make_image(1), "GIF")), r"x.gif: no JPEG or PNG.*"
    ),
    "a truncated image": (
        lambda root: (root / "val/cat/0.jpg").write_bytes(encode(make_image(1))[:-50]), r"cat/0.jpg: no JPEG.*truncated"
    ),
    "a long name": (
        lambda root: (root / "val/cat" / f"{'x' * 150}.jpg").write_bytes(encode(make_image(1))), r"its name is too long"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_named_with_the_cure(tmp_path, change, said):
    make_folder(tmp_path / "pets")
    change(tmp_path / "pets")
    with pytest.raises(UserError, match=said) as error:
        write(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "shards/pets/index.json").exists()


@pytest.mark.parametrize(
    "shape", [(20, 3, 16, 16), (20, 16, 16, 3), (20, 16, 16), (20, 1, 16, 16), (20, 16, 16, 1)], ids=str
)
def test_arrays_are_taken_in_either_layout(tmp_path, shape):
    pixels = numpy.random.default_rng(2).integers(0, 256, shape, dtype="uint8")
    names = {"x_train": pixels, "y_train": (numpy.arange(20) % 4)[:, None], "x_test": pixels[:8]}
    write_arrays(
        tmp_path / "squares", **dict.fromkeys(make_arrays()), **names, y_test=numpy.arange(8, dtype="uint8") % 4
    )
    md5 = dvc_md5(list_files(tmp_path / "squares"))
    channels = 3 if 3 in shape else 1
    dataset = {"format": "arrays", "channels": channels, "size": 16, "training_images": 20, "test_images": 8}
    images = load_images({"name": "squares", "md5": md5, **dataset}, tmp_path)
    assert images.training.shape == (20, channels, 16, 16) and images.training_labels.tolist() == [*range(4)] * 5
    axes = (0, 3, 1, 2) if shape[-1] in (1, 3) else range(len(shape))
    assert numpy.array_equal(images.training.numpy(), pixels.transpose(axes).reshape(20, channels, 16, 16))
    with pytest.raises(UserError, match=r"squares.npz: not the pinned file: .*dvc checkout"):
        load_images({"name": "squares", "md5": "0" * 32 + ".dir", **dataset}, tmp_path)


BAD_ARRAYS = {
    "no test labels": ({"test_labels": None}, r"no array test_labels in it, only training_images, .*: add or rename"),
    "floats": ({"training_images": numpy.zeros((20, 16, 16, 3))}, r"training_images: float64 of shape .* be uint8"),
    "four channels": ({"test_images": numpy.zeros((8, 16, 16, 4), "uint8")}, r"test_images: uint8 of shape \(8, 16,"),
    "flat": ({"test_images": numpy.zeros((8, 768), "uint8")}, r"test_images: uint8 of shape \(8, 768\): it must be"),
    "not square": ({"test_images": numpy.zeros((8, 3, 16, 20), "uint8")}, r"images of 16 x 20 pixels: crop"),
    "two sizes": ({"test_images": numpy.zeros((8, 8, 8, 3), "uint8")}, r"training images are \(3, 16, 16\), test"),
    "too few labels": ({"test_labels": numpy.arange(7)}, r"int64 of shape \(7,\): .* each of the 8 images"),
    "float labels": ({"test_labels": numpy.arange(8.0)}, r"test_labels: float64 .* must be integers"),
    "a negative label": ({"test_labels": numpy.arange(8) % 4 - 1}, r"test_labels: -1 is below 0: number the classes"),
    "a class without test images": ({"test_labels": numpy.arange(8) % 3}, r"test_labels: no image of class 3: labels"),
    "a gap": ({"training_labels": numpy.arange(20) % 4 * 2}, r"training_labels: no image of class 1"),
    "objects": ({"test_labels": numpy.array([object()] * 8)}, r"no .npz file of plain arrays"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_named_with_the_cure(tmp_path, monkeypatch, changes, said):
    write_arrays(tmp_path / "squares", **changes)
    monkeypatch.setattr(prepare, "read_entry", lambda name: Dataset(format="arrays"))
    with pytest.raises(UserError, match=rf"squares.npz: .*{said}") as error:
        prepare.prepare("squares", tmp_path)
    assert "\n" not in str(error.value)


def test_missing_and_other_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "read_entry", lambda name: Dataset(format="arrays"))
    for action in (prepare.fetch, prepare.prepare, prepare.verify):
        with pytest.raises(UserError, match=r"squares: (missing|there is nothing): put "):
            action("squares", tmp_path)
    write_arrays(tmp_path / "squares")
    (tmp_path / "squares/readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"squares: there is readme.txt, squares.npz: put one .npz file there"):
        prepare.prepare("squares", tmp_path)
    (tmp_path / "squares/readme.txt").unlink()
    (tmp_path / "squares/squares.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match=r"squares.npz: no .npz file of plain arrays .*: write it with numpy.savez"):
        prepare.prepare("squares", tmp_path)


BAD_ENTRIES = {
    "format: image": r"own.format: .*'images'",
    "size: 32": r"own: a dataset needs either a format",
    "format: images": r"own: format: images needs size",
    "{format: images, size: 32, md5: a.dir}": r"own: classes, channels, .* belong to an md5",
    "format: imagenet": r"own: archives belong to format: imagenet",
    "format: cifar": r"own: classes, channels",
}


@pytest.mark.parametrize(("entry", "said"), BAD_ENTRIES.items())
def test_a_bad_entry_is_one_line(tmp_path, monkeypatch, entry, said):
    (tmp_path / "params").mkdir()
    (tmp_path / "params/datasets.yaml").write_text(f"own: {entry}\n" if "{" in entry else f"own:\n  {entry}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"params/datasets.yaml: {said}") as error:
        prepare.prepare("own", tmp_path)
    assert "\n" not in str(error.value)


def test_an_entry_that_says_otherwise_or_has_no_room_is_not_written_to(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    path = tmp_path / "params/datasets.yaml"
    monkeypatch.chdir(tmp_path)
    write_arrays(tmp_path / "data/squares")
    for text, said in (
        ("squares:\n  format: arrays\n  classes: 5\n", "squares: the files have classes: 4: correct the entry"),
        ("squares: {format: arrays}\n", "write its keys on lines of their own, two spaces in, and add:\n  md5: "),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=re.escape(said)):
            prepare.prepare("squares", Path("data"))
        assert path.read_text() == text
