"""How detections are scored: VOC 2007's 11-point average precision, and COCO's by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..errors import UserError

POINTS = 11  # recall 0, 0.1, ..., 1 (Everingham et al. 2010, Section 4.2)


class Objects(NamedTuple):
    """The true boxes of an image: (K, 4) left, top, right, bottom in pixels; labels from 1; and whether to ignore."""

    boxes: numpy.ndarray
    labels: numpy.ndarray
    difficult: numpy.ndarray


class Detections(NamedTuple):
    """What a detector found in an image; boxes and labels as in `Objects`."""

    boxes: numpy.ndarray
    labels: numpy.ndarray
    scores: numpy.ndarray


def overlaps(box: numpy.ndarray, boxes: numpy.ndarray) -> numpy.ndarray:
    """Intersection over union of a box with each of (K, 4)."""
    left_top, right_bottom = numpy.maximum(box[:2], boxes[:, :2]), numpy.minimum(box[2:], boxes[:, 2:])
    common = numpy.clip(right_bottom - left_top, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / ((box[2:] - box[:2]).prod() + areas - common)


def average_precision(
    found: Sequence[Detections], objects: Sequence[Objects], label: int, threshold: float = 0.5
) -> float | None:
    """11-point interpolated average precision of a class, in %; None where no object of it counts.

    As VOC 2007's devkit: detections in the order of their scores; each belongs to the object of its class that it
    overlaps most, if that is at least `threshold`; an object's second detection is wrong; one of a difficult object is
    neither right nor wrong, and difficult objects need not be found.

    Args:
        found, objects: by image, in the same order.
    """
    images = [(image.boxes[image.labels == label], image.difficult[image.labels == label]) for image in objects]
    wanted = int(sum((~difficult).sum() for _, difficult in images))
    if not wanted:
        return None
    ranked = [
        (float(score), image, box)
        for image, detected in enumerate(found)
        for box, score in zip(
            detected.boxes[detected.labels == label], detected.scores[detected.labels == label], strict=True
        )
    ]
    ranked.sort(key=lambda entry: -entry[0])  # stable: of equal scores the first image's goes first
    taken = [numpy.zeros(len(difficult), bool) for _, difficult in images]
    right = wrong = 0
    curve = []
    for _, image, box in ranked:
        boxes, difficult = images[image]
        shares = overlaps(box, boxes) if len(boxes) else numpy.zeros(1)
        best = int(shares.argmax())
        if shares[best] < threshold or not len(boxes):
            wrong += 1
        elif difficult[best]:
            continue
        elif taken[image][best]:
            wrong += 1
        else:
            taken[image][best] = True
            right += 1
        curve.append((right, right / (right + wrong)))
    reached = [
        max((precision for hits, precision in curve if (POINTS - 1) * hits >= point * wanted), default=0.0)
        for point in range(POINTS)
    ]
    return 100 * sum(reached) / POINTS


def score_voc(found: Sequence[Detections], objects: Sequence[Objects], classes: Sequence[str]) -> dict[str, Any]:
    """{"map_50": mean over the classes that have objects, in %, "by_class": {class: average precision}}."""
    precisions = {name: average_precision(found, objects, label) for label, name in enumerate(classes, 1)}
    counted = {name: value for name, value in precisions.items() if value is not None}
    if not counted:
        raise UserError("no object of the test images counts: the annotations are empty; prepare the dataset again")
    mean = sum(counted.values()) / len(counted)
    return {"map_50": round(mean, 6), "by_class": {name: round(value, 6) for name, value in counted.items()}}


def score_coco(
    found: Sequence[Detections], images: Sequence[int], categories: Sequence[int], annotations: Path
) -> dict[str, Any]:
    """{"map_50", "map": at IoU 0.5 to 0.95}, in %, by COCO's own evaluation.

    Args:
        found: by image.
        images, categories: COCO's number of each image, and of each label from 1 on.
        annotations: instances_*.json of the images.

    Raises:
        UserError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("COCO is scored by pycocotools, which is not installed: pip install pycocotools") from None
    results = [
        {
            "image_id": image,
            "category_id": categories[int(label) - 1],
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
        }
        for image, detected in zip(images, found, strict=True)
        for box, label, score in zip(detected.boxes, detected.labels, detected.scores, strict=True)
    ]
    if not results:
        return {"map_50": 0.0, "map": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    whole, at_half = (max(0.0, float(value)) for value in evaluation.stats[:2])
    return {"map_50": round(100 * at_half, 6), "map": round(100 * whole, 6)}
