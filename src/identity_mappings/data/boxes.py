"""Images with boxes, of PASCAL VOC 2007 and 2012 and COCO 2014: unpacked, in one form, and read.

`voc-small` and `coco-small` have archives of the same names and layout, made by workflow/scripts/make_small_data.py.
An image of the index is {"id", "file", "width", "height", "boxes", "labels", "difficult"}: boxes are left, top, right,
bottom in pixels, labels count from 1.
"""

import contextlib
import json
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VOCDetection
from torchvision.transforms.functional import pil_to_tensor

from ..errors import UserError
from ..parameters.datasets import Dataset
from ..records.files import json_bytes, write_atomically
from .listing import dvc_md5, list_files, list_wrong
from .sources import require_archives

FORMAT, INDEX = 2, "index.json"
VOC_SPLITS = (("training", "2007", "trainval"), ("training", "2012", "trainval"), ("test", "2007", "test"))
COCO_SPLITS = {"training": "train2014", "test": "val2014"}
Boxes = dict[str, Tensor]  # torchvision's: {"boxes": (K, 4), "labels": (K)}, and "scores" or "difficult": (K)


def prepare_boxes(name: str, folder: Path, entry: Dataset) -> str:
    """Unpack data/NAME into data/detection/NAME, and write its index; nothing where it is there.

    Raises:
        UserError: an archive is missing or damaged.
    """
    target, pinned = folder / "detection" / name, {file: a.md5 for file, a in (entry.archives or {}).items()}
    with contextlib.suppress(UserError):
        read_boxes(name, folder, entry.model_dump())
        return f"{target}: prepared before"
    require_archives(name, folder, entry)
    if found := list_wrong(folder / name, pinned):
        raise UserError("\n".join([*found, f"{name}: `identity-mappings data fetch {name}` gets what is damaged"]))
    (target / INDEX).unlink(missing_ok=True)
    for file in pinned:
        _unpack(folder / name / file, target)
    content = (_list_voc if entry.format == "voc" else _list_coco)(target)
    index = {"format": FORMAT, "archives": pinned, "files": list_files(target), **content}
    write_atomically(target / INDEX, json_bytes(index))
    return f"{target}: {len(content['training']):,} training and {len(content['test']):,} test images"


def _unpack(archive: Path, target: Path) -> None:
    """Extract an archive. Names are checked here, because Python before 3.11.4 has no filter for tar files."""
    packed: Any
    with zipfile.ZipFile(archive) if archive.suffix == ".zip" else tarfile.open(archive) as packed:
        for name in packed.namelist() if archive.suffix == ".zip" else packed.getnames():
            if not (target / name).resolve().is_relative_to(target.resolve()):
                raise UserError(f"{archive}: {name!r} leaves the folder: refused")
        packed.extractall(target)


def verify_boxes(name: str, folder: Path, entry: Dataset) -> None:
    """Check every file that was unpacked.

    Raises:
        UserError: naming each that is missing or damaged.
    """
    target = folder / "detection" / name
    if found := list_wrong(target, read_boxes(name, folder, entry.model_dump())["files"]):
        raise UserError("\n".join([*found, f"{name} is not as it was unpacked: remove {target} and prepare it again"]))


def read_boxes(name: str, folder: Path, pinned: dict[str, Any]) -> dict[str, Any]:
    """The index of a prepared dataset: its classes, and the images of "training" and "test".

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


def get_objects(image: dict[str, Any]) -> Boxes:
    """The true objects of an image of the index, with "difficult": whether to ignore them."""
    return {
        "boxes": torch.tensor(image["boxes"], dtype=torch.float64).view(-1, 4),
        "labels": torch.tensor(image["labels"], dtype=torch.int64),
        "difficult": torch.tensor(image["difficult"], dtype=torch.bool),
    }


def read_pixels(folder: Path, image: dict[str, Any]) -> Tensor:
    """An image of the index of data/detection/NAME as float32 (3, H, W), in 0 to 255.

    Raises:
        UserError: it is missing, damaged, or of another size.
    """
    path = folder / image["file"]
    try:
        pixels = pil_to_tensor(Image.open(path).convert("RGB")).float()
    except OSError as error:
        cure = f"`identity-mappings data verify {folder.name}` names what is damaged"
        raise UserError(f"{path}: missing or damaged ({error}): {cure}") from None
    if pixels.shape[1:] != (image["height"], image["width"]):
        raise UserError(f"{path}: of another size than its annotation says: prepare {folder.name} again")
    return pixels


def _list_voc(target: Path) -> dict[str, list]:
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


def _list_coco(target: Path) -> dict[str, list]:
    """A few boxes have no area: left out. A crowd is no box to learn, as a difficult object of VOC."""
    index: dict[str, list] = {}
    for split, name in COCO_SPLITS.items():
        annotated = json.loads((target / "annotations" / f"instances_{name}.json").read_bytes())
        categories = {category["id"]: category["name"] for category in annotated["categories"]}
        labels, things = {category: label for label, category in enumerate(sorted(categories), 1)}, defaultdict(list)
        for thing in annotated["annotations"]:
            if min(thing["bbox"][2:]) > 0:
                things[thing["image_id"]].append(thing)
        index[split] = [
            {
                "id": image["id"], "file": f"{name}/{image['file_name']}",
                "width": image["width"], "height": image["height"],
                "boxes": [[x, y, x + w, y + h] for x, y, w, h in (thing["bbox"] for thing in things[image["id"]])],
                "labels": [labels[thing["category_id"]] for thing in things[image["id"]]],
                "difficult": [thing["iscrowd"] for thing in things[image["id"]]],
            }
            for image in sorted(annotated["images"], key=lambda image: image["id"])
        ]  # fmt: skip
    return {"classes": [categories[category] for category in labels], "categories": list(labels), **index}
