"""PASCAL VOC 2007 and 2012 and COCO 2014: their archives and MD5s, and the one form in which training reads them.

`voc-small` and `coco-small` have archives of the same names and layout, made by `detection.small`. Everything after
them is one code: `prepare` checks the archives, unpacks them into data/detection/NAME, and writes index.json.
"""

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torchvision.datasets.voc import DATASET_YEAR_DICT, VOCDetection
from torchvision.ops import box_convert

from ..data.listing import download, dvc_md5, list_files, list_wrong
from ..errors import UserError
from ..records.files import json_bytes, write_atomically
from .evaluation import Boxes, read_coco

FORMAT, INDEX = 2, "index.json"
VOC_TRAINING, VOC_TEST = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"
COCO_TRAINING, COCO_TEST, COCO_BOXES = "train2014.zip", "val2014.zip", "annotations_trainval2014.zip"
COCO_SPLITS = {"training": "train2014", "test": "val2014"}
PUBLISHED_VOC = [DATASET_YEAR_DICT[key] for key in ("2007", "2007-test", "2012")]


@dataclass(frozen=True)
class Layout:
    """A dataset's archives.

    Attributes:
        kind: "voc" or "coco".
        files: archive to MD5. VOC's are those that torchvision checks; COCO publishes none: its are those that others
            have noted (LAVIS, torch.datasets of R, Ludwig), and the ETag of its server.
        urls: archive to address; none: made by the project.
        years: of VOC, whose "trainval" images are trained on; the test is that of 2007.
        classes: of VOC; COCO's annotations name its own.
    """

    kind: str
    files: dict[str, str]
    urls: dict[str, str]
    years: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def md5(self) -> str:
        return dvc_md5(self.files)


LAYOUTS = {
    "voc-0712": Layout(
        "voc",
        {archive["filename"]: archive["md5"] for archive in PUBLISHED_VOC},
        {archive["filename"]: archive["url"] for archive in PUBLISHED_VOC},
        ("2007", "2012"),
        (
            "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
            "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
        ),
    ),
    "coco-2014": Layout(
        "coco",
        {
            COCO_TRAINING: "0da8c0bd3d6becc4dcb32757491aca88",
            COCO_TEST: "a3d79f5ed8d289b7a7554ce06a5782b3",
            COCO_BOXES: "0a379cfc70b0e71301e0f377548639bd",
        },
        {
            COCO_TRAINING: f"http://images.cocodataset.org/zips/{COCO_TRAINING}",
            COCO_TEST: f"http://images.cocodataset.org/zips/{COCO_TEST}",
            COCO_BOXES: f"http://images.cocodataset.org/annotations/{COCO_BOXES}",
        },
    ),
    "voc-small": Layout(
        "voc",
        {VOC_TRAINING: "2f56698c7bdfc9e89e03cb7312adf33f", VOC_TEST: "5a84b0b5cbf85d392212a924815744bb"},
        {},
        ("2007",),
        ("circle", "square", "triangle"),
    ),
    "coco-small": Layout(
        "coco",
        {
            COCO_TRAINING: "0ecc9c96ca5a2ac82755f4f84b061292",
            COCO_TEST: "a88c46e316c929ca795d4b65af6b6c0c",
            COCO_BOXES: "f0da5a5e61035cc174b05e886d3cc0fc",
        },
        {},
    ),
}  # fmt: skip


def problems(name: str, folder: Path) -> list[str]:
    """What is wrong with the archives of data/NAME, a line for each."""
    layout = LAYOUTS[name]
    found = {file: list_wrong(folder / name, {file: md5}) for file, md5 in layout.files.items()}
    return [": ".join([*lines, layout.urls.get(file, "made by the project")]) for file, lines in found.items() if lines]


def fetch(name: str, folder: Path) -> str:
    """Get the archives of data/NAME through torchvision, or make the small ones; what is right already is kept.

    Raises:
        UserError: no network, or a file is not the published one.
    """
    layout = LAYOUTS[name]
    if problems(name, folder):
        for file, url in layout.urls.items():
            download(url, folder / name / file, layout.files[file])
        if not layout.urls:
            from . import small

            small.make(name, folder)
    return f"{folder / name}: the archives are there: call `identity-mappings data prepare {name}`"


