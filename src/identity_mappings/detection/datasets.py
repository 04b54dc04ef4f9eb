"""PASCAL VOC 2007 and 2012 and COCO 2014: their archives and MD5s, and the one form in which training reads them.

`voc-small` and `coco-small` have archives of the same names and layout, made by workflow/scripts/make_small_data.py.
Everything after them is one code: `prepare` checks the archives, unpacks them into data/detection/NAME, and writes
index.json.
"""

import contextlib
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torchvision.datasets import VOCDetection
from torchvision.ops import box_convert

from ..data.listing import download, dvc_md5, list_files, list_wrong
from ..errors import UserError
from ..parameters.load import read_entry
from ..records.files import json_bytes, write_atomically
from .scores import Boxes, read_coco

FORMAT, INDEX = 2, "index.json"
VOC_SPLITS = (("training", "2007", "trainval"), ("training", "2012", "trainval"), ("test", "2007", "test"))
COCO_SPLITS = {"training": "train2014", "test": "val2014"}


def list_problems(name: str, folder: Path) -> list[str]:
    """What is wrong with the archives of data/NAME, a line for each."""
    archives, script = read_entry(name).archives, f"make it with `python workflow/scripts/make_small_data.py {name}`"
    wrong = {file: list_wrong(folder / name, {file: archive.md5}) for file, archive in archives.items()}
    return [": ".join([*lines, archives[file].url or script]) for file, lines in wrong.items() if lines]


def fetch(name: str, folder: Path) -> str:
    """Get the archives of data/NAME through torchvision; what is right already is kept.

    Raises:
        UserError: no network, a file is not the published one, or a small set was not made yet.
    """
    entry = read_entry(name)
    if found := list_problems(name, folder):
        if not any(archive.url for archive in entry.archives.values()):
            raise UserError("\n".join(found))
        for file, archive in entry.archives.items():
            download(archive.url, folder / name / file, archive.md5)
    return f"{folder / name}: the archives are there: call `identity-mappings data prepare {name}`"


def prepare(name: str, folder: Path) -> str:
    """Unpack data/NAME into data/detection/NAME, and write its index; nothing where it is there.

    Raises:
        UserError: an archive is missing or damaged.
    """
    entry, target = read_entry(name), folder / "detection" / name
    pinned = {file: archive.md5 for file, archive in entry.archives.items()}
    with contextlib.suppress(UserError):
        read_index(name, folder, entry.model_dump())
        return f"{target}: prepared before"
    if found := list_problems(name, folder):
        raise UserError("\n".join([*found, f"{name}: `identity-mappings data fetch {name}` gets what is missing"]))
    (target / INDEX).unlink(missing_ok=True)
    for file in pinned:
        _unpack(folder / name / file, target)
    content = (_read_voc if entry.format == "voc" else _read_coco)(target)
    index = {"format": FORMAT, "archives": pinned, "files": list_files(target), **content}
    write_atomically(target / INDEX, json_bytes(index))
    return f"{target}: {len(content['training']):,} training and {len(content['test']):,} test images"


def _unpack(archive: Path, target: Path) -> None:
    """Extract an archive. Names are checked here, because Python before 3.11.4 has no filter for tar files."""
    is_zip = archive.suffix == ".zip"
    with zipfile.ZipFile(archive) if is_zip else tarfile.open(archive) as packed:
        for name in packed.namelist() if is_zip else packed.getnames():
            if not (target / name).resolve().is_relative_to(target.resolve()):
                raise UserError(f"{archive}: {name!r} leaves the folder: refused")
        packed.extractall(target)


def verify(name: str, folder: Path) -> str:
    """Check the archives, and every file that was unpacked.

    Raises:
        UserError: naming each that is missing or damaged.
    """
    entry, target, found = read_entry(name), folder / "detection" / name, []
    if not (target / INDEX).is_file() or (folder / name).is_dir():
        found += list_problems(name, folder)
    if (target / INDEX).is_file():
        found += list_wrong(target, read_index(name, folder, entry.model_dump())["files"])
    if found:
        raise UserError("\n".join([*found, f"{name} is not as published: remove {target} and prepare it again"]))
    return f"{name}: as published"


