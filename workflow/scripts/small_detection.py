"""voc-small and coco-small: archives in the layout of VOC 2007 and COCO 2014, of made-up shapes.

The same pictures in both. The bytes are the same at every making: nothing is random, and sizes, places and colours are
taken from a hash of the picture's name.
"""

import hashlib
import json

from PIL import Image, ImageDraw

from small_imagenet import encode, pack_tar, pack_zip

CLASSES = ("circle", "square", "triangle")
NUMBERS = {"training": range(1, 49), "test": range(1001, 1025)}  # of the pictures
CATEGORIES = (2, 5, 9)  # as COCO's, with gaps
COLOURS = ((230, 70, 60), (70, 200, 90), (80, 110, 240))
SIDE, SMALLEST = 64, 26


def draw(number: int) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """A picture of 64 x 64 to 80 x 80 pixels; class, and left, top, right, bottom pixel of one or two shapes in it."""
    numbers = iter(hashlib.sha512(f"{number:06d}".encode()).digest())
    size = (SIDE + next(numbers) % 17, SIDE + next(numbers) % 17)
    image = Image.new("RGB", size, tuple(96 + next(numbers) % 48 for _ in range(3)))
    canvas, shapes = ImageDraw.Draw(image), []
    for left in range(0, 32 * (1 + next(numbers) % 2), 32):
        label, side = next(numbers) % len(CLASSES), SMALLEST + next(numbers) % 6
        x, y = left + next(numbers) % (33 - side), next(numbers) % (size[1] - side)
        box = (x, y, x + side - 1, y + side - 1)
        colour = tuple(value - next(numbers) % 40 for value in COLOURS[label])
        if label == 0:
            canvas.ellipse(box, colour)
        elif label == 1:
            canvas.rectangle(box, colour)
        else:
            canvas.polygon([(x, box[3]), (box[2], box[3]), ((x + box[2]) // 2, y)], colour)
        shapes.append((label, box))
    return image, shapes


def _make_voc(split: str, images: str) -> bytes:
    """As VOC's, which counts pixels from 1. Every seventh object is called difficult."""
    devkit, numbers = "VOCdevkit/VOC2007", NUMBERS[split]
    members = [(f"{devkit}/ImageSets/Main/{images}.txt", "".join(f"{number:06d}\n" for number in numbers).encode())]
    for number in numbers:
        image, shapes = draw(number)
        rows = [f"<annotation><filename>{number:06d}.jpg</filename>"]
        rows.append(f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>")
        for index, (label, box) in enumerate(shapes):
            left, top, right, bottom = (value + 1 for value in box)
            bounds = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
            rows.append(f"<object><name>{CLASSES[label]}</name><difficult>{int((number + index) % 7 == 0)}</difficult>")
            rows.append(f"<bndbox>{bounds}</bndbox></object>")
        annotation = "\n".join([*rows, "</annotation>\n"]).encode()
        members.append((f"{devkit}/Annotations/{number:06d}.xml", annotation))
        members.append((f"{devkit}/JPEGImages/{number:06d}.jpg", encode(image)))
    return pack_tar(members)


def _make_coco(split: str, folder: str) -> tuple[dict[str, bytes], bytes]:
    """{path: JPEG file}, and instances_*.json. Every eleventh object is called a crowd."""
    files, images, annotations = {}, [], []
    for number in NUMBERS[split]:
        image, shapes = draw(number)
        name = f"COCO_{folder}_{number:012d}.jpg"
        files[f"{folder}/{name}"] = encode(image)
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for index, (label, (left, top, right, bottom)) in enumerate(shapes):
            width, height = right + 1 - left, bottom + 1 - top
            annotations.append({
                "id": 10 * number + index, "image_id": number, "category_id": CATEGORIES[label],
                "bbox": [left, top, width, height], "area": width * height,
                "iscrowd": int((number + index) % 11 == 0), "segmentation": [],
            })  # fmt: skip
    categories = [{"id": category, "name": name} for category, name in zip(CATEGORIES, CLASSES, strict=True)]
    return files, json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()


def archives(name: str) -> dict[str, bytes]:
    """File name to bytes."""
    if name == "voc-small":
        trainval, test = _make_voc("training", "trainval"), _make_voc("test", "test")
        return {"VOCtrainval_06-Nov-2007.tar": trainval, "VOCtest_06-Nov-2007.tar": test}
    training, boxes = _make_coco("training", "train2014")
    test, test_boxes = _make_coco("test", "val2014")
    instances = {"annotations/instances_train2014.json": boxes, "annotations/instances_val2014.json": test_boxes}
    members = {"train2014": training, "val2014": test, "annotations_trainval2014": instances}
    return {f"{file}.zip": pack_zip(packed) for file, packed in members.items()}
