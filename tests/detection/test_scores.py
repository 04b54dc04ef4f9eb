"""Average precision against an independent plain statement, and COCO's on a case that is done by hand."""

import json
from pathlib import Path

import numpy
import pytest
import torch

from identity_mappings.data.boxes import Boxes
from identity_mappings.detection.scores import average_precision, score_coco, score_voc
from identity_mappings.errors import UserError

CLASSES = ("circle", "square", "triangle")


def to_boxes(boxes, labels, **others) -> Boxes:
    tensors = {"boxes": boxes, "labels": labels, **others}
    return {name: torch.from_numpy(numpy.asarray(value)) for name, value in tensors.items()}


def plain_overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def plain_precision(found, objects, label):
    """Section 4.2 of the VOC paper said again, with lists: for every rank all is counted from the start."""
    everything = []
    for image, one in enumerate(found):
        for box, of, score in zip(*(one[key].tolist() for key in ("boxes", "labels", "scores")), strict=True):
            if of == label:
                everything.append((score, image, box))
    everything = sorted(everything, key=lambda entry: entry[0], reverse=True)
    total = sum(
        1
        for one in objects
        for of, hard in zip(one["labels"], one["difficult"], strict=True)
        if of == label and not hard
    )
    if total == 0:
        return None
    verdicts, used = [], set()
    for _, image, box in everything:
        best, which = -1.0, None
        truth = objects[image]
        for number, (other, of) in enumerate(zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True)):
            if of == label and plain_overlap(box, other) > best:
                best, which = plain_overlap(box, other), number
        if best < 0.5:
            verdicts.append("wrong")
        elif truth["difficult"][which]:
            verdicts.append("ignored")
        elif (image, which) in used:
            verdicts.append("wrong")
        else:
            used.add((image, which))
            verdicts.append("right")
    points = []
    for rank in range(1, len(verdicts) + 1):
        right, wrong = verdicts[:rank].count("right"), verdicts[:rank].count("wrong")
        if right + wrong:
            points.append((right / total, right / (right + wrong)))
    whole = 0.0
    for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        whole += max([precision for recall, precision in points if recall >= threshold - 1e-12], default=0.0) / 11
    return 100 * whole


def random_boxes(random: numpy.random.Generator, count: int) -> numpy.ndarray:
    corner, size = random.integers(0, 40, (count, 2)), random.integers(5, 40, (count, 2))
    return numpy.hstack([corner, corner + size]).astype(float)


def random_set(seed: int) -> tuple[list[Boxes], list[Boxes]]:
    """Eight images: true boxes, some difficult, and detections of which some are moved true boxes, with doubles."""
    random = numpy.random.default_rng(seed)
    found, objects = [], []
    for _ in range(8):
        count = int(random.integers(0, 6))
        boxes, labels = random_boxes(random, count), random.integers(1, 4, count)
        objects.append(to_boxes(boxes, labels, difficult=random.random(count) < 0.25))
        near = boxes.repeat(2, 0) + random.integers(-3, 4, (2 * count, 4))
        near[:, 2:] = numpy.maximum(near[:, 2:], near[:, :2] + 1)
        others = int(random.integers(0, 5))
        found.append(
            to_boxes(
                numpy.vstack([near, random_boxes(random, others)]),
                numpy.concatenate([labels.repeat(2), random.integers(1, 4, others)]),
                scores=random.permutation(2 * count + others).astype(float) + random.random(),  # no two alike
            )
        )
    return found, objects


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_is_the_plain_statement(seed):
    found, objects = random_set(seed)
    for label in (1, 2, 3):
        expected = plain_precision(found, objects, label)
        assert average_precision(found, objects, label) == pytest.approx(expected, abs=1e-9)
    expected = [plain_precision(found, objects, label) for label in (1, 2, 3)]
    assert 0 < sum(expected) / 3 < 100  # the set decides something
    assert score_voc(found, objects, CLASSES)["map_50"] == pytest.approx(sum(expected) / 3, abs=1e-6)


BOX, FAR = [0.0, 0.0, 10.0, 10.0], [30.0, 30.0, 40.0, 40.0]


def objects(*boxes, difficult=()):
    return to_boxes(boxes, numpy.ones(len(boxes), int), difficult=[i in difficult for i in range(len(boxes))])


def detections(*scored):
    boxes = numpy.array([box for box, _ in scored]).reshape(-1, 4)
    return to_boxes(boxes, numpy.ones(len(scored), int), scores=numpy.array([score for _, score in scored], float))


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        (detections((BOX, 0.9)), objects(BOX), 100),
        (detections(), objects(BOX), 0),
        (detections((FAR, 0.9)), objects(BOX), 0),
        (detections((FAR, 0.9), (BOX, 0.8)), objects(BOX), 50),  # precision 1/2 at every recall
        (detections((BOX, 0.9), (BOX, 0.8)), objects(BOX), 100),  # the second is wrong, behind full recall
        (detections((BOX, 0.9)), objects(BOX, FAR), 100 * 6 / 11),  # recall 0 to 0.5
        (detections((BOX, 0.9), (FAR, 0.5)), objects(BOX, FAR, difficult=(0,)), 100),  # neither right nor wrong
        (detections((FAR, 0.9)), objects(BOX, FAR, difficult=(0,)), 100),  # need not be found
        (detections(([0.0, 0.0, 10.0, 5.0], 0.9)), objects(BOX), 100),  # an overlap of exactly a half is enough
        (detections(([0.0, 0.0, 10.0, 4.9], 0.9)), objects(BOX), 0),
        (detections((BOX, 0.9)), objects(BOX, difficult=(0,)), None),
    ],
)
def test_cases_done_by_hand(found, truth, expected):
    assert average_precision([found], [truth], 1) == (None if expected is None else pytest.approx(expected))


def test_nothing_to_find_is_a_message():
    with pytest.raises(UserError, match="no object of the test images counts"):
        score_voc([detections()], [objects(BOX, difficult=(0,))], CLASSES)


def coco_file(folder: Path) -> Path:
    truth = {
        "images": [{"id": 7, "width": 100, "height": 100}, {"id": 9, "width": 100, "height": 100}],
        "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 5, "bbox": [20, 20, 40, 40], "area": 1600, "iscrowd": 0},
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(truth))
    return path


def coco_detections(scale: float) -> list[Boxes]:
    first = to_boxes([[0, 0, 50, 50 * scale]], [1], scores=numpy.array([0.9], numpy.float32))
    second = to_boxes([[20.0, 20, 60, 60]], [2], scores=numpy.array([0.8], numpy.float32))
    return [first, second]


def test_coco_by_hand(tmp_path):
    path = coco_file(tmp_path)
    assert score_coco(coco_detections(1), [7, 9], [3, 5], path) == {"map_50": 100.0, "map": 100.0}
    # One box of two overlaps by 0.72: right at 0.5, 0.55, 0.6, 0.65 and 0.7, wrong at the other five.
    assert score_coco(coco_detections(0.72), [7, 9], [3, 5], path) == {"map_50": 100.0, "map": 75.0}
    swapped = [{**one, "labels": 3 - one["labels"]} for one in coco_detections(1)]
    assert score_coco(swapped, [7, 9], [3, 5], path) == {"map_50": 0.0, "map": 0.0}
    nothing = [to_boxes(numpy.zeros((0, 4)), numpy.zeros(0, int), scores=numpy.zeros(0))] * 2
    assert score_coco(nothing, [7, 9], [3, 5], path) == {"map_50": 0.0, "map": 0.0}