def read_index(name: str, folder: Path, pinned: Mapping[str, Any]) -> dict[str, Any]:
    """What `prepare` left of a dataset.

    Args:
        pinned: its entry in params/datasets.yaml, as that is now or as an experiment's parameters have it.

    Raises:
        UserError: it is not prepared, its index is damaged, or it is not the pinned one.
    """
    path, cure = folder / "detection" / name / INDEX, f"call `identity-mappings data prepare {name}`"
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        state = "damaged, or of another version" if path.is_file() else "missing"
        raise UserError(f"{path}: {state}: {name} is not prepared: {cure}")
    found = {"md5": dvc_md5(index["archives"]), "classes": len(index["classes"])}
    found |= {f"{split}_images": len(index[split]) for split in ("training", "test")}
    if wrong := {key: value for key, value in found.items() if pinned[key] != value}:
        expected = "not those of params/datasets.yaml"
        raise UserError(f"{path.parent}: not the pinned one: {wrong}, {expected}: remove it and {cure}")
    return index


def to_boxes(image: dict[str, Any]) -> Boxes:
    """The true objects of an image of the index."""
    return {
        "boxes": torch.tensor(image["boxes"], dtype=torch.float64).view(-1, 4),
        "labels": torch.tensor(image["labels"], dtype=torch.int64),
        "difficult": torch.tensor(image["difficult"], dtype=torch.bool),
    }


def _read_voc(target: Path) -> dict[str, list]:
    """Pixels of VOC are counted from 1, and a box has its last ones, too. Classes are in alphabetical order."""
    images: dict[str, list] = {"training": [], "test": []}
    for split, year, listed_in in VOC_SPLITS:
        if not (target / "VOCdevkit" / f"VOC{year}").is_dir():
            continue  # voc-small has 2007 alone
        listed = VOCDetection(target, year, listed_in)
        for path, annotation in zip(map(Path, listed.images), listed.annotations, strict=True):
            described = VOCDetection.parse_voc_xml(ElementTree.parse(annotation).getroot())["annotation"]
            things, ends = described["object"], ("xmin", "ymin", "xmax", "ymax")
            bounds = [[float(thing["bndbox"][end]) for end in ends] for thing in things]
            images[split].append({
                "id": path.stem, "file": path.relative_to(target).as_posix(),
                "width": int(described["size"]["width"]), "height": int(described["size"]["height"]),
                "boxes": [[left - 1, top - 1, right, bottom] for left, top, right, bottom in bounds],
                "labels": [thing["name"] for thing in things],
                "difficult": [int(thing.get("difficult") or 0) for thing in things],
            })  # fmt: skip
    every = [image for split in images.values() for image in split]
    classes = sorted({name for image in every for name in image["labels"]})
    for image in every:
        image["labels"] = [1 + classes.index(name) for name in image["labels"]]
    return {"classes": classes, "categories": list(range(1, len(classes) + 1)), **images}


def _read_coco(target: Path) -> dict[str, list]:
    """A few boxes have no area: left out. A crowd is no box to learn, as a difficult object of VOC."""
    index = {}
    for split, name in COCO_SPLITS.items():
        annotated = read_coco(target / "annotations" / f"instances_{name}.json")
        labels = {category: label for label, category in enumerate(sorted(annotated.cats), 1)}
        index[split] = []
        for number, image in sorted(annotated.imgs.items()):
            things = [thing for thing in annotated.imgToAnns[number] if min(thing["bbox"][2:]) > 0]
            boxes = torch.tensor([thing["bbox"] for thing in things], dtype=torch.float64).view(-1, 4)
            index[split].append({
                "id": number, "file": f"{name}/{image['file_name']}",
                "width": image["width"], "height": image["height"],
                "boxes": box_convert(boxes, "xywh", "xyxy").tolist(),
                "labels": [labels[thing["category_id"]] for thing in things],
                "difficult": [thing["iscrowd"] for thing in things],
            })  # fmt: skip
    return {"classes": [annotated.cats[category]["name"] for category in labels], "categories": list(labels), **index}
