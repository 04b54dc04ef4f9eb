"""PASCAL VOC 2007 and 2012 and COCO 2014: their archives and MD5s, and the one form in which training reads them.

`voc-small` and `coco-small` have archives of the same names and layout, made by `detection.small`. Everything after
them is one code: `prepare` checks the archives, unpacks them into data/detection/NAME, and writes index.json.
"""

import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy

from ..data.listing import dvc_md5, md5_of
from ..errors import UserError
from ..records.files import json_bytes, write_atomically
from .evaluation import Objects

FORMAT, INDEX = 1, "index.json"
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
OXFORD, COCO = "http://host.robots.ox.ac.uk/pascal/VOC", "http://images.cocodataset.org"
VOC_TRAINING, VOC_TEST = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"
COCO_TRAINING, COCO_TEST, COCO_BOXES = "train2014.zip", "val2014.zip", "annotations_trainval2014.zip"


@dataclass(frozen=True)
class Layout:
    """A dataset's archives and splits.

    Attributes:
        kind: "voc" or "coco".
        files: archive to MD5. VOC's are those that torchvision checks; COCO publishes none: its are those that others
            have noted (LAVIS, torch.datasets of R, Ludwig), and the ETag of its server.
        urls: archive to address; none: made by the project.
        training, test: of VOC (year, list of images) each; of COCO the name of the split.
        classes: names; of COCO in the order of its category numbers, read from the annotations.
    """

    kind: str
    files: dict[str, str]
    urls: dict[str, str]
    training: tuple
    test: tuple
    classes: tuple[str, ...] = ()

    @property
    def md5(self) -> str:
        return dvc_md5(self.files)


_COCO_FILES = {
    COCO_TRAINING: "0da8c0bd3d6becc4dcb32757491aca88",
    COCO_TEST: "a3d79f5ed8d289b7a7554ce06a5782b3",
    COCO_BOXES: "0a379cfc70b0e71301e0f377548639bd",
}
LAYOUTS = {
    "voc-0712": Layout(
        "voc",
        {
            VOC_TRAINING: "c52e279531787c972589f7e41ab4ae64",
            VOC_TEST: "b6e924de25625d8de591ea690078ad9f",
            "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
        },
        {
            VOC_TRAINING: f"{OXFORD}/voc2007/{VOC_TRAINING}",
            VOC_TEST: f"{OXFORD}/voc2007/{VOC_TEST}",
            "VOCtrainval_11-May-2012.tar": f"{OXFORD}/voc2012/VOCtrainval_11-May-2012.tar",
        },
        ((2007, "trainval"), (2012, "trainval")),
        ((2007, "test"),),
        VOC_CLASSES,
    ),
    "coco-2014": Layout(
        "coco",
        _COCO_FILES,
        {name: f"{COCO}/{'annotations' if name == COCO_BOXES else 'zips'}/{name}" for name in _COCO_FILES},
        ("train2014",),
        ("val2014",),
    ),
    "voc-small": Layout(
        "voc",
        {VOC_TRAINING: "2f56698c7bdfc9e89e03cb7312adf33f", VOC_TEST: "5a84b0b5cbf85d392212a924815744bb"},
        {},
        ((2007, "trainval"),),
        ((2007, "test"),),
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
        ("train2014",),
        ("val2014",),
    ),
}


def problems(name: str, folder: Path) -> list[str]:
    """What is wrong with the archives of data/NAME, a line for each."""
    found = []
    for file, md5 in LAYOUTS[name].files.items():
        path = folder / name / file
        if not path.is_file():
            source = LAYOUTS[name].urls.get(file)
            found.append(f"{path}: missing" + (f": {source}" if source else ""))
        elif (actual := md5_of(path)) != md5:
            found.append(f"{path}: damaged or another file: MD5 {actual}, not {md5}: get it again")
    return found


