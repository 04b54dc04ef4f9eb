"""Archives in VOC's and COCO's layout: pinned, prepared, and what is wrong with them named."""

import hashlib
import json
import re
import tarfile

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

import make_small_data
import small_detection
from identity_mappings.data import boxes
from identity_mappings.data import prepare as preparing
from identity_mappings.data.listing import dvc_md5
from identity_mappings.data.prepare import fetch, list_problems, prepare, verify
from identity_mappings.errors import UserError
from identity_mappings.parameters import load
from identity_mappings.parameters.load import read_entry

VOC_TEST = "VOCtest_06-Nov-2007.tar"


def make(name: str, folder) -> None:
    make_small_data.make(name, folder)
    prepare(name, folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("voc-small", "coco-small"):
        make(name, folder)
    return folder


def test_vocs_archives_are_those_that_torchvision_checks():
    used = (DATASET_YEAR_DICT[year] for year in ("2007", "2007-test", "2012"))
    published = {entry["filename"]: (entry["md5"], entry["url"]) for entry in used}
    archives = read_entry("voc-0712").archives
    assert {file: (archive.md5, archive.url) for file, archive in archives.items()} == published


def test_the_hash_of_a_dataset_is_that_of_its_archives(root_of_project):
    for entry in load(root_of_project).datasets.values():
        if entry.has_boxes:
            assert entry.md5 == dvc_md5({file: archive.md5 for file, archive in entry.archives.items()})
            assert len(entry.archives) == 3 or entry.format == "voc"


@pytest.mark.parametrize("name", ["voc-small", "coco-small"])
def test_small_archives_are_the_pinned_bytes_each_time(name):
    found = {file: hashlib.md5(content).hexdigest() for file, content in small_detection.archives(name).items()}
    assert found == {file: archive.md5 for file, archive in read_entry(name).archives.items()}


def test_both_layouts_give_the_same_objects(prepared, root_of_project):
    pinned = load(root_of_project).datasets
    both = {}
    for name in ("voc-small", "coco-small"):
        index = boxes.read_boxes(name, prepared, pinned[name].model_dump())
        both[name] = index
    for split in ("training", "test"):
        voc, coco = (both[name][split] for name in both)
        assert len(voc) == len(coco) > 10
        for one, other in zip(voc, coco, strict=True):
            assert (one["boxes"], one["labels"]) == (other["boxes"], other["labels"])
            assert int(one["id"]) == other["id"]
            assert all(0 <= b[0] < b[2] <= one["width"] and 0 <= b[1] < b[3] <= one["height"] for b in one["boxes"])
    assert {label for image in both["voc-small"]["training"] for label in image["labels"]} == {1, 2, 3}
    assert sum(sum(image["difficult"]) for image in both["voc-small"]["test"]) > 0
    assert both["coco-small"]["categories"] == [2, 5, 9]


def test_prepared_once_and_verified(prepared):
    assert prepare("voc-small", prepared).endswith("prepared before")
    target = prepared / "detection" / "voc-small"
    assert verify("voc-small", prepared) == f"{prepared / 'voc-small'}: as published; {target}: as it was prepared"


@pytest.mark.parametrize("name", ["voc-0712", "coco-2014"])
def test_missing_archives_are_named_with_their_addresses(name, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(name, tmp_path)
    for file, archive in read_entry(name).archives.items():
        assert f"{tmp_path / name / file}: missing: {archive.url}" in str(caught.value)


@pytest.mark.parametrize("name", ["voc-small", "coco-small"])
@pytest.mark.parametrize("get", [fetch, prepare])
def test_a_small_set_that_is_not_made_yet_names_its_script(name, get, tmp_path):
    script = f"python workflow/scripts/make_small_data.py {name}"
    with pytest.raises(UserError, match=f"missing\n{name}: make them with `{script}`"):
        get(name, tmp_path)


def test_a_damaged_archive_is_named(tmp_path):
    make_small_data.make("coco-small", tmp_path)
    path = tmp_path / "coco-small" / "val2014.zip"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    [found] = list_problems("coco-small", tmp_path)
    assert found.startswith(f"{path}: MD5 ") and "damaged, or another file" in found
    with pytest.raises(UserError, match=r"val2014.zip: MD5 .*: damaged"):
        verify("coco-small", tmp_path)


def test_damaged_and_missing_images_are_named(tmp_path):
    make("voc-small", tmp_path)
    folder = tmp_path / "detection" / "voc-small"
    images = sorted(folder.rglob("*.jpg"))
    images[0].write_bytes(b"no image")
    images[1].unlink()
    with pytest.raises(UserError) as caught:
        verify("voc-small", tmp_path)
    assert re.search(rf"{images[0]}: MD5 .*: damaged", str(caught.value))
    assert f"{images[1]}: missing" in str(caught.value)
    assert "remove" in str(caught.value) and "prepare it again" in str(caught.value)


def test_an_index_that_is_no_index_is_refused(tmp_path, root_of_project):
    make("voc-small", tmp_path)
    pinned = load(root_of_project).datasets["voc-small"].model_dump()
    path = tmp_path / "detection" / "voc-small" / boxes.INDEX
    for content in ("{", "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"index.json: damaged"):
            boxes.read_boxes("voc-small", tmp_path, pinned)
    path.unlink()
    with pytest.raises(UserError, match=r"not prepared: call `identity-mappings data prepare voc-small`"):
        boxes.read_boxes("voc-small", tmp_path, pinned)


def test_other_archives_than_the_pinned_are_refused(tmp_path, root_of_project):
    make("voc-small", tmp_path)
    pinned = load(root_of_project).datasets["voc-small"].model_dump()
    with pytest.raises(UserError, match="not the pinned one"):
        boxes.read_boxes("voc-small", tmp_path, {**pinned, "md5": "0" * 32 + ".dir"})
    path = tmp_path / "detection" / "voc-small" / boxes.INDEX
    index = json.loads(path.read_bytes())
    path.write_text(json.dumps({**index, "test": index["test"][1:]}))
    with pytest.raises(UserError, match=r"not those of params/datasets.yaml"):
        boxes.read_boxes("voc-small", tmp_path, pinned)


def test_a_member_that_leaves_the_folder_is_refused(tmp_path, monkeypatch):
    make_small_data.make("voc-small", tmp_path)
    path = tmp_path / "voc-small" / VOC_TEST
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("../Annotations/evil.xml"))
    entry = read_entry("voc-small")
    changed = entry.archives[VOC_TEST].model_copy(update={"md5": hashlib.md5(path.read_bytes()).hexdigest()})
    entry = entry.model_copy(update={"archives": {**entry.archives, VOC_TEST: changed}})
    monkeypatch.setattr(preparing, "read_entry", lambda _: entry)
    with pytest.raises(UserError, match=r"evil.xml' leaves the folder: refused"):
        prepare("voc-small", tmp_path)
    assert not (tmp_path / "detection" / "Annotations").exists()