def prepare(name: str, folder: Path) -> str:
    """Unpack data/NAME into data/detection/NAME, and write its index; nothing where it is there.

    Raises:
        UserError: an archive is missing or damaged.
    """
    layout, target = LAYOUTS[name], folder / "detection" / name
    if (target / INDEX).is_file() and read_index(name, folder)["archives"] == layout.files:
        return f"{target}: prepared before"
    if not layout.urls:
        fetch(name, folder)
    if found := problems(name, folder):
        raise UserError("\n".join([*found, f"{name}: `identity-mappings data fetch {name}` gets what is missing"]))
    (target / INDEX).unlink(missing_ok=True)
    for file in layout.files:
        try:
            options = {"filter": "data"} if file.endswith(".tar") else {}  # of a zip no path leaves the folder anyway
            shutil.unpack_archive(folder / name / file, target, **options)
        except tarfile.FilterError as error:
            raise UserError(f"{folder / name / file}: {error.tarinfo.name!r} leaves the folder: refused") from None
    content = _read_voc(layout, target) if layout.kind == "voc" else _read_coco(target)
    index = {"format": FORMAT, "archives": layout.files, "files": list_files(target), **content}
    write_atomically(target / INDEX, json_bytes(index))
    return f"{target}: {len(content['training']):,} training and {len(content['test']):,} test images"


def verify(name: str, folder: Path) -> str:
    """Check the archives, and every file that was unpacked.

    Raises:
        UserError: naming each that is missing or damaged.
    """
    target, found = folder / "detection" / name, []
    if not (target / INDEX).is_file() or (folder / name).is_dir():
        found += problems(name, folder)
    if (target / INDEX).is_file():
        found += list_wrong(target, read_index(name, folder)["files"])
    if found:
        raise UserError("\n".join([*found, f"{name} is not as published: remove {target} and prepare it again"]))
    return f"{name}: as published"


def read_index(name: str, folder: Path) -> dict[str, Any]:
    """What `prepare` left.

    Raises:
        UserError: the dataset is not prepared, or its index is damaged.
    """
    path, cure = folder / "detection" / name / INDEX, f"call `identity-mappings data prepare {name}`"
    try:
        index = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: missing: {name} is not prepared: {cure}") from None
    except ValueError:
        index = {}
    if index.get("format") != FORMAT:
        raise UserError(f"{path}: damaged, or of another version: remove it and {cure}")
    return index


def read_pinned(dataset: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The index of the dataset that an experiment's parameters name.

    Raises:
        UserError: it is not prepared, or not the pinned one.
    """
    name, layout = dataset["name"], LAYOUTS.get(dataset["name"])
    if layout is None or layout.md5 != dataset["md5"] or layout.kind != dataset["kind"]:
        raise UserError(f"params/detection.yaml: datasets.{name}: not the pinned one of {', '.join(LAYOUTS)}")
    index = read_index(name, folder)
    keys = {"classes": "classes", "training_images": "training", "test_images": "test"}
    counts = {key: len(index[listed]) for key, listed in keys.items()}
    if index["archives"] != layout.files or any(dataset[key] != count for key, count in counts.items()):
        raise UserError(
            f"{folder / 'detection' / name}: {counts} of {index['archives']}, not those of params/detection.yaml: "
            f"remove it and call `identity-mappings data prepare {name}`"
        )
    return index


def boxes_of(image: dict[str, Any]) -> Boxes:
    """The true objects of an image of the index."""
    return {
        "boxes": torch.tensor(image["boxes"], dtype=torch.float64).view(-1, 4),
        "labels": torch.tensor(image["labels"], dtype=torch.int64),
        "difficult": torch.tensor(image["difficult"], dtype=torch.bool),
    }


def _read_voc(layout: Layout, target: Path) -> dict[str, list]:
    """Pixels of VOC are counted from 1, and a box has its last ones, too."""
    labels = {name: label for label, name in enumerate(layout.classes, 1)}
    index = {"classes": list(labels), "categories": list(labels.values()), "training": [], "test": []}
    lists = [*(("training", year, "trainval") for year in layout.years), ("test", "2007", "test")]
    for split, year, images in lists:
        listed = VOCDetection(target, year, images)
        for path, annotation in zip(map(Path, listed.images), listed.annotations, strict=True):
            described = VOCDetection.parse_voc_xml(ElementTree.parse(annotation).getroot())["annotation"]
            things, ends = described["object"], ("xmin", "ymin", "xmax", "ymax")
            bounds = [[float(thing["bndbox"][end]) for end in ends] for thing in things]
            index[split].append({
                "id": path.stem, "file": path.relative_to(target).as_posix(),
                "width": int(described["size"]["width"]), "height": int(described["size"]["height"]),
                "boxes": [[left - 1, top - 1, right, bottom] for left, top, right, bottom in bounds],
                "labels": [labels[thing["name"]] for thing in things],
                "difficult": [int(thing.get("difficult") or 0) for thing in things],
            })  # fmt: skip
    return index


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