def fetch(name: str, folder: Path) -> str:
    """Get the archives of data/NAME through torchvision, or make the small ones; what is right already is kept.

    Raises:
        UserError: no network, or a file is not the published one.
    """
    layout = LAYOUTS[name]
    if problems(name, folder):
        if not layout.urls:
            from . import small

            small.make(name, folder)
        else:
            from torchvision.datasets.utils import download_url

            for file, url in layout.urls.items():
                try:
                    download_url(url, str(folder / name), file, layout.files[file])
                except (OSError, RuntimeError) as error:
                    raise UserError(
                        f"{name}: {url} could not be fetched ({error}): call this again when the network is there, or "
                        f"put the file at {folder / name / file}"
                    ) from None
    if found := problems(name, folder):
        raise UserError("\n".join(found))
    return f"{folder / name}: the archives are there: call `identity-mappings data prepare {name}`"


def prepare(name: str, folder: Path) -> str:
    """Unpack data/NAME into data/detection/NAME, and write its index; nothing where it is there.

    Raises:
        UserError: an archive is missing or damaged, or lacks what its lists name.
    """
    layout, target = LAYOUTS[name], folder / "detection" / name
    if (target / INDEX).is_file() and read_index(name, folder)["archives"] == layout.files:
        return f"{target}: prepared before"
    if not layout.urls:
        fetch(name, folder)
    if found := problems(name, folder):
        raise UserError("\n".join([*found, f"{name}: `identity-mappings data fetch {name}` gets what is missing"]))
    (target / INDEX).unlink(missing_ok=True)
    sums: dict[str, int] = {}
    for file in layout.files:
        for path, content in _members(folder / name / file):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)  # the index comes last
            sums[path] = zlib.crc32(content)
    read = _read_voc if layout.kind == "voc" else _read_coco
    try:
        classes, categories, splits = read(layout, target)
        lacking = [image["file"] for split in splits.values() for image in split if image["file"] not in sums]
    except (KeyError, OSError, ValueError, AttributeError, ElementTree.ParseError) as error:
        raise UserError(f"{target}: the archives of {name} do not fit together ({error}): get them again") from None
    if lacking:
        raise UserError(f"{target / lacking[0]}: in no archive of {name}: get them again")
    index = {"format": FORMAT, "archives": layout.files, "classes": classes, "categories": categories, "files": sums}
    write_atomically(target / INDEX, json_bytes({**index, **splits}))
    return f"{target}: {len(splits['training']):,} training and {len(splits['test']):,} test images"


def verify(name: str, folder: Path) -> str:
    """Check the archives, and every file that was unpacked.

    Raises:
        UserError: naming each that is missing or damaged.
    """
    target, found = folder / "detection" / name, []
    if not (target / INDEX).is_file() or (folder / name).is_dir():
        found += problems(name, folder)
    if (target / INDEX).is_file():
        for file, crc in read_index(name, folder)["files"].items():
            if not (target / file).is_file():
                found.append(f"{target / file}: missing")
            elif zlib.crc32((target / file).read_bytes()) != crc:
                found.append(f"{target / file}: damaged")
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
        if index["format"] == FORMAT:
            return index
    except FileNotFoundError:
        raise UserError(f"{path}: missing: {name} is not prepared: {cure}") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: damaged, or of another version: remove it and {cure}")


