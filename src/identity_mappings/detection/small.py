"""voc-small and coco-small: archives in the layout of VOC 2007 and COCO 2014, of made-up shapes.

The same pictures in both. The bytes are the same at every making: nothing is random, and sizes, places and colours are
taken from a hash of the picture's name.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ..errors import UserError
from ..records.files import write_atomically
from .datasets import COCO_BOXES, COCO_TEST, COCO_TRAINING, LAYOUTS, VOC_TEST, VOC_TRAINING

CLASSES = LAYOUTS["voc-small"].classes
IMAGES = {"training": 48, "test": 16}
CATEGORIES = (2, 5, 9)  # as COCO's, with gaps
COLOURS = ((230, 70, 60), (70, 200, 90), (80, 110, 240))
SIDE, SMALLEST = 96, 26


def _picture(name: str) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """A picture of 96 x 96 to 128 x 128 pixels with one to three shapes side by side; boxes with their last pixels."""
    numbers = iter(hashlib.sha512(name.encode()).digest())
    size = (SIDE + next(numbers) % 33, SIDE + next(numbers) % 33)
    image = Image.new("RGB", size, tuple(96 + next(numbers) % 48 for _ in range(3)))
    draw, things = ImageDraw.Draw(image), []
    for left in range(0, 32 * (1 + next(numbers) % 3), 32):
        label, side = next(numbers) % len(CLASSES), SMALLEST + next(numbers) % 6
        x, y = left + next(numbers) % (33 - side if side < 33 else 1), next(numbers) % (size[1] - side)
        box = (x, y, x + side - 1, y + side - 1)
        colour = tuple(value - next(numbers) % 40 for value in COLOURS[label])
        if label == 0:
            draw.ellipse(box, colour)
        elif label == 1:
            draw.rectangle(box, colour)
        else:
            draw.polygon([(x, box[3]), (box[2], box[3]), ((x + box[2]) // 2, y)], colour)
        things.append((label, box))
    return image, things


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    return content.getvalue()


def _annotation(name: str, image: Image.Image, things: list) -> bytes:
    """As VOC's, which counts pixels from 1. Every seventh object is called difficult."""
    rows = [f"<annotation><filename>{name}.jpg</filename>"]
    rows.append(f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>")
    for index, (label, box) in enumerate(things):
        ends = zip(("xmin", "ymin", "xmax", "ymax"), (value + 1 for value in box), strict=True)
        bounds = "".join(f"<{key}>{value}</{key}>" for key, value in ends)
        difficult = int((int(name) + index) % 7 == 0)
        rows.append(f"<object><name>{CLASSES[label]}</name><difficult>{difficult}</difficult>")
        rows.append(f"<bndbox>{bounds}</bndbox></object>")
    return "\n".join([*rows, "</annotation>\n"]).encode()


def _voc(split: str, images: str) -> Iterator[tuple[str, bytes]]:
    names = [
        f"{number:06d}" for number in range(1 + 1000 * (split == "test"), 1 + 1000 * (split == "test") + IMAGES[split])
    ]
    devkit = "VOCdevkit/VOC2007"
    yield f"{devkit}/ImageSets/Main/{images}.txt", "".join(f"{name}\n" for name in names).encode()
    for name in names:
        image, things = _picture(name)
        yield f"{devkit}/Annotations/{name}.xml", _annotation(name, image, things)
        yield f"{devkit}/JPEGImages/{name}.jpg", _jpeg(image)


def _coco(split: str, folder: str) -> tuple[dict[str, bytes], bytes]:
    """{path: JPEG file}, and instances_*.json."""
    files: dict[str, bytes] = {}
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": one, "name": name} for one, name in zip(CATEGORIES, CLASSES, strict=True)],
    }
    begin = 1 + 1000 * (split == "test")
    for number in range(begin, begin + IMAGES[split]):
        image, things = _picture(f"{number:06d}")
        name = f"COCO_{folder}_{number:012d}.jpg"
        files[f"{folder}/{name}"] = _jpeg(image)
        content["images"].append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for index, (label, (left, top, right, bottom)) in enumerate(things):
            width, height = right + 1 - left, bottom + 1 - top
            content["annotations"].append(
                {
                    "id": 10 * number + index, "image_id": number, "category_id": CATEGORIES[label],
                    "bbox": [left, top, width, height], "area": width * height,
                    "iscrowd": int((number + index) % 11 == 0), "segmentation": [],
                }
            )  # fmt: skip
    return files, json.dumps(content).encode()


def _tar(members: Iterator[tuple[str, bytes]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, value in members:
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return content.getvalue()


def _zip(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as packed:
        for name, value in members.items():
            packed.writestr(zipfile.ZipInfo(name), value)  # of 1980: no clock
    return content.getvalue()


def archives(name: str) -> dict[str, bytes]:
    """File name to bytes."""
    if name == "voc-small":
        return {VOC_TRAINING: _tar(_voc("training", "trainval")), VOC_TEST: _tar(_voc("test", "test"))}
    training, boxes = _coco("training", "train2014")
    test, test_boxes = _coco("test", "val2014")
    instances = {
        f"annotations/instances_{split}.json": of for split, of in (("train2014", boxes), ("val2014", test_boxes))
    }
    return {COCO_TRAINING: _zip(training), COCO_TEST: _zip(test), COCO_BOXES: _zip(instances)}


def make(name: str, folder: Path) -> None:
    """Write the archives of data/NAME.

    Raises:
        UserError: the installed Pillow makes other bytes than the pinned ones; nothing is written.
    """
    made, pinned = archives(name), LAYOUTS[name].files
    for file, content in made.items():
        if (found := hashlib.md5(content).hexdigest()) != pinned[file]:
            raise UserError(
                f"{name}: {file}, as the installed Pillow makes it, has the MD5 {found}, not {pinned[file]}: install "
                "the versions of requirements.lock (make env)"
            )
    for file, content in made.items():
        write_atomically(folder / name / file, content)