def read_pinned(dataset: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The index of the dataset that an experiment's parameters name.

    Raises:
        UserError: it is not prepared, or not the pinned one.
    """
    name, layout = dataset["name"], LAYOUTS.get(dataset["name"])
    if layout is None or layout.md5 != dataset["md5"] or layout.kind != dataset["kind"]:
        raise UserError(f"params/detection.yaml: datasets.{name}: not the pinned one of {', '.join(LAYOUTS)}")
    index = read_index(name, folder)
    counts = {
        "classes": len(index["classes"]),
        "training_images": len(index["training"]),
        "test_images": len(index["test"]),
    }
    if index["archives"] != layout.files or any(dataset[key] != count for key, count in counts.items()):
        raise UserError(
            f"{folder / 'detection' / name}: {counts} of {index['archives']}, not those of params/detection.yaml: "
            f"remove it and call `identity-mappings data prepare {name}`"
        )
    return index


def objects_of(image: dict[str, Any]) -> Objects:
    """The boxes of an image of the index."""
    boxes = numpy.array(image["boxes"], numpy.float64).reshape(-1, 4)
    return Objects(boxes, numpy.array(image["labels"], numpy.int64), numpy.array(image["difficult"], bool))


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an archive that training needs, by their paths; a path that leaves the folder is refused."""

    def wanted(name: str) -> bool:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise UserError(f"{path}: {name!r} leaves the folder: refused")
        kept = ("JPEGImages", "Annotations", "Main", "train2014", "val2014")
        return (len(place.parts) > 1 and place.parts[-2] in kept) or place.name.startswith("instances_")

    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            for info in packed.infolist():
                if not info.is_dir() and wanted(info.filename):
                    yield info.filename, packed.read(info)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and wanted(member.name):
                    yield member.name, tar.extractfile(member).read()


def _read_voc(layout: Layout, target: Path) -> tuple[list[str], list[int], dict[str, list[dict[str, Any]]]]:
    labels = {name: label for label, name in enumerate(layout.classes, 1)}
    splits = {"training": layout.training, "test": layout.test}
    found = {
        split: [
            _read_annotation(target, f"VOCdevkit/VOC{year}", name, labels)
            for year, images in lists
            for name in (target / f"VOCdevkit/VOC{year}/ImageSets/Main/{images}.txt").read_text().split()
        ]
        for split, lists in splits.items()
    }
    return list(layout.classes), list(labels.values()), found


def _read_annotation(target: Path, devkit: str, name: str, labels: dict[str, int]) -> dict[str, Any]:
    """Of an image of VOC; its pixels are counted from 1, and a box has its last ones, too."""
    root = ElementTree.parse(target / devkit / "Annotations" / f"{name}.xml").getroot()
    image: dict[str, Any] = {"id": name, "file": f"{devkit}/JPEGImages/{name}.jpg"}
    image |= {key: int(root.find("size").findtext(key)) for key in ("width", "height")}
    image |= {"boxes": [], "labels": [], "difficult": []}
    for thing in root.iter("object"):
        left, top, right, bottom = (
            float(thing.find("bndbox").findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        image["boxes"].append([left - 1, top - 1, right, bottom])
        image["labels"].append(labels[thing.findtext("name")])
        image["difficult"].append(int(thing.findtext("difficult") or 0))
    return image


def _read_coco(layout: Layout, target: Path) -> tuple[list[str], list[int], dict[str, list[dict[str, Any]]]]:
    splits, classes = {}, {}
    for split, (name,) in (("training", layout.training), ("test", layout.test)):
        content = json.loads((target / "annotations" / f"instances_{name}.json").read_bytes())
        classes = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
        labels = {category: label for label, category in enumerate(classes, 1)}
        images = {
            entry["id"]: {
                "id": entry["id"], "file": f"{name}/{entry['file_name']}",
                "width": entry["width"], "height": entry["height"],
                "boxes": [], "labels": [], "difficult": [],
            }
            for entry in content["images"]
        }  # fmt: skip
        for thing in content["annotations"]:
            left, top, width, height = thing["bbox"]
            if width > 0 and height > 0:  # a few have none
                image = images[thing["image_id"]]
                image["boxes"].append([left, top, left + width, top + height])
                image["labels"].append(labels[thing["category_id"]])
                image["difficult"].append(int(thing["iscrowd"]))  # a crowd is no box to learn
        splits[split] = sorted(images.values(), key=lambda image: image["id"])
    return list(classes.values()), list(classes), splits
